"""One group's log as the layers above see it: fulfils `wal.api.GroupLog`.

Owns the entries in memory, what is staged for the next flush, and the cursors. Only memory, only the loop thread. What is on disk is `DurableLog`'s.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import attrgetter, itemgetter
from typing import Protocol

from wal.api import AppliedState, HardState
from wal.durable import DurableLog, extend_runs, keep_last_base, trim_runs, truncate_runs
from wal.entry import Entry, EntryKind, GroupId
from wal.errors import check
from wal.frame import NEEDS_STATE_FLAG, Control, Copy, FrameKind, Item, pack_created
from wal.read_job import ReadJob, SegmentAccess, plan_read, plan_read_at_offset, plan_read_at_timestamp
from wal.segment import GroupKey

_offset_of = attrgetter("base_offset")
_first_index_of = itemgetter(1)


class Owner(Protocol):
    """What a log tells its store."""

    access: SegmentAccess
    entry_bytes_max: int
    memory_bytes: int

    def stage(self, log: GroupLog) -> None:
        """`log` has something staged."""

    def written_behind_soon(self, log: GroupLog) -> None:
        """`log` has a piece's worth of committed, flushed entries."""

    def piece_bytes(self) -> int: ...


class GroupLog:
    """See `wal.api.GroupLog`. Cursors besides those:

    `_entries`: entries in memory, consecutive, the last one is last_index. Invariant: everything above `durable.segments.written_index` is there,
    unless a snapshot was installed and is not flushed yet.
    `flight_index`: highest entry of the flush that is out, lowered by truncation, 0 none. Invariant: flushed_index only ever rises to it (a late
    fsync of an index that was truncated and rewritten must not count).
    `writable_index`: entries up to it are committed and flushed; `writable_bytes` of those are not in segments. Invariant: written_index ≤
    writable_index.
    `epoch`: rises when the log is replaced by a snapshot or deleted, so that work planned before is recognised.
    """

    __slots__ = (
        "_entries",
        "_owner",
        "_runs",
        "applied_state",
        "capture_state",
        "captured_commit",
        "committed_index",
        "configurations",
        "copied_generation",
        "deleted",
        "durable",
        "epoch",
        "first_index",
        "flight_index",
        "flushed_index",
        "group_id",
        "hard_state",
        "hard_state_staged",
        "is_staged",
        "key",
        "last_index",
        "last_term",
        "next_offset",
        "partition",
        "quarantined",
        "ready",
        "reset_pending",
        "staged",
        "start_offset",
        "topic",
        "writable_bytes",
        "writable_index",
    )

    def __init__(self, owner: Owner, group_id: GroupId, topic: str) -> None:
        self._owner = owner
        self.group_id = group_id
        self.topic = topic
        self.key: GroupKey = (group_id[:16], int.from_bytes(group_id[16:], "big"))
        self.partition = self.key[1]
        self.first_index = 1
        self.last_index = 0
        self.last_term = 0
        self.flushed_index = 0
        self.committed_index = 0
        self.next_offset = 0
        self.start_offset = 0
        self.hard_state = HardState(0, 0)
        self.quarantined = ""
        self.configurations: list[tuple[int, bytes]] = []
        self.applied_state: AppliedState | None = None
        self.capture_state: Callable[[], AppliedState | None] | None = None
        self.captured_commit = -1
        self._entries: list[Entry] = []
        self._runs: list[tuple[int, int, int]] = []
        self.staged: list[Item] = []
        self.hard_state_staged = False
        self.is_staged = False
        self.flight_index = 0
        self.durable = DurableLog()
        self.writable_index = 0
        self.writable_bytes = 0
        self.ready = False
        self.reset_pending = False
        self.epoch = 0
        self.copied_generation = 0
        self.deleted = False

    # -- made and recovered --------------------------------------------------------------------------------------------

    def create(self, configuration: bytes) -> None:
        """A new empty log with its first voters; staged."""
        self.configurations = [(0, configuration)]
        self.durable.configurations = [(0, configuration)]
        self._stage(Control(FrameKind.GROUP_CREATED, payload=pack_created(self.topic, configuration)))

    def recover(self, durable: DurableLog, entries: list[Entry]) -> None:
        """Begin with what is on disk: `durable`, and `entries`, those that are in no segment."""
        segments = durable.segments
        self.durable = durable
        self.hard_state = durable.hard_state
        self.quarantined = durable.quarantined
        self.first_index = durable.first_index
        self.start_offset = durable.start_offset
        self.configurations = list(durable.configurations)
        self.applied_state = durable.applied
        self._runs = list(segments.runs)
        extend_runs(self._runs, entries)
        self._entries = entries
        self.last_index = self.flushed_index = durable.last_index
        self.last_term = durable.last_term
        self.writable_index = segments.written_index
        self.committed_index = max(segments.written_index, durable.applied.index if durable.applied is not None else 0)
        self.next_offset = entries[-1].base_offset + entries[-1].record_count if entries else segments.written_offset
        self._owner.memory_bytes += sum(entry.size for entry in entries)
        self.advance_writable()

    # -- changes ------------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        index, term, offset, size = self.last_index, self.last_term, self.next_offset, 0
        runs = self._runs
        size_max = self._owner.entry_bytes_max
        for entry in entries:
            index += 1
            if entry.index != index or entry.term < term or entry.base_offset != offset or entry.size > size_max:
                self._refuse(entry, index, term, offset)
            if entry.term != term or not runs:
                term = entry.term
                runs.append((term, index, offset))
            if entry.kind == EntryKind.CONFIGURATION:
                self.configurations.append((index, entry.payload()))
            offset += entry.record_count
            size += entry.size
        self._entries.extend(entries)
        self.last_index, self.last_term, self.next_offset = index, term, offset
        self._owner.memory_bytes += size
        self.staged.extend(entries)
        if not self.is_staged:
            self._owner.stage(self)

    def truncate_suffix(self, index: int) -> None:
        if index > self.last_index:
            return
        check(
            index > self.committed_index,
            f"{self.topic}/{self.partition}: truncation at {index} would remove committed entries (committed up to {self.committed_index})",
        )
        keep = index - self._memory_first()
        removed = self._entries[keep:]
        self.next_offset = removed[0].base_offset
        del self._entries[keep:]
        self._owner.memory_bytes -= sum(entry.size for entry in removed)
        self.last_index = index - 1
        truncate_runs(self._runs, index)
        while self.configurations and self.configurations[-1][0] >= index:
            self.configurations.pop()
        self.last_term = self._run_term(index - 1)
        self.flushed_index = min(self.flushed_index, index - 1)
        self.flight_index = min(self.flight_index, index - 1)
        self.staged = [item for item in self.staged if item_index(item) < index]
        self._stage(Control(FrameKind.TRUNCATE_SUFFIX, self.last_term, index))

    def truncate_prefix(self, index: int, offset: int) -> None:
        index = max(index, self.first_index)
        offset = max(offset, self.start_offset)
        check(index <= self.committed_index + 1, f"{self.topic}/{self.partition}: log start {index} is above the committed {self.committed_index}")
        if index == self.first_index and offset == self.start_offset:
            return
        self.first_index = index
        self.start_offset = offset
        trim_runs(self._runs, index)
        keep_last_base(self.configurations, index)
        flags = NEEDS_STATE_FLAG if self.capture_state is not None else 0
        self._stage(Control(FrameKind.LOG_START, 0, index, offset, flags=flags))

    def install_snapshot(self, index: int, term: int, next_offset: int, configuration: bytes) -> None:
        self.drop_memory()
        self.staged = [item for item in self.staged if type(item) is Control and item.kind in (FrameKind.GROUP_CREATED, FrameKind.QUARANTINED)]
        self.first_index = index + 1
        self.last_index = self.committed_index = index
        self.flushed_index = min(self.flushed_index, index)
        self.last_term = term
        self.next_offset = self.start_offset = next_offset
        self.configurations = [(index, configuration)]
        self._runs = [(term, index, next_offset)] if index else []
        self.applied_state = None
        self._stage(Control(FrameKind.SNAPSHOT_INSTALLED, term, index, next_offset, configuration))

    def controls_staged(self) -> bool:
        return any(type(item) is Control for item in self.staged)

    def save_hard_state(self, term: int, vote: int) -> None:
        state = HardState(term, vote)
        if state == self.hard_state:
            return
        check(
            term > self.hard_state.term or (term == self.hard_state.term and self.hard_state.vote == 0),
            f"{self.topic}/{self.partition}: hard state would go back from {self.hard_state} to {state}",
        )
        self.hard_state = state
        self.hard_state_staged = True
        if not self.is_staged:
            self._owner.stage(self)

    def advance_commit(self, index: int) -> None:
        if index <= self.committed_index:
            return
        check(index <= self.last_index, f"{self.topic}/{self.partition}: commit {index} is behind the end {self.last_index}")
        self.committed_index = index
        self.advance_writable()

    def quarantine(self, reason: str) -> None:
        """Also lifts it: reason "". Staged with the end of the log, so that recovery knows what was proven whole."""
        if reason == self.quarantined:
            return
        self.quarantined = reason
        self._stage(Control(FrameKind.QUARANTINED, self.last_term, self.last_index, self.next_offset, reason.encode()))

    # -- reading ------------------------------------------------------------------------------------------------------

    def term(self, index: int) -> int | None:
        if index == self.last_index:
            return self.last_term
        if index > self.last_index or index < self.first_index - 1:
            return None
        return self._run_term(index)

    def term_runs(self) -> Sequence[tuple[int, int, int]]:
        return self._runs

    def memory_slice(self, low: int, max_bytes: int) -> list[Entry] | None:
        if low > self.last_index:
            return []
        entries = self._entries
        start = low - (self.last_index + 1 - len(entries))
        if start < 0 or low < self.first_index:
            return None
        stop = start + 1
        size = entries[start].size
        count = len(entries)
        while stop < count:
            size += entries[stop].size
            if size > max_bytes:
                break
            stop += 1
        return entries[start:stop]

    def index_of_offset(self, offset: int) -> int | None:
        entries = self._entries
        at = bisect_right(entries, offset, key=_offset_of) - 1
        if at < 0:
            return None
        entry = entries[at]
        if offset >= entry.base_offset + entry.record_count or entry.index < self.first_index:
            return None
        return entry.index

    def read_job(self, low: int, max_bytes: int) -> ReadJob:
        return plan_read(self, self._owner.access, low, max_bytes)

    def read_job_at_offset(self, offset: int, max_bytes: int) -> ReadJob:
        return plan_read_at_offset(self, self._owner.access, offset, max_bytes)

    def read_job_at_timestamp(self, timestamp_ms: int) -> ReadJob:
        return plan_read_at_timestamp(self, self._owner.access, timestamp_ms)

    @property
    def memory_entries(self) -> list[Entry]:
        """Entries in memory (not to be changed)."""
        return self._entries

    # -- for the store ------------------------------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        """Bytes of the log: its segments, and what is not written to them yet."""
        segments = self.durable.segments
        return segments.size_bytes() + sum(entry.size for entry in self._entries if entry.index > segments.written_index)

    def advance_flushed(self) -> None:
        """The flush that was out is durable."""
        if self.flight_index > self.flushed_index:
            self.flushed_index = self.flight_index
            self.advance_writable()
        self.flight_index = 0

    def advance_writable(self) -> None:
        """Count what is committed and flushed since the last time."""
        limit = min(self.committed_index, self.flushed_index)
        index = self.writable_index
        if limit <= index or self.reset_pending:
            return
        entries = self._entries
        base = self.last_index + 1 - len(entries)
        size = self.writable_bytes
        for at in range(index + 1 - base, limit + 1 - base):
            size += entries[at].size
        self.writable_index = limit
        self.writable_bytes = size
        if not self.ready and size >= self._owner.piece_bytes():
            self._owner.written_behind_soon(self)

    def writable_entries(self, max_bytes: int) -> list[Entry]:
        """Entries for the next piece: at least one if any is writable."""
        base = self._memory_first()
        start = self.durable.segments.written_index + 1 - base
        stop = self.writable_index + 1 - base
        size = 0
        entries = self._entries
        for at in range(start, stop):
            size += entries[at].size
            if size > max_bytes and at > start:
                return entries[start:at]
        return entries[start:stop]

    def stage_copies(self, generation: int) -> bool:
        """Stage again what is flushed only in journal generations ≤ `generation` and in no segment; False when there is nothing alive."""
        last = min(self.durable.last_needed_index(generation), self.flushed_index)
        base = self._memory_first()
        start = self.durable.segments.written_index + 1 - base
        if self.reset_pending or last + 1 - base <= start:
            return False
        self.copied_generation = generation
        copies: list[Item] = [Copy(entry) for entry in self._entries[start : last + 1 - base]]
        self.staged[:0] = copies
        if not self.is_staged:
            self._owner.stage(self)
        return True

    def evict(self, index: int) -> None:
        """Forget entries ≤ index that are in segments."""
        count = min(index, self.durable.segments.written_index) + 1 - self._memory_first()
        if count > 0 and not self.reset_pending:
            del self._entries[:count]

    def drop_memory(self) -> None:
        """Forget all entries: the log is replaced or deleted."""
        unwritten = self._memory_first()
        start = 0 if self.reset_pending else max(0, self.durable.segments.written_index + 1 - unwritten)
        self._owner.memory_bytes -= sum(entry.size for entry in self._entries[start:])
        self._entries = []
        self.flight_index = 0
        self.writable_bytes = 0
        self.hard_state_staged = self.hard_state_staged and not self.deleted
        self.reset_pending = True
        self.epoch += 1

    def reset_flushed(self) -> None:
        """The snapshot's frame is durable: the log goes on behind it."""
        self.reset_pending = False
        self.writable_index = self.durable.segments.written_index
        self.writable_bytes = 0
        self.flushed_index = max(self.flushed_index, self.writable_index)
        self.advance_writable()

    def _run_term(self, index: int) -> int:
        at = bisect_right(self._runs, index, key=_first_index_of)
        return self._runs[at - 1][0] if at else 0

    def _memory_first(self) -> int:
        return self.last_index + 1 - len(self._entries)

    def _stage(self, item: Item) -> None:
        self.staged.append(item)
        if not self.is_staged:
            self._owner.stage(self)

    def _refuse(self, entry: Entry, index: int, term: int, offset: int) -> None:
        check(
            False,
            f"{self.topic}/{self.partition}: entry {entry!r} can not be appended: wanted index {index}, term ≥ {term}, offset {offset}, "
            f"size ≤ {self._owner.entry_bytes_max}",
        )


def item_index(item: Item) -> int:
    """Index of an entry or a repeated entry, 0 for what is no entry."""
    if type(item) is Entry:
        return item.index
    return item.entry.index if type(item) is Copy else 0
