"""Write-behind: which committed entries go to segments next, and what follows when they are there.

Owns who has enough to write, which segment files are not fsynced yet, and how much of what was written stays in memory for readers of the tail. The
store decides when a job runs. Loop thread only, but for the jobs themselves.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

from wal.errors import check
from wal.filesystem import FileSystem
from wal.group_log import GroupLog, Owner
from wal.jobs import WriteBehindJob
from wal.region import RegionWriter
from wal.segment import Describe, PieceTask, SegmentHeader, SegmentInfo, entry_frames_bytes
from wal.settings import BLOCK_BYTES, WalSettings

JOB_BYTES = 16 << 20
JOB_GROUPS = 64


class WriteBehind:
    """One per store.

    `ready`: logs with a piece's worth to write. `holding`: logs with flushed entries in no segment; both in the order in which they came.
    `unsynced`: segment files written since the last checkpoint; the next one fsyncs them. Invariant: what is in a segment is counted in
    `Owner.memory_bytes` no more.
    """

    __slots__ = ("_cached", "_cached_bytes", "_describe", "_directory", "_fs", "_owner", "_settings", "_writer", "holding", "ready", "unsynced")

    def __init__(self, owner: Owner, fs: FileSystem, directory: str, settings: WalSettings, describe: Describe) -> None:
        self._owner = owner
        self._fs = fs
        self._directory = directory
        self._settings = settings
        self._describe = describe
        self._writer = RegionWriter(settings.buffer_bytes)
        self.ready: dict[GroupLog, None] = {}
        self.holding: dict[GroupLog, None] = {}
        self.unsynced: dict[str, None] = {}
        self._cached: deque[tuple[GroupLog, int, int]] = deque()  # (log, last index, bytes) of what is in a segment and still in memory
        self._cached_bytes = 0

    def soon(self, log: GroupLog) -> None:
        log.ready = True
        self.ready[log] = None

    def forget(self, log: GroupLog) -> None:
        """The log is deleted."""
        self.ready.pop(log, None)

    def unwritten(self) -> list[GroupLog]:
        """Logs with anything that may be written, be it less than a piece."""
        return [log for log in self.holding if log.writable_index > log.durable.segments.written_index]

    def largest(self) -> list[GroupLog]:
        """As many logs as one job takes: those with the most to write."""
        return heapq.nlargest(JOB_GROUPS, self.holding, key=lambda log: log.writable_bytes)

    def plan(self, logs: Sequence[GroupLog], generation: int) -> WriteBehindJob | None:
        """One piece for each of `logs`, within the limits of one job; `generation`: of the journal file that is being written."""
        job = WriteBehindJob(self._fs, self._directory, self._writer, self._describe, self._settings.direct)
        for log in logs:
            if job.size_bytes >= JOB_BYTES or len(job.tasks) >= JOB_GROUPS:
                break
            self.ready.pop(log, None)
            log.ready = False
            if log.reset_pending or log.writable_index <= log.durable.segments.written_index:
                continue
            job.add(log, self._plan_piece(log, generation))
        return job if job.tasks else None

    def _plan_piece(self, log: GroupLog, generation: int) -> PieceTask:
        segments = log.durable.segments
        entries = log.writable_entries(self._settings.segment_piece_bytes_max)
        active = segments.active
        directory = f"{self._directory}/wal/{log.topic}"
        if active is None or active.end_position + entry_frames_bytes(entries) > self._settings.segment_bytes:
            number = segments.next_number
            first = entries[0]
            header = SegmentHeader(log.key[0], log.partition, number, first.index, first.base_offset, segments.written_term, log.topic)
            task = PieceTask(directory, log.key, entries, (number, BLOCK_BYTES, 0), header)
        else:
            task = PieceTask(directory, log.key, entries, (active.number, active.end_position, active.pieces), None)
            task.resume = segments.resume
        task.generation = generation
        return task

    def failed(self, job: WriteBehindJob) -> None:
        """There was no space: what the job was to write is planned again."""
        for log in job.logs:
            log.durable.segments.resume = True
            self._soon_again(log)

    def complete(self, job: WriteBehindJob) -> None:
        """The pieces are in their files, not fsynced yet. What a snapshot replaced meanwhile does not count."""
        for log, task, epoch in zip(job.logs, job.tasks, job.epochs, strict=True):
            if log.epoch == epoch:
                self._written(log, task)

    def _written(self, log: GroupLog, task: PieceTask) -> None:
        record = task.record
        if record is None:
            check(False, f"piece of {task.path} has no record")
            return
        durable = log.durable
        segments = durable.segments
        entries = task.entries
        last = entries[-1]
        number, position, _ = task.place
        if task.header is not None:
            if segments.active is not None:
                segments.active.recent.clear()
                segments.sealed.append(segments.active)
            segments.active = SegmentInfo(number, record.first_index, record.base_offset, last.index, position, record.max_timestamp, 0)
            segments.next_number = number + 1
        active = segments.active
        if active is None:
            check(False, f"piece of {task.path} belongs to no segment")
            return
        segments.resume = False
        active.recent.append(record)
        active.pieces += 1
        active.last_index = last.index
        active.end_position = position + task.size
        active.max_timestamp = max(active.max_timestamp, record.max_timestamp)
        term = segments.runs[-1][0] if segments.runs else -1
        size = 0
        for entry in entries:
            size += entry.size
            if entry.term != term:
                term = entry.term
                segments.runs.append((term, entry.index, entry.base_offset))
        segments.written_index, segments.written_term, segments.written_offset = last.index, last.term, last.base_offset + last.record_count
        durable.prune()
        if not durable.ranges:
            self.holding.pop(log, None)
        log.writable_bytes -= size
        self._owner.memory_bytes -= size
        self.unsynced[task.path] = None
        self._soon_again(log)
        self._cached.append((log, last.index, size))
        self._cached_bytes += size
        while self._cached and self._cached_bytes > self._settings.cache_bytes:
            oldest, index, freed = self._cached.popleft()
            self._cached_bytes -= freed
            oldest.evict(index)

    def _soon_again(self, log: GroupLog) -> None:
        if not log.deleted and log.writable_bytes >= self._settings.segment_piece_bytes:
            self.soon(log)
