"""One member of a group as its coordinator knows it: only the leader has these, and makes them anew from the stored group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from broker.coordinator.groups.records import StoredMember
from broker.errors import ErrorCode


class Protocol(NamedTuple):
    """An assignment strategy that a member offers, with its subscription."""

    name: str
    metadata: bytes


class JoinResult(NamedTuple):
    """The answer to JoinGroup. `members`, (member id, instance id, metadata), is for the leader alone."""

    error: ErrorCode
    member_id: str = ""
    generation_id: int = -1
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str = ""
    members: Sequence[tuple[str, str | None, bytes]] = ()
    skip_assignment: bool = False


class SyncResult(NamedTuple):
    error: ErrorCode
    assignment: bytes = b""
    protocol_type: str | None = None
    protocol: str | None = None


JoinDone = Callable[[JoinResult], None]
SyncDone = Callable[[SyncResult], None]


class JoinRequest(NamedTuple):
    """What a member asks for. `known_id_required`: the client can repeat its first join with the id it is given (KIP-394); `can_skip`: it
    understands that a leader may have nothing to assign (KIP-814)."""

    group_id: str
    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: Sequence[Protocol]
    known_id_required: bool
    can_skip: bool


class Member:
    """Invariants: at most one of `joining` and `syncing` is set, and each is called exactly once and then dropped; `expires_ms` only moves on.

    `fresh`: it has joined and no rebalance has ended with it yet; such a member is given more time to be patient (its request is its sign of life).
    """

    __slots__ = (
        "assignment",
        "client_host",
        "client_id",
        "expires_ms",
        "fresh",
        "instance_id",
        "joining",
        "member_id",
        "protocols",
        "rebalance_timeout_ms",
        "session_timeout_ms",
        "syncing",
        "watched",
    )

    def __init__(self, member_id: str, request: JoinRequest) -> None:
        self.member_id = member_id
        self.instance_id = request.instance_id
        self.client_id = request.client_id
        self.client_host = request.client_host
        self.rebalance_timeout_ms = request.rebalance_timeout_ms
        self.session_timeout_ms = request.session_timeout_ms
        self.protocols: tuple[Protocol, ...] = tuple(request.protocols)
        self.assignment = b""
        self.joining: JoinDone | None = None
        self.syncing: SyncDone | None = None
        self.expires_ms = 0
        self.watched = False  # a timer is set for it
        self.fresh = False

    @staticmethod
    def stored(stored: StoredMember, protocol: str) -> Member:
        """As the last rebalance left it: the one protocol that was chosen is all that is known of its offers."""
        request = JoinRequest(
            "",
            stored.member_id,
            stored.instance_id,
            stored.client_id,
            stored.client_host,
            stored.session_timeout_ms,
            stored.rebalance_timeout_ms,
            "",
            (Protocol(protocol, stored.subscription),),
            False,
            False,
        )
        member = Member(stored.member_id, request)
        member.assignment = stored.assignment
        return member

    def to_store(self, protocol: str, assignment: bytes) -> StoredMember:
        return StoredMember(
            self.member_id,
            self.instance_id,
            self.client_id,
            self.client_host,
            self.rebalance_timeout_ms,
            self.session_timeout_ms,
            self.metadata(protocol),
            assignment,
        )

    def update(self, request: JoinRequest) -> None:
        """It joins again, perhaps with other wishes."""
        self.protocols = tuple(request.protocols)
        self.rebalance_timeout_ms = request.rebalance_timeout_ms
        self.session_timeout_ms = request.session_timeout_ms
        self.client_id = request.client_id
        self.client_host = request.client_host

    def metadata(self, protocol: str) -> bytes:
        return next((offered.metadata for offered in self.protocols if offered.name == protocol), b"")

    def vote(self, candidates: frozenset[str]) -> str:
        """The first of its offers that all members share."""
        return next(offered.name for offered in self.protocols if offered.name in candidates)

    @property
    def waiting(self) -> bool:
        """An unanswered request is a sign of life."""
        return self.joining is not None or self.syncing is not None

    def answer_join(self, result: JoinResult) -> None:
        joining, self.joining = self.joining, None
        if joining is not None:
            joining(result)

    def answer_sync(self, result: SyncResult) -> None:
        syncing, self.syncing = self.syncing, None
        if syncing is not None:
            syncing(result)

    def give_up(self, error: ErrorCode) -> None:
        """Answer whatever is asked with `error`."""
        self.answer_join(JoinResult(error, self.member_id))
        self.answer_sync(SyncResult(error))
