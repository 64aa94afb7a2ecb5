"""What handlers see of the broker: the context object and its parts. `broker.node` builds it; tests build small ones.

Handlers run on the loop thread. Produce and Fetch are synchronous and call back; the others may be coroutines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from broker.errors import ErrorCode
from broker.metadata.image import MetadataImage, TopicImage
from raft.api import Clock
from wal.entry import Buffer, GroupId


class LeaderTable(Protocol):
    """Who leads what, learned from the node's own groups and from what leaders tell their peers; not from `__meta`."""

    version: int  # grows with every change of a leader, an epoch or an isr; caches of Metadata hang on it

    def leader_of(self, group: GroupId) -> tuple[int, int]:
        """(broker id or -1, leader epoch)."""

    def isr_of(self, group: GroupId) -> Sequence[int]:
        """Broker ids in sync, as the leader last told; () when unknown."""


class AppendResult(NamedTuple):
    error: ErrorCode
    base_offset: int = -1
    log_start_offset: int = -1
    log_append_time_ms: int = -1
    message: str = ""


class ReadResult(NamedTuple):
    """What a fetch of one partition gets. `chunks` are whole record batches, in order; the first may start below the asked offset (Kafka's clients skip)."""

    error: ErrorCode
    chunks: Sequence[Buffer] = ()
    size: int = 0
    high_watermark: int = -1
    last_stable_offset: int = -1
    log_start_offset: int = -1
    aborted_transactions: Sequence[tuple[int, int]] = ()


class Partition(Protocol):
    """One replica of one partition on this node; its methods answer NOT_LEADER_OR_FOLLOWER unless it is the serving leader."""

    topic: str
    index: int
    topic_id: bytes
    group_id: GroupId

    @property
    def high_watermark(self) -> int: ...

    @property
    def last_stable_offset(self) -> int: ...

    @property
    def log_start_offset(self) -> int: ...

    @property
    def log_end_offset(self) -> int: ...

    @property
    def leader_epoch(self) -> int: ...

    def append(self, records: memoryview, acks: int, done: Callable[[AppendResult], None]) -> None:
        """Append one Produce request's batches for this partition. `records` (writable, batches as sent) belongs to the partition from now on.

        acks: -1 committed on a majority (and min.insync.replicas), 1 flushed on the leader; for 0 `done` is called at once.
        `done` is called exactly once, possibly before `append` returns (errors).
        """

    def read(
        self, offset: int, max_bytes: int, current_leader_epoch: int, read_committed: bool, min_one: bool, done: Callable[[ReadResult], None]
    ) -> None:
        """Read batches from `offset`; at most max_bytes unless min_one and the first batch is larger. May call back at once (memory) or later (disk)."""

    def available_bytes(self, offset: int) -> int:
        """A cheap estimate of the bytes between `offset` and the high watermark (0 = nothing to read)."""

    def add_waiter(self, waiter: Callable[[], None]) -> None:
        """Call `waiter` once, at the next advance of the high watermark or loss of leadership."""

    def remove_waiter(self, waiter: Callable[[], None]) -> None: ...

    def list_offset(
        self, timestamp_ms: int, current_leader_epoch: int, read_committed: bool, done: Callable[[ErrorCode, int, int, int], None]
    ) -> None:
        """ListOffsets: timestamp ≥ 0, or -1 latest, -2 earliest, -3 max timestamp, -4 earliest local, -5 latest tiered. done(error, timestamp, offset, leader_epoch)."""

    def end_of_epoch(self, current_leader_epoch: int, leader_epoch: int) -> tuple[ErrorCode, int, int]:
        """OffsetForLeaderEpoch: (error, the largest epoch ≤ leader_epoch, its end offset)."""


class Partitions(Protocol):
    def get(self, topic: str, partition: int) -> Partition | None: ...

    def get_by_id(self, topic_id: bytes, partition: int) -> Partition | None: ...


class NewTopic(NamedTuple):
    name: str
    partitions: int = -1  # -1 = default
    replication_factor: int = -1
    assignments: Mapping[int, Sequence[int]] = {}
    configs: Mapping[str, str | None] = {}


class TopicResult(NamedTuple):
    error: ErrorCode
    message: str | None = None
    topic: TopicImage | None = None


class Controller(Protocol):
    """Changes to `__meta` from any node: forwarded to its leader; returns once the own image has the change. Order of results = order of arguments."""

    controller_id: int  # broker id of the leader of __meta, -1 unknown

    async def create_topics(self, topics: Sequence[NewTopic], timeout_ms: int, validate_only: bool) -> Sequence[TopicResult]: ...

    async def delete_topics(self, topics: Sequence[str | bytes], timeout_ms: int) -> Sequence[TopicResult]:
        """Names or 16-byte ids."""

    async def create_partitions(
        self, topics: Sequence[tuple[str, int, Sequence[Sequence[int]] | None]], timeout_ms: int, validate_only: bool
    ) -> Sequence[TopicResult]:
        """(name, total count, assignments of the new ones or None)."""

    async def allocate_producer_id(self) -> int:
        """A producer id that nobody has had (blocks of 1,000 are taken from `__meta`)."""


class Broker(Protocol):
    """Everything a handler may use."""

    node_id: int
    clock: Clock
    image: MetadataImage
    leaders: LeaderTable
    partitions: Partitions
    controller: Controller
    settings: Mapping[str, object]  # Kafka broker settings by Kafka name, typed and with defaults (broker.settings)

    def wall_time_ms(self) -> int: ...
