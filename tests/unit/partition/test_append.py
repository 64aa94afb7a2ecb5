"""Appending: who may, what is answered and when, stamping, proposals."""

from __future__ import annotations

import pytest

from broker.errors import ErrorCode
from broker.partition.config import TopicConfig
from broker.records.batch import HEADER
from broker.records.reader import read_batch, read_batches
from tests.unit.partition.fakes import Replica, batch, idempotent
from wal.entry import EntryKind
from wal.errors import InvariantError


@pytest.fixture
def leader() -> Replica:
    replica = Replica()
    replica.lead()
    return replica


def test_a_replica_that_does_not_lead_refuses() -> None:
    assert Replica().append(batch())[0].error is ErrorCode.NOT_LEADER_OR_FOLLOWER


def test_first_record_has_offset_0_and_entries_without_records_take_none(leader: Replica) -> None:
    assert leader.produce(batch(3)).base_offset == 0
    leader.depose(2)
    leader.lead(3)
    assert leader.produce(batch(2)).base_offset == 3
    assert leader.partition.high_watermark == leader.partition.log_end_offset == 5


def test_acks_all_waits_for_commit_not_for_the_flush(leader: Replica) -> None:
    answers = leader.append(batch())
    leader.collect()
    leader.flush()
    assert answers == []
    leader.commit()
    assert [a.error for a in answers] == [ErrorCode.NONE]


def test_acks_1_waits_for_the_leaders_flush(leader: Replica) -> None:
    answers = leader.append(batch(), acks=1)
    leader.partition.on_flushed()
    assert answers == []
    leader.collect()
    leader.partition.on_flushed()
    assert answers == [], "a flush that did not hold the entry proves nothing"
    leader.flush()
    assert [(a.error, a.base_offset) for a in answers] == [(ErrorCode.NONE, 0)]
    leader.commit()
    assert len(answers) == 1


def test_acks_1_is_not_answered_without_a_lease_but_by_commit(leader: Replica) -> None:
    answers = leader.append(batch(), acks=1)
    leader.collect()
    leader.group.lease = False
    leader.flush()
    assert answers == []
    leader.commit()
    assert [a.error for a in answers] == [ErrorCode.NONE]


def test_acks_0_is_answered_at_once(leader: Replica) -> None:
    assert [a.error for a in leader.append(batch(), acks=0)] == [ErrorCode.NONE]


def test_one_entry_holds_all_requests_and_bytes_are_stamped_in_place(leader: Replica) -> None:
    answers = [leader.append(batch(n)) for n in (1, 2, 3)]
    assert leader.partition.log_end_offset == 6 and leader.partition.high_watermark == 0
    (entry,) = leader.collect()
    assert entry.kind == EntryKind.DATA and entry.record_count == 6 and len(entry.chunks) == 3
    headers = [HEADER.unpack_from(chunk) for chunk in entry.chunks]
    assert [(h[0], h[2]) for h in headers] == [(0, 1), (1, 1), (3, 1)]
    leader.commit()
    assert [a[0].base_offset for a in answers] == [0, 1, 3]
    assert entry.max_timestamp == 1_700_000_000_002


def test_what_exceeds_an_entry_waits_for_the_next_and_pending_is_counted(leader: Replica) -> None:
    for _ in range(3):
        leader.append(batch(size=1000))
    assert leader.partition.pending_bytes == leader.pending_told > 3000
    entries = leader.collect(max_bytes=2400)
    assert [len(e.chunks) for e in entries] == [2, 1]
    assert leader.partition.pending_bytes == leader.pending_told == 0


def test_a_request_larger_than_the_proposal_limit_travels_alone(leader: Replica) -> None:
    leader.append(batch(size=5000))
    leader.append(batch(size=10))
    assert [e.record_count for e in leader.collect(max_bytes=1000)] == [1, 1]


def test_all_batches_of_a_request_or_none(leader: Replica) -> None:
    bad = batch()
    bad[-1] ^= 1
    assert leader.append(batch() + bad)[0].error is ErrorCode.CORRUPT_MESSAGE
    assert leader.partition.log_end_offset == 0 and leader.partition.pending_bytes == 0
    assert leader.produce(batch(2) + batch(3)).base_offset == 0
    assert leader.partition.high_watermark == 5


def test_full_disk_is_a_retriable_error(leader: Replica) -> None:
    leader.full = True
    assert leader.append(batch())[0].error is ErrorCode.KAFKA_STORAGE_ERROR
    leader.full = False
    assert leader.produce(batch()).error is ErrorCode.NONE


def test_pending_is_bounded(leader: Replica) -> None:
    replica = Replica()
    replica.partition._appender._context = replica.partition._context._replace(max_pending_bytes=2000)
    replica.lead()
    assert replica.append(batch(size=1500)) == []
    assert replica.append(batch(size=1500))[0].error is ErrorCode.REQUEST_TIMED_OUT
    replica.collect()
    assert replica.append(batch(size=1500)) == []


def test_a_transactional_batch_is_refused(leader: Replica) -> None:
    from broker.records.builder import build_batch
    from broker.records.reader import Record

    records = build_batch([Record(0, 1, None, b"")], producer=(1, 0, 0), attributes=0x10)
    assert leader.append(records)[0].error is ErrorCode.INVALID_TXN_STATE


def test_timestamps_too_far_in_the_future(leader: Replica) -> None:
    assert leader.append(batch(timestamp=leader.wall_ms + 3_600_001))[0].error is ErrorCode.INVALID_TIMESTAMP
    leader.partition.configure(TopicConfig(timestamp_before_max_ms=1000))
    assert leader.append(batch(timestamp=leader.wall_ms - 1001))[0].error is ErrorCode.INVALID_TIMESTAMP
    assert leader.append(batch(timestamp=-1)) == []


def test_log_append_time_replaces_the_timestamp() -> None:
    replica = Replica(TopicConfig(log_append_time=True))
    replica.lead()
    answer = replica.produce(batch(2, timestamp=5))
    assert answer.log_append_time_ms == replica.wall_ms
    (chunk,) = replica.read(0).chunks
    assert [r.timestamp for r in read_batch(chunk)] == [replica.wall_ms] * 2
    import crc32c

    assert int.from_bytes(chunk[17:21], "big") == crc32c.crc32c(chunk[21:])


@pytest.mark.parametrize("target", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("source", [0, 1, 2, 3, 4])
def test_recompression(source: int, target: int) -> None:
    replica = Replica(TopicConfig(compression_codec=target))
    replica.lead()
    assert replica.produce(batch(5, codec=source) + batch(2, codec=source)).error is ErrorCode.NONE
    data = b"".join(replica.read(0).chunks)
    assert data[22] & 7 == target
    assert [r.offset for r in read_batches(data)] == list(range(7))
    assert int.from_bytes(data[17:21], "big") == __import__("crc32c").crc32c(data[21 : 12 + int.from_bytes(data[8:12], "big")])


def test_lost_leadership_before_the_proposal_is_certain_after_it_unknown(leader: Replica) -> None:
    proposed, flushed = leader.append(batch()), leader.append(batch(), acks=1)
    leader.collect()
    waiting, only_flush = leader.append(batch()), leader.append(batch(), acks=1)
    leader.depose(2)
    assert [a[0].error for a in (proposed, flushed)] == [ErrorCode.REQUEST_TIMED_OUT] * 2
    assert [a[0].error for a in (waiting, only_flush)] == [ErrorCode.NOT_LEADER_OR_FOLLOWER] * 2
    assert leader.pending_told == 0 and leader.partition.waiting_appends == 0
    leader.commit()
    assert len(proposed) == 1, "committed later under another leader: the answer has been given"


def test_a_leader_that_may_be_deposed_says_nothing_final_of_a_producer(leader: Replica) -> None:
    """It may know an old state of the producers: a producer that is told OUT_OF_ORDER_SEQUENCE_NUMBER gives up."""
    assert leader.produce(idempotent(0)).error is ErrorCode.NONE
    assert leader.produce(idempotent(5)).error is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    leader.group.lease = False
    assert leader.produce(idempotent(5)).error is ErrorCode.NOT_LEADER_OR_FOLLOWER


def test_a_refused_proposal_was_certainly_not_appended(leader: Replica) -> None:
    before = leader.append(batch())
    leader.collect()
    leader.group.refusing = True
    refused = leader.append(batch(2))
    leader.collect()
    leader.group.refusing = False
    leader.partition.on_progress()
    assert [a.error for a in refused] == [ErrorCode.NOT_LEADER_OR_FOLLOWER]
    after = leader.append(batch(3))
    leader.collect()
    leader.commit()
    assert (before[0].base_offset, after[0].base_offset) == (0, 1)
    assert leader.partition.high_watermark == 4


def test_acks_1_needs_the_lease_when_it_begins(leader: Replica) -> None:
    leader.group.lease = False
    assert leader.append(batch(), acks=1)[0].error is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert leader.append(batch(), acks=-1) == []


def test_a_callback_may_append_again(leader: Replica) -> None:
    second: list[int] = []

    def again(_: object) -> None:
        leader.partition.append(memoryview(batch()), -1, lambda r: second.append(r.base_offset))

    leader.partition.append(memoryview(batch()), -1, again)
    leader.collect()
    leader.commit()
    leader.collect()
    leader.commit()
    assert second == [1]


class TestMinInsyncReplicas:
    """KIP-679's companions: too few before the append, and too few after it."""

    @staticmethod
    def three(minimum: int, voters: tuple[int, ...] = (1, 2, 3)) -> Replica:
        replica = Replica(TopicConfig(min_insync_replicas=minimum), voters)
        replica.lead()
        for node in voters:
            replica.group.match[node] = replica.group.log.last_index
        return replica

    def test_too_few_before_the_append(self) -> None:
        replica = self.three(2)
        replica.group.match = dict.fromkeys((1, 2, 3), 0)
        replica.partition.on_progress()
        assert replica.append(batch())[0].error is ErrorCode.NOT_ENOUGH_REPLICAS
        assert replica.append(batch(), acks=1) == [], "acks=1 does not ask"

    def test_recently_at_the_end_counts(self) -> None:
        replica = self.three(2)
        replica.group.match = dict.fromkeys((1, 2, 3), 0)
        replica.group.at_end[2] = replica.clock.now
        replica.partition.on_progress()
        assert replica.append(batch()) == []
        assert replica.partition.isr() == (1, 2)
        replica.clock.now += 30_001
        assert replica.append(batch())[0].error is ErrorCode.NOT_ENOUGH_REPLICAS

    def test_above_the_majority_waits_for_more_replicas(self) -> None:
        replica = self.three(3)
        answers = replica.append(batch())
        replica.collect()
        replica.group.match[2] = replica.group.log.last_index
        replica.flush()
        replica.commit()
        assert replica.partition.high_watermark == 1 and answers == []
        replica.group.match[3] = replica.group.log.last_index
        replica.partition.on_progress()
        assert [a.error for a in answers] == [ErrorCode.NONE]

    def test_majority_is_enough_when_it_covers_the_minimum(self) -> None:
        replica = self.three(2)
        answers = replica.append(batch())
        replica.collect()
        replica.commit()
        assert [a.error for a in answers] == [ErrorCode.NONE]

    def test_lost_leadership_while_waiting_for_replicas_is_unknown(self) -> None:
        replica = self.three(3)
        answers = replica.append(batch())
        replica.collect()
        replica.flush()
        replica.commit()
        replica.depose(2)
        assert [a.error for a in answers] == [ErrorCode.REQUEST_TIMED_OUT]


def test_apply_refuses_a_gap(leader: Replica) -> None:
    leader.append(batch())
    (entry,) = leader.collect()
    entry.base_offset = 1
    with pytest.raises(InvariantError):
        leader.partition.apply([entry])
