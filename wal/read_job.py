"""Reads from segments: planned on the loop thread, run on a disk thread.

A job holds only copies of what it needs, so that it may run beside everything else; the cache of sparse indexes is the one thing that jobs share,
under a lock. A file that is gone when the job runs was trimmed: the job then has no entries.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from operator import attrgetter
from threading import Lock
from typing import TYPE_CHECKING

from wal.entry import Entry
from wal.errors import DamageError
from wal.filesystem import FileSystem
from wal.segment import Describe, GroupKey, PieceIndex, PieceRecord, SegmentInfo, SegmentReader, load_index, read_entries, rebuild_index, segment_name

if TYPE_CHECKING:
    from wal.group_log import GroupLog

INDEXES_MAX = 128
HINTS_MAX = 1024


class SegmentAccess:
    """How read jobs reach segment files: file system, directories, cached indexes. Safe from any thread.

    It also remembers where the last readers ended, (path, group, offset) -> position: whoever reads on from there finds the place without a walk.
    """

    __slots__ = ("_cache", "_hints", "_lock", "describe", "directory", "fs")

    def __init__(self, fs: FileSystem, directory: str, describe: Describe) -> None:
        self.fs = fs
        self.directory = directory
        self.describe = describe
        self._cache: OrderedDict[tuple[str, GroupKey], PieceIndex] = OrderedDict()
        self._hints: OrderedDict[tuple[str, GroupKey, int], int] = OrderedDict()
        self._lock = Lock()

    def hint(self, path: str, group: GroupKey, offset: int) -> int | None:
        """The position of the entry that begins with `offset`, if a reader ended there not long ago."""
        with self._lock:
            return self._hints.get((path, group, offset))

    def remember(self, path: str, group: GroupKey, offset: int, position: int) -> None:
        with self._lock:
            self._hints[path, group, offset] = position
            self._hints.move_to_end((path, group, offset))
            while len(self._hints) > HINTS_MAX:
                self._hints.popitem(last=False)

    def index(self, path: str, group: GroupKey, end_position: int, whole: bool) -> PieceIndex:
        """The index of a segment. Unless `whole`, it may be one from when the file was shorter than `end_position`."""
        with self._lock:
            found = self._cache.get((path, group))
            if found is not None and (not whole or found.end_position >= end_position):
                self._cache.move_to_end((path, group))
                return found
        return self.keep(path, group, load_index(self.fs, path, group, end_position, self.describe))

    def rebuild(self, path: str, group: GroupKey, end_position: int) -> PieceIndex:
        """Make the index from the segment, because the sidecar does not agree with it."""
        return self.keep(path, group, rebuild_index(self.fs, path, group, end_position, self.describe))

    def keep(self, path: str, group: GroupKey, index: PieceIndex) -> PieceIndex:
        with self._lock:
            self._cache[path, group] = index
            while len(self._cache) > INDEXES_MAX:
                self._cache.popitem(last=False)
        return index

    def forget(self, path: str) -> None:
        with self._lock:
            for key in [key for key in self._cache if key[0] == path]:
                del self._cache[key]
            for hint in [hint for hint in self._hints if hint[0] == path]:
                del self._hints[hint]

    def forget_group(self, topic_id: bytes, partition: int) -> None:
        with self._lock:
            for key in [key for key in self._cache if key[1] == (topic_id, partition)]:
                del self._cache[key]
            for hint in [hint for hint in self._hints if hint[1] == (topic_id, partition)]:
                del self._hints[hint]


class ReadJob:
    """See `wal.api.ReadJob`. `run` raises DamageError when the bytes are not what was written: the caller quarantines the group."""

    __slots__ = ("_access", "_end", "_group", "_limits", "_path", "_start", "entries")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self._access: SegmentAccess | None = None

    def plan(self, access: SegmentAccess, place: tuple[str, GroupKey, int, int | None], limits: tuple[int, int, int, int, int]) -> None:
        """`place` = (path, group, end position, position of the piece if known); `limits` = (low index or -1, offset or -1, timestamp or -1, stop
        index, max bytes)."""
        self._access = access
        self._path, self._group, self._end, self._start = place
        self._limits = limits

    def run(self) -> None:
        access = self._access
        if access is None:
            return
        try:
            file = access.fs.open(self._path)
        except FileNotFoundError:
            return
        try:
            reader = SegmentReader(file, self._path, self._group)
            entries = self._read_on(access, reader)
            if entries:
                self.entries = entries
                return
            try:
                entries = self._read(access, reader, self._start)
            except DamageError:
                if self._start is not None:
                    raise
                entries = []
            if not entries and self._start is None:
                # The sidecar may be wrong: only the segment itself can say that it is damaged.
                access.rebuild(self._path, self._group, self._end)
                entries = self._read(access, reader, None)
            if not entries:
                raise DamageError(f"{self._path}: what was written before position {self._end} is not there (looked for {self._limits[:3]})")
            self.entries = entries
        finally:
            file.close()

    def _read_on(self, access: SegmentAccess, reader: SegmentReader) -> list[Entry]:
        """From where a reader ended; nothing when none is known to have ended here."""
        offset, stop, max_bytes = self._limits[1], self._limits[3], self._limits[4]
        position = access.hint(self._path, self._group, offset) if offset >= 0 else None
        if position is None:
            return []
        try:
            return self._read_from_offset(access, reader, position, self._end, (offset, stop, max_bytes))
        except DamageError:
            return []  # the place may be what is wrong: the ordinary way tells whether the segment is

    def _read_from_offset(self, access: SegmentAccess, reader: SegmentReader, start: int, end: int, limits: tuple[int, int, int]) -> list[Entry]:
        """Entries from the DATA entry that holds `offset` on, whole, until `max_bytes` are reached; nothing when there is none in [start, end).

        `limits` = (offset, stop index, max bytes).
        """
        offset, stop, max_bytes = limits
        for position, header, _ in reader.frames(start, end, 1 << 62):
            if header.base_offset > offset:
                break
            if header.base_offset + header.record_count > offset:
                entries, behind = read_entries(reader, position, end, header.index, stop, max_bytes, True)
                if entries and behind < end:
                    access.remember(self._path, self._group, entries[-1].base_offset + entries[-1].record_count, behind)
                return entries
        return []

    def _read(self, access: SegmentAccess, reader: SegmentReader, start: int | None) -> list[Entry]:
        low, offset, timestamp, stop, max_bytes = self._limits
        end = self._end
        if start is None:
            index = access.index(self._path, self._group, self._end, timestamp >= 0)
            if not index.positions:
                return []
            if timestamp >= 0:
                at = next((at for at, stamp in enumerate(index.max_timestamps) if stamp >= timestamp), len(index.positions) - 1)
            elif offset >= 0:
                at = bisect_right(index.offsets, offset) - 1
            else:
                at = bisect_right(index.first_indexes, low) - 1
            if at < 0:
                return []
            start = index.positions[at]
            if timestamp >= 0 and at + 1 < len(index.positions):
                end = index.positions[at + 1]
        if timestamp >= 0:
            return read_entries(reader, start, end, max(low, 0), stop, max_bytes)[0]
        if offset >= 0:
            return self._read_from_offset(access, reader, start, end, (offset, stop, max_bytes))
        entries, _ = read_entries(reader, start, end, low, stop, max_bytes)
        return entries if entries and entries[0].index == low else []


def _place(log: GroupLog, access: SegmentAccess, info: SegmentInfo, start: int | None) -> tuple[str, GroupKey, int, int | None]:
    path = f"{access.directory}/{log.topic}/{segment_name(log.partition, info.number)}"
    return path, log.key, info.end_position, start


def plan_read(log: GroupLog, access: SegmentAccess, low: int, max_bytes: int) -> ReadJob:
    """From index `low`; from memory if it is there."""
    job = ReadJob(log.memory_slice(low, max_bytes) or [])
    if job.entries or low < log.first_index or low > log.last_index:
        return job
    infos = log.durable.segments.all()
    at = bisect_right(infos, low, key=attrgetter("first_index")) - 1
    if at >= 0 and low <= infos[at].last_index:
        start = _recent(infos[at].recent, low, "first_index")
        job.plan(access, _place(log, access, infos[at], start), (low, -1, -1, infos[at].last_index + 1, max_bytes))
    return job


def plan_read_at_offset(log: GroupLog, access: SegmentAccess, offset: int, max_bytes: int) -> ReadJob:
    """From the DATA entry that holds `offset`; from memory if it is there."""
    index = log.index_of_offset(offset)
    if index is not None:
        return ReadJob(log.memory_slice(index, max_bytes) or [])
    job = ReadJob([])
    infos = log.durable.segments.all()
    at = bisect_right(infos, offset, key=attrgetter("first_offset")) - 1
    if at >= 0 and log.start_offset <= offset < log.durable.segments.written_offset:
        start = _recent(infos[at].recent, offset, "base_offset")
        job.plan(access, _place(log, access, infos[at], start), (-1, offset, -1, infos[at].last_index + 1, max_bytes))
    return job


def plan_read_at_timestamp(log: GroupLog, access: SegmentAccess, timestamp_ms: int) -> ReadJob:
    """One piece that may hold the first record with a timestamp ≥ timestamp_ms; entries in memory when no segment may hold it."""
    for info in log.durable.segments.all():
        if info.max_timestamp >= timestamp_ms and info.last_index >= log.first_index:
            job = ReadJob([])
            low = log.first_index if info.first_index < log.first_index else -1
            job.plan(access, _place(log, access, info, None), (low, -1, max(timestamp_ms, 0), info.last_index + 1, 1 << 62))
            return job
    entries = log.memory_entries
    low = max(log.first_index, log.durable.segments.written_index + 1)
    start = bisect_left(entries, low, key=attrgetter("index"))
    return ReadJob(entries[start:])


def _recent(recent: list[PieceRecord], wanted: int, name: str) -> int | None:
    """Position of the piece among those written since open, None when it is older."""
    at = bisect_right(recent, wanted, key=attrgetter(name)) - 1
    return recent[at].position if at >= 0 else None
