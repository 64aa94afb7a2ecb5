"""Reading a log from front to back out of its segments: what is read from the disk is what is handed out, and little more."""

from __future__ import annotations

from random import Random

import pytest

from tests.unit.wal.helpers import GROUP, add, open_store, settle
from wal.group_log import GroupLog
from wal.memory_filesystem import MemoryFile, MemoryFileSystem
from wal.settings import WalSettings
from wal.store import WalStore

LARGE = WalSettings(
    journal_file_bytes=8 << 20,
    segment_bytes=16 << 20,
    segment_piece_bytes=256 << 10,
    segment_piece_bytes_max=4 << 20,
    cache_bytes=0,
    reserve_bytes=0,
)


def written_log(sizes: list[int]) -> tuple[WalStore, GroupLog, int]:
    """A store with one log in segments; entries of `sizes` bytes and two records each. Returns also the sum of the sizes."""
    fs = MemoryFileSystem(Random(1))
    fs.mkdir("/")
    store = open_store(fs, LARGE)
    log = store.create_group(GROUP, "topic", b"voters")
    for size in sizes:
        add(log, 1, size)
        settle(store)
        log.advance_commit(log.last_index)
        settle(store)
    store = reopened(store, fs)
    return store, store.groups[GROUP], sum(sizes)


def reopened(store: WalStore, fs: MemoryFileSystem) -> WalStore:
    """All in segments, nothing in memory, nothing remembered."""
    for log in store.groups.values():
        if log.writable_bytes:
            store.written_behind_soon(log)
    settle(store)
    store.close()
    again = open_store(fs, LARGE)
    settle(again)
    return again


@pytest.mark.parametrize(
    ("sizes", "at_most"),
    [
        ([700_000] * 12, 1.05),
        ([1_200_000] * 8, 1.05),
        ([100_000] * 60, 1.15),
        ([2_000] * 1500, 1.25),
    ],
    ids=["0.7 MB", "1.2 MB", "100 KB", "2 KB"],
)
def test_a_consumer_that_reads_on_reads_each_byte_about_once(sizes: list[int], at_most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    _, log, total = written_log(sizes)
    read = 0
    pread = MemoryFile.pread

    def counted(self: MemoryFile, size: int, position: int) -> bytes:
        nonlocal read
        data = pread(self, size, position)
        read += len(data)
        return data

    monkeypatch.setattr(MemoryFile, "pread", counted)
    offset = handed_out = 0
    while offset < log.next_offset and log.index_of_offset(offset) is None:
        job = log.read_job_at_offset(offset, 1_000_000)
        job.run()
        assert job.entries[0].base_offset == offset
        offset = job.entries[-1].base_offset + job.entries[-1].record_count
        handed_out += sum(entry.size for entry in job.entries)
    assert handed_out > 0.8 * total, "most of the log lies in segments"
    assert read <= at_most * handed_out


def test_the_entry_that_crosses_the_limit_is_whole_and_the_last() -> None:
    _, log, _ = written_log([400_000] * 8)
    job = log.read_job_at_offset(0, 1_000_000)
    job.run()
    assert [entry.size for entry in job.entries] == [400_000] * 3


def test_entries_of_a_deleted_group_are_forgotten_with_it() -> None:
    store, log, _ = written_log([400_000] * 8)
    job = log.read_job_at_offset(0, 500_000)
    job.run()
    assert store.access._hints
    store.delete_group(GROUP)
    settle(store)
    assert not store.access._hints


@pytest.mark.parametrize("wrong", [4096, 5000], ids=["another entry", "inside an entry"])
def test_a_remembered_place_that_does_not_fit_is_not_believed(wrong: int) -> None:
    store, log, _ = written_log([400_000] * 8)
    job = log.read_job_at_offset(0, 500_000)
    job.run()
    ((key, _),) = store.access._hints.items()
    store.access.remember(*key, position=wrong)
    job = log.read_job_at_offset(key[2], 1)
    job.run()
    assert job.entries[0].base_offset == key[2]
