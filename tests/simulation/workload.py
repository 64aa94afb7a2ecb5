"""Clients: idempotent writers that retry until they know, and readers. Every acknowledgement and every record read is remembered and checked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from broker.api import AppendResult, ReadResult
from broker.errors import ErrorCode
from broker.records.builder import build_batch
from broker.records.reader import Record, read_batches
from tests.simulation.invariants import Broken, Invariant
from tests.simulation.meta import Allocator
from tests.simulation.scheduler import SECOND_US
from wal.entry import GroupId, group_id

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.node import SimNode

REPLICATION = "replication"
WRITERS = 2
RETRY_US = 60_000
STEP_US = 200_000
TIMEOUTS_US = (150_000, 1_500_000)
"""The short one repeats a batch to a leader that has not noticed yet that it is deposed."""
FLOOD = b"flood"
WALL_MS = 1_700_000_000_000
MAY_BE_REFUSED = frozenset((ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.REQUEST_TIMED_OUT, ErrorCode.KAFKA_STORAGE_ERROR))


class Workload(Protocol):
    """What the clients of a cluster do, and on what. `names` of its groups are for people; `topics` are those of the partitions; the leaders of
    `coordinators` coordinate; `groups` by (topic, partition). `client_loss`: how often something gets lost between a client and a node;
    `fault_rest_us`: shortest and longest time from one fault to the next.

    `finish` is called when everything is healed: each client gets something done once more and rests; `waiting` says who does not yet.
    """

    has_meta: bool
    topics: dict[GroupId, str]
    names: dict[GroupId, str]
    histories: dict[GroupId, History]
    coordinators: list[GroupId]
    groups: dict[tuple[str, int], GroupId]
    client_loss: float
    fault_rest_us: tuple[int, int]

    @property
    def invariants(self) -> list[Invariant]: ...

    def open(self) -> None: ...

    def start(self) -> None: ...

    def host(self, node: SimNode) -> Any:
        """What a process hosts besides its partitions (`tests.simulation.hosting`); None for nothing."""

    def finish(self) -> None: ...

    def waiting(self) -> str: ...

    def check_final(self) -> None:
        """All replicas are equal and at rest. Raises Broken."""


class Replication:
    """Records are written and read, ids are given out: what the layers below the coordinators promise."""

    has_meta = True
    fault_rest_us = (30_000, 1_200_000)

    def __init__(self, cluster: Cluster, groups: int = 2) -> None:
        self.cluster = cluster
        self.topics = {group_id(bytes(15) + bytes([16 + n]), 0): f"topic-{n}" for n in range(groups)}
        self.names = self.topics
        self.histories = {group: History(topic) for group, topic in self.topics.items()}
        self.coordinators: list[GroupId] = []
        self.groups: dict[tuple[str, int], GroupId] = {}
        self.invariants: list[Invariant] = []
        self.client_loss = 0.0
        self._batches_wanted: dict[int, int] = {}
        self._blocks_wanted: dict[int, int] = {}

    def open(self) -> None:
        cluster = self.cluster
        self.writers = [Writer(cluster, group, 10 * index + n) for index, group in enumerate(self.topics) for n in range(WRITERS)]
        self.allocators = [Allocator(cluster, number) for number in range(2 if cluster.has_meta else 0)]
        self.floods = [Flood(cluster, group) for group in self.topics]
        self.readers = [Reader(cluster, group) for group in self.topics]

    def host(self, node: SimNode) -> None:
        return None

    def start(self) -> None:
        scheduler, random = self.cluster.scheduler, self.cluster.random
        for writer in self.writers:
            scheduler.at(random.randrange(SECOND_US), writer.next_batch)
        for allocator in self.allocators:
            scheduler.at(random.randrange(SECOND_US), allocator.next_block)
        for flood in self.floods:
            scheduler.at(SECOND_US, flood.burst)
        for reader in self.readers:
            scheduler.at(SECOND_US, reader.poll)

    def finish(self) -> None:
        for flood in self.floods:
            flood.paused = True
        self._batches_wanted = {writer.number: writer.batches + 2 for writer in self.writers}
        self._blocks_wanted = {allocator.number: allocator.answered + 1 for allocator in self.allocators}

    def waiting(self) -> str:
        for writer in self.writers:
            writer.paused = writer.batches >= self._batches_wanted[writer.number]
        for allocator in self.allocators:
            allocator.paused = allocator.answered >= self._blocks_wanted[allocator.number]
        writers = [writer.number for writer in self.writers if not writer.idle]
        allocators = [allocator.number for allocator in self.allocators if not allocator.idle]
        return f"writers {writers}, allocators {allocators} wait" if writers or allocators else ""

    def check_final(self) -> None:
        for group, history in self.histories.items():
            history.check_final(read_all(self.cluster, group))


class History:
    """What clients saw of one partition. Values are unique. `acknowledged_end`: offset behind the last acknowledged record."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.acknowledged: dict[int, bytes] = {}  # offset -> value
        self.acknowledged_end = 0
        self.read: dict[int, bytes] = {}
        self.sent: set[bytes] = set()

    def acknowledge(self, offset: int, values: Sequence[bytes]) -> None:
        for number, value in enumerate(values):
            found = self.acknowledged.setdefault(offset + number, value)
            if found != value:
                raise Broken(f"AcknowledgedTwice: {self.name} offset {offset + number}: {found[:20]!r} and {value[:20]!r}")
            if self.read.get(offset + number, value) != value:
                raise Broken(f"OffsetMoved: {self.name} offset {offset + number} was read as {self.read[offset + number][:20]!r}")
        self.acknowledged_end = max(self.acknowledged_end, offset + len(values))

    def see(self, offset: int, value: bytes) -> None:
        if value not in self.sent:
            raise Broken(f"NeverSent: {self.name} offset {offset} holds {value[:20]!r}")
        found = self.read.setdefault(offset, value)
        if found != value:
            raise Broken(f"InconsistentOffset: {self.name} offset {offset} was read as {found[:20]!r} and as {value[:20]!r}")
        acknowledged = self.acknowledged.get(offset)
        if acknowledged is not None and acknowledged != value:
            raise Broken(f"OffsetMoved: {self.name} offset {offset} was acknowledged for {acknowledged[:20]!r}, holds {value[:20]!r}")

    def check_final(self, values: Sequence[bytes]) -> None:
        """`values`: the whole partition, read from offset 0 after healing."""
        for offset, value in self.acknowledged.items():
            if offset >= len(values) or values[offset] != value:
                raise Broken(f"LostWrite: {self.name} offset {offset} acknowledged for {value[:20]!r}, the partition ends at {len(values)}")
        for offset, value in enumerate(values):
            self.see(offset, value)
        if len(set(values)) != len(values):
            raise Broken(f"Duplicate: {self.name} holds a value twice")
        last: dict[bytes, int] = {}
        for value in values:
            writer, number = value.split(b":")[:2]
            if writer == FLOOD:
                continue
            if int(number) != last.get(writer, -1) + 1:
                raise Broken(f"Reordered: {self.name}: {value[:20]!r} after number {last.get(writer, -1)}")
            last[writer] = int(number)


class Writer:
    """One idempotent producer on one partition, one batch at a time. `paused`: finish the batch that is out and rest."""

    def __init__(self, cluster: Cluster, group_id: GroupId, number: int) -> None:
        self.cluster, self.group_id, self.number = cluster, group_id, number
        self.history = cluster.workload.histories[group_id]
        self.producer_id = 1000 + number
        self.sequence = 0
        self.sent = 0
        self.target = cluster.random.choice(cluster.node_ids)
        self.attempt = 0
        self.paused = False
        self.idle = False
        self.batches = 0  # acknowledged
        self.batch = b""
        self.values: list[bytes] = []

    def next_batch(self) -> None:
        self.idle = self.paused
        if self.idle:
            return
        random = self.cluster.random
        self.values = []
        for _ in range(random.choice((1, 1, 2, 5))):
            padding = b"x" * random.choice((0, 10, 200, 900))
            self.values.append(b"%d:%d:%s" % (self.number, self.sent, padding))
            self.sent += 1
        self.history.sent.update(self.values)
        now = WALL_MS + self.cluster.scheduler.now_us // 1000
        records = [Record(0, now, None, value) for value in self.values]
        self.batch = bytes(build_batch(records, producer=(self.producer_id, 0, self.sequence)))
        self.send()

    def send(self) -> None:
        self.attempt += 1
        attempt, values, batch = self.attempt, self.values, self.batch
        node = self.cluster.nodes[self.target]
        self.cluster.scheduler.at(self.cluster.random.choice(TIMEOUTS_US), lambda: self.retry(attempt))
        if not node.up:
            self.cluster.scheduler.at(RETRY_US, lambda: self.retry(attempt))
            return
        clock, partition = node.clock, node.partitions[self.group_id]

        def deliver() -> None:
            if node.hears_producers():
                partition.append(memoryview(bytearray(batch)), -1, lambda result: self.answered(attempt, values, result))

        self.cluster.scheduler.at(self.cluster.random.randrange(50, 500), lambda: clock.run(deliver))

    def answered(self, attempt: int, values: Sequence[bytes], result: AppendResult) -> None:
        cluster = self.cluster
        if result.error == ErrorCode.NONE:
            self.history.acknowledge(result.base_offset, values)  # an answer that comes too late is still a promise
            cluster.scheduler.trace(f"ack {self.number} {result.base_offset}")
        elif attempt == self.attempt and result.error not in MAY_BE_REFUSED:
            raise Broken(f"UnexpectedError: {self.history.name}: {result.error.name}: {result.message}")
        if attempt != self.attempt:
            cluster.counts["late_answers"] += 1
            return
        if result.error == ErrorCode.NONE:
            cluster.counts["acknowledged"] += len(values)
            self.batches += 1
            self.attempt += 1
            self.sequence += len(values)
            cluster.scheduler.at(cluster.random.randrange(100, cluster.pace_us), self.next_batch)
            return
        cluster.counts[f"error_{result.error.name}"] += 1
        cluster.scheduler.at(RETRY_US, lambda: self.retry(attempt))

    def retry(self, attempt: int) -> None:
        if attempt == self.attempt:
            self.cluster.counts["retries"] += 1
            self.target = self.cluster.believed_leader(self.group_id)
            self.send()


class Flood:
    """Sends batches without waiting for anything (acks=0), so that a leader that is cut off has a tail to lose. Nothing of it is promised."""

    def __init__(self, cluster: Cluster, group_id: GroupId) -> None:
        self.cluster, self.group_id = cluster, group_id
        self.history = cluster.workload.histories[group_id]
        self.sent = 0
        self.paused = False

    def burst(self) -> None:
        if self.paused:
            return
        cluster = self.cluster
        cluster.scheduler.at(cluster.random.randrange(100_000, 800_000), self.burst)
        node = cluster.nodes[cluster.believed_leader(self.group_id)]
        if not node.up:
            return
        partition, clock = node.partitions[self.group_id], node.clock
        for number in range(cluster.random.randrange(2, 12)):
            value = b"%s:%d" % (FLOOD, self.sent)
            self.sent += 1
            self.history.sent.add(value)
            batch = build_batch([Record(0, WALL_MS + cluster.scheduler.now_us // 1000, None, value)])

            def deliver(batch: bytearray = batch) -> None:
                if node.hears_producers():
                    partition.append(memoryview(batch), 0, self.answered)

            cluster.scheduler.at(number * 6_000 + 50, partial(clock.run, deliver))

    def answered(self, result: AppendResult) -> None:
        self.cluster.counts["flooded"] += result.error == ErrorCode.NONE


class Reader:
    """Reads one partition from whoever claims to lead it, again and again; goes back to a random earlier offset now and then."""

    def __init__(self, cluster: Cluster, group_id: GroupId) -> None:
        self.cluster, self.group_id = cluster, group_id
        self.history = cluster.workload.histories[group_id]
        self.offset = 0

    def poll(self) -> None:
        cluster = self.cluster
        cluster.scheduler.at(cluster.random.randrange(20_000, 80_000), self.poll)
        node = cluster.nodes[cluster.believed_leader(self.group_id)]
        if not node.up:
            return
        partition, clock = node.partitions[self.group_id], node.clock

        def ask() -> None:
            asked, acknowledged_end = self.offset, self.history.acknowledged_end

            def done(result: ReadResult) -> None:
                if result.error == ErrorCode.NONE:
                    self.take(asked, acknowledged_end, result)
                elif result.error == ErrorCode.OFFSET_OUT_OF_RANGE:
                    raise Broken(f"OffsetOutOfRange: {self.history.name} offset {asked} was readable before")

            partition.read(asked, 4096, -1, False, True, done)

        clock.run(ask)

    def take(self, asked: int, acknowledged_end: int, result: ReadResult) -> None:
        if result.high_watermark < acknowledged_end:
            raise Broken(
                f"StaleRead: {self.history.name}: answered with high watermark {result.high_watermark} when {acknowledged_end} was acknowledged"
            )
        following = asked
        for offset, value in decode_values(result.chunks):
            if offset < asked:
                continue
            if offset != following:
                raise Broken(f"SkippedRecords: {self.history.name}: asked {following}, got {offset}")
            if offset >= result.high_watermark:
                raise Broken(f"AboveHighWatermark: {self.history.name} offset {offset}, high watermark {result.high_watermark}")
            self.history.see(offset, value)
            following = offset + 1
        self.cluster.counts["read"] += following - asked
        if following > asked and asked == self.offset:
            self.offset = following
        if self.cluster.random.random() < 0.05:
            self.offset = self.cluster.random.randrange(0, self.offset + 1)


def decode_values(chunks: Any) -> list[tuple[int, bytes]]:
    """(offset, value) of every record."""
    return [(record.offset, bytes(record.value or b"")) for record in read_batches(b"".join(chunks))]


def read_all(cluster: Cluster, group: GroupId) -> list[bytes]:
    """The whole partition from offset 0, through the ordinary read path; every offset holds a value."""
    values: list[bytes] = []
    while True:
        answer = read_at(cluster, group, len(values), False)
        if len(values) >= answer.high_watermark:
            return values
        before = len(values)
        for offset, value in decode_values(answer.chunks):
            if offset == len(values):
                values.append(value)
        if len(values) == before:
            raise Broken(f"Unreadable: {cluster.group_names[group]} offset {before} gives nothing below the high watermark {answer.high_watermark}")


def read_at(cluster: Cluster, group: GroupId, offset: int, read_committed: bool) -> ReadResult:
    """One fetch from the leader, when all is healed."""
    answers: list[ReadResult] = []
    for _ in range(20):  # answers that were slow before the healing may have let a lease run out
        answers.clear()
        leader = cluster.leader_of(group)
        if leader is not None:
            leader.partitions[group].read(offset, 64 << 10, -1, read_committed, True, answers.append)
        for _ in range(100):
            if answers:
                break
            cluster.scheduler.run_until(cluster.scheduler.now_us + 1000)
        if answers and answers[0].error != ErrorCode.NOT_LEADER_OR_FOLLOWER:
            break
        cluster.scheduler.run_until(cluster.scheduler.now_us + STEP_US)
    if not answers or answers[0].error:
        raise Broken(f"Unreadable: {cluster.group_names[group]} offset {offset}: {answers and answers[0].error}")
    return answers[0]
