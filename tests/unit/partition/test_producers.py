"""Idempotent producers: duplicates, order, fencing, failover, expiry (KIP-98, KIP-360)."""

from __future__ import annotations

import pytest

from broker.errors import ErrorCode
from broker.partition.appending import GAP_GRACE_MS
from broker.partition.expiry import CHECK_INTERVAL_MS
from tests.unit.partition.fakes import Replica, batch, idempotent
from wal.entry import EntryKind

MAX = 0x7FFFFFFF


@pytest.fixture
def leader() -> Replica:
    replica = Replica()
    replica.lead()
    return replica


def error_of(replica: Replica, records: bytearray) -> ErrorCode:
    (answer,) = replica.append(records)
    return answer.error


def test_the_last_five_batches_are_answered_with_their_original_offsets(leader: Replica) -> None:
    for sequence in range(6):
        assert leader.produce(idempotent(sequence)).base_offset == sequence
    for sequence in range(1, 6):
        (answer,) = leader.append(idempotent(sequence))
        assert (answer.error, answer.base_offset) == (ErrorCode.NONE, sequence)
    assert error_of(leader, idempotent(0)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert leader.partition.log_end_offset == 6


@pytest.mark.parametrize("acks", [-1, 1])
def test_a_duplicate_is_answered_only_once_the_original_is_committed(leader: Replica, acks: int) -> None:
    original = leader.append(idempotent(0, 3))
    early = leader.append(idempotent(0, 3), acks)
    leader.collect()
    late = leader.append(idempotent(0, 3), acks)
    leader.flush()
    assert original == early == late == []
    leader.commit()
    assert [a[0].base_offset for a in (original, early, late)] == [0, 0, 0]
    assert leader.partition.high_watermark == 3


def test_a_duplicate_of_a_batch_that_was_never_proposed_shares_its_fate(leader: Replica) -> None:
    original, repeated = leader.append(idempotent(0)), leader.append(idempotent(0))
    leader.depose(2)
    assert [a[0].error for a in (original, repeated)] == [ErrorCode.NOT_LEADER_OR_FOLLOWER] * 2


def test_gap_and_old_epoch(leader: Replica) -> None:
    leader.produce(idempotent(0, 2, epoch=3))
    assert error_of(leader, idempotent(3, epoch=3)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert error_of(leader, idempotent(2, epoch=2)) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert error_of(leader, idempotent(2, epoch=4)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert leader.produce(idempotent(0, epoch=4)).base_offset == 2
    assert error_of(leader, idempotent(2, epoch=3)) is ErrorCode.INVALID_PRODUCER_EPOCH


def test_a_gap_behind_what_was_refused_a_moment_ago_may_close(leader: Replica) -> None:
    """A new leader serves between two requests of one producer: the first was refused, the second must not be told that it is out of order.
    librdkafka would begin a new epoch, and send again, as new, what is in the log."""
    leader.produce(idempotent(0, epoch=3))
    leader.depose(2)
    leader.lead(3, settled=False)
    assert error_of(leader, idempotent(2, epoch=3)) is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert error_of(leader, idempotent(1, epoch=4)) is ErrorCode.NOT_LEADER_OR_FOLLOWER, "nor the second batch of a new epoch"
    assert error_of(leader, idempotent(4, producer_id=9)) is ErrorCode.NOT_LEADER_OR_FOLLOWER, "nor that of a producer that nobody knows yet"
    assert error_of(leader, idempotent(0, epoch=2)) is ErrorCode.INVALID_PRODUCER_EPOCH, "what is final stays final"
    assert leader.produce(idempotent(0, epoch=3)).base_offset == 0
    assert leader.produce(idempotent(1, epoch=3)).base_offset == 1
    assert leader.produce(idempotent(2, epoch=3)).base_offset == 2
    leader.clock.now += GAP_GRACE_MS
    assert error_of(leader, idempotent(4, epoch=3)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, "it does not close any more"


def test_a_gap_behind_a_refusal_of_our_own_may_close(leader: Replica) -> None:
    leader.produce(idempotent(0))
    leader.full = True
    assert error_of(leader, idempotent(1)) is ErrorCode.KAFKA_STORAGE_ERROR
    leader.full = False
    assert error_of(leader, idempotent(2)) is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert leader.produce(idempotent(1)).base_offset == 1
    assert leader.produce(idempotent(2)).base_offset == 2


def test_sequences_are_checked_against_what_is_appended_and_not_committed(leader: Replica) -> None:
    assert leader.append(idempotent(0)) == [] and leader.append(idempotent(1)) == []
    assert error_of(leader, idempotent(3)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    leader.collect()
    leader.commit()
    assert not leader.partition.producers.overlay


def test_an_unknown_producer_may_begin_anywhere(leader: Replica) -> None:
    assert leader.produce(idempotent(1000)).error is ErrorCode.NONE
    assert leader.produce(idempotent(1001)).error is ErrorCode.NONE


def test_sequences_go_on_at_0_behind_the_largest(leader: Replica) -> None:
    assert leader.produce(idempotent(MAX - 1, 3)).error is ErrorCode.NONE  # MAX-1, MAX, 0
    assert leader.produce(idempotent(1)).error is ErrorCode.NONE
    assert leader.produce(idempotent(MAX - 1, 3)).base_offset == 0
    assert leader.produce(idempotent(MAX, producer_id=8)).error is ErrorCode.NONE
    assert leader.produce(idempotent(0, producer_id=8)).error is ErrorCode.NONE


def test_a_request_may_hold_several_batches_but_not_mix_old_and_new(leader: Replica) -> None:
    assert leader.produce(idempotent(0) + idempotent(1)).base_offset == 0
    (answer,) = leader.append(idempotent(0) + idempotent(1))
    assert (answer.error, answer.base_offset) == (ErrorCode.NONE, 0)
    assert error_of(leader, idempotent(1) + idempotent(2)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert error_of(leader, idempotent(2) + idempotent(2)) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert error_of(leader, idempotent(1) + batch()) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert leader.partition.log_end_offset == 2


def test_a_failed_request_leaves_no_trace_in_the_producers_state(leader: Replica) -> None:
    bad = batch()
    bad[-1] ^= 1
    assert error_of(leader, idempotent(0) + bad) is ErrorCode.CORRUPT_MESSAGE
    assert not leader.partition.producers.overlay
    assert leader.produce(idempotent(0)).base_offset == 0


def test_duplicates_across_failover_get_the_original_offset(leader: Replica) -> None:
    leader.produce(batch(4))
    leader.append(idempotent(0, 2))
    leader.collect()
    follower = Replica()
    follower.follow(leader.group.log.all)
    leader.depose(2)
    follower.lead(2)  # commits what the old leader had proposed
    (answer,) = follower.append(idempotent(0, 2))
    assert (answer.error, answer.base_offset) == (ErrorCode.NONE, 4)
    assert follower.produce(idempotent(2)).base_offset == 6


def test_after_truncation_the_repeated_batch_is_new(leader: Replica) -> None:
    leader.produce(idempotent(0))
    leader.append(idempotent(1))
    leader.collect()
    leader.depose(2)
    leader.group.log.truncate(leader.group.log.last_index)
    leader.lead(3)
    assert leader.produce(idempotent(1)).base_offset == 1


def test_a_refused_proposal_is_forgotten_in_the_overlay(leader: Replica) -> None:
    leader.append(idempotent(0))
    leader.collect()
    leader.group.refusing = True
    leader.append(idempotent(1))
    leader.collect()
    leader.group.refusing = False
    answers = leader.append(idempotent(1))
    assert answers == []
    leader.collect()
    leader.commit()
    assert answers[0].base_offset == 1
    assert [b.base_sequence for b in leader.partition.producers.applied[7].batches] == [0, 1]


def test_expiry_is_decided_by_the_leader_and_applied_by_all(leader: Replica) -> None:
    leader.produce(idempotent(0, producer_id=1))
    leader.produce(idempotent(0, producer_id=2))
    day = leader.partition.config.producer_id_expiration_ms
    leader.partition.tick(0)
    leader.produce(idempotent(1, producer_id=2))
    leader.partition.tick(CHECK_INTERVAL_MS)
    leader.partition.tick(day)
    (command,) = leader.collect()
    assert command.kind == EntryKind.COMMAND and command.record_count == 0
    follower = Replica()
    follower.follow(leader.group.log.all)
    follower.commit()
    leader.commit()
    assert list(leader.partition.producers.applied) == list(follower.partition.producers.applied) == [2]
    assert leader.produce(batch()).base_offset == 3, "commands take no offsets"


def test_a_producer_that_came_back_is_not_expired(leader: Replica) -> None:
    leader.produce(idempotent(0))
    leader.partition.tick(0)
    leader.partition.tick(leader.partition.config.producer_id_expiration_ms)
    leader.append(idempotent(1))
    assert [e.kind for e in leader.collect()] == [EntryKind.DATA]
