from random import Random

import pytest

from tests.unit.wal.helpers import SMALL, add, flush, new_store, open_store, settle
from wal.api import Job
from wal.entry import group_id
from wal.group_log import GroupLog
from wal.memory_filesystem import MemoryFileSystem
from wal.segment import PieceTask
from wal.settings import WalSettings
from wal.store import WalStore
from wal.write_behind import JOB_GROUPS


def committed(log: GroupLog, store: WalStore) -> None:
    """Flush what is there and commit it, so that it may be written behind."""
    while store.has_staged():
        flush(store)
    log.advance_commit(log.last_index)


def background(store: WalStore) -> Job | None:
    job = store.next_background()
    if job is not None:
        job.run()
        job.complete()
    return job


def test_one_job_writes_a_piece_of_each_group_and_takes_no_more_than_its_share():
    fs = MemoryFileSystem(Random(1))
    store = open_store(fs, WalSettings(journal_file_bytes=4 << 20, segment_piece_bytes=4096, reserve_bytes=0))
    logs = [store.create_group(group_id(bytes([9] * 16), at), f"t{at}", b"") for at in range(JOB_GROUPS + 5)]
    for log in logs:
        add(log, 5, 1000)
    while store.has_staged():
        flush(store)
    for log in logs:
        log.advance_commit(5)
    assert store.memory_bytes == 5000 * len(logs)
    background(store)
    assert [log.durable.segments.written_index for log in logs] == [5] * JOB_GROUPS + [0] * 5
    assert store.memory_bytes == 5000 * 5
    background(store)
    assert all(log.durable.segments.written_index == 5 for log in logs) and store.memory_bytes == 0
    assert store.next_background() is None


def test_less_than_a_piece_waits():
    _, store, log = new_store()
    add(log, 3, 1000)
    committed(log, store)
    assert store.next_background() is None
    add(log, 2, 1000)
    committed(log, store)
    assert background(store) is not None and log.durable.segments.written_index == 5


def many_groups(count: int, settings: WalSettings) -> tuple[WalStore, list[GroupLog]]:
    store = open_store(MemoryFileSystem(Random(1)), settings)
    return store, [store.create_group(group_id(bytes([9] * 16), at), f"t{at}", b"") for at in range(count)]


def test_when_memory_runs_short_the_largest_are_written_though_they_have_less_than_a_piece():
    store, logs = many_groups(5, WalSettings(journal_file_bytes=4 << 20, segment_piece_bytes=1 << 20, memory_limit_bytes=100_000, reserve_bytes=0))
    for count, log in enumerate(logs):
        add(log, 1 + 6 * count, 1000)
        committed(log, store)
    assert store.memory_bytes == 65_000
    assert store.next_background() is None, "three quarters of the limit are not reached"
    add(logs[0], 15, 1000)
    committed(logs[0], store)
    assert background(store) is not None and store.memory_bytes < 75_000
    assert all(log.durable.segments.written_index == log.last_index for log in logs), "one job has room for all of them"
    assert store.next_background() is None


def test_when_memory_runs_short_the_largest_come_first():
    count = JOB_GROUPS + 6
    settings = WalSettings(journal_file_bytes=4 << 20, segment_piece_bytes=1 << 20, memory_limit_bytes=count * 1500, reserve_bytes=0)
    store, logs = many_groups(count, settings)
    small = logs[10:16]
    for log in logs:
        add(log, 1 if log in small else 2, 1000)
    for log in logs:
        committed(log, store)
    assert background(store) is not None
    assert [log for log in logs if not log.durable.segments.written_index] == small


def test_when_memory_runs_short_what_is_not_committed_waits_for_its_commit():
    settings = WalSettings(journal_file_bytes=4 << 20, segment_piece_bytes=1 << 20, memory_limit_bytes=10_000, reserve_bytes=0)
    store, (log, other) = many_groups(2, settings)
    add(log, 9, 1000)
    while store.has_staged():
        flush(store)
    assert store.memory_is_short() and store.next_background() is None
    add(other, 1, 100)
    committed(other, store)
    assert background(store) is not None and other.durable.segments.written_index == 1, "however little it is"
    assert store.next_background() is None
    log.advance_commit(9)
    assert background(store) is not None and log.durable.segments.written_index == 9
    assert not store.memory_is_short()


@pytest.mark.parametrize("groups", [3, 20, 70, 200])
def test_producers_that_wait_for_memory_are_let_on(groups: int):
    """1,000 partitions with some records each: memory was full, none had a piece's worth, the journal stood, all waited for ever."""
    settings = WalSettings(journal_file_bytes=256 << 10, segment_piece_bytes=128 << 10, buffer_bytes=64 << 10, reserve_bytes=0)
    store, logs = many_groups(groups, settings)
    source = Random(groups)
    stopped = 0
    for _ in range(300):
        while store.memory_bytes <= settings.memory_limit and source.random() < 0.99:
            add(source.choice(logs), 1, source.randrange(4, 4000))
        short = store.memory_bytes > settings.memory_limit
        stopped += short
        settle(store)
        while any(log.committed_index < log.flushed_index for log in logs):
            for log in logs:
                log.advance_commit(log.flushed_index)
            settle(store)
        assert not store.memory_is_short() and not store.has_staged()
    assert stopped > 10


def test_without_space_a_piece_is_planned_again():
    _, store, log = new_store()
    add(log, 5, 1000)
    committed(log, store)
    job = store.next_background()
    assert job is not None
    job.failed = True  # as `run` says when the disk is full
    assert store.disk_full is False
    again = store.next_background()
    assert store.disk_full and again is not None and again is not job
    tasks: list[PieceTask] = again.tasks
    assert [task.resume for task in tasks] == [False] and log.durable.segments.resume is True
    again.run()
    again.complete()
    assert log.durable.segments.written_index == 5 and not log.durable.segments.resume and not store.disk_full


def test_readers_of_the_tail_find_what_was_written_behind_in_memory_within_the_bound():
    fs = MemoryFileSystem(Random(1))
    store = open_store(fs, WalSettings(journal_file_bytes=1 << 20, segment_piece_bytes=SMALL.segment_piece_bytes, cache_bytes=7000, reserve_bytes=0))
    log = store.create_group(group_id(bytes(16), 1), "topic", b"")
    for _ in range(3):
        add(log, 5, 1000)
        committed(log, store)
        background(store)
    assert log.durable.segments.written_index == 15
    assert log.memory_slice(10, 1) is None and log.memory_slice(11, 1) is not None


def test_what_a_snapshot_replaced_while_it_was_written_does_not_count():
    _, store, log = new_store()
    add(log, 5, 1000)
    committed(log, store)
    job = store.next_background()
    assert job is not None
    job.run()
    log.install_snapshot(20, 2, 40, b"voters")
    job.complete()
    assert log.durable.segments.written_index == 0 and store.memory_bytes == 0
