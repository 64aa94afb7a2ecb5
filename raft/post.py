"""What this worker says to its peers: outboxes per peer and lane, one message per peer, lane and turn.

Owns the outboxes, the news about the groups that we lead, and the unary callers that wait for an answer. Decides nothing about Raft.
What can not be sent is dropped: the sender of an append is told, so that it probes again; everything else Raft repeats by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raft import telling
from raft.api import Clock, Lane, Network
from raft.core.message import CONTROL_TYPES, Message, MessageType, node_of
from raft.liveness import Peer
from raft.wire import Batch, Envelope, LeaderNews, encode_batch
from wal.entry import GroupId

if TYPE_CHECKING:
    from raft.group import RaftGroup

ANSWERS = frozenset(
    (
        MessageType.APPEND_RESPONSE,
        MessageType.PRE_VOTE_RESPONSE,
        MessageType.VOTE_RESPONSE,
        MessageType.HEARTBEAT_RESPONSE,
        MessageType.SNAPSHOT_STATUS,
    )
)
Outbox = list[tuple[GroupId, Message]]
CONTROL, DATA = Lane.CONTROL, Lane.DATA

DATA_MESSAGES_IN_FLIGHT = 2
"""Data messages that a peer has not flushed yet, at most: what comes meanwhile gathers, so that load makes messages and flushes larger, not more."""


class Post:
    """Outgoing messages. `append_dropped(group_id, message)` is called for each append that could not be queued."""

    def __init__(
        self,
        envelope: Envelope,
        peers: dict[int, Peer],
        network: Network,
        clock: Clock,
        max_message_bytes: int,
        append_dropped: Callable[[GroupId, Message], None],
    ) -> None:
        self.envelope = envelope
        self.peers = peers
        self.network = network
        self.clock = clock
        self.max_message_bytes = max_message_bytes
        self.append_dropped = append_dropped
        self._news: dict[GroupId, LeaderNews] = {}  # what we say of the groups that we lead
        # Unary callers, by group, asking replica and type of the answer.
        self._asked: dict[tuple[GroupId, int, MessageType], list[Callable[[Message], None]]] = {}

    def route(self, group: RaftGroup, message: Message) -> None:
        """Put a message into the outbox of its receiver: answers go back on the receiver's own session."""
        kind = message.type
        if self._asked and kind in ANSWERS and self._answer_unary(group, message):
            return
        peer = self.peers.get(node_of(message.receiver))
        if peer is None:
            return
        lane = Lane.CONTROL if kind in CONTROL_TYPES else Lane.DATA
        if kind in ANSWERS:
            if peer.into[lane]:
                peer.answers[lane].append((group.group_id, message))
        elif peer.out[lane]:
            peer.requests[lane].append((group.group_id, message))
            if kind == MessageType.VOTE:
                telling.vote_requested(group, message)

    def send(self) -> None:
        """Send everything that waits and would leave at once; the rest gathers, so that a busy connection carries fewer, larger messages.

        Answers to a peer's appends go along with appends of our own to that peer, when some leave now: one message less at both ends.
        """
        ready = self.network.ready
        for peer in self.peers.values():
            requests, answers = peer.requests, peer.answers
            if requests[CONTROL] and ready(peer.node, CONTROL, True):
                messages, requests[CONTROL] = requests[CONTROL], []
                self._send_batch(peer, CONTROL, Batch(messages))
            beat = peer.beat_to_answer
            if (beat or answers[CONTROL]) and ready(peer.node, CONTROL, False):
                messages, answers[CONTROL] = answers[CONTROL], []
                peer.beat_to_answer = 0
                if not self.network.send_answer(peer.node, CONTROL, encode_batch(self.envelope, Batch(messages, beat))):
                    answers[CONTROL] = messages  # a notice among them must be said before the next beat is answered
            if requests[DATA] and peer.data_sent - peer.data_acked < DATA_MESSAGES_IN_FLIGHT and ready(peer.node, DATA, True):
                messages, requests[DATA] = requests[DATA], []
                self._send_data(peer, messages)
            echo = peer.data_flushed if peer.data_flushed != peer.data_echoed else 0
            if (echo or answers[DATA]) and ready(peer.node, DATA, False):
                messages, answers[DATA] = answers[DATA], []
                if self.network.send_answer(peer.node, DATA, encode_batch(self.envelope, Batch(messages, echo))):
                    peer.data_echoed = echo or peer.data_echoed
                else:
                    answers[DATA] = messages

    def beat(self, peer: Peer) -> None:
        """One beat: everything that waits on the control lane goes with it, and counts as said before it."""
        messages, peer.requests[Lane.CONTROL] = peer.requests[Lane.CONTROL], []
        news, peer.news = list(peer.news.values()), {}
        self._send_batch(peer, CONTROL, Batch(messages, peer.next_beat(self.clock.now_ms()), news))
        if telling.debugging():
            telling.heartbeat_sent(peer.node)

    def _send_data(self, peer: Peer, messages: Outbox) -> None:
        """Appends in messages of bounded size, an entry larger than the usual message alone; our answers to the peer go with the first."""
        answers, peer.answers[DATA] = peer.answers[DATA], []
        echo = peer.data_flushed if peer.data_flushed != peer.data_echoed else 0
        start = size = 0
        for position, (_, message) in enumerate(messages):
            length = 0
            for entry in message.entries:
                length += entry.size
            if size and size + length > self.max_message_bytes:
                self._send_appends(peer, answers, messages[start:position], echo)
                answers, echo = [], 0
                start, size = position, 0
            size += length
        self._send_appends(peer, answers, messages[start:] if start else messages, echo)

    def _send_appends(self, peer: Peer, answers: Outbox, appends: Outbox, echo: int) -> None:
        number = peer.data_sent + 1
        if self._send_batch(peer, DATA, Batch(answers + appends if answers else appends, number, None, echo)):
            peer.data_sent = number
            if answers or echo:
                peer.carried = True
                peer.data_echoed = echo or peer.data_echoed
        else:
            peer.answers[DATA] = answers + peer.answers[DATA]  # they can still go the other way

    def _send_batch(self, peer: Peer, lane: Lane, batch: Batch) -> bool:
        if self.network.send_request(peer.node, lane, encode_batch(self.envelope, batch)):
            return True
        for group_id, message in batch.messages:
            if message.type == MessageType.APPEND:
                self.append_dropped(group_id, message)
        for item in batch.news:
            peer.news.setdefault(item.group, item)
        return False

    # -- news -----------------------------------------------------------------------------------------------------

    def publish(self, news: LeaderNews) -> None:
        """Tell all peers, with the next beat, who leads a group and who is in sync."""
        self._news[news.group] = news
        for peer in self.peers.values():
            if peer.out[Lane.CONTROL]:
                peer.news[news.group] = news

    def withdraw(self, group_id: GroupId) -> None:
        """We do not lead the group any more: a new session hears nothing of it from us."""
        self._news.pop(group_id, None)
        for peer in self.peers.values():
            peer.news.pop(group_id, None)

    def repeat_news(self, peer: Peer) -> None:
        """A new session: say everything again."""
        peer.news = dict(self._news)

    # -- unary callers --------------------------------------------------------------------------------------------

    def expect(self, group_id: GroupId, asker: int, kind: MessageType, done: Callable[[Message], None]) -> Callable[[], None]:
        """`done(answer)` with the next answer of type `kind` to replica `asker` in this group. Call what is returned to wait no longer."""
        key = (group_id, asker, kind)
        self._asked.setdefault(key, []).append(done)

        def forget() -> None:
            waiting = self._asked.get(key, [])
            if done in waiting:
                waiting.remove(done)
            if not waiting:
                self._asked.pop(key, None)

        return forget

    def forget_group(self, group_id: GroupId) -> None:
        self.withdraw(group_id)
        for key in [key for key in self._asked if key[0] == group_id]:
            del self._asked[key]

    def _answer_unary(self, group: RaftGroup, message: Message) -> bool:
        """Whether nobody else waits for the message. An acknowledgement still goes to its leader, which must not miss one."""
        waiting = self._asked.pop((group.group_id, message.receiver, message.type), None)
        for done in waiting or ():
            done(message)
        return waiting is not None and message.type != MessageType.APPEND_RESPONSE
