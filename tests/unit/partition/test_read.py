"""Reading, looking up offsets, watermarks, waiters, state."""

from __future__ import annotations

import pytest

from broker.api import ReadResult
from broker.errors import ErrorCode
from broker.partition.read_cache import ReadCache
from broker.partition.state import LogStart, decode_state, encode_command
from broker.records.reader import read_batches
from raft.api import Proposal
from tests.unit.partition.fakes import FakeLog, Replica, batch, idempotent
from wal.api import AppliedState
from wal.entry import Entry, EntryKind
from wal.errors import DamageError, InvariantError

T = 1_700_000_000_000


@pytest.fixture(params=["memory", "disk"])
def leader(request: pytest.FixtureRequest) -> Replica:
    """Three entries: offsets 0-3 (two requests, three batches), 4-5, 6; from memory, or all but the last from disk."""
    replica = Replica()
    replica.lead()
    replica.append(batch(1) + batch(2))
    replica.append(batch(1))
    replica.collect()
    replica.commit()
    replica.produce(batch(2))
    replica.produce(batch(1))
    if request.param == "disk":
        replica.group.log.memory_from = replica.group.log.last_index
    return replica


def offsets(replica: Replica, offset: int, max_bytes: int = 1 << 20, min_one: bool = True) -> list[int]:
    result = replica.read(offset, max_bytes, min_one=min_one)
    assert result.error is ErrorCode.NONE
    data = b"".join(result.chunks)
    assert len(data) == result.size
    return [record.offset for record in read_batches(data)]


def test_reads_begin_at_the_batch_that_holds_the_offset(leader: Replica) -> None:
    got = offsets(leader, 2)
    assert got[:3] == [1, 2, 3] and got == list(range(1, got[-1] + 1))
    assert offsets(leader, 3)[0] == 3 and offsets(leader, 5)[0] == 4 and offsets(leader, 6) == [6]


def test_a_consumer_gets_everything_in_order(leader: Replica) -> None:
    for max_bytes in (1, 80, 160, 250, 400, 1 << 20):
        got: list[int] = []
        while not got or got[-1] < 6:
            piece = offsets(leader, got[-1] + 1 if got else 0, max_bytes)
            assert piece
            got.extend(piece)
        assert got == list(range(7))


def test_max_bytes_cuts_at_a_batch_inside_an_entry(leader: Replica) -> None:
    size = len(batch(1)) + len(batch(2))
    assert offsets(leader, 0, size) == [0, 1, 2]
    assert offsets(leader, 0, size - 1) == [0]
    assert offsets(leader, 0, 10) == [0], "the first batch whatever its size"
    assert offsets(leader, 0, 10, min_one=False) == []


def test_a_remembered_position_is_only_a_hint(leader: Replica) -> None:
    assert offsets(leader, 0, len(batch(1))) == [0]
    cursors = leader.partition._cursors
    for key in list(cursors._positions):
        cursors.remember(*key, position=7)
    assert offsets(leader, 1)[0] == 1


def test_range(leader: Replica) -> None:
    leader.append(batch(2))
    leader.collect()
    assert leader.partition.log_end_offset == 9
    for offset in (7, 8, 9):
        result = leader.read(offset)
        assert (result.error, list(result.chunks), result.high_watermark) == (ErrorCode.NONE, [], 7)
    for offset in (-1, 10):
        assert leader.read(offset) == ReadResult(ErrorCode.OFFSET_OUT_OF_RANGE)


def test_an_error_tells_no_offsets(leader: Replica) -> None:
    """librdkafka takes the high watermark of a refusal, too: a deposed leader's is older than what the new one has told."""
    assert leader.read(0).high_watermark == 7
    leader.depose(2)
    refused = leader.read(0)
    assert refused.error is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert (refused.high_watermark, refused.last_stable_offset, refused.log_start_offset) == (-1, -1, -1)


def test_nothing_above_the_high_watermark(leader: Replica) -> None:
    leader.append(batch(2))
    leader.collect()
    leader.flush()
    assert offsets(leader, 6) == [6]
    leader.commit()
    assert offsets(leader, 6) == [6, 7, 8]


def test_fencing_by_leader_epoch(leader: Replica) -> None:
    assert leader.read(0, epoch=1).error is ErrorCode.NONE
    assert leader.read(0, epoch=0).error is ErrorCode.FENCED_LEADER_EPOCH
    assert leader.read(0, epoch=2).error is ErrorCode.UNKNOWN_LEADER_EPOCH
    assert leader.list_offset(-1, epoch=0)[0] is ErrorCode.FENCED_LEADER_EPOCH
    assert leader.partition.end_of_epoch(2, 1)[0] is ErrorCode.UNKNOWN_LEADER_EPOCH


def test_without_lease_or_leadership_nothing_is_answered(leader: Replica) -> None:
    leader.group.lease = False
    assert leader.read(0).error is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert leader.list_offset(-1)[0] is ErrorCode.NOT_LEADER_OR_FOLLOWER
    leader.group.lease = True
    leader.depose(2)
    assert leader.read(0).error is ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert leader.partition.end_of_epoch(-1, 1)[0] is ErrorCode.NOT_LEADER_OR_FOLLOWER


def test_a_new_leader_does_not_tell_offsets_before_it_serves(leader: Replica) -> None:
    leader.depose(2, leader=1)
    assert leader.list_offset(-1)[0] is ErrorCode.OFFSET_NOT_AVAILABLE
    assert leader.read(0).error is ErrorCode.NOT_LEADER_OR_FOLLOWER


def test_deposed_while_the_disk_reads() -> None:
    replica = Replica()
    replica.lead()
    replica.produce(batch())
    replica.produce(batch())
    replica.group.log.memory_from = replica.group.log.last_index
    replica.group.delayed = []
    answers: list[ErrorCode] = []
    replica.partition.read(0, 100, -1, False, True, lambda r: answers.append(r.error))
    replica.partition.list_offset(T, -1, False, lambda error, *_: answers.append(error))
    assert answers == []
    replica.depose(2)
    for job in replica.group.delayed:
        job()
    assert answers == [ErrorCode.NOT_LEADER_OR_FOLLOWER] * 2


def test_batches_may_span_chunks() -> None:
    source, target = Replica(), Replica()
    source.lead()
    source.append(batch(2) + batch(3))
    source.append(batch(4))
    (entry,) = source.collect()
    payload = entry.payload()
    for cut in range(1, len(payload), 17):
        chunks = (payload[:cut], payload[cut : cut + 5], payload[cut + 5 :])
        target = Replica()
        target.group.log.all = [
            source.group.log.all[0],
            Entry(1, 2, EntryKind.DATA, chunks, entry.size, entry.payload_crc, 0, 9),
        ]
        target.commit()
        assert target.partition.high_watermark == 9
        target.group.term, target.group.leader = 1, 1
        target.lead(2)
        assert offsets(target, 3) == [2, 3, 4, 5, 6, 7, 8]


def test_a_large_entry_is_read_from_disk_once() -> None:
    replica = Replica()
    replica.lead()
    for _ in range(20):
        replica.append(batch(1))
    replica.collect()
    replica.commit()
    replica.group.log.memory_from = replica.group.log.last_index + 1
    got: list[int] = []
    while len(got) < 20:
        got.extend(offsets(replica, len(got), 2 * len(batch(1))))
    assert got == list(range(20)) and replica.group.disk_reads == 1


def test_the_read_cache_is_bounded() -> None:
    cache = ReadCache(100)
    entries = [Entry(1, i, EntryKind.DATA, (bytes(40),), 40, 0, i * 10, 10) for i in range(1, 5)]
    group = FakeLog().group_id
    for entry in entries:
        cache.put(group, entry)
        cache.put(group, entry)
        assert cache.find(group, entry.base_offset + 9) is entry
    assert cache.size_bytes == 80
    assert [cache.find(group, e.base_offset) is e for e in entries] == [False, False, True, True]
    assert cache.find(group, 50) is None and cache.find(group, 9) is None
    cache.put(group, Entry(1, 9, EntryKind.DATA, (bytes(200),), 200, 0, 0, 1))
    assert cache.size_bytes == 80


def test_available_bytes_is_nothing_at_the_end(leader: Replica) -> None:
    assert leader.partition.available_bytes(7) == leader.partition.available_bytes(99) == 0
    assert leader.partition.available_bytes(6) >= 1
    total = sum(e.size for e in leader.group.log.all)
    assert leader.partition.available_bytes(0) == total


class TestWaiters:
    def test_woken_once_by_the_high_watermark(self) -> None:
        replica = Replica()
        replica.lead()
        woken: list[int] = []
        replica.partition.add_waiter(lambda: woken.append(replica.partition.high_watermark))
        replica.append(batch())
        replica.collect()
        assert woken == []
        replica.commit()
        replica.produce(batch())
        assert woken == [1]

    def test_woken_by_lost_leadership_and_not_after_removal(self) -> None:
        replica = Replica()
        replica.lead()
        woken: list[str] = []

        def first() -> None:
            woken.append("first")
            replica.partition.remove_waiter(second)

        def second() -> None:
            woken.append("second")

        replica.partition.add_waiter(first)
        replica.partition.add_waiter(second)
        replica.depose(2)
        assert woken == ["first"]

    def test_one_that_waits_again_waits_for_the_next_time(self) -> None:
        replica = Replica()
        replica.lead()
        count = 0

        def again() -> None:
            nonlocal count
            count += 1
            replica.partition.add_waiter(again)

        replica.partition.add_waiter(again)
        replica.produce(batch())
        replica.produce(batch())
        assert count == 2


class TestListOffsets:
    @pytest.fixture(params=["memory", "disk", "split"])
    def log(self, request: pytest.FixtureRequest) -> Replica:
        """Timestamps T+0..2 at 0-2 (gzip), T+100 at 3, T+50..51 at 4-5, T+200..203 at 6-9 (lz4), T+150 at 10."""
        replica = Replica()
        replica.lead()
        for records in (batch(3, T, 1), batch(1, T + 100), batch(2, T + 50), batch(4, T + 200, 3), batch(1, T + 150)):
            replica.produce(records)
        replica.group.log.memory_from = {"memory": 1, "disk": replica.group.log.last_index + 1, "split": 4}[request.param]
        return replica

    @pytest.mark.parametrize(
        ("timestamp", "expected"),
        [
            (0, (T, 0)),
            (T, (T, 0)),
            (T + 1, (T + 1, 1)),
            (T + 3, (T + 100, 3)),
            (T + 60, (T + 100, 3)),
            (T + 101, (T + 200, 6)),
            (T + 202, (T + 202, 8)),
        ],
    )
    def test_first_record_with_the_timestamp_or_later(self, log: Replica, timestamp: int, expected: tuple[int, int]) -> None:
        assert log.list_offset(timestamp) == (ErrorCode.NONE, *expected, 1)

    def test_later_than_everything(self, log: Replica) -> None:
        assert log.list_offset(T + 204) == (ErrorCode.NONE, -1, -1, -1)

    def test_special_timestamps(self, log: Replica) -> None:
        log.append(batch(1, T + 900))
        log.collect()
        assert log.list_offset(-1) == (ErrorCode.NONE, -1, 11, 1)
        assert log.list_offset(-2) == log.list_offset(-4) == (ErrorCode.NONE, -1, 0, 1)
        assert log.list_offset(-3) == (ErrorCode.NONE, T + 203, 9, 1)
        assert log.list_offset(-5) == (ErrorCode.NONE, -1, -1, -1)
        assert log.list_offset(-6)[0] is ErrorCode.INVALID_REQUEST

    def test_records_that_are_not_committed_do_not_count(self, log: Replica) -> None:
        log.partition._max_timestamp = T + 10_000
        log.append(batch(1, T + 900))
        log.collect()
        assert log.list_offset(T + 300) == (ErrorCode.NONE, -1, -1, -1)

    def test_below_the_log_start_nothing_counts(self, log: Replica) -> None:
        done: list[tuple[ErrorCode, int]] = []
        log.partition.advance_log_start(9, lambda *r: done.append(r))
        log.collect()
        log.commit()
        assert done == [(ErrorCode.NONE, 9)]
        assert log.list_offset(0) == (ErrorCode.NONE, T + 203, 9, 1)
        assert log.list_offset(-3) == (ErrorCode.NONE, T + 203, 9, 1)
        log.partition.advance_log_start(10, lambda *r: done.append(r))
        log.collect()
        log.commit()
        assert log.list_offset(-3) == (ErrorCode.NONE, T + 150, 10, 1), "the newest one was deleted: the rest is looked through"
        log.produce(batch(1, T + 1))
        assert log.list_offset(T + 140) == (ErrorCode.NONE, T + 150, 10, 1), "an upper bound, not the timestamp of the last batch"

    def test_a_batch_that_can_not_be_decompressed_stands_for_itself(self, log: Replica) -> None:
        bad = batch(4, T + 300, 4)
        bad[70:] = b"\x00" * (len(bad) - 70)
        from broker.records.builder import seal

        seal(bad)
        log.produce(bad)
        assert log.list_offset(T + 302) == (ErrorCode.NONE, T + 303, 11, 1)

    def test_empty(self) -> None:
        replica = Replica()
        replica.lead()
        assert replica.list_offset(-1) == (ErrorCode.NONE, -1, 0, 1)
        assert replica.list_offset(-3) == replica.list_offset(0) == (ErrorCode.NONE, -1, -1, -1)


def test_end_of_epoch_follows_the_terms_of_the_log() -> None:
    """KIP-320."""
    replica = Replica()
    replica.lead(1)
    replica.produce(batch(2))
    replica.depose(3)
    replica.lead(4)
    replica.produce(batch(3))
    replica.append(batch(1))
    replica.collect()
    ask = replica.partition.end_of_epoch
    assert ask(-1, 0) == (ErrorCode.NONE, 0, 0)
    assert ask(-1, 1) == ask(-1, 3) == (ErrorCode.NONE, 1, 2)
    assert ask(-1, 4) == (ErrorCode.NONE, 4, 5)
    assert ask(-1, 5) == (ErrorCode.NONE, -1, -1)


class TestLogStart:
    def test_moves_only_up_and_not_above_the_high_watermark(self) -> None:
        replica = Replica()
        replica.lead()
        replica.produce(batch(5))
        answers: list[tuple[ErrorCode, int]] = []

        def ask(offset: int) -> None:
            replica.partition.advance_log_start(offset, lambda *r: answers.append(r))
            replica.collect()
            replica.commit()

        for offset in (3, 2, 6, -1, -2):
            ask(offset)
        assert answers == [
            (ErrorCode.NONE, 3),
            (ErrorCode.NONE, 3),
            (ErrorCode.OFFSET_OUT_OF_RANGE, -1),
            (ErrorCode.NONE, 5),
            (ErrorCode.OFFSET_OUT_OF_RANGE, -1),
        ]
        assert replica.partition.log_start_offset == 5
        assert replica.read(4).error is ErrorCode.OFFSET_OUT_OF_RANGE
        assert replica.read(5).error is ErrorCode.NONE

    def test_a_lost_command_is_proposed_again(self) -> None:
        replica = Replica()
        replica.lead()
        replica.produce(batch(5))
        answers: list[tuple[ErrorCode, int]] = []
        replica.partition.advance_log_start(4, lambda *r: answers.append(r))
        replica.group.refusing = True
        replica.collect()
        replica.group.refusing = False
        replica.partition.tick(0)
        replica.collect()
        replica.commit()
        assert answers == [(ErrorCode.NONE, 4)]

    def test_unknown_when_leadership_is_lost(self) -> None:
        replica = Replica()
        replica.lead()
        replica.produce(batch(5))
        answers: list[tuple[ErrorCode, int]] = []
        replica.partition.advance_log_start(4, lambda *r: answers.append(r))
        replica.depose(2)
        assert answers == [(ErrorCode.REQUEST_TIMED_OUT, -1)]


class TestState:
    def test_restored_state_goes_on_where_it_was(self) -> None:
        replica = Replica()
        replica.lead()
        for sequence in range(7):
            replica.produce(idempotent(sequence))
        captured = replica.partition.capture()
        assert captured is not None and captured is replica.partition.capture(), "nothing changed: the same object"
        replica.produce(idempotent(7))
        again = replica.make_partition()
        assert again.restore(captured) == captured.index
        again.apply(replica.group.log.all[captured.index :])
        assert again.snapshot() == replica.partition.snapshot()
        assert again.high_watermark == 8

    def test_nothing_to_restore(self) -> None:
        assert Replica().partition.restore(None) == 0

    def test_the_high_watermark_never_goes_back(self) -> None:
        replica = Replica()
        replica.lead()
        old = replica.partition.snapshot()
        replica.produce(batch())
        replica.depose(2)
        with pytest.raises(InvariantError):
            replica.partition.install(1, old)

    def test_install_replaces_everything(self) -> None:
        source, target = Replica(), Replica()
        source.lead()
        source.produce(idempotent(0, 3))
        target.partition.install(2, source.partition.snapshot())
        assert target.partition.snapshot() == source.partition.snapshot()
        captured = target.partition.capture()
        assert captured is not None and captured.index == 2

    @pytest.mark.parametrize("data", [b"", b"\x90", b"\xff" * 20, b"\x96\x63\x00\x00\x00\x00\x90"])
    def test_damaged_or_newer_state_is_refused(self, data: bytes) -> None:
        with pytest.raises(DamageError):
            decode_state(data)
        with pytest.raises(DamageError):
            Replica().partition.restore(AppliedState(1, data))

    def test_an_unknown_command_stops_the_worker(self) -> None:
        replica = Replica()
        replica.lead()
        command = bytearray(encode_command(LogStart(1)))
        command[2] = 9
        replica.group.log.add(1, Proposal(EntryKind.COMMAND, (command,), len(command), 0, 0))
        with pytest.raises(InvariantError):
            replica.commit()


def test_the_fake_log_counts_offsets_like_the_real_one() -> None:
    log = FakeLog()
    log.add(1, Proposal(EntryKind.NOOP, (), 0, 0, 0))
    log.add(1, Proposal(EntryKind.DATA, (b"x",), 1, 0, 3))
    assert (log.next_offset, log.index_of_offset(2), log.index_of_offset(3), log.term_runs()) == (3, 2, None, [(1, 1, 0)])


def test_the_little_that_is_left_of_an_entry_is_read_together_with_what_follows() -> None:
    replica = Replica()
    replica.lead()
    for _ in range(3):
        for _ in range(7):
            replica.append(batch(1))
        replica.collect()
        replica.commit()
    replica.group.log.memory_from = replica.group.log.last_index + 1
    limit = 6 * len(batch(1))
    pieces, offset = [], 0
    while offset < 21:
        got = offsets(replica, offset, limit)
        pieces.append(len(got))
        offset = got[-1] + 1
    assert pieces == [6, 6, 6, 3], "full answers, though entries hold seven"
    assert replica.group.disk_reads == 3, "each entry once"
