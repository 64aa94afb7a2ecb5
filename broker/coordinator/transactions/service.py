"""The transaction coordinators of one node, as handlers and other nodes ask them. Which partition coordinates an id is Kafka's choice.

What has to wait for the transaction before (its markers are being written) waits here a moment before it is answered CONCURRENT_TRANSACTIONS, because
every client would only sleep and ask again. Loop thread only; knows no asyncio.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import NamedTuple

import msgspec

from broker.coordinator.internal_topics import TRANSACTIONS_TOPIC
from broker.coordinator.runtime import Outcome, Shard
from broker.coordinator.shards import Coordinators
from broker.coordinator.transactions.leader import Leader
from broker.coordinator.transactions.machine import Answer, Producer, ProducerIdNeededError, TransactionMachine
from broker.coordinator.transactions.markers import MarkerReceiver, MarkerSender, SenderParts
from broker.coordinator.transactions.state import DECIDED, NO_PRODUCER_ID, VERSION_EPOCH_BUMP, TopicPartition, Transaction
from broker.coordinator.transactions.verifier import Verifier
from broker.coordinator.transactions.wire import METHOD_MARKERS, decode_questions, encode_errors
from broker.errors import ErrorCode, KafkaError
from broker.partition.verification import TransactionQuestion
from raft.api import Clock

PATIENCE_MS = 200
TICK_MS = 1_000
EXPIRY_TICKS = 60

Run = Callable[[TransactionMachine, int], Outcome[Answer]]
"""(machine, new producer id or -1) -> what to do."""


class ServiceParts(NamedTuple):
    """What the service needs of its node. `allocate(done)` gives a producer id that nobody has had, None when that is not possible now."""

    node_id: int
    sender: SenderParts
    wall_time_ms: Callable[[], int]
    settings: Mapping[str, object]
    allocate: Callable[[Callable[[int | None], None]], None]


class TransactionService:
    """One per node. Use: `observe` when a replica of `__transaction_state` is opened, `start` when the node serves, `stop` at its end."""

    def __init__(self, parts: ServiceParts, receiver: MarkerReceiver) -> None:
        self._parts = parts
        self._clock: Clock = parts.sender.clock
        self._sender: MarkerSender | None = None
        self._incarnation = 0
        self._leaders: dict[int, Leader] = {}
        self._running = False
        self._ticks = 0
        self._opening: Leader | None = None
        self.receiver = receiver
        self.coordinators: Coordinators[TransactionMachine] = Coordinators(
            TRANSACTIONS_TOPIC, self._make, self._attach, parts.sender.image, self._clock, parts.wall_time_ms
        )
        self.verifier = Verifier(self._clock, self.coordinator_of, parts.sender.send, self._verifies)

    # -- life -----------------------------------------------------------------------------------------------------

    def observe(self, partition: int) -> Shard:
        """A replica of the topic is opened."""
        return self.coordinators.observe(partition)

    def _make(self) -> TransactionMachine:
        self._opening = Leader(self._clock, self._parts.wall_time_ms, self._marker_sender)
        return self._opening.machine

    def _attach(self, machine: TransactionMachine, shard: Shard) -> None:
        machine.attach(shard)
        if self._opening is not None:
            self._leaders[shard.index] = self._opening

    def _marker_sender(self) -> MarkerSender:
        if self._sender is None:
            self._sender = MarkerSender(self._parts.sender, self._incarnation)
        return self._sender

    def set_incarnation(self, incarnation: int) -> None:
        """Before anything is opened: which life of the node this is."""
        self._incarnation = incarnation

    def start(self) -> None:
        self._running = True
        self._clock.call_later(TICK_MS, self._tick)

    def stop(self) -> None:
        self._running = False

    def _tick(self) -> None:
        if not self._running:
            return
        self._ticks += 1
        expiration_ms = self._number("transactional.id.expiration.ms", 604_800_000)
        for leader in self._led():
            leader.abort_old()
            if self._ticks % EXPIRY_TICKS == 0:
                leader.expire(expiration_ms)
        self._clock.call_later(TICK_MS, self._tick)

    def _led(self) -> list[Leader]:
        return [leader for leader in self._leaders.values() if leader.machine.shard.leading]

    def _number(self, name: str, default: int) -> int:
        value = self._parts.settings.get(name)
        return value if isinstance(value, int) else default

    def _verifies(self) -> bool:
        return self._parts.settings.get("transaction.partition.verification.enable") is not False

    # -- where ----------------------------------------------------------------------------------------------------

    def coordinator_of(self, transactional_id: str) -> int:
        """Broker id of the coordinator, -1 unknown."""
        partition = self.coordinators.partition_of(transactional_id)
        image = self._parts.sender.image().partition(TRANSACTIONS_TOPIC, partition) if partition is not None else None
        return self._parts.sender.leaders.leader_of(image.group_id)[0] if image is not None else -1

    # -- operations -----------------------------------------------------------------------------------------------

    def _ask(
        self, transactional_id: str, run: Run, done: Callable[[Answer], None], new_producer_id: int = NO_PRODUCER_ID, patient: bool = True
    ) -> None:
        """Run an operation of the id's coordinator, here. Every error is an answer."""
        try:
            machine = self.coordinators.machine(transactional_id)
        except KafkaError as error:
            done(Answer(error.code))
            return

        def finish(answer: Answer) -> None:
            known = machine.transactions.get(transactional_id)
            if answer.error == ErrorCode.CONCURRENT_TRANSACTIONS and patient and known is not None and known.state in DECIDED:
                again = partial(self._ask, transactional_id, run, done, new_producer_id, False)
                self._leader_of(machine).when_rested(transactional_id, PATIENCE_MS, again)
            else:
                done(answer)

        def failed(error: KafkaError) -> None:
            if isinstance(error, ProducerIdNeededError) and new_producer_id == NO_PRODUCER_ID:
                self._parts.allocate(allocated)
            else:
                done(Answer(error.code))

        def allocated(producer_id: int | None) -> None:
            if producer_id is None:
                done(Answer(ErrorCode.COORDINATOR_NOT_AVAILABLE))
            else:
                self._ask(transactional_id, run, done, producer_id, patient)

        machine.shard.submit(transactional_id, lambda: run(machine, new_producer_id), finish, failed)

    def _leader_of(self, machine: TransactionMachine) -> Leader:
        return self._leaders[machine.shard.index]

    def init_producer(self, transactional_id: str, timeout_ms: int, expected: Producer | None, done: Callable[[Answer], None]) -> None:
        """InitProducerId with a transactional id. `expected` = (producer id, epoch) that the client has, None for none."""
        if not 0 < timeout_ms <= self._number("transaction.max.timeout.ms", 900_000):
            done(Answer(ErrorCode.INVALID_TRANSACTION_TIMEOUT))
            return
        now_ms = self._parts.wall_time_ms()
        self._ask(transactional_id, lambda m, new_id: m.init_producer(transactional_id, timeout_ms, expected, new_id, now_ms), done)

    def add_partitions(
        self, transactional_id: str, producer: Producer, partitions: Collection[TopicPartition], done: Callable[[Answer], None]
    ) -> None:
        """AddPartitionsToTxn and AddOffsetsToTxn, of clients that do not bump epochs themselves (transaction.version below 2)."""
        now_ms = self._parts.wall_time_ms()
        self._ask(transactional_id, lambda m, _: m.add_partitions(transactional_id, producer, partitions, 0, now_ms), done)

    def verify(
        self,
        transactional_id: str,
        producer: Producer,
        partitions: Collection[TopicPartition],
        done: Callable[[dict[TopicPartition, ErrorCode]], None],
    ) -> None:
        """AddPartitionsToTxn with verify_only: each partition's own error."""
        found: dict[TopicPartition, ErrorCode] = {}

        def run(machine: TransactionMachine, _: int) -> Outcome[Answer]:
            found.update({partition: machine.verify(transactional_id, producer, partition) for partition in partitions})
            return Outcome(Answer())

        self._ask(transactional_id, run, lambda answer: done(found or dict.fromkeys(partitions, answer.error)))

    def end(self, transactional_id: str, producer: Producer, commit: bool, client_version: int, done: Callable[[Answer], None]) -> None:
        """EndTxn. `client_version` 2 bumps the epoch."""
        now_ms = self._parts.wall_time_ms()
        self._ask(transactional_id, lambda m, new_id: m.end(transactional_id, producer, commit, client_version, new_id, now_ms), done)

    # -- what nodes ask of each other -----------------------------------------------------------------------------

    def serve(self, sender: int, method: str, payload: bytes, reply: Callable[[bytes], None]) -> None:
        """A request of `broker.coordinator.transactions.wire`, of another node or of this one; `reply` is called once."""
        if method == METHOD_MARKERS:
            self.receiver.receive(sender, payload, reply)
        else:
            self.serve_questions(payload, reply)

    def serve_questions(self, payload: bytes, reply: Callable[[bytes], None]) -> None:
        """The coordinator's side of `txn.verify`."""
        try:
            questions = decode_questions(payload)
        except msgspec.MsgspecError:
            reply(encode_errors([]))
            return
        errors = [0] * len(questions)
        waiting = 1 + len(questions)

        def settled(place: int, error: ErrorCode) -> None:
            nonlocal waiting
            if place >= 0:
                errors[place] = error
            waiting -= 1
            if not waiting:
                reply(encode_errors(errors))

        for place, question in enumerate(questions):
            self._question(question, partial(settled, place))
        settled(-1, ErrorCode.NONE)

    def _question(self, question: TransactionQuestion, done: Callable[[ErrorCode], None]) -> None:
        name, producer_id, epoch, topic, partition, add = question
        producer, where = (producer_id, epoch), (topic, partition)
        now_ms = self._parts.wall_time_ms()

        def run(machine: TransactionMachine, _: int) -> Outcome[Answer]:
            if add:
                return machine.add_partitions(name, producer, (where,), VERSION_EPOCH_BUMP, now_ms)
            return Outcome(Answer(machine.verify(name, producer, where)))

        self._ask(name, run, lambda answer: done(answer.error), patient=add)

    # -- descriptions ---------------------------------------------------------------------------------------------

    def describe(self, transactional_id: str) -> Transaction:
        """Raises KafkaError: the coordinator's, or TRANSACTIONAL_ID_NOT_FOUND."""
        found = self.coordinators.machine(transactional_id).transactions.get(transactional_id)
        if found is None:
            raise KafkaError(ErrorCode.TRANSACTIONAL_ID_NOT_FOUND)
        return found

    def all_here(self) -> list[Transaction]:
        """Every id that this node coordinates. Raises KafkaError(COORDINATOR_LOAD_IN_PROGRESS) while one of its coordinators is not ready."""
        found: list[Transaction] = []
        for machine in self.coordinators.leading():
            if machine.shard.refusal() is not ErrorCode.NONE:
                raise KafkaError(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
            found.extend(machine.transactions.values())
        return found
