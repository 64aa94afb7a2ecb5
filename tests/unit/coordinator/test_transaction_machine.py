"""The rules of the transaction coordinator, one by one (KIP-98, KIP-360, KIP-588, KIP-890), and its records."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.coordinator.runtime import Applied, Outcome
from broker.coordinator.transactions.machine import Answer, ProducerIdNeededError, TransactionMachine
from broker.coordinator.transactions.records import decode_key, decode_value, encode_key, encode_value
from broker.coordinator.transactions.state import EPOCH_EXHAUSTED, EPOCH_MAX, Transaction, TransactionState
from broker.errors import ErrorCode
from wal.errors import DamageError

S = TransactionState
TX = "tx"
P0, P1 = ("t", 0), ("t", 1)


class Steps:
    """A machine whose records are applied at once."""

    def __init__(self) -> None:
        self.machine = TransactionMachine()
        self.now = 1_000
        self.ids = iter(range(100, 200))
        self.offset = 0

    def apply(self, outcome: Outcome[Any]) -> Any:
        for write in outcome.records:
            self.machine.replay(Applied(self.offset, self.now, write.key, write.value, (), -1, -1))
            self.offset += 1
        self.now += 1
        return outcome.response

    @property
    def state(self) -> Transaction:
        return self.machine.transactions[TX]

    def init(self, expected: tuple[int, int] | None = None) -> Answer:
        try:
            return self.apply(self.machine.init_producer(TX, 5_000, expected, -1, self.now))
        except ProducerIdNeededError:
            return self.apply(self.machine.init_producer(TX, 5_000, expected, next(self.ids), self.now))

    def add(self, producer: tuple[int, int], *partitions: tuple[str, int], version: int = 0) -> ErrorCode:
        return self.apply(self.machine.add_partitions(TX, producer, partitions or (P0,), version, self.now)).error

    def end(self, producer: tuple[int, int], commit: bool = True, version: int = 0) -> Answer:
        try:
            return self.apply(self.machine.end(TX, producer, commit, version, -1, self.now))
        except ProducerIdNeededError:
            return self.apply(self.machine.end(TX, producer, commit, version, next(self.ids), self.now))

    def complete(self) -> bool:
        return self.apply(self.machine.complete(TX, (self.state.producer_id, self.state.epoch), self.now))

    def put(self, **fields: Any) -> None:
        """Set the state as if the log had said so."""
        changed = self.state._replace(**fields)
        self.machine.replay(Applied(self.offset, self.now, encode_key(TX), encode_value(changed), (), -1, -1))


@pytest.fixture
def t() -> Steps:
    return Steps()


def test_a_commit_goes_through_all_states(t: Steps) -> None:
    assert t.init() == Answer(ErrorCode.NONE, 100, 0)
    assert t.state.state is S.EMPTY
    assert t.add((100, 0), P0, P1) is ErrorCode.NONE
    assert (t.state.state, t.state.partitions) == (S.ONGOING, {P0, P1})
    assert t.end((100, 0)).error is ErrorCode.NONE
    assert (t.state.state, t.state.epoch) == (S.PREPARE_COMMIT, 0)
    assert t.end((100, 0)).error is ErrorCode.CONCURRENT_TRANSACTIONS
    assert t.end((100, 0), False).error is ErrorCode.INVALID_TXN_STATE, "a decision is not revoked"
    assert t.add((100, 0)) is ErrorCode.CONCURRENT_TRANSACTIONS
    assert t.complete() and not t.complete()
    assert (t.state.state, t.state.partitions) == (S.COMPLETE_COMMIT, frozenset())
    assert t.end((100, 0)).error is ErrorCode.NONE, "a repetition after the end"
    assert t.end((100, 0), False).error is ErrorCode.INVALID_TXN_STATE
    assert t.add((100, 0)) is ErrorCode.NONE, "the next transaction"


def test_who_is_too_late(t: Steps) -> None:
    t.init()
    t.init()
    assert t.add((100, 0)) is ErrorCode.PRODUCER_FENCED
    assert t.end((100, 0)).error is ErrorCode.PRODUCER_FENCED
    assert t.add((99, 1)) is ErrorCode.INVALID_PRODUCER_ID_MAPPING
    assert t.end((99, 1)).error is ErrorCode.INVALID_PRODUCER_ID_MAPPING
    assert t.machine.add_partitions("other", (100, 1), (P0,), 0, 0).response.error is ErrorCode.INVALID_PRODUCER_ID_MAPPING
    assert t.end((100, 1)).error is ErrorCode.INVALID_TXN_STATE, "nothing is open"


def test_a_new_producer_aborts_what_the_old_left_open(t: Steps) -> None:
    t.init()
    t.add((100, 0))
    assert t.init().error is ErrorCode.CONCURRENT_TRANSACTIONS
    assert (t.state.state, t.state.epoch) == (S.PREPARE_ABORT, 1), "the markers fence the old epoch"
    assert t.init().error is ErrorCode.CONCURRENT_TRANSACTIONS
    t.complete()
    assert t.init() == Answer(ErrorCode.NONE, 100, 2)


def test_kip_360_a_producer_bumps_its_own_epoch_and_may_repeat_it(t: Steps) -> None:
    t.init()
    assert t.init((100, 0)) == Answer(ErrorCode.NONE, 100, 1)
    assert t.init((100, 0)) == Answer(ErrorCode.NONE, 100, 1), "the answer was lost"
    assert t.init() == Answer(ErrorCode.NONE, 100, 2), "somebody new"
    assert t.init((100, 1)).error is ErrorCode.PRODUCER_FENCED
    assert t.init((7, 0)).error is ErrorCode.PRODUCER_FENCED


def test_a_late_init_does_not_abort_a_newer_producer(t: Steps) -> None:
    t.init()
    t.init()
    t.add((100, 1))
    assert t.init((100, 0)).error is ErrorCode.PRODUCER_FENCED
    assert t.state.state is S.ONGOING


def test_an_exhausted_epoch_changes_the_producer_id(t: Steps) -> None:
    t.init()
    t.put(epoch=EPOCH_EXHAUSTED)
    assert t.init((100, EPOCH_EXHAUSTED)) == Answer(ErrorCode.NONE, 101, 0)
    assert t.init((100, EPOCH_EXHAUSTED)) == Answer(ErrorCode.NONE, 101, 0), "a repetition"
    assert t.init((100, 3)).error is ErrorCode.PRODUCER_FENCED


def test_fencing_at_the_last_epoch_still_works(t: Steps) -> None:
    t.init()
    t.put(epoch=EPOCH_EXHAUSTED)
    t.add((100, EPOCH_EXHAUSTED))
    assert t.init().error is ErrorCode.CONCURRENT_TRANSACTIONS
    assert t.state.epoch == EPOCH_MAX
    t.complete()
    assert t.init() == Answer(ErrorCode.NONE, 101, 0)


class TestEpochBump:
    """KIP-890 part 2."""

    def test_every_end_bumps(self, t: Steps) -> None:
        t.init()
        t.add((100, 0), version=2)
        assert t.end((100, 0), version=2) == Answer(ErrorCode.NONE, 100, 1)
        assert (t.state.state, t.state.epoch) == (S.PREPARE_COMMIT, 1), "the markers carry the new epoch"
        assert t.end((100, 0), version=2).error is ErrorCode.CONCURRENT_TRANSACTIONS
        t.complete()
        assert t.end((100, 0), version=2) == Answer(ErrorCode.NONE, 100, 1), "a repetition"
        assert t.end((100, 0), False, 2).error is ErrorCode.INVALID_TXN_STATE
        assert t.end((100, 1), version=2).error is ErrorCode.INVALID_TXN_STATE, "no repetition: the next transaction, and it is empty"
        assert t.add((100, 0), version=2) is ErrorCode.PRODUCER_FENCED, "a late request of the transaction before"

    @pytest.mark.parametrize("state", [S.EMPTY, S.COMPLETE_COMMIT, S.COMPLETE_ABORT])
    def test_an_abort_of_nothing_bumps_too(self, t: Steps, state: TransactionState) -> None:
        t.init()
        t.put(state=state)
        assert t.end((100, 0), False, 2) == Answer(ErrorCode.NONE, 100, 1)
        assert t.state.state is S.PREPARE_ABORT
        assert t.complete() and t.state.state is S.COMPLETE_ABORT

    def test_overflow_gives_a_new_id(self, t: Steps) -> None:
        t.init()
        t.put(epoch=EPOCH_EXHAUSTED)
        t.add((100, EPOCH_EXHAUSTED), version=2)
        assert t.end((100, EPOCH_EXHAUSTED), version=2) == Answer(ErrorCode.NONE, 101, 0)
        assert (t.state.producer_id, t.state.epoch) == (100, EPOCH_MAX), "the markers end the old id"
        assert t.add((101, 0), version=2) is ErrorCode.CONCURRENT_TRANSACTIONS
        t.complete()
        assert t.end((100, EPOCH_EXHAUSTED), version=2) == Answer(ErrorCode.NONE, 101, 0), "a repetition"
        assert t.add((101, 0), version=2) is ErrorCode.NONE
        assert t.end((100, EPOCH_EXHAUSTED), version=2).error is not ErrorCode.NONE

    def test_a_timed_out_transaction(self, t: Steps) -> None:
        t.init()
        t.add((100, 0), version=2)
        assert t.apply(t.machine.abort_timed_out(TX, (100, 0), t.now))
        assert not t.apply(t.machine.abort_timed_out(TX, (100, 0), t.now))
        t.complete()
        assert t.end((100, 0), version=2).error is ErrorCode.INVALID_TXN_STATE, "never told that it committed"


def test_verification(t: Steps) -> None:
    t.init()
    t.add((100, 0), P0)
    assert t.machine.verify(TX, (100, 0), P0) is ErrorCode.NONE
    assert t.machine.verify(TX, (100, 0), P1) is ErrorCode.TRANSACTION_ABORTABLE
    assert t.machine.verify(TX, (100, 1), P0) is ErrorCode.PRODUCER_FENCED
    t.end((100, 0))
    assert t.machine.verify(TX, (100, 0), P0) is ErrorCode.CONCURRENT_TRANSACTIONS
    t.complete()
    assert t.machine.verify(TX, (100, 0), P0) is ErrorCode.TRANSACTION_ABORTABLE


def test_only_resting_ids_expire(t: Steps) -> None:
    t.init()
    t.add((100, 0))
    assert not t.apply(t.machine.expire(TX, t.now + 1))
    t.end((100, 0))
    t.complete()
    assert not t.apply(t.machine.expire(TX, t.state.updated_ms))
    assert t.apply(t.machine.expire(TX, t.now))
    assert TX not in t.machine.transactions
    assert t.add((100, 0)) is ErrorCode.INVALID_PRODUCER_ID_MAPPING


# -- records ----------------------------------------------------------------------------------------------------------

transactions = st.builds(
    Transaction,
    transactional_id=st.text(max_size=20),
    producer_id=st.integers(0, 2**62),
    epoch=st.integers(0, EPOCH_MAX),
    state=st.sampled_from(list(S)),
    timeout_ms=st.integers(1, 2**31 - 1),
    partitions=st.frozensets(st.tuples(st.text(max_size=10), st.integers(0, 1000)), max_size=8),
    last_epoch=st.integers(-1, EPOCH_MAX),
    previous_producer_id=st.integers(-1, 2**62),
    next_producer_id=st.integers(-1, 2**62),
    client_version=st.integers(0, 2),
    started_ms=st.integers(-1, 2**42),
    updated_ms=st.integers(-1, 2**42),
)


@settings(deadline=None)
@given(transactions)
def test_records_come_back(transaction: Transaction) -> None:
    assert decode_key(encode_key(transaction.transactional_id)) == transaction.transactional_id
    assert decode_value(transaction.transactional_id, encode_value(transaction)) == transaction


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_garbage_is_damage(data: bytes) -> None:
    try:
        decode_value(TX, data)
    except DamageError:
        pass


def test_values_are_kafkas() -> None:
    """Version 0 as Kafka's TransactionLogValue writes it, byte by byte; version 1 differs in its compact forms."""
    old = bytes.fromhex("0000" + "0000000000000064" + "0003" + "00001388" + "01" + "00000001" + "0001" + "74" + "00000002" + "00000000" + "00000001")
    times = bytes.fromhex("00000000000003e8" + "00000000000003e7")
    expected = Transaction(TX, 100, 3, S.ONGOING, 5_000, frozenset({P0, P1}), started_ms=999, updated_ms=1_000)
    assert decode_value(TX, old + times) == expected
    new = bytes.fromhex("0001" + "0000000000000064" + "0003" + "00001388" + "01" + "02" + "0274" + "03" + "00000000" + "00000001" + "00") + times
    assert encode_value(expected) == new + b"\0"
    assert decode_value(TX, new + bytes.fromhex("01" + "02" + "02" + "0002")).client_version == 2
    assert encode_key(TX) == b"\0\0\0\x02tx"
    assert decode_key(b"\0\x07later") is None, "a key of a later version is skipped"


@settings(max_examples=60, deadline=None)
@given(st.lists(transactions, max_size=10), st.integers(0, 10))
def test_state_restored_equals_state_replayed(known: list[Transaction], cut: int) -> None:
    def play(machine: TransactionMachine, part: list[Transaction]) -> None:
        for one in part:
            value = None if one.state is S.DEAD else encode_value(one)
            machine.replay(Applied(0, 0, encode_key(one.transactional_id), value, (), -1, -1))

    straight, half, restored = TransactionMachine(), TransactionMachine(), TransactionMachine()
    play(straight, known)
    play(half, known[:cut])
    restored.restore(half.capture())
    play(restored, known[cut:])
    assert restored.capture() == straight.capture() and restored.transactions == straight.transactions
