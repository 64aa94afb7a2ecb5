"""What recovery would find of one group if the process died now: the state that checkpoints are made of.

`DurableLog` is changed only when a flush has completed or a piece has been written, by the same frames that recovery reads; so a checkpoint taken at
any moment equals the journal up to the last completed flush. Lives on the loop thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from wal.api import AppliedState, HardState
from wal.entry import Entry, EntryKind
from wal.frame import NEEDS_STATE_FLAG, Control, FrameKind, Item
from wal.segment import Segments

Configurations = list[tuple[int, bytes]]


def raise_hard_state(current: HardState, term: int, vote: int) -> HardState:
    """The later of two hard states: terms never go down, a vote is never taken back."""
    if term > current.term:
        return HardState(term, vote)
    if term == current.term and vote:
        return HardState(term, vote)
    return current


class DurableLog:
    """Durable part of a group.

    `exists`: group_created is flushed and group_deleted is not. `last_index`, `last_term`: end of what is flushed and not cut by a flushed
    truncation.
    `ranges`: (first index, journal generation) of what is flushed and not in segments, ascending by index, each up to the next one.
    Invariant: `ranges` is empty exactly if last_index ≤ segments.written_index.
    """

    __slots__ = (
        "applied",
        "configurations",
        "exists",
        "first_index",
        "hard_state",
        "last_index",
        "last_term",
        "needs_state",
        "quarantined",
        "ranges",
        "segments",
        "start_offset",
    )

    def __init__(self) -> None:
        self.exists = False
        self.applied: AppliedState | None = None  # of the last checkpoint
        self.hard_state = HardState(0, 0)
        self.first_index = 1
        self.start_offset = 0
        self.needs_state = False
        self.last_index = 0
        self.last_term = 0
        self.quarantined = ""
        self.configurations: Configurations = []
        self.segments = Segments(0, 0, 0)
        self.ranges: list[tuple[int, int]] = []

    def add_entries(self, first: Entry, last: Entry, generation: int) -> None:
        """Entries first … last are flushed in `generation`."""
        if last.index <= self.segments.written_index:
            return
        if not self.ranges or self.ranges[-1][1] != generation:
            self.ranges.append((first.index, generation))
        self.last_index = last.index
        self.last_term = last.term

    def apply(self, items: Sequence[Item], generation: int) -> None:
        """All frames of this group in a completed flush, in order (the slow way, for flushes with more than entries)."""
        for item in items:
            if type(item) is Entry:
                self.add_entries(item, item, generation)
                if item.kind == EntryKind.CONFIGURATION:
                    self.configurations.append((item.index, item.payload()))
            elif type(item) is Control:
                self._apply_control(item)
            else:
                self._move(item.entry.index, generation)  # type: ignore[union-attr]

    def _apply_control(self, item: Control) -> None:
        match item.kind:
            case FrameKind.HARD_STATE:
                self.hard_state = raise_hard_state(self.hard_state, item.term, item.index)
            case FrameKind.TRUNCATE_SUFFIX:
                self.truncate(item.index, item.term)
            case FrameKind.LOG_START:
                self.first_index = max(self.first_index, item.index)
                self.start_offset = max(self.start_offset, item.base_offset)
                self.needs_state = bool(item.flags & NEEDS_STATE_FLAG)
                keep_last_base(self.configurations, self.first_index)
            case FrameKind.SNAPSHOT_INSTALLED:
                self.segments.reset(item.index, item.term, item.base_offset)
                self.segments.obsolete.sort()
                self.ranges.clear()
                self.first_index = item.index + 1
                self.start_offset = item.base_offset
                self.last_index = item.index
                self.last_term = item.term
                self.needs_state = False
                self.applied = None
                self.configurations = [(item.index, item.payload)]
            case FrameKind.QUARANTINED:
                self.quarantined = item.payload.decode()
            case FrameKind.GROUP_CREATED:
                self.exists = True
            case FrameKind.GROUP_DELETED:
                self.exists = False
                self.ranges.clear()
            case _:
                pass

    def truncate(self, index: int, term_before: int) -> None:
        """Entries ≥ index are gone; `term_before` is the term of the one before."""
        if index > self.last_index:
            return
        while self.ranges and self.ranges[-1][0] >= index:
            self.ranges.pop()
        while self.configurations and self.configurations[-1][0] >= index:
            self.configurations.pop()
        self.last_index = index - 1
        self.last_term = term_before
        self.prune()

    def prune(self) -> None:
        """Forget ranges that are in segments."""
        written = self.segments.written_index
        if self.last_index <= written:
            self.ranges.clear()
            return
        while len(self.ranges) > 1 and self.ranges[1][0] <= written + 1:
            self.ranges.pop(0)

    def needed_generation(self) -> int | None:
        """Oldest journal generation that recovery needs for this group's entries."""
        return min(generation for _, generation in self.ranges) if self.ranges else None

    def last_needed_index(self, generation: int) -> int:
        """Last index that is flushed in a generation ≤ `generation` and in no segment, 0 for none."""
        last = 0
        for at, (_, found) in enumerate(self.ranges):
            if found <= generation:
                last = self.ranges[at + 1][0] - 1 if at + 1 < len(self.ranges) else self.last_index
        return last

    def _move(self, index: int, generation: int) -> None:
        """The entry at `index` has been repeated in `generation`."""
        if index <= self.segments.written_index or index > self.last_index or not self.ranges:
            return
        before = [(first, found) for first, found in self.ranges if first < index]
        after = [(first, found) for first, found in self.ranges if first > index]
        covering = self.ranges[len(self.ranges) - len(after) - 1][1]
        if index < self.last_index and (not after or after[0][0] > index + 1):
            after.insert(0, (index + 1, covering))
        if not before or before[-1][1] != generation:
            before.append((index, generation))
        self.ranges = before + after
        self.prune()  # what lay before the copied entry may be in segments entirely: nothing else would ever give its generation up


def keep_last_base(configurations: Configurations, first_index: int) -> None:
    """Drop configurations that are followed by another one below `first_index`: only the last one below is still in force there."""
    while len(configurations) > 1 and configurations[1][0] < first_index:
        configurations.pop(0)


def truncate_runs(runs: list[tuple[int, int, int]], index: int) -> None:
    """Drop runs that begin at or behind `index`."""
    while runs and runs[-1][1] >= index:
        runs.pop()


def trim_runs(runs: list[tuple[int, int, int]], first_index: int) -> None:
    """Drop runs that end before the entry in front of `first_index`."""
    while len(runs) > 1 and runs[1][1] < first_index:
        runs.pop(0)


def extend_runs(runs: list[tuple[int, int, int]], entries: Sequence[Entry]) -> None:
    """Add the runs of entries that follow."""
    term = runs[-1][0] if runs else -1
    for entry in entries:
        if entry.term != term:
            term = entry.term
            runs.append((term, entry.index, entry.base_offset))
