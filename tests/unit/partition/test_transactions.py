"""Transactions on a partition: stable offset, markers, aborted transactions, fencing, verification (KIP-98, KIP-890)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.api import AppendResult, ReadResult
from broker.errors import ErrorCode
from broker.partition.transactions import AbortedIndex
from broker.partition.verification import TransactionQuestion
from broker.records.batch import CONTROL_BIT, TRANSACTIONAL_BIT, stored_batches
from broker.records.builder import build_batch
from broker.records.control import Marker, markers_of
from broker.records.reader import Record, read_batches
from tests.unit.partition.fakes import Replica, batch, idempotent

Answered = Callable[[ErrorCode, str], None]


def transactional(sequence: int, count: int = 1, producer_id: int = 7, epoch: int = 0, value: bytes = b"v") -> bytearray:
    records = [Record(0, 1_700_000_000_000 + i, b"k", value) for i in range(count)]
    return build_batch(records, producer=(producer_id, epoch, sequence), attributes=TRANSACTIONAL_BIT)


class Verified(Replica):
    """A leader whose coordinator answers by hand (`answer`), or at once (`instant`)."""

    def __init__(self) -> None:
        self.questions: list[tuple[TransactionQuestion, Answered]] = []
        self.instant: ErrorCode | None = ErrorCode.NONE
        super().__init__()

    def verify(self, question: TransactionQuestion, done: Answered) -> None:
        if self.instant is None:
            self.questions.append((question, done))
        else:
            done(self.instant, "")

    def send(self, records: bytearray, add: bool = False, acks: int = -1) -> list[AppendResult]:
        answers: list[AppendResult] = []
        self.partition.append_transactional(memoryview(records), acks, "tx", add, answers.append)
        return answers

    def settle(self) -> None:
        self.collect()
        self.flush()
        self.commit()

    def write(self, records: bytearray) -> AppendResult:
        answers = self.send(records)
        self.settle()
        return answers[0]

    def mark(self, commit: bool, producer_id: int = 7, epoch: int = 0, coordinator_epoch: int = 1, settle: bool = True) -> list[AppendResult]:
        answers: list[AppendResult] = []
        self.partition.append_marker(Marker(producer_id, epoch, coordinator_epoch, commit), answers.append)
        if settle:
            self.settle()
        return answers

    def read_stable(self, offset: int = 0, max_bytes: int = 1 << 20) -> ReadResult:
        answers: list[ReadResult] = []
        self.partition.read(offset, max_bytes, -1, True, True, answers.append)
        return answers[0]

    def stable_offset(self, timestamp: int = -1) -> int:
        answers: list[int] = []
        self.partition.list_offset(timestamp, -1, True, lambda error, at, offset, epoch: answers.append(offset))
        return answers[0]


@pytest.fixture
def leader() -> Verified:
    replica = Verified()
    replica.lead()
    return replica


def visible(replica: Verified) -> list[bytes | None]:
    """What a read_committed consumer shows, by Kafka's own rule: skip a producer from its first aborted offset until its abort marker."""
    result = replica.read_stable()
    data = b"".join(result.chunks)
    aborted = sorted(result.aborted_transactions, key=lambda item: item[1])
    skipped: set[int] = set()
    found: list[bytes | None] = []
    position = 0
    ends = markers_of([data]) if data else {}
    for base_offset, length, attributes, _, _, producer_id, _, _ in stored_batches([data] if data else []):
        while aborted and aborted[0][1] <= base_offset:
            skipped.add(aborted.pop(0)[0])
        one = data[position : position + length + 12]
        position += length + 12
        if attributes & CONTROL_BIT:
            if not ends[base_offset].commit:
                skipped.discard(producer_id)
        elif not (attributes & TRANSACTIONAL_BIT and producer_id in skipped):
            found += [record.value for record in read_batches(one)]
    return found


def test_the_stable_offset_waits_for_the_oldest_open_transaction(leader: Verified) -> None:
    leader.produce(batch())
    leader.write(transactional(0, 2))
    leader.produce(batch())
    leader.write(transactional(0, producer_id=8))
    assert (leader.partition.last_stable_offset, leader.partition.high_watermark) == (1, 5)
    assert leader.stable_offset() == 1 and leader.list_offset(-1)[2] == 5
    leader.mark(True, 8)
    assert leader.partition.last_stable_offset == 1, "a younger one ends first"
    leader.mark(True)
    assert leader.partition.last_stable_offset == leader.partition.high_watermark == 7, "a marker has an offset"


def test_read_committed_stops_at_the_stable_offset_within_an_entry(leader: Verified) -> None:
    leader.append(batch(2))
    leader.send(transactional(0))
    leader.append(batch())
    leader.settle()
    assert leader.group.log.last_index == 2, "all in one entry"
    result = leader.read_stable()
    assert [r.offset for r in read_batches(b"".join(result.chunks))] == [0, 1]
    assert (result.last_stable_offset, result.high_watermark) == (2, 4)
    assert leader.read_stable(2).size == 0
    assert leader.read(0).size > result.size


def test_aborted_transactions_are_named_as_far_as_the_read_goes(leader: Verified) -> None:
    for number, commit in enumerate((False, True, False)):
        leader.write(transactional(2 * number, 2))
        leader.mark(commit)
    assert leader.read_stable().aborted_transactions == [(7, 0), (7, 6)]
    first = leader.read_stable(0, 1)
    assert first.aborted_transactions == [(7, 0)] and first.size > 0
    assert leader.read_stable(3).aborted_transactions == [(7, 6)]
    assert leader.read(0).aborted_transactions == ()
    assert len(visible(leader)) == 2


def test_interleaved_transactions(leader: Verified) -> None:
    leader.write(transactional(0, value=b"a1"))
    leader.write(transactional(0, producer_id=8, value=b"b1"))
    leader.produce(batch())
    leader.write(transactional(1, value=b"a2"))
    leader.mark(False)
    assert visible(leader) == [], "the second began before the first was aborted, and is open"
    leader.mark(True, 8)
    assert visible(leader) == [b"b1", b"v" * 10]


def test_markers_fence_old_epochs_and_old_coordinators(leader: Verified) -> None:
    leader.write(transactional(0, epoch=3))
    assert leader.mark(True, epoch=2)[0].error is ErrorCode.INVALID_PRODUCER_EPOCH
    assert leader.mark(False, epoch=4, coordinator_epoch=5)[0].error is ErrorCode.NONE
    assert leader.send(transactional(1, epoch=3))[0].error is ErrorCode.INVALID_PRODUCER_EPOCH, "the late write of a fenced producer"
    assert leader.mark(True, epoch=4, coordinator_epoch=4)[0].error is ErrorCode.TRANSACTION_COORDINATOR_FENCED
    assert leader.send(transactional(5, epoch=4))[0].error is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, "a new epoch begins at 0"
    assert leader.write(transactional(0, epoch=4)).error is ErrorCode.NONE


def test_a_repeated_marker_is_not_written_twice_and_answered_when_committed(leader: Verified) -> None:
    leader.write(transactional(0))
    first = leader.mark(True, settle=False)
    second = leader.mark(True, settle=False)
    assert first == second == []
    leader.settle()
    assert [a[0].base_offset for a in (first, second)] == [1, 1]
    assert leader.mark(True)[0].base_offset == 1 and leader.partition.high_watermark == 2


def test_a_marker_is_not_answered_before_it_is_committed(leader: Verified) -> None:
    leader.write(transactional(0))
    answers = leader.mark(True, settle=False)
    leader.collect()
    leader.flush()
    assert answers == []
    leader.depose(2)
    assert answers[0].error is ErrorCode.REQUEST_TIMED_OUT, "it may be committed"


def test_verification_is_asked_once_and_keeps_the_order(leader: Verified) -> None:
    leader.instant = None
    answers = [leader.send(transactional(sequence)) for sequence in range(3)]
    assert [question for question, _ in leader.questions] == [TransactionQuestion("tx", 7, 0, "topic", 0, False)]
    leader.questions.pop()[1](ErrorCode.NONE, "")
    leader.settle()
    assert [a[0].base_offset for a in answers] == [0, 1, 2]
    leader.send(transactional(3))
    assert leader.questions == [], "the transaction is open here"
    leader.settle()
    leader.mark(True)
    leader.send(transactional(4), add=True)
    assert leader.questions[0][0].add, "the next transaction is asked about anew"


@pytest.mark.parametrize(
    ("said", "add", "told"),
    [
        (ErrorCode.TRANSACTION_ABORTABLE, False, ErrorCode.TRANSACTION_ABORTABLE),
        (ErrorCode.INVALID_TXN_STATE, False, ErrorCode.INVALID_TXN_STATE),
        (ErrorCode.PRODUCER_FENCED, True, ErrorCode.INVALID_PRODUCER_EPOCH),
        (ErrorCode.INVALID_PRODUCER_ID_MAPPING, True, ErrorCode.INVALID_PRODUCER_ID_MAPPING),
        (ErrorCode.COORDINATOR_NOT_AVAILABLE, True, ErrorCode.NOT_ENOUGH_REPLICAS),
        (ErrorCode.CONCURRENT_TRANSACTIONS, False, ErrorCode.NOT_ENOUGH_REPLICAS),
        (ErrorCode.CONCURRENT_TRANSACTIONS, True, ErrorCode.CONCURRENT_TRANSACTIONS),
    ],
)
def test_what_a_refused_verification_tells_the_producer(leader: Verified, said: ErrorCode, add: bool, told: ErrorCode) -> None:
    leader.instant = said
    assert leader.send(transactional(0), add)[0].error is told
    assert leader.partition.log_end_offset == 0


def test_a_marker_invalidates_what_was_verified_before(leader: Verified) -> None:
    """KIP-890: the coordinator may have ended the very transaction between its answer and the append."""
    leader.instant = None
    late = leader.send(transactional(0))
    leader.mark(False)
    leader.questions[0][1](ErrorCode.NONE, "")
    assert late[0].error is ErrorCode.INVALID_TXN_STATE
    assert leader.partition.log_end_offset == 1, "the marker alone"
    leader.send(transactional(0))
    assert len(leader.questions) == 2


def test_with_epoch_bumps_the_next_transaction_may_begin_before_the_marker_of_the_last(leader: Verified) -> None:
    """KIP-890 part 2: that marker carries the epoch of the next; only a newer one can have ended the next itself."""
    leader.write(transactional(0, epoch=0))
    leader.instant = None
    early = leader.send(transactional(0, epoch=1), add=True)
    leader.mark(True, epoch=1)
    leader.questions[0][1](ErrorCode.NONE, "")
    leader.settle()
    assert (early[0].error, early[0].base_offset) == (ErrorCode.NONE, 2)
    late = leader.send(transactional(0, producer_id=8, epoch=1), add=True)
    leader.mark(False, 8, epoch=2)
    leader.questions[1][1](ErrorCode.NONE, "")
    assert late[0].error is ErrorCode.INVALID_TXN_STATE


def test_a_batch_without_verification_is_refused(leader: Verified) -> None:
    assert leader.append(transactional(0))[0].error is ErrorCode.INVALID_TXN_STATE
    plain = Replica()
    plain.lead()
    answers: list[AppendResult] = []
    plain.partition.append_transactional(memoryview(transactional(0)), -1, "tx", True, answers.append)
    assert answers[0].error is ErrorCode.INVALID_TXN_STATE, "no coordinator, no transactions"


def test_a_plain_batch_inside_a_transaction_is_refused(leader: Verified) -> None:
    leader.write(transactional(0))
    assert leader.append(idempotent(1))[0].error is ErrorCode.INVALID_TXN_STATE


def test_what_waits_for_verification_is_counted(leader: Verified) -> None:
    leader.instant = None
    before = leader.pending_told
    leader.send(transactional(0))
    assert leader.pending_told == before + len(transactional(0))
    leader.questions[0][1](ErrorCode.COORDINATOR_NOT_AVAILABLE, "")
    assert leader.pending_told == before


def test_a_plain_batch_in_a_request_with_a_transactional_id_is_not_verified(leader: Verified) -> None:
    leader.instant = ErrorCode.INVALID_PRODUCER_ID_MAPPING
    answers = leader.send(batch())
    leader.settle()
    assert answers[0].error is ErrorCode.NONE


def test_who_waits_for_verification_is_told_of_lost_leadership(leader: Verified) -> None:
    leader.instant = None
    waiting = leader.send(transactional(0))
    leader.depose(2)
    assert waiting[0].error is ErrorCode.NOT_LEADER_OR_FOLLOWER
    leader.questions[0][1](ErrorCode.NONE, "")
    leader.lead(3)
    assert leader.partition.log_end_offset == 0 and len(waiting) == 1


def test_a_new_leader_knows_open_and_aborted_transactions(leader: Verified) -> None:
    leader.write(transactional(0))
    leader.mark(False)
    leader.write(transactional(1))
    leader.send(transactional(0, producer_id=8))
    leader.collect()
    follower = Verified()
    follower.follow(leader.group.log.all)
    leader.depose(2)
    follower.lead(2)
    assert follower.partition.last_stable_offset == 2
    assert follower.partition.producers.transactions.open == {7: 2, 8: 3}
    follower.instant = ErrorCode.INVALID_TXN_STATE
    assert follower.write(transactional(2)).error is ErrorCode.NONE, "open here: nobody needs to be asked"
    follower.mark(True)
    follower.mark(True, 8)
    assert follower.read_stable().aborted_transactions == [(7, 0)]


def test_a_producer_with_an_open_transaction_does_not_expire(leader: Verified) -> None:
    leader.write(transactional(0))
    leader.produce(idempotent(0, producer_id=9))
    leader.partition.tick(0)
    leader.partition.tick(leader.partition.config.producer_id_expiration_ms)
    leader.settle()
    assert list(leader.partition.producers.applied) == [7]


def test_deleting_records_forgets_aborted_transactions_and_moves_the_stable_offset(leader: Verified) -> None:
    leader.write(transactional(0, 4))
    leader.mark(False)
    leader.write(transactional(4))
    leader.partition.advance_log_start(5, lambda error, offset: None)
    leader.settle()
    assert len(leader.partition.producers.transactions.aborted) == 0
    assert leader.partition.last_stable_offset == 5
    leader.partition.advance_log_start(6, lambda error, offset: None)
    leader.settle()
    assert leader.partition.last_stable_offset == leader.partition.log_start_offset == 6


def test_the_newest_record_is_told_to_read_committed_only_when_stable(leader: Verified) -> None:
    leader.produce(batch(timestamp=1_600_000_000_000))
    leader.write(transactional(0))
    assert leader.stable_offset(-3) == -1 and leader.list_offset(-3)[2] == 1
    leader.mark(True)
    assert leader.stable_offset(1_650_000_000_000) == 1


def test_a_coordinators_own_transactional_batch(leader: Verified) -> None:
    """Offsets in a transaction: no sequence, but epoch and transaction count."""
    offsets = build_batch([Record(0, 0, b"k", b"v")], producer=(7, 0, -1), attributes=TRANSACTIONAL_BIT)
    answers: list[AppendResult] = []
    leader.partition.append_prepared([offsets], answers.append)
    assert answers[0].error is ErrorCode.INVALID_TXN_STATE
    leader.partition.enter_transaction("tx", (7, 0), True, lambda error, message, verification: None)
    leader.partition.append_prepared([bytearray(offsets)], answers.append)
    leader.settle()
    assert answers[1].error is ErrorCode.NONE and leader.partition.last_stable_offset == 0
    leader.mark(True, epoch=1)
    leader.partition.append_prepared([bytearray(offsets)], answers.append)
    assert answers[2].error is ErrorCode.INVALID_PRODUCER_EPOCH
    assert leader.partition.last_stable_offset == 2


def test_describe_producers(leader: Verified) -> None:
    leader.write(transactional(0, 3))
    (one,) = leader.partition.describe_producers()  # type: ignore[misc]
    assert (one.producer_id, one.epoch, one.last_sequence, one.first_offset, one.coordinator_epoch) == (7, 0, 2, 0, -1)
    leader.mark(True, epoch=1, coordinator_epoch=9)
    (one,) = leader.partition.describe_producers()  # type: ignore[misc]
    assert (one.epoch, one.last_sequence, one.first_offset, one.coordinator_epoch) == (1, -1, -1, 9)


def test_an_aborted_transaction_costs_32_bytes_until_the_log_start_passes_its_marker() -> None:
    index = AbortedIndex()
    for number in range(1_000):
        index.add(7, 2 * number, 2 * number + 1, 2 * number + 2)
    assert len(index.encode()) == 32 * 1_000
    index.trim(1_001)
    assert len(index) == 500 and index.overlapping(0, 1_002) == [(7, 1_000)]
    index.trim(1_002)
    assert len(index) == 499 and AbortedIndex.decode(index.encode()).overlapping(0, 1_004) == [(7, 1_002)]
    index.trim(2_000)
    assert len(index) == 0 and index.encode() == b""
