"""Small things that the tests of the log share."""

from __future__ import annotations

from random import Random

from crc32c import crc32c

from wal.entry import Entry, EntryKind, GroupId, group_id
from wal.filesystem import FileSystem
from wal.group_log import GroupLog
from wal.memory_filesystem import MemoryFileSystem
from wal.settings import WalSettings
from wal.store import WalStore

SMALL = WalSettings(
    journal_file_bytes=32 << 10,
    segment_bytes=16 << 10,
    segment_piece_bytes=4 << 10,
    segment_piece_bytes_max=8 << 10,
    buffer_bytes=8 << 10,
    cache_bytes=0,
    reserve_bytes=0,
)
GROUP = group_id(bytes(range(16)), 3)


def make_entry(log: GroupLog, payload: bytes = b"payload", term: int = 1, kind: int = EntryKind.DATA, records: int = 2) -> Entry:
    """The next entry of `log`."""
    count = records if kind == EntryKind.DATA else 0
    return Entry(term, log.last_index + 1, kind, [payload[:3], payload[3:]], len(payload), crc32c(payload), log.next_offset, count)


def add(log: GroupLog, count: int = 1, size: int = 100, term: int = 1) -> None:
    for _ in range(count):
        index = log.last_index + 1
        log.append([make_entry(log, index.to_bytes(4, "big") * (size // 4), term)])


def flush(store: WalStore) -> None:
    """One flush, completed."""
    job = store.next_flush()
    assert job is not None
    job.run()
    job.complete()


def settle(store: WalStore) -> None:
    """All work that there is."""
    busy = True
    while busy:
        jobs = [store.next_flush(), store.next_background()]
        for job in jobs:
            if job is not None:
                job.run()
                job.complete()
        busy = any(job is not None for job in jobs)


def open_store(fs: FileSystem, settings: WalSettings = SMALL, directory: str = "/d") -> WalStore:
    return WalStore.open(fs, directory, settings, lambda chunks: int.from_bytes(bytes(chunks[0])[:3] + b"".join(chunks)[3:4], "big"))


def new_store(group: GroupId = GROUP) -> tuple[MemoryFileSystem, WalStore, GroupLog]:
    fs = MemoryFileSystem(Random(1))
    fs.mkdir("/")
    store = open_store(fs)
    return fs, store, store.create_group(group, "topic", b"voters")


def payloads(log: GroupLog, low: int = 1) -> list[bytes]:
    found: list[bytes] = []
    while low <= log.last_index:
        job = log.read_job(low, 5000)
        job.run()
        assert job.entries[0].index == low
        found += [entry.payload() for entry in job.entries]
        low = job.entries[-1].index + 1
    return found
