"""Three nodes with real partitions and real transaction coordinators over a network that loses, delays and repeats; one seed decides everything.

Replication is a toy (the leader's entries reach everybody at once, or die with it): what is tested is what stands on top of it. The client is a bank:
both halves of a transfer in one transaction, unique values, outcomes as it was told them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from broker.api import AppendResult
from broker.coordinator.internal_topics import TRANSACTIONS_TOPIC
from broker.coordinator.transactions.machine import Answer
from broker.coordinator.transactions.markers import MarkerReceiver, SenderParts
from broker.coordinator.transactions.service import ServiceParts, TransactionService
from broker.coordinator.transactions.state import RESTING, TopicPartition
from broker.coordinator.transactions.wire import Reply
from broker.errors import ErrorCode
from broker.metadata.image import MetadataImage, PartitionImage, TopicImage
from broker.partition.config import TopicConfig
from broker.partition.context import PartitionContext
from broker.partition.partition import Partition
from broker.records.batch import CONTROL_BIT, TRANSACTIONAL_BIT, stored_batches
from broker.records.builder import build_batch
from broker.records.control import markers_of
from broker.records.reader import Record, read_batches
from tests.unit.handlers.fakes import ManualClock
from tests.unit.partition.fakes import FakeGroup
from wal.entry import Entry, EntryKind, GroupId, group_id

NODES = (1, 2, 3)
DATA = "data"
ACCOUNTS = 2
IDS = {TRANSACTIONS_TOPIC: b"x" * 16, DATA: b"d" * 16}
PLACES: tuple[TopicPartition, ...] = ((TRANSACTIONS_TOPIC, 0), *((DATA, n) for n in range(ACCOUNTS)))
TX = "tx"


class LogGroup(FakeGroup):
    """A replica's group: its own log, under the roles that the world gives."""

    def __init__(self, world: World, place: TopicPartition) -> None:
        super().__init__(NODES)
        self.world = world
        self.place = place
        self.group_id = group_id(IDS[place[0]], place[1])

    def mark_dirty(self) -> None:
        self.dirty = True
        self.world.clock.call_soon(lambda: self.world.replicated[self.place].step())


class Replicated:
    """One partition: a replica on every node, one of which leads. What is appended commits after a delay, if its leader lasts so long."""

    def __init__(self, world: World, place: TopicPartition) -> None:
        self.world = world
        self.place = place
        self.term = 0
        self.leader = 0
        self.groups: dict[int, LogGroup] = {}
        self.replicas: dict[int, Partition] = {}
        for node in NODES:
            self.open(node)

    def open(self, node: int) -> None:
        world, (topic, index) = self.world, self.place
        group = LogGroup(world, self.place)
        service = world.services[node]
        context = PartitionContext(
            clock=world.clock,
            wall_time_ms=lambda: world.clock.now_ms(),
            disk_full=lambda: False,
            node_id=node,
            observe=lambda name, number: service.observe(number) if name == TRANSACTIONS_TOPIC else None,
            verify=service.verifier.verify,
        )
        partition = Partition(None, topic, index, IDS[topic], context)
        partition.configure(TopicConfig())
        partition.attach(group)  # type: ignore[arg-type]
        partition.restore(None)
        self.groups[node], self.replicas[node] = group, partition

    def step(self) -> None:
        """The leader's free turn: everything collected goes into its log."""
        if not self.leader:
            return
        group, term = self.groups[self.leader], self.term
        added = False
        while group.dirty:
            group.dirty = False
            proposal = self.replicas[self.leader].collect(16 << 20)
            if proposal is not None:
                group.log.add(term, proposal)
                added = True
        if added:
            end = group.log.last_index
            self.world.clock.call_later(self.world.random.choice((1, 1, 3, 20)), lambda: self._commit(term, end))

    def _commit(self, term: int, index: int) -> None:
        if term == self.term and self.leader and self.groups[self.leader].log.last_index >= index:
            self._replicate(self.groups[self.leader].log.all[:index])

    def _replicate(self, entries: Sequence[Entry]) -> None:
        for node, group in self.groups.items():
            log = group.log
            if node != self.leader:
                for e in entries[log.last_index :]:
                    log.all.append(Entry(e.term, e.index, e.kind, (e.payload(),), e.size, e.payload_crc, e.base_offset, e.record_count))
            log.flushed_index = max(log.flushed_index, len(entries))
        for node in sorted(self.groups, key=lambda n: n != self.leader):
            group = self.groups[node]
            new = group.log.all[group.applied_index : len(entries)]
            if new:
                group.applied_index = group.commit_index = len(entries)
                self.replicas[node].apply(new)

    def elect(self, node: int, survives: bool) -> None:
        """`node` leads the next term. `survives`: it has what the old leader had not committed."""
        old = self.leader
        uncommitted: list[Entry] = []
        if old:
            group = self.groups[old]
            self.leader = 0
            group.serving = False
            uncommitted = group.log.all[group.applied_index :]
            group.log.truncate(group.applied_index + 1)
            group.term, group.leader = self.term + 1, node
            self.replicas[old].on_leadership(False)
        self.term += 1
        self.leader = node
        for group in self.groups.values():
            group.term, group.leader, group.dirty = self.term, node, False
        group = self.groups[node]
        if survives:
            group.log.all += uncommitted
        group.log.all.append(Entry(self.term, group.log.last_index + 1, EntryKind.NOOP, (), 0, 0, group.log.next_offset, 0))
        self._replicate(list(group.log.all))
        group.serving = True
        self.replicas[node].on_leadership(True)


class World:
    """`loss`: chance that a message between nodes, or its answer, is lost; a lost message may still arrive, late."""

    def __init__(self, seed: int, bumps: bool, loss: float = 0.1) -> None:
        self.random = Random(seed)
        self.clock = ManualClock()
        self.bumps = bumps
        self.loss = loss
        self.next_id = 100
        self.exists: bool | None = None  # what the controller says of a topic that the image does not have
        topics = {
            name: TopicImage(name, IDS[name], tuple(PartitionImage(i, group_id(IDS[name], i), NODES, NODES) for i in range(count)))
            for name, count in ((TRANSACTIONS_TOPIC, 1), (DATA, ACCOUNTS))
        }
        self.image = MetadataImage(version=1, topics=topics, topics_by_id={topic.topic_id: topic for topic in topics.values()})
        self.services = {node: self._service(node) for node in NODES}
        self.replicated = {place: Replicated(self, place) for place in PLACES}
        for place in PLACES:
            self.replicated[place].elect(1 + self.random.randrange(3), False)
        for service in self.services.values():
            service.start()
        self.clock.advance(10)

    def _service(self, node: int) -> TransactionService:
        def send(to: int, method: str, payload: bytes, reply: Reply) -> None:
            self.send(node, to, method, payload, reply)

        sender = SenderParts(self.clock, self, lambda: self.image, send, lambda name, done: done(self.exists))
        parts = ServiceParts(node, sender, lambda: self.clock.now_ms(), {}, self._allocate)
        return TransactionService(parts, MarkerReceiver(self.clock, lambda group: self.find(node, group)))

    def _allocate(self, done: Callable[[int | None], None]) -> None:
        self.next_id += 1
        done(self.next_id)

    def find(self, node: int, group: GroupId) -> Partition | None:
        return next((r.replicas[node] for place, r in self.replicated.items() if r.groups[node].group_id == group), None)

    # broker.api.LeaderTable
    version = 0

    def leader_of(self, group: GroupId) -> tuple[int, int]:
        for one in self.replicated.values():
            if one.groups[1].group_id == group:
                return (one.leader or -1), one.term
        return -1, -1

    def isr_of(self, group: GroupId) -> Sequence[int]:
        return NODES

    def send(self, sender: int, node: int, method: str, payload: bytes, reply: Reply) -> None:
        answered: list[bool] = []

        def once(answer: bytes | None) -> None:
            if not answered:
                answered.append(True)
                reply(answer)

        def deliver(answer: Callable[[bytes], None]) -> None:
            self.services[node].serve(sender, method, payload, answer)

        def ignore(answer: bytes) -> None:
            """The answer is lost."""

        if node == sender:
            deliver(once)
            return
        chance = self.random.random()
        delay = self.random.choice((0, 1, 5))
        if chance < self.loss:
            late = self.random.choice((0, 50, 400, 3_000))
            if self.random.random() < 0.7:
                self.clock.call_later(late, lambda: deliver(ignore))
            self.clock.call_later(200, lambda: once(None))
        else:
            self.clock.call_later(delay, lambda: deliver(once))

    def fail_over(self, place: TopicPartition) -> None:
        one = self.replicated[place]
        one.elect(self.random.choice([node for node in NODES if node != one.leader]), self.random.random() < 0.5)

    # -- the end --------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        self.loss = 0.0
        self.clock.advance(120_000)

    def visible(self, account: int) -> list[str]:
        """What a read_committed consumer shows of an account."""
        one = self.replicated[DATA, account]
        found: list[Any] = []
        one.replicas[one.leader].read(one.replicas[one.leader].log_start_offset, 1 << 24, -1, True, True, found.append)
        data = b"".join(found[0].chunks)
        return shown(data, found[0].aborted_transactions)

    def check(self) -> None:
        """Invariants of the healed world."""
        for place, one in self.replicated.items():
            leader = one.replicas[one.leader]
            states = {replica.snapshot() for replica in one.replicas.values()}
            assert len(states) == 1, f"{place}: replicas differ"
            assert leader.last_stable_offset == leader.high_watermark, f"{place}: a transaction hangs"
        one = self.replicated[TRANSACTIONS_TOPIC, 0]
        machine = self.services[one.leader].coordinators.leading()[0]
        assert all(t.state in RESTING for t in machine.transactions.values()), "a decision was not carried out"


def shown(data: bytes, aborted_transactions: Sequence[tuple[int, int]]) -> list[str]:
    """Kafka's rule of a read_committed consumer."""
    aborted = sorted(aborted_transactions, key=lambda item: item[1])
    ends = markers_of([data]) if data else {}
    skipped: set[int] = set()
    found: list[str] = []
    position = 0
    for base_offset, length, attributes, _, _, producer_id, _, _ in stored_batches([data] if data else []):
        one = data[position : position + length + 12]
        position += length + 12
        while aborted and aborted[0][1] <= base_offset:
            skipped.add(aborted.pop(0)[0])
        if attributes & CONTROL_BIT:
            if not ends[base_offset].commit:
                skipped.discard(producer_id)
        elif not (attributes & TRANSACTIONAL_BIT and producer_id in skipped):
            found += [(record.value or b"").decode() for record in read_batches(one)]
    return found


WAIT = frozenset(
    {
        ErrorCode.CONCURRENT_TRANSACTIONS,
        ErrorCode.NOT_COORDINATOR,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.NOT_ENOUGH_REPLICAS,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.REQUEST_TIMED_OUT,
    }
)


class Client:
    """A transactional producer, one step after the other, as Kafka's clients do it. `committed`, `aborted`, `unknown`: transfers by what was told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.producer = (-1, -1)
        self.sequences = dict.fromkeys(range(ACCOUNTS), 0)
        self.committed: list[str] = []
        self.aborted: list[str] = []
        self.unknown: list[str] = []
        self.between: Callable[[], None] = lambda: None

    # -- steps ----------------------------------------------------------------------------------------------------

    def ask(self, step: Callable[[TransactionService, Callable[[Answer], None]], None]) -> Answer:
        """Ask the coordinator until it answers something that is no reason to wait. An answer may get lost."""
        for _ in range(200):
            answers: list[Answer] = []
            leader = self.world.replicated[TRANSACTIONS_TOPIC, 0].leader
            lost = self.world.random.random() < self.world.loss
            if leader:
                step(self.world.services[leader], answers.append)
            self.between()
            for _ in range(60):
                if answers:
                    break
                self.world.clock.advance(5)
            assert len(answers) <= 1
            if answers and answers[0].error not in WAIT and not lost:
                return answers[0]
            self.world.clock.advance(20)
        raise AssertionError("no answer")

    def init(self) -> None:
        answer = self.ask(lambda service, done: service.init_producer(TX, 60_000, None, done))
        assert answer.error is ErrorCode.NONE, answer
        self.renew(answer)

    def renew(self, answer: Answer) -> None:
        if (answer.producer_id, answer.epoch) != self.producer:
            self.sequences = dict.fromkeys(range(ACCOUNTS), 0)
        self.producer = (answer.producer_id, answer.epoch)

    def add(self, account: int) -> ErrorCode:
        producer = self.producer
        return self.ask(lambda service, done: service.add_partitions(TX, producer, [(DATA, account)], done)).error

    def produce(self, account: int, value: str) -> ErrorCode:
        """Repeats the same batch until it is answered; the network may deliver a copy later, too."""
        world, sequence = self.world, self.sequences[account]
        made = build_batch([Record(0, 1_000, b"k", value.encode())], producer=(*self.producer, sequence), attributes=TRANSACTIONAL_BIT)
        for _ in range(100):
            answers: list[AppendResult] = []
            one = world.replicated[DATA, account]

            def deliver(done: Callable[[AppendResult], None]) -> None:
                leader = world.replicated[DATA, account].leader
                if leader:
                    partition = world.replicated[DATA, account].replicas[leader]
                    partition.append_transactional(memoryview(bytearray(made)), -1, TX, world.bumps, done)

            if world.random.random() < world.loss:
                world.clock.call_later(world.random.choice((10, 100, 1_000)), lambda: deliver(lambda result: None))
            elif one.leader:
                deliver(answers.append)
            self.between()
            for _ in range(60):
                if answers:
                    break
                world.clock.advance(5)
            if answers and answers[0].error not in WAIT:
                if not answers[0].error:
                    self.sequences[account] = sequence + 1
                return answers[0].error
            world.clock.advance(20)
        raise AssertionError("no answer")

    def end(self, commit: bool) -> ErrorCode:
        producer = self.producer
        answer = self.ask(lambda service, done: service.end(TX, producer, commit, 2 if self.world.bumps else 0, done))
        if not answer.error and self.world.bumps:
            self.renew(answer)
        return answer.error

    # -- transfers ------------------------------------------------------------------------------------------------

    def transfer(self, name: str, commit: bool = True, give_up: bool = False) -> None:
        """`give_up`: the client stops in the middle; the transaction is left open for the next producer to abort."""
        for account in range(ACCOUNTS):
            error = ErrorCode.NONE if self.world.bumps else self.add(account)
            error = error or self.produce(account, f"{name}/{account}")
            if error:
                self.aborted.append(name)
                self.recover()
                return
            if give_up:
                self.aborted.append(name)
                self.init()
                return
        error = self.end(commit)
        if error:
            self.unknown.append(name)
            self.recover()
        else:
            (self.committed if commit else self.aborted).append(name)

    def recover(self) -> None:
        """As an application does after an abortable or fatal error: a new producer of the same id."""
        self.init()

    def check(self) -> None:
        seen = [self.world.visible(account) for account in range(ACCOUNTS)]
        for account, found in enumerate(seen):
            assert len(found) == len(set(found)), f"account {account}: a value twice"
            names = {value.rpartition("/")[0] for value in found}
            assert set(self.committed) <= names, f"account {account}: lost {sorted(set(self.committed) - names)}"
            assert not names & set(self.aborted), f"account {account}: aborted, and visible: {sorted(names & set(self.aborted))}"
        whole = [{value.rpartition("/")[0] for value in found} for found in seen]
        assert whole[0] == whole[1], f"torn: {whole[0] ^ whole[1]}"
