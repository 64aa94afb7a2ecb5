"""What handlers see of the broker: the context object and its parts. `broker.node` builds it; tests build small ones.

Handlers run on the loop thread. Produce and Fetch are synchronous and call back; the others may be coroutines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from broker.errors import ErrorCode
from broker.metadata.image import MetadataImage, TopicImage
from raft.api import Clock
from wal.entry import Buffer, GroupId

if TYPE_CHECKING:
    from broker.coordinator.coordination import Coordination
    from broker.coordinator.transactions.service import TransactionService
    from broker.partition.producers import ProducerDescription
    from broker.partition.verification import Then
    from broker.records.control import Marker


class LeaderTable(Protocol):
    """Who leads what, learned from the node's own groups and from what leaders tell their peers; not from `__meta`."""

    version: int  # grows with every change of a leader, an epoch or an isr; caches of Metadata hang on it

    def leader_of(self, group: GroupId) -> tuple[int, int]:
        """(broker id or -1, leader epoch)."""

    def isr_of(self, group: GroupId) -> Sequence[int]:
        """Broker ids in sync, as the leader last told; () when unknown."""

    def heard_of(self, group: GroupId) -> bool:
        """Whether any leader was ever known here: not so of a partition that was just made, nor after a start, until the news comes."""


class AppendResult(NamedTuple):
    error: ErrorCode
    base_offset: int = -1
    log_start_offset: int = -1
    log_append_time_ms: int = -1
    message: str = ""


class ReadResult(NamedTuple):
    """What a fetch of one partition gets. `chunks` are whole record batches, in order; the first may start below the asked offset (clients skip)."""

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

    def advance_log_start(self, offset: int, done: Callable[[ErrorCode, int], None]) -> None:
        """Delete the records below `offset` (-1: below the high watermark); done(error, log start offset) once that is committed."""

    def append_transactional(self, records: memoryview, acks: int, transactional_id: str, add: bool, done: Callable[[AppendResult], None]) -> None:
        """As `append`, once the transaction's coordinator has confirmed that this partition belongs to it (KIP-890); `add` makes it so."""

    def enter_transaction(self, transactional_id: str, producer: tuple[int, int], add: bool, then: Then) -> None:
        """`then(error, message, …)` once the partition is known to belong to the transaction of `producer` = (id, epoch)."""

    def append_marker(self, marker: Marker, done: Callable[[AppendResult], None]) -> None:
        """End a producer's transaction here. `done` once: NONE when that is committed."""

    def describe_producers(self) -> Sequence[ProducerDescription] | ErrorCode:
        """Every producer that is known here, as committed."""

    def read(
        self, offset: int, max_bytes: int, current_leader_epoch: int, read_committed: bool, min_one: bool, done: Callable[[ReadResult], None]
    ) -> None:
        """Read batches from `offset`; at most max_bytes unless min_one and the first batch is larger. Calls back at once (memory) or later (disk)."""

    def available_bytes(self, offset: int) -> int:
        """A cheap estimate of the bytes between `offset` and the high watermark (0 = nothing to read)."""

    def add_waiter(self, waiter: Callable[[], None]) -> None:
        """Call `waiter` once, at the next advance of the high watermark or loss of leadership."""

    def remove_waiter(self, waiter: Callable[[], None]) -> None: ...

    def list_offset(
        self, timestamp_ms: int, current_leader_epoch: int, read_committed: bool, done: Callable[[ErrorCode, int, int, int], None]
    ) -> None:
        """ListOffsets: timestamp ≥ 0, or -1 latest, -2 earliest, -3 max timestamp, -4 earliest local, -5 latest tiered.

        done(error, timestamp, offset, leader_epoch).
        """

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


class ReplicaSize(NamedTuple):
    """One replica on this node's disk. `lag`: records that the leader has committed and this replica does not hold."""

    topic: str
    partition: int
    size_bytes: int
    lag: int


class QuorumMember(NamedTuple):
    """`end_index` = index of the next entry that it needs; times in ms since 1970, -1 unknown. `directory_id` in hex."""

    node_id: int
    directory_id: str
    end_index: int
    contact_ms: int
    caught_up_ms: int


class QuorumStatus(NamedTuple):
    """The group of `__meta` as its leader sees it. All positions are raft indexes, `commit_end` that of the next entry to be committed."""

    leader_id: int
    term: int
    commit_end: int
    voters: tuple[QuorumMember, ...]
    learners: tuple[QuorumMember, ...]


class Administration(Protocol):
    """What administrative requests ask of the node itself."""

    @property
    def log_dir(self) -> str: ...

    def alive(self) -> frozenset[int]:
        """Broker ids that answer now, the own one included."""

    def transfer_leader(self, group: GroupId, leader: int, target: int) -> None:
        """Ask broker `leader` to hand the group to broker `target`; whether it did is seen in the leader table."""

    def disk_bytes(self) -> tuple[int, int]:
        """(total, free) of the file system with the data."""

    def replica_sizes(self) -> Iterable[ReplicaSize]: ...

    async def quorum(self) -> QuorumStatus:
        """Raises KafkaError(LEADER_NOT_AVAILABLE)."""


class Controller(Protocol):
    """Changes to `__meta` from any node: forwarded to its leader; returns once the own image has the change. Results are in the arguments' order."""

    controller_id: int  # broker id of the leader of __meta, -1 unknown

    async def create_topics(self, topics: Sequence[NewTopic], timeout_ms: int, validate_only: bool) -> Sequence[TopicResult]: ...

    async def delete_topics(self, topics: Sequence[str | bytes], timeout_ms: int) -> Sequence[TopicResult]:
        """Names or 16-byte ids."""

    async def create_partitions(
        self, topics: Sequence[tuple[str, int, Sequence[Sequence[int]] | None]], timeout_ms: int, validate_only: bool
    ) -> Sequence[TopicResult]:
        """(name, total count, assignments of the new ones or None)."""

    async def alter_configs(
        self, resource_type: int, name: str, changes: Sequence[tuple[str, str | None, int]], timeout_ms: int, validate_only: bool, replace: bool
    ) -> None:
        """Settings of a topic (2) or a broker (4, "" = all): (key, value, operation as in IncrementalAlterConfigs). Raises KafkaError."""

    async def alter_reassignments(
        self, items: Sequence[tuple[str, int, Sequence[int] | None]], timeout_ms: int, change_factor: bool = True
    ) -> Sequence[TopicResult]:
        """(topic, partition, wished replicas or None to cancel)."""

    async def unregister_broker(self, node_id: int, timeout_ms: int) -> None:
        """Raises KafkaError."""

    async def allocate_producer_id(self) -> int:
        """A producer id that nobody has had (blocks of 1,000 are taken from `__meta`)."""


class Broker(Protocol):
    """Everything a handler may use."""

    @property
    def node_id(self) -> int: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def image(self) -> MetadataImage: ...

    @property
    def leaders(self) -> LeaderTable: ...

    @property
    def partitions(self) -> Partitions: ...

    @property
    def controller(self) -> Controller: ...

    @property
    def administration(self) -> Administration: ...

    @property
    def transactions(self) -> TransactionService: ...

    @property
    def coordination(self) -> Coordination: ...

    @property
    def settings(self) -> Mapping[str, object]:
        """Kafka's broker settings by Kafka's names, typed, as they act now: what `__meta` changes while the node runs is in them."""

    @property
    def static_settings(self) -> Mapping[str, object]:
        """The same as this node was started with."""

    def wall_time_ms(self) -> int: ...
