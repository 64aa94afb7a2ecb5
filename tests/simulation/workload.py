"""Clients: idempotent writers that retry until they know, and readers. Every acknowledgement and every record read is remembered and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.api import AppendResult, ReadResult
from broker.errors import ErrorCode
from broker.records.batch import iterate_headers
from broker.records.reader import encode_batch, iterate_records
from tests.simulation.invariants import Broken
from wal.entry import GroupId

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

RETRY_US = 60_000
TIMEOUT_US = 1_500_000


class History:
    """What clients saw of one partition. Values are unique."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.acknowledged: dict[int, bytes] = {}  # offset -> value
        self.read: dict[int, bytes] = {}
        self.sent: set[bytes] = set()
        self.failed: set[bytes] = set()

    def acknowledge(self, offset: int, values: list[bytes]) -> None:
        for number, value in enumerate(values):
            found = self.acknowledged.setdefault(offset + number, value)
            if found != value:
                raise Broken(f"AcknowledgedTwice: {self.name} offset {offset + number}: {found!r} and {value!r}")

    def see(self, offset: int, value: bytes) -> None:
        if value not in self.sent:
            raise Broken(f"NeverSent: {self.name} offset {offset} holds {value!r}")
        found = self.read.setdefault(offset, value)
        if found != value:
            raise Broken(f"InconsistentOffset: {self.name} offset {offset} was read as {found!r} and as {value!r}")
        acknowledged = self.acknowledged.get(offset)
        if acknowledged is not None and acknowledged != value:
            raise Broken(f"OffsetMoved: {self.name} offset {offset} was acknowledged for {acknowledged!r}, holds {value!r}")

    def check_final(self, values: list[bytes]) -> None:
        """`values`: the whole partition, read from offset 0 after healing."""
        for offset, value in enumerate(values):
            self.see(offset, value)
        for offset, value in self.acknowledged.items():
            if offset >= len(values) or values[offset] != value:
                raise Broken(f"LostWrite: {self.name} offset {offset} acknowledged for {value!r}, the partition ends at {len(values)}")
        if len(set(values)) != len(values):
            raise Broken(f"Duplicate: {self.name} holds a value twice")
        last: dict[bytes, int] = {}
        for value in values:
            writer, number = value.split(b":")[:2]
            if int(number) <= last.get(writer, -1):
                raise Broken(f"Reordered: {self.name}: {value!r} after number {last[writer]}")
            last[writer] = int(number)


class Writer:
    """One idempotent producer on one partition, one batch at a time."""

    def __init__(self, cluster: Cluster, group_id: GroupId, number: int) -> None:
        self.cluster, self.group_id, self.number = cluster, group_id, number
        self.history = cluster.histories[group_id]
        self.producer_id = 1000 + number
        self.sequence = 0
        self.sent = 0
        self.target = cluster.random.choice(cluster.node_ids)
        self.attempt = 0
        self.stopped = False
        self.batch = b""
        self.values: list[bytes] = []

    def next_batch(self) -> None:
        if self.stopped:
            return
        random = self.cluster.random
        count = random.choice((1, 1, 2, 5))
        self.values = []
        for _ in range(count):
            padding = b"x" * random.choice((0, 10, 200, 900))
            self.values.append(b"%d:%d:%s" % (self.number, self.sent, padding))
            self.sent += 1
        self.history.sent.update(self.values)
        now = 1_700_000_000_000 + self.cluster.scheduler.now_us // 1000
        self.batch = bytes(
            encode_batch([(None, value) for value in self.values], now, producer_id=self.producer_id, producer_epoch=0, base_sequence=self.sequence)
        )
        self.send()

    def send(self) -> None:
        self.attempt += 1
        attempt = self.attempt
        node = self.cluster.nodes[self.target]
        self.cluster.scheduler.at(TIMEOUT_US, lambda: self.retry(attempt, "timeout"))
        if not node.up or node.clock.stopped:
            return

        def deliver() -> None:
            partition = node.partitions.get(self.group_id)
            if partition is not None:
                partition.append(memoryview(bytearray(self.batch)), -1, lambda result: self.answered(attempt, result))

        self.cluster.scheduler.at(self.cluster.random.randrange(50, 500), lambda clock=node.clock: clock.run(deliver))  # type: ignore[misc]

    def answered(self, attempt: int, result: AppendResult) -> None:
        if attempt != self.attempt:
            # An answer that came too late is still a promise.
            if result.error == ErrorCode.NONE:
                self.cluster.counts["late_acknowledgements"] += 1
            return
        if result.error == ErrorCode.NONE:
            self.history.acknowledge(result.base_offset, self.values)
            self.cluster.counts["acknowledged"] += len(self.values)
            self.cluster.scheduler.trace(f"ack {self.number} {result.base_offset}")
            self.attempt += 1
            self.sequence += len(self.values)
            self.cluster.scheduler.at(self.cluster.random.randrange(100, 20_000), self.next_batch)
            return
        self.cluster.counts[f"error_{result.error.name}"] += 1
        self.cluster.scheduler.at(RETRY_US, lambda: self.retry(attempt, result.error.name))

    def retry(self, attempt: int, _reason: str) -> None:
        if attempt != self.attempt or (self.stopped and not self.values):
            return
        self.target = self.cluster.believed_leader(self.group_id)
        self.send()


class Reader:
    """Reads one partition from its leader again and again; restarts from a random earlier offset now and then."""

    def __init__(self, cluster: Cluster, group_id: GroupId) -> None:
        self.cluster, self.group_id = cluster, group_id
        self.history = cluster.histories[group_id]
        self.offset = 0
        self.stopped = False

    def poll(self) -> None:
        if self.stopped:
            return
        cluster = self.cluster
        cluster.scheduler.at(cluster.random.randrange(20_000, 80_000), self.poll)
        node = cluster.nodes[cluster.believed_leader(self.group_id)]
        if not node.up or node.clock.stopped:
            return
        asked = self.offset

        def done(result: ReadResult) -> None:
            if result.error == ErrorCode.NONE:
                self.take(asked, result)
            elif result.error == ErrorCode.OFFSET_OUT_OF_RANGE:
                raise Broken(f"OffsetOutOfRange: {self.history.name} offset {asked} was readable before")

        node.clock.run(lambda: node.partitions[self.group_id].read(asked, 4096, -1, False, True, done))

    def take(self, asked: int, result: ReadResult) -> None:
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
    data = memoryview(b"".join(chunks))
    found = []
    for header in iterate_headers(data):
        found.extend((record.offset, bytes(record.value or b"")) for record in iterate_records(data[header.position : header.position + header.size]))
    return found
