"""The state machine of one partition of `__transaction_state`: which step an operation may take, and what the log says happened.

Operations look at applied state and return records; `replay` alone changes it (`broker.coordinator.runtime`). The rules are Kafka's (KIP-98, KIP-360,
KIP-890): a producer is fenced by its epoch; a decision, once written, is carried out by whoever coordinates; with transaction.version 2 the end of
every transaction bumps the epoch, so that no late write of it can enter the next one. Pure: time and new producer ids are passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import msgspec

from broker.coordinator.runtime import Applied, Outcome, Shard, Write
from broker.coordinator.transactions.records import decode_key, decode_value, encode_key, encode_value
from broker.coordinator.transactions.state import (
    DECIDED,
    EPOCH_EXHAUSTED,
    NEXT,
    NO_EPOCH,
    NO_PRODUCER_ID,
    RESTING,
    VERSION_EPOCH_BUMP,
    TopicPartition,
    Transaction,
    TransactionState,
)
from broker.errors import ErrorCode, KafkaError
from wal.errors import DamageError, check

R = TypeVar("R")
Producer = tuple[int, int]
"""(id, epoch)"""


class Answer(NamedTuple):
    """What a client is told; `producer_id` and `epoch` are those to go on with, where the API has room for them."""

    error: ErrorCode = ErrorCode.NONE
    producer_id: int = NO_PRODUCER_ID
    epoch: int = NO_EPOCH


class ProducerIdNeededError(KafkaError):
    """The operation needs a producer id that nobody has had: get one and run it again."""


Changed = Callable[[Transaction], None]
_state_decoder = msgspec.msgpack.Decoder(list[tuple[str, bytes]])
_NONE = NO_PRODUCER_ID


def _ignore(transaction: Transaction) -> None:
    """We do not lead."""


class TransactionMachine:
    """Fulfils `broker.coordinator.runtime.Machine`. Invariant: `transactions` and `_values` (the stored bytes) have the same keys, in the order
    in which the log named them first, so that equal states have equal bytes on all replicas.

    While leading, `changed` is told of each transaction that the log changed; at the beginning of a term, of all that are not at rest.
    """

    __slots__ = ("_captured", "_changed", "_deposed", "_leading", "_led", "_values", "shard", "term", "transactions")

    shard: Shard

    def __init__(self, changed: Changed = _ignore, led: Callable[[], None] = lambda: None, deposed: Callable[[], None] = lambda: None) -> None:
        self.transactions: dict[str, Transaction] = {}
        self.term = 0
        self._values: dict[str, bytes] = {}
        self._captured: bytes | None = None
        self._changed = changed
        self._led = led
        self._deposed = deposed
        self._leading = False

    # -- broker.coordinator.runtime.Machine -----------------------------------------------------------------------

    def attach(self, shard: Shard) -> None:
        self.shard = shard

    def replay(self, record: Applied) -> None:
        if record.key is None:
            raise DamageError(f"record {record.offset} of __transaction_state has no key")
        transactional_id = decode_key(record.key)
        if transactional_id is None:
            return
        self._captured = None
        if record.value is None:
            self.transactions.pop(transactional_id, None)
            self._values.pop(transactional_id, None)
            return
        value = bytes(record.value)
        transaction = decode_value(transactional_id, value)
        self.transactions[transactional_id] = transaction
        self._values[transactional_id] = value
        if self._leading:
            self._changed(transaction)

    def replay_marker(self, producer_id: int, producer_epoch: int, committed: bool) -> None:
        """No transaction ever writes here."""

    def capture(self) -> bytes:
        if self._captured is None:
            self._captured = msgspec.msgpack.encode(list(self._values.items()))
        return self._captured

    def restore(self, data: bytes) -> None:
        try:
            values = _state_decoder.decode(data) if data else []
        except msgspec.MsgspecError as cause:
            raise DamageError(f"state of a transaction coordinator can not be read: {cause}") from cause
        self._values = dict(values)
        self.transactions = {name: decode_value(name, value) for name, value in values}
        self._captured = None

    def lead(self, term: int) -> None:
        self.term = term
        self._leading = True
        self._led()
        for transaction in list(self.transactions.values()):
            if transaction.state not in RESTING:
                self._changed(transaction)

    def depose(self) -> None:
        self._leading = False
        self._deposed()

    # -- operations -----------------------------------------------------------------------------------------------

    def init_producer(self, transactional_id: str, timeout_ms: int, expected: Producer | None, new_producer_id: int, now_ms: int) -> Outcome[Answer]:
        """InitProducerId: fence older producers of the id and give out an epoch. `expected` = what the client has now (KIP-360).

        An open transaction is aborted first; the client is told CONCURRENT_TRANSACTIONS and asks again.
        """
        known = self.transactions.get(transactional_id)
        if known is None:
            made = Transaction(transactional_id, _given(new_producer_id), 0, TransactionState.EMPTY, timeout_ms, updated_ms=now_ms)
            return self._write(None, made, Answer(ErrorCode.NONE, made.producer_id, 0))
        if known.state in DECIDED:
            return _refuse(ErrorCode.CONCURRENT_TRANSACTIONS)
        changed_id = expected is not None and expected[0] != known.producer_id
        # The repetition of a request that has changed the id by exhaustion is welcome; everybody else is too late.
        if expected is not None and changed_id and not (expected[0] == known.previous_producer_id and expected[1] >= EPOCH_EXHAUSTED):
            return _refuse(ErrorCode.PRODUCER_FENCED)
        if known.state is TransactionState.ONGOING:
            if expected is not None and expected != (known.producer_id, known.epoch):
                return _refuse(ErrorCode.PRODUCER_FENCED)  # somebody newer is at work: a late request must not abort it
            return self._fence(known, now_ms, Answer(ErrorCode.CONCURRENT_TRANSACTIONS))
        if expected is not None and (changed_id or expected[1] != known.epoch):
            if expected[1] != known.last_epoch:
                return _refuse(ErrorCode.PRODUCER_FENCED)
            return Outcome(Answer(ErrorCode.NONE, known.producer_id, known.epoch))  # a repetition
        last_epoch = known.epoch if expected is not None else NO_EPOCH
        if known.exhausted:
            changed = known._replace(producer_id=_given(new_producer_id), epoch=0, previous_producer_id=known.producer_id)
        else:
            changed = known._replace(epoch=known.epoch + 1, previous_producer_id=_NONE)
        changed = changed._replace(
            state=TransactionState.EMPTY, timeout_ms=timeout_ms, last_epoch=last_epoch, next_producer_id=_NONE, started_ms=-1, updated_ms=now_ms
        )
        return self._write(known, changed, Answer(ErrorCode.NONE, changed.producer_id, changed.epoch))

    def add_partitions(
        self, transactional_id: str, producer: Producer, partitions: Iterable[TopicPartition], client_version: int, now_ms: int
    ) -> Outcome[Answer]:
        """AddPartitionsToTxn, AddOffsetsToTxn, and what Produce v12 adds by itself."""
        known = self.transactions.get(transactional_id)
        refused = _check_producer(known, producer)
        if refused is not None or known is None:
            return _refuse(refused or ErrorCode.INVALID_PRODUCER_ID_MAPPING)
        added = known.partitions.union(partitions)
        if known.state is TransactionState.ONGOING and len(added) == len(known.partitions):
            return Outcome(Answer())
        changed = known._replace(state=TransactionState.ONGOING, partitions=added, client_version=client_version, updated_ms=now_ms)
        if known.state is not TransactionState.ONGOING:
            changed = changed._replace(started_ms=now_ms)
        return self._write(known, changed, Answer())

    def verify(self, transactional_id: str, producer: Producer, partition: TopicPartition) -> ErrorCode:
        """Whether `partition` belongs to the ongoing transaction of `producer` (KIP-890 part 1)."""
        known = self.transactions.get(transactional_id)
        refused = _check_producer(known, producer)
        if refused is not None or known is None:
            return refused or ErrorCode.INVALID_PRODUCER_ID_MAPPING
        return ErrorCode.NONE if partition in known.partitions else ErrorCode.TRANSACTION_ABORTABLE

    def end(self, transactional_id: str, producer: Producer, commit: bool, client_version: int, new_producer_id: int, now_ms: int) -> Outcome[Answer]:
        """EndTxn: write the decision. Markers follow; the client need not wait for them."""
        known = self.transactions.get(transactional_id)
        if known is None:
            return _refuse(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
        bumps = client_version >= VERSION_EPOCH_BUMP
        producer_id, epoch = producer
        # What the client repeats because it missed the answer: the epoch was bumped by the request that it repeats.
        over = bumps and known.previous_producer_id == producer_id and epoch == EPOCH_EXHAUSTED and known.epoch == 0 and known.state not in DECIDED
        repeated = over or (bumps and known.epoch == epoch + 1)
        if known.producer_id != producer_id and not over:
            return _refuse(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
        state = known.state
        current = known.epoch == epoch and known.producer_id == producer_id
        valid = (
            current if not bumps or state in (TransactionState.ONGOING, TransactionState.EMPTY) else repeated or (current and state not in DECIDED)
        )
        if not valid:
            return _refuse(ErrorCode.PRODUCER_FENCED)
        if state is TransactionState.ONGOING:
            return self._decide(known, commit, client_version, new_producer_id, now_ms)
        alike = state in (
            (TransactionState.PREPARE_COMMIT, TransactionState.COMPLETE_COMMIT)
            if commit
            else (TransactionState.PREPARE_ABORT, TransactionState.COMPLETE_ABORT)
        )
        if state in DECIDED:
            return _refuse(ErrorCode.CONCURRENT_TRANSACTIONS if alike else ErrorCode.INVALID_TXN_STATE)
        if state is not TransactionState.EMPTY and (repeated or not bumps):
            return Outcome(Answer(ErrorCode.NONE, known.producer_id, known.epoch)) if alike else _refuse(ErrorCode.INVALID_TXN_STATE)
        if bumps and not commit:
            return self._decide(known, commit, client_version, new_producer_id, now_ms)  # nothing was added; the epoch is bumped all the same
        return _refuse(ErrorCode.INVALID_TXN_STATE)

    def complete(self, transactional_id: str, producer: Producer, now_ms: int) -> Outcome[bool]:
        """All markers of the decision that was made in `producer`'s name are written. False: it is done already, or another one stands."""
        known = self.transactions.get(transactional_id)
        if known is None or known.state not in DECIDED or (known.producer_id, known.epoch) != producer:
            return Outcome(False)
        state = TransactionState.COMPLETE_COMMIT if known.state is TransactionState.PREPARE_COMMIT else TransactionState.COMPLETE_ABORT
        changed = known._replace(state=state, partitions=frozenset(), updated_ms=now_ms)
        if known.next_producer_id != _NONE:
            changed = changed._replace(producer_id=known.next_producer_id, epoch=0, previous_producer_id=known.producer_id, next_producer_id=_NONE)
        return self._write(known, changed, True)

    def abort_timed_out(self, transactional_id: str, producer: Producer, now_ms: int) -> Outcome[bool]:
        """The transaction that `producer` had open is older than its time limit: fence the producer and abort."""
        known = self.transactions.get(transactional_id)
        if known is None or known.state is not TransactionState.ONGOING or (known.producer_id, known.epoch) != producer:
            return Outcome(False)
        return self._fence(known, now_ms, True)

    def expire(self, transactional_id: str, idle_since_ms: int) -> Outcome[bool]:
        """Forget an id that rests since before `idle_since_ms`."""
        known = self.transactions.get(transactional_id)
        if known is None or known.state not in RESTING or known.updated_ms >= idle_since_ms:
            return Outcome(False)
        return Outcome(True, (Write(encode_key(transactional_id), None),))

    # -- steps ----------------------------------------------------------------------------------------------------

    def _decide(self, known: Transaction, commit: bool, client_version: int, new_producer_id: int, now_ms: int) -> Outcome[Answer]:
        state = TransactionState.PREPARE_COMMIT if commit else TransactionState.PREPARE_ABORT
        changed = known._replace(state=state, client_version=client_version, updated_ms=now_ms)
        if known.started_ms < 0:
            changed = changed._replace(started_ms=now_ms)
        answer = Answer(ErrorCode.NONE, known.producer_id, known.epoch)
        if client_version >= VERSION_EPOCH_BUMP:
            # The markers carry the bumped epoch, so that partitions refuse whatever comes later in the old one.
            changed = changed._replace(epoch=known.epoch + 1, last_epoch=known.epoch, previous_producer_id=_NONE)
            answer = Answer(ErrorCode.NONE, known.producer_id, known.epoch + 1)
            if known.exhausted:
                changed = changed._replace(next_producer_id=_given(new_producer_id))
                answer = Answer(ErrorCode.NONE, new_producer_id, 0)
        return self._write(known, changed, answer)

    def _fence(self, known: Transaction, now_ms: int, response: R) -> Outcome[R]:
        """Abort in the name of nobody: the epoch of the markers is above what the producer has."""
        changed = known._replace(
            epoch=known.epoch + 1, state=TransactionState.PREPARE_ABORT, last_epoch=NO_EPOCH, next_producer_id=_NONE, updated_ms=now_ms
        )
        return self._write(known, changed, response)

    def _write(self, before: Transaction | None, after: Transaction, response: R) -> Outcome[R]:
        state = before.state if before is not None else TransactionState.EMPTY
        check(after.state in NEXT[state], f"transactional id {after.transactional_id!r} can not go from {state.name} to {after.state.name}")
        same = before is not None and before.producer_id == after.producer_id
        check(before is None or not same or after.epoch >= before.epoch, f"the epoch of {after.transactional_id!r} would go back")
        return Outcome(response, (Write(encode_key(after.transactional_id), encode_value(after)),))


def _refuse(error: ErrorCode) -> Outcome[Answer]:
    return Outcome(Answer(error))


def _check_producer(known: Transaction | None, producer: Producer) -> ErrorCode | None:
    """Why `producer` may not take part now. A decision that is being carried out comes first: it may be about to change id and epoch."""
    if known is None:
        return ErrorCode.INVALID_PRODUCER_ID_MAPPING
    if known.state in DECIDED:
        return ErrorCode.CONCURRENT_TRANSACTIONS
    if known.producer_id != producer[0]:
        return ErrorCode.INVALID_PRODUCER_ID_MAPPING
    return ErrorCode.PRODUCER_FENCED if known.epoch != producer[1] else None


def _given(new_producer_id: int) -> int:
    if new_producer_id == NO_PRODUCER_ID:
        raise ProducerIdNeededError(ErrorCode.COORDINATOR_NOT_AVAILABLE, "a new producer id is needed")
    return new_producer_id
