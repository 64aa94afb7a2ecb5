"""Who may speak to us, and which sessions are open. Shared by the dialling and the serving side of the transport.

Invariants: at most one session per peer, lane and direction; all open sessions of a peer belong to the newest incarnation of it that was seen; the
handler hears open and lost of each session strictly in turn. Runs on the loop thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from raft.api import Lane, NetworkHandler
from raft.transport.options import Identity
from raft.transport.session import Session

logger = logging.getLogger("chronik_raft")

_DIRECTION = {True: "to", False: "from"}
_LEVEL = {Lane.CONTROL: logging.INFO, Lane.DATA: logging.DEBUG}  # both lanes go the same way: one line is enough for a user


class Registry:
    """`fatal` takes the errors that no peer can be blamed for."""

    __slots__ = ("_incarnations", "_refused", "fatal", "handler", "identity", "incoming", "outgoing", "removed", "stopping")

    def __init__(self, identity: Identity, fatal: Callable[[BaseException], None]) -> None:
        self.identity = identity
        self.fatal = fatal
        self.handler: NetworkHandler | None = None
        self.removed: frozenset[int] = frozenset()
        self.stopping = False
        self.outgoing: tuple[dict[int, Session], dict[int, Session]] = ({}, {})
        self.incoming: tuple[dict[int, Session], dict[int, Session]] = ({}, {})
        self._incarnations: dict[int, int] = {}
        self._refused: dict[int, str] = {}

    def refusal(self, cluster_id: bytes, sender: int, target: int, incarnation: int) -> str:
        """Why a session with this peer is refused; "" when it is not. One that is new to us is no reason: our metadata may be old."""
        identity = self.identity
        if not identity.cluster_id:
            return f"node {identity.node_id} does not belong to a cluster yet; try again later"
        if cluster_id != identity.cluster_id:
            return (
                f"node {identity.node_id} belongs to cluster {identity.cluster_id.hex()}, not to {cluster_id.hex() or 'none'}; "
                "check the seed nodes and addresses"
            )
        if target != identity.node_id:
            return f"this is node {identity.node_id}, not node {target}; check the address that is configured for node {target}"
        if sender == identity.node_id or not 0 < sender <= 0xFFFFFFFF:
            return f"node id {sender} can not be that of another node; every node needs an id of its own"
        if sender in self.removed:
            return f"node {sender} was removed from the cluster; it may come back only as a new node with another id"
        newest = self._incarnations.get(sender, 0)
        if incarnation < newest:
            return f"node {sender} speaks as incarnation {incarnation}, but incarnation {newest} was seen; stop the older process"
        return ""

    def note_refusal(self, peer: int, text: str) -> None:
        """One log line per peer and reason, however often it is repeated."""
        if self._refused.get(peer) != text:
            if len(self._refused) > 1000:
                self._refused.clear()
            self._refused[peer] = text
            logger.warning("session refused, node=%d: %s", peer, text)

    def incarnation_of(self, peer: int) -> int:
        """The newest incarnation of `peer` that was seen, 0 never."""
        return self._incarnations.get(peer, 0)

    def observe(self, peer: int, incarnation: int) -> None:
        """A session of this incarnation is about to open: sessions of older ones are closed."""
        if incarnation <= self._incarnations.get(peer, 0):
            return
        self._incarnations[peer] = incarnation
        for sessions in (*self.outgoing, *self.incoming):
            session = sessions.get(peer)
            if session is not None and session.incarnation < incarnation:
                session.end("a newer incarnation of the peer has come")

    def forget(self, peers: frozenset[int]) -> None:
        """Close the sessions that removed peers have opened to us."""
        for sessions in self.incoming:
            for peer in peers & sessions.keys():
                sessions[peer].end("the peer was removed from the cluster")

    def opened(self, session: Session) -> None:
        table = self.outgoing if session.outgoing else self.incoming
        table[session.lane][session.peer] = session
        if self.handler is not None:
            session.on_ready = self.handler.on_ready
        self._refused.pop(session.peer, None)
        logger.log(
            _LEVEL[session.lane],
            "session %s node %d open, lane=%s, incarnation=%d",
            _DIRECTION[session.outgoing],
            session.peer,
            session.lane.name.lower(),
            session.incarnation,
        )
        if self.handler is not None:
            self.handler.on_session_open(session.peer, session.lane, session.outgoing, session.incarnation)

    def closed(self, session: Session) -> None:
        """Nothing is sent on the session any more. `lost` follows as soon as it is known whether the peer refuses connections."""
        table = self.outgoing if session.outgoing else self.incoming
        if table[session.lane].get(session.peer) is session:
            del table[session.lane][session.peer]

    def lost(self, session: Session, reason: str, refused: bool) -> None:
        self.closed(session)
        if self.stopping:
            return
        suffix = "; the peer's process is gone" if refused else ""
        lane = session.lane.name.lower()
        logger.log(_LEVEL[session.lane], "session %s node %d lost, lane=%s: %s%s", _DIRECTION[session.outgoing], session.peer, lane, reason, suffix)
        if self.handler is not None:
            self.handler.on_session_lost(session.peer, session.lane, session.outgoing, refused)

    def deliver(self, session: Session) -> Callable[[memoryview], None]:
        """Where the messages of `session` go."""
        handler, peer, lane = self.handler, session.peer, session.lane
        if handler is None:
            raise RuntimeError("a session was opened before the transport was attached to its handler")
        receive = handler.on_answer if session.outgoing else handler.on_request
        return lambda data: receive(peer, lane, data)
