"""A transactional producer as the clients of the protocol have it, and a bank that moves money with it.

`Producer` repeats what may be repeated and says what became of it; `Teller` is one producer of the bank, `Bank` replaces tellers while their
predecessors are still at work. With `bumps` a producer is one of KIP-890 (transaction.version 2), without an older one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.api import AppendResult
from broker.coordinator.internal_topics import TRANSACTIONS_TOPIC
from broker.coordinator.transactions.machine import Answer
from broker.errors import ErrorCode
from broker.records.batch import TRANSACTIONAL_BIT
from broker.records.builder import build_batch
from broker.records.reader import Record
from tests.simulation.checkers import Fate, History, Place, pack
from tests.simulation.clients import RETRY_US, Ask, Client, Rest, Steps

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.coordinating import Coordinating
    from tests.simulation.node import SimNode

TRANSACTION_TIMEOUT_MS = 1_500
ATTEMPTS = 40
PRODUCE_ATTEMPTS = (1, 3, 40)
WALL_MS = 1_700_000_000_000

WAIT = frozenset(
    {
        ErrorCode.CONCURRENT_TRANSACTIONS,
        ErrorCode.NOT_COORDINATOR,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.NOT_ENOUGH_REPLICAS,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.REQUEST_TIMED_OUT,
    }
)
"""Ask again."""


class Outcome(NamedTuple):
    """`sure`: nothing of it happened, or (without error) all. An error that follows an unanswered attempt says nothing about that one."""

    error: ErrorCode
    sure: bool


class Producer:
    """`id` = (producer id, epoch); `sequences` of the present epoch."""

    def __init__(self, client: Client, transactional_id: str, bumps: bool) -> None:
        self.client = client
        self.cluster = client.cluster
        self.workload: Coordinating = client.cluster.workload  # type: ignore[assignment]
        self.transactional_id = transactional_id
        self.bumps = bumps
        self.id = (-1, -1)
        self.sequences: dict[Place, int] = {}

    def _renew(self, producer: tuple[int, int]) -> None:
        if producer != self.id:
            self.id = producer
            self.sequences = {}

    # -- the coordinator ------------------------------------------------------------------------------------------

    def _coordinate(
        self, request: Callable[[Any, Callable[[Answer], None]], None], late: int = 1, promise: bool = False
    ) -> Steps[tuple[Answer, bool]]:
        """Ask the coordinator of the transactional id until its answer is no reason to wait; and whether no attempt is in doubt."""
        sure = True
        group = self.workload.group_of(TRANSACTIONS_TOPIC, self.transactional_id)
        for _ in range(ATTEMPTS):
            target = self.cluster.believed_leader(group)
            answer: Answer | None = yield Ask(target, lambda node, done: request(node.hosted.transactions, done), 0, late, promise)
            if answer is not None and answer.error not in WAIT:
                return answer, sure
            sure = False
            yield Rest(RETRY_US)
        return Answer(ErrorCode.REQUEST_TIMED_OUT), False

    def init(self, keep: bool = False) -> Steps[ErrorCode]:
        """InitProducerId. `keep`: to go on as the same producer in a new epoch (KIP-360)."""
        name, expected = self.transactional_id, self.id if keep else None
        answer, _ = yield from self._coordinate(lambda service, done: service.init_producer(name, TRANSACTION_TIMEOUT_MS, expected, done), late=0)
        if not answer.error:
            self._renew((answer.producer_id, answer.epoch))
            self.workload.fencing.given(name, self.id)
            self.cluster.counts["producer_initialised"] += 1
        return answer.error

    def _fenced(self) -> Callable[[str], None]:
        """Before something is begun: what to call when it was accepted."""
        fencing, name, producer = self.workload.fencing, self.transactional_id, self.id
        over = fencing.is_over(name, producer)
        return lambda what: fencing.accepted(name, producer, what) if over else None

    def add(self, place: Place) -> Steps[ErrorCode]:
        """AddPartitionsToTxn."""
        producer, accepted = self.id, self._fenced()
        answer, _ = yield from self._coordinate(lambda service, done: service.add_partitions(self.transactional_id, producer, [place], done))
        if not answer.error:
            accepted(f"AddPartitionsToTxn {place}")
        return answer.error

    def end(self, commit: bool) -> Steps[Outcome]:
        """EndTxn. Without the epoch bump one that comes late would end the next transaction of the same epoch: that is what KIP-890 is for."""
        producer, accepted, version = self.id, self._fenced(), 2 if self.bumps else 0
        name, late = self.transactional_id, 1 if self.bumps else 0
        answer, sure = yield from self._coordinate(lambda service, done: service.end(name, producer, commit, version, done), late, commit)
        if not answer.error:
            if commit:
                accepted("EndTxn")
            if self.bumps:
                self._renew((answer.producer_id, answer.epoch))
        return Outcome(answer.error, sure)

    # -- partitions -----------------------------------------------------------------------------------------------

    def produce(self, place: Place, values: Sequence[bytes], hasty: bool = False) -> Steps[ErrorCode]:
        """One batch; repeated a while, then given up, perhaps with a copy on its way. `hasty`: given up at once, and certainly on its way."""
        if not self.bumps:
            error = yield from self.add(place)
            if error:
                return error
        accepted = self._fenced()
        cluster, group = self.cluster, self.workload.groups[place]
        sequence = self.sequences.get(place, 0)
        now = WALL_MS + cluster.scheduler.now_us // 1000
        batch = bytes(build_batch([Record(0, now, None, value) for value in values], producer=(*self.id, sequence), attributes=TRANSACTIONAL_BIT))

        def append(node: SimNode, done: Callable[[AppendResult], None]) -> None:
            if node.hears_producers():
                node.partitions[group].append_transactional(memoryview(bytearray(batch)), -1, self.transactional_id, self.bumps, done)

        if hasty:
            self.client.cast(cluster.believed_leader(group), append, lambda result: None, self.client.random.randrange(1_000, 150_000))
            cluster.counts["batch_given_up"] += 1
            return ErrorCode.REQUEST_TIMED_OUT
        for _ in range(self.client.random.choice(PRODUCE_ATTEMPTS) if self.workload.client_loss else ATTEMPTS):
            result: AppendResult | None = yield Ask(cluster.believed_leader(group), append, late=2)
            if result is not None and result.error not in WAIT:
                if not result.error:
                    accepted(f"batch on {place}")
                    self.sequences[place] = sequence + len(values)
                return result.error
            yield Rest(RETRY_US)
        cluster.counts["batch_given_up"] += 1
        return ErrorCode.REQUEST_TIMED_OUT

    def abort(self) -> Steps[ErrorCode]:
        """As a client does after an error that lets it go on: abort, and (before the epoch bump) a new epoch if a batch is in doubt."""
        outcome = yield from self.end(False)
        if outcome.error:
            return outcome.error
        if not self.bumps:
            return (yield from self.init(keep=True))
        return ErrorCode.NONE

    def commit(self, history: History) -> Steps[ErrorCode]:
        """Ask for the commit, and note what is known of it."""
        history.fate = Fate.ASKED
        outcome = yield from self.end(True)
        if not outcome.error:
            history.fate = Fate.COMMITTED
            self.cluster.counts["transaction_committed"] += 1
        elif outcome.sure:
            history.fate = Fate.ABORTED
            self.cluster.counts["commit_refused"] += 1
        else:
            self.cluster.counts["commit_unknown"] += 1
        return outcome.error


class Teller(Client):
    """One producer of the bank: transfers, one after the other, until it is told to rest, or fenced while it is not the newest."""

    def __init__(self, bank: Bank, number: int) -> None:
        super().__init__(bank.cluster, f"{bank.transactional_id}.{number}")
        self.bank = bank
        self.producer = Producer(self, bank.transactional_id, bank.bumps)
        self.transfers = 0
        self.wanted: int | None = None  # committed transfers until it rests
        self.idle = False

    def work(self) -> Steps[None]:
        random, bank = self.random, self.bank
        fresh = False
        while True:
            if not fresh:
                error = yield from self.producer.init()
                fresh = not error
                if not fresh:
                    yield Rest(random.randrange(1_000, 100_000))
                    continue
            if self.wanted is not None and self.wanted <= 0:
                self.idle = True
                return
            error = yield from self._transfer()
            if error:
                fresh = False
                if bank.newest is not self:
                    self.cluster.counts["zombie_fenced"] += error in (ErrorCode.PRODUCER_FENCED, ErrorCode.INVALID_PRODUCER_EPOCH)
                    return
            yield Rest(random.randrange(1_000, 60_000))

    def _transfer(self) -> Steps[ErrorCode]:
        """NONE: the producer can go on."""
        random, producer, workload = self.random, self.producer, self.bank.workload
        self.transfers += 1
        history = workload.read_committed.begin(f"{self.name}.{self.transfers}")
        places = random.sample(workload.accounts, len(workload.accounts))
        if random.random() < 0.2:
            places.append(random.choice(workload.accounts))
        amount = random.randrange(1, 1000)
        amounts = [amount] + [0] * (len(places) - 2) + [-amount]
        for part, moved in enumerate(amounts):
            history.parts[part] = b"%d" % moved
        for part, place in enumerate(places):
            if random.random() < 0.08 and self.bank.client_faults:
                yield Rest(random.randrange(100_000, 2_500_000))  # also beyond the transaction's time-out
            hasty = self.bank.client_faults and random.random() < 0.04
            error = yield from producer.produce(place, [pack(history.name, part, history.parts[part])], hasty)
            if error:
                self.cluster.counts[f"transfer_{error.name}"] += 1
                history.fate = Fate.ABORTED
                return (yield from producer.abort())
        if random.random() < 0.25 and self.wanted is None:
            history.fate = Fate.ABORTED
            self.cluster.counts["transaction_aborted"] += 1
            return (yield from producer.abort())
        error = yield from producer.commit(history)
        if not error and self.wanted is not None:
            self.wanted -= 1
        return error


class Bank:
    """One transactional id. `newest` works until the end; its predecessors die, or go on as zombies until they are fenced."""

    def __init__(self, cluster: Cluster, workload: Coordinating, number: int) -> None:
        self.cluster = cluster
        self.workload = workload
        self.transactional_id = f"bank-{number}"
        self.bumps = number % 2 == 0
        self.tellers: list[Teller] = []
        self.client_faults = True

    @property
    def newest(self) -> Teller:
        return self.tellers[-1]

    def start(self) -> None:
        self._hire()
        self.cluster.scheduler.at(self.cluster.random.randrange(300_000, 2_000_000), self._replace)

    def _hire(self) -> None:
        teller = Teller(self, len(self.tellers))
        self.tellers.append(teller)
        teller.begin(teller.work(), self.cluster.random.randrange(100, 300_000))

    def _replace(self) -> None:
        if not self.client_faults:
            return
        random = self.cluster.random
        if random.random() < 0.5:
            self.newest.kill()
            self.cluster.counts["producer_killed"] += 1
        else:
            self.cluster.counts["zombies"] += 1
        self._hire()
        self.cluster.scheduler.at(random.randrange(300_000, 2_000_000), self._replace)

    def finish(self) -> None:
        self.client_faults = False
        for teller in self.tellers:  # one that was late with its epoch is nobody's zombie
            teller.wanted = 1

    def waiting(self) -> str:
        busy = [teller.name for teller in self.tellers if teller.running]
        return f"tellers {busy}" if busy else ""
