"""Finding an offset by time: ListOffsets with a timestamp, and the record with the largest one (KIP-734).

Pieces of the log are read and searched on a disk thread, one after the other, because the batch that matters must be decompressed; no piece and no
decompressed batch is larger than a bound. The log's time index gives the piece to begin with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from broker.errors import ErrorCode
from broker.partition.reading import slice_chunks
from broker.records.batch import LOG_APPEND_TIME_BIT, LOG_OVERHEAD_BYTES, stored_batches
from broker.records.reader import RecordError, read_batch
from raft.api import Group
from wal.api import GroupLog, ReadJob
from wal.entry import Entry, EntryKind

PIECE_BYTES = 4 * 1024 * 1024


class Found(NamedTuple):
    timestamp: int
    offset: int
    leader_epoch: int


class Wanted(NamedTuple):
    """The first record with a timestamp ≥ `timestamp` ms and start_offset ≤ offset < end_offset. `max_bytes` bounds a decompressed batch."""

    timestamp: int
    start_offset: int
    end_offset: int
    max_bytes: int


def search(entries: Sequence[Entry], wanted: Wanted) -> Found | None:
    """The wanted record in `entries`.

    A batch whose records can not be read (a client's own damage: batches are stored as sent) stands for itself with its base offset, so that a
    consumer begins a little early rather than not at all.
    """
    for entry in entries:
        if entry.kind != EntryKind.DATA or entry.base_offset + entry.record_count <= wanted.start_offset:
            continue
        if entry.base_offset >= wanted.end_offset:
            return None
        if 0 <= entry.max_timestamp < wanted.timestamp:
            continue
        position = 0
        for base_offset, length, attributes, delta, newest, _, _, _ in stored_batches(entry.chunks):
            size = LOG_OVERHEAD_BYTES + length
            if newest >= wanted.timestamp and base_offset + delta >= wanted.start_offset:
                batch = b"".join(slice_chunks(entry.chunks, position, position + size))
                found = _in_batch(batch, wanted, Found(newest, max(base_offset, wanted.start_offset), 0), attributes)
                if found is not None:
                    return found._replace(leader_epoch=int.from_bytes(batch[12:16], "big", signed=True))
            position += size
    return None


def _in_batch(batch: bytes, wanted: Wanted, whole: Found, attributes: int) -> Found | None:
    if attributes & LOG_APPEND_TIME_BIT:
        return whole
    try:
        for record in read_batch(batch, wanted.max_bytes):
            if record.timestamp >= wanted.timestamp and record.offset >= wanted.start_offset:
                return Found(record.timestamp, record.offset, 0)
    except RecordError:
        return whole
    return None


class Newest:
    """A search that goes through everything and remembers the first batch with the largest timestamp; looks at headers only."""

    __slots__ = ("base_offset", "timestamp")

    def __init__(self) -> None:
        self.timestamp = -1
        self.base_offset = -1

    def search(self, entries: Sequence[Entry], wanted: Wanted) -> Found | None:
        for entry in entries:
            if entry.kind != EntryKind.DATA or entry.base_offset >= wanted.end_offset or 0 <= entry.max_timestamp <= self.timestamp:
                continue
            for base_offset, _, _, delta, newest, _, _, _ in stored_batches(entry.chunks):
                if newest > self.timestamp and base_offset + delta >= wanted.start_offset:
                    self.timestamp, self.base_offset = newest, base_offset
        return None


Search = Callable[[Sequence[Entry], Wanted], Found | None]


class SearchJob:
    """A ReadJob that searches what it read on the same thread; without `job` it searches entries that are in memory."""

    __slots__ = ("_job", "_search", "_wanted", "entries", "found")

    def __init__(self, search: Search, wanted: Wanted, job: ReadJob | None, entries: Sequence[Entry] = ()) -> None:
        self._search = search
        self._wanted = wanted
        self._job = job
        self.entries: list[Entry] = list(entries)
        self.found: Found | None = None

    def run(self) -> None:
        if self._job is not None:
            self._job.run()
            self.entries = self._job.entries
        self.found = self._search(self.entries, self._wanted)


class TimestampLookup:
    """One search, piece after piece, until the record is found or the high watermark is reached. `done(error, found or None)` is called once."""

    __slots__ = ("_done", "_group", "_search", "_wanted")

    def __init__(self, group: Group, wanted: Wanted, done: Callable[[ErrorCode, Found | None], None], search: Search = search) -> None:
        self._group = group
        self._search = search
        self._wanted = wanted
        self._done = done

    def by_time(self) -> None:
        self._run(SearchJob(self._search, self._wanted, self._group.log.read_job_at_timestamp(self._wanted.timestamp)))

    def at_offset(self, offset: int) -> None:
        """Begin with the entry that holds `offset`."""
        log = self._group.log
        index = log.index_of_offset(offset)
        if index is None:
            self._run(SearchJob(self._search, self._wanted, log.read_job_at_offset(offset, PIECE_BYTES)))
        else:
            self._continue(index)

    def _run(self, job: SearchJob) -> None:
        self._group.read(job, lambda error: self._on_read(job, error))

    def _on_read(self, job: SearchJob, error: BaseException | None) -> None:
        if error is not None:
            self._done(ErrorCode.KAFKA_STORAGE_ERROR, None)
        elif job.found is not None:
            self._done(ErrorCode.NONE, job.found)
        else:
            self._continue(job.entries[-1].index + 1 if job.entries else first_in_memory(self._group.log))

    def _continue(self, index: int) -> None:
        log = self._group.log
        entries = log.memory_slice(index, PIECE_BYTES)
        if entries is None:
            self._run(SearchJob(self._search, self._wanted, log.read_job(index, PIECE_BYTES)))
        elif entries and entries[0].base_offset < self._wanted.end_offset:
            self._run(SearchJob(self._search, self._wanted, None, entries))
        else:
            self._done(ErrorCode.NONE, None)


def first_in_memory(log: GroupLog) -> int:
    """The lowest index whose entry is in memory, last_index + 1 when none is."""
    low, high = log.first_index, log.last_index + 1
    while low < high:
        middle = (low + high) // 2
        if log.memory_slice(middle, 1) is None:
            low = middle + 1
        else:
            high = middle
    return low
