"""The workload of the coordinators: a bank, consume-transform-produce and a plain group, over two partitions of each of their topics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.api import ReadResult
from broker.coordinator.internal_topics import GROUPS_TOPIC, TRANSACTIONS_TOPIC
from broker.coordinator.shards import partition_for
from broker.coordinator.transactions.state import RESTING
from broker.errors import ErrorCode
from broker.metadata.image import MetadataImage, PartitionImage, TopicImage
from broker.partition.partition import LATEST
from broker.records.batch import CONTROL_BIT, LOG_OVERHEAD_BYTES, TRANSACTIONAL_BIT, stored_batches
from broker.records.control import markers_of
from broker.records.reader import read_batches
from tests.simulation.checkers import (
    ExactlyOnce,
    Fencing,
    GroupOffsets,
    MoneyKept,
    NoOldGeneration,
    OneOwner,
    Place,
    ReadCommitted,
    Seen,
    StableOffsets,
    WholeTransactions,
    unpack,
)
from tests.simulation.coordinator_invariants import CoordinatorStatesEqual, GroupOffsetsMonotonic, StableOffsetMonotonic, TransactionSteps
from tests.simulation.hosting import Hosted
from tests.simulation.invariants import Broken, Invariant
from tests.simulation.members import Member
from tests.simulation.pipeline import Slot
from tests.simulation.scheduler import SECOND_US
from tests.simulation.transactional import Bank
from tests.simulation.workload import History, Reader, Writer, read_all, read_at
from wal.entry import GroupId, group_id

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.node import SimNode

COORDINATORS = "coordinators"
CLIENT_LOSS = 0.015
ACCOUNTS_TOPIC, INPUT_TOPIC, PLAIN_TOPIC = "accounts", "input", "plain"
PARTITIONS = {TRANSACTIONS_TOPIC: (1, 1, 2), GROUPS_TOPIC: (1,), ACCOUNTS_TOPIC: (2,), INPUT_TOPIC: (2,)}
"""One of these numbers of each."""
PLAIN_PARTITIONS = 4
MEMBERS = 3


class Coordinating:
    """`accounts` hold what transactions write, the bank's and the pipeline's; `groups` are the partitions' groups by place."""

    has_meta = False
    plain_group, plain_topic, plain_partitions = "plain", PLAIN_TOPIC, PLAIN_PARTITIONS
    pipeline_group, input_topic = "pipeline", INPUT_TOPIC

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.partitions = {topic: cluster.random.choice(counts) for topic, counts in PARTITIONS.items()}
        self.fault_rest_us = cluster.random.choice(((30_000, 1_200_000), (200_000, 3_000_000)))  # in calm runs much more gets done
        self._ids = {name: bytes(15) + bytes([32 + number]) for number, name in enumerate((*PARTITIONS, PLAIN_TOPIC))}
        self.groups: dict[Place, GroupId] = {
            (topic, n): group_id(self._ids[topic], n) for topic, count in self.partitions.items() for n in range(count)
        }
        self.topics = {group: place[0] for place, group in self.groups.items()}
        self.names = {group: f"{topic}-{n}" for (topic, n), group in self.groups.items()}
        self.accounts: list[Place] = [(ACCOUNTS_TOPIC, n) for n in range(self.partitions[ACCOUNTS_TOPIC])]
        self.inputs: list[Place] = [(INPUT_TOPIC, n) for n in range(self.partitions[INPUT_TOPIC])]
        self.coordinators = [group for (topic, _), group in self.groups.items() if topic in (TRANSACTIONS_TOPIC, GROUPS_TOPIC)]
        self.histories = {self.groups[place]: History(f"{place[0]}-{place[1]}") for place in self.inputs}
        self.client_loss = CLIENT_LOSS
        self.read_committed, self.whole, self.money = ReadCommitted(), WholeTransactions(), MoneyKept()
        self.stable, self.fencing, self.exactly_once = StableOffsets(), Fencing(), ExactlyOnce()
        self.owners, self.generations, self.group_offsets = OneOwner(), NoOldGeneration(), GroupOffsets()
        self.image = self._image()
        self._producer_ids = 1000
        self._batches_wanted: dict[int, int] = {}

    @property
    def invariants(self) -> list[Invariant]:
        cluster = self.cluster
        return [CoordinatorStatesEqual(cluster), StableOffsetMonotonic(cluster), TransactionSteps(cluster), GroupOffsetsMonotonic(cluster)]

    def _image(self) -> MetadataImage:
        """What `__meta` would say; nothing in it changes here."""
        nodes = tuple(self.cluster.node_ids[:3])
        topics = {}
        for topic, count in {**self.partitions, PLAIN_TOPIC: PLAIN_PARTITIONS}.items():
            partitions = tuple(PartitionImage(n, group_id(self._ids[topic], n), nodes, nodes) for n in range(count))
            topics[topic] = TopicImage(topic, self._ids[topic], partitions)
        return MetadataImage(version=1, topics=topics, topics_by_id={topic.topic_id: topic for topic in topics.values()})

    # -- where things are -----------------------------------------------------------------------------------------

    def topic_id(self, topic: str) -> bytes:
        return self._ids[topic]

    def index_of(self, topic: str, key: str) -> int:
        """Which partition of an internal topic coordinates `key`."""
        return partition_for(key, self.partitions[topic])

    def group_of(self, topic: str, key: str) -> GroupId:
        return self.groups[topic, self.index_of(topic, key)]

    def host(self, node: SimNode) -> Hosted:
        return Hosted(node, self.image, self._allocate)

    def _allocate(self, node: SimNode, done: Callable[[int | None], None]) -> None:
        """The controller, which may be out of reach; ids that are given and lost are never given again."""
        random = self.cluster.random
        self._producer_ids += 1
        found = None if random.random() < 4 * self.client_loss else self._producer_ids
        node.clock.call_later(random.randrange(1, 30), lambda: done(found))

    # -- a run ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        cluster = self.cluster
        cluster.pace_us = 200_000
        self.writers = [Writer(cluster, self.groups[place], number) for number, place in enumerate(self.inputs)]
        self.readers = [Reader(cluster, self.groups[place]) for place in self.inputs]
        self.watchers = [Watcher(self, place) for place in self.accounts]
        self.banks = [Bank(cluster, self, number) for number in range(2)]
        self.slots = [Slot(self, number) for number in range(2)]
        self.members = [Member(self, number) for number in range(MEMBERS)]
        self.employers: list[Bank | Slot] = [*self.banks, *self.slots]

    def start(self) -> None:
        scheduler, random = self.cluster.scheduler, self.cluster.random
        for writer in self.writers:
            scheduler.at(random.randrange(SECOND_US), writer.next_batch)
        for reader in self.readers:
            scheduler.at(SECOND_US, reader.poll)
        for watcher in self.watchers:
            scheduler.at(SECOND_US // 2, watcher.poll)
        for employer in self.employers:
            employer.start()
        for member in self.members:
            member.begin(member.work(), random.randrange(SECOND_US))

    def finish(self) -> None:
        self.client_loss = 0.0
        self._batches_wanted = {writer.number: writer.batches + 2 for writer in self.writers}
        for employer in self.employers:
            employer.finish()
        for member in self.members:
            member.resting = True
            member.commits = 0

    def waiting(self) -> str:
        for writer in self.writers:
            writer.paused = writer.batches >= self._batches_wanted[writer.number]
        if writing := [writer.number for writer in self.writers if not writer.idle]:
            return f"writers {writing} wait"
        for bank in self.banks:
            if found := bank.waiting():
                return f"{found} wait"
        if busy := [member.name for member in self.members if not member.commits]:
            return f"{busy} have not committed"
        if len({member.membership.generation for member in self.members}) > 1:
            return f"members are in the generations {[member.membership.generation for member in self.members]}"
        return self._unsettled()

    def _unsettled(self) -> str:
        """What the coordinators and partitions have not finished; "" nothing."""
        for place in (*self.accounts, *self.inputs):
            leader = self.cluster.leader_of(self.groups[place])
            if leader is None:
                return f"{place} has no leader"
            partition = leader.partitions[self.groups[place]]
            if partition.last_stable_offset != partition.high_watermark:
                return f"{place}: a transaction hangs, {partition.last_stable_offset} of {partition.high_watermark} are stable"
            if place in self.inputs and self._committed(place) != partition.high_watermark:
                return f"{place}: the pipeline has committed {self._committed(place)} of {partition.high_watermark}"
        for (topic, _), group in self.groups.items():
            leader = self.cluster.leader_of(group) if topic == TRANSACTIONS_TOPIC else None
            machine = leader.hosted.transaction_machine(group) if leader is not None else None
            if machine is not None and (busy := [t for t in machine.transactions.values() if t.state not in RESTING]):
                return f"transactions are not at rest: {busy}"
        return ""

    def _committed(self, place: Place) -> int:
        """The pipeline's offset as its coordinator has applied it; -1 while it is not known."""
        group = self.group_of(GROUPS_TOPIC, self.pipeline_group)
        leader = self.cluster.leader_of(group)
        machine = leader.hosted.groups_machine(group) if leader is not None else None
        entry = machine.state.entries.get(self.pipeline_group) if machine is not None else None
        if entry is None or entry.is_pending(*place):
            return -1
        offset = entry.offset(*place)
        return offset.offset if offset is not None else -1

    def check_final(self) -> None:
        seen: list[Seen] = []
        for place in self.accounts:
            seen += self._read_committed(place)
        self.whole.check(self.read_committed.transactions, seen)
        outputs: dict[Place, Counter[int]] = {place: Counter() for place in self.inputs}
        amounts: list[int] = []
        for one in seen:
            if one.name.startswith("bank"):
                amounts.append(int(one.payload))
            else:
                topic, number, offset = one.payload.decode().split(":")
                outputs[topic, int(number)][int(offset)] += 1
        self.money.check(amounts)
        for place in self.inputs:
            values = read_all(self.cluster, self.groups[place])
            self.histories[self.groups[place]].check_final(values)
            self.exactly_once.check(place, values, self._committed(place), outputs[place])

    def _read_committed(self, place: Place) -> list[Seen]:
        """Everything that a read_committed consumer is given, from offset 0."""
        found: list[Seen] = []
        offset = 0
        while True:
            answer = read_at(self.cluster, self.groups[place], offset, True)
            if offset >= answer.last_stable_offset:
                return found
            before = offset
            for at, value in shown(answer):
                if at >= offset:
                    self.stable.see(place, at, value)
                    if value is not None:
                        found.append(unpack(place, at, value))
                        self.read_committed.see(found[-1])
                    offset = at + 1
            if offset == before:
                raise Broken(f"Unreadable: {place} offset {offset} gives nothing below the last stable offset {answer.last_stable_offset}")


def shown(result: ReadResult) -> list[tuple[int, bytes | None]]:
    """(offset, value) of every record of a read_committed answer, None for what a consumer does not show (KIP-98: aborted, and markers)."""
    data = b"".join(result.chunks)
    aborted = sorted(result.aborted_transactions, key=lambda item: item[1])
    ends = markers_of([data]) if data else {}
    skipped: set[int] = set()
    found: list[tuple[int, bytes | None]] = []
    position = 0
    for base_offset, length, attributes, _, _, producer_id, _, _ in stored_batches([data] if data else []):
        batch = data[position : position + length + LOG_OVERHEAD_BYTES]
        position += length + LOG_OVERHEAD_BYTES
        while aborted and aborted[0][1] <= base_offset:
            skipped.add(aborted.pop(0)[0])
        hidden = bool(attributes & TRANSACTIONAL_BIT) and producer_id in skipped
        if attributes & CONTROL_BIT:
            hidden = True
            if not ends[base_offset].commit:
                skipped.discard(producer_id)
        found += [(record.offset, None if hidden else bytes(record.value or b"")) for record in read_batches(batch)]
    return found


class Watcher:
    """A read_committed consumer of one partition, of whoever claims to lead it; goes back to a random earlier offset now and then."""

    def __init__(self, workload: Coordinating, place: Place) -> None:
        self.workload, self.place = workload, place
        self.cluster = workload.cluster
        self.group = workload.groups[place]
        self.offset = 0

    def poll(self) -> None:
        cluster = self.cluster
        cluster.scheduler.at(cluster.random.randrange(10_000, 60_000), self.poll)
        node = cluster.nodes[cluster.believed_leader(self.group)]
        if not node.up:
            return
        partition = node.partitions[self.group]

        def ask() -> None:
            asked, floor = self.offset, self.workload.stable.last.get(self.place, 0)

            def done(result: ReadResult) -> None:
                if result.error == ErrorCode.NONE:
                    self._take(asked, floor, result)
                elif result.error == ErrorCode.OFFSET_OUT_OF_RANGE:
                    raise Broken(f"OffsetOutOfRange: {self.place} offset {asked} was readable before")

            def listed(error: ErrorCode, _: int, stable: int, __: int) -> None:
                if error is ErrorCode.NONE:
                    self.cluster.counts["listed"] += 1
                    self.workload.stable.told(self.place, floor, stable, partition.high_watermark)

            if self.cluster.random.random() < 0.1:
                partition.list_offset(LATEST, -1, True, listed)
            else:
                partition.read(asked, 4096, -1, True, True, done)

        node.clock.run(ask)

    def _take(self, asked: int, floor: int, result: ReadResult) -> None:
        workload, place = self.workload, self.place
        workload.stable.told(place, floor, result.last_stable_offset, result.high_watermark)
        following = asked
        for offset, value in shown(result):
            if offset < asked:
                continue
            if offset != following or offset >= result.last_stable_offset:
                raise Broken(f"SkippedRecords: {place}: asked {following}, got {offset}, the last stable offset is {result.last_stable_offset}")
            following = offset + 1
            workload.stable.see(place, offset, value)
            if value is not None:
                workload.read_committed.see(unpack(place, offset, value))
                self.cluster.counts["read_committed"] += 1
            else:
                self.cluster.counts["not_shown"] += 1
        if following > asked and asked == self.offset:
            self.offset = following
        if self.cluster.random.random() < 0.05:
            self.offset = self.cluster.random.randrange(0, self.offset + 1)
