"""The seams of the replication layer: what the driver asks of the world, and what state machines and handlers see of a group.

Everything here runs on one loop thread. Nothing here knows asyncio: the simulator implements the same protocols with virtual time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from wal.api import AppliedState, Flush, Job, ReadJob
from wal.api import GroupLog as GroupLog
from wal.entry import Buffer, Entry, GroupId


class Clock(Protocol):
    """Time in ms that goes on while the machine is suspended (CLOCK_BOOTTIME) and never goes back."""

    def now_ms(self) -> int: ...

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> None: ...

    def call_soon(self, callback: Callable[[], None]) -> None: ...


class Disk(Protocol):
    """Runs blocking jobs on threads of its own, or lets the kernel write a flush; `done(error)` is called on the loop thread, error None when the job
    was done."""

    def submit_flush(self, job: Flush, done: Callable[[BaseException | None], None]) -> None: ...

    def submit_background(self, job: Job, done: Callable[[BaseException | None], None]) -> None: ...

    def submit_read(self, job: ReadJob, done: Callable[[BaseException | None], None]) -> None: ...


class Lane(IntEnum):
    """Two connections per peer, each dialled by the sender of requests; answers come back on the same connection, in order.

    A session is one such connection. What is said in one session (agreement about terms) ends with it.
    """

    DATA = 0
    CONTROL = 1


class Network(Protocol):
    """Sends opaque messages to peers. Never blocks; what can not be sent is dropped (Raft repeats it)."""

    def send_request(self, peer: int, lane: Lane, parts: Sequence[Buffer]) -> bool:
        """Queue one message on our own connection to `peer`; False when there is no connection or its bounded queue is full."""

    def send_answer(self, peer: int, lane: Lane, parts: Sequence[Buffer]) -> bool:
        """Queue one message on the connection that `peer` opened to us."""

    def ready(self, peer: int, lane: Lane, outgoing: bool) -> bool:
        """Whether a message would leave at once. If not, `on_ready` follows when it would: what gathers until then goes as one message."""

    def end_incoming(self, peer: int, lane: Lane) -> None:
        """End the connection that `peer` opened to us, if there is one: the handler hears of its loss, the peer as well, and dials again."""

    def send_snapshot(self, peer: int, group: GroupId, index: int, term: int, done: Callable[[bool], None]) -> None:
        """Stream the latest snapshot file of `group` to `peer` in chunks; `done(ok)` when it is received whole or failed."""


class NetworkHandler(Protocol):
    """What the network tells the driver. `outgoing` = the session that we dialled (we send requests and get answers there)."""

    def on_session_open(self, peer: int, lane: Lane, outgoing: bool, incarnation: int) -> None: ...

    def on_session_lost(self, peer: int, lane: Lane, outgoing: bool, refused: bool) -> None:
        """`refused`: the connection was reset and the next attempt was refused at once, as it is when a process was killed."""

    def on_ready(self) -> None:
        """A session that was asked `ready` in vain can take a message."""

    def on_request(self, peer: int, lane: Lane, data: memoryview) -> None: ...

    def on_answer(self, peer: int, lane: Lane, data: memoryview) -> None: ...

    def on_snapshot(self, peer: int, group: GroupId, index: int, term: int, path: str) -> None:
        """A snapshot file has been received whole and fsynced at `path`."""


class Proposal(NamedTuple):
    """What a state machine wants appended as one entry."""

    kind: int
    chunks: Sequence[Buffer]
    size: int
    payload_crc: int
    record_count: int


class StateMachine(Protocol):
    """What is replicated. The driver owns when these are called; the state machine owns its state and changes it only in `apply` and `restore`."""

    def collect(self, max_bytes: int) -> Proposal | None:
        """Called on the leader when a flush is about to be taken and the group is marked dirty: everything that arrived since the last one."""

    def apply(self, entries: Sequence[Entry]) -> None:
        """Committed entries, in order, each exactly once since `restore`; they are on disk on a majority."""

    def on_leadership(self, leader: bool) -> None:
        """leader=True: our own no-op is applied, from now on we serve. False: we do not lead any more; what was appended is unknown, not failed."""

    def on_leader_change(self, leader_node: int, term: int) -> None:
        """Another leader, or none (0), is known."""

    def on_flushed(self) -> None:
        """A flush that this group took part in is done: log.flushed_index may have advanced."""

    def on_progress(self) -> None:
        """Leader: a follower's match index moved (isr may have changed). Called at most once per turn."""

    def restore(self, state: AppliedState | None) -> int:
        """At open: take the recovered state; returns the index up to which it is applied (0 none)."""

    def capture(self) -> AppliedState | None:
        """The state for the next checkpoint; must not block and should be small."""

    def snapshot(self) -> bytes:
        """The whole state for a snapshot file. Only groups that are trimmed (`__meta`) need it."""

    def install(self, index: int, data: bytes) -> None:
        """Replace the whole state by a snapshot taken at `index`."""


class ReplicaStatus(NamedTuple):
    """How the leader sees one replica. `contact_ms`: when a message that it has answered was sent (driver clock), -1 never in this term."""

    node: int
    voter: bool
    match_index: int
    contact_ms: int
    at_end_ms: int  # last time it held everything that the leader had, -1 never


class Group(Protocol):
    """What a state machine and the handlers see of their group."""

    group_id: GroupId
    log: GroupLog
    serving: bool  # leader, and the no-op of this term is applied
    applied_index: int

    @property
    def term(self) -> int:
        """= leader epoch."""

    @property
    def leader(self) -> int:
        """Broker id, 0 unknown."""

    @property
    def commit_index(self) -> int: ...

    def mark_dirty(self) -> None:
        """There is something to collect: the driver takes it with the next flush."""

    def lease_valid(self) -> bool:
        """Whether a majority has confirmed our leadership recently enough that nobody else can lead. Look at it when answering."""

    def read_index(self, done: Callable[[int], None]) -> None:
        """`done(index)` once leadership is proven after this call and the log is applied to `index`; `done(-1)` when not leader."""

    def replicas(self) -> list[ReplicaStatus]: ...

    def read(self, job: ReadJob, done: Callable[[BaseException | None], None]) -> None:
        """Run a read job of `log` on a disk thread."""

    def transfer_leadership(self, target_node: int) -> None: ...

    def change_membership(self, voters: Sequence[int], learners: Sequence[int], done: Callable[[bool], None]) -> None:
        """One safe change towards the wished members (replica ids). done(True) when committed."""
