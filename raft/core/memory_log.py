"""A log in memory with an explicit disk: the reference for tests, golden scenarios and simulations of the core alone.

`take_flush` takes what is staged, `finish_flush` makes it durable, `crash` gives the log that a restart would find. Entries below `memory_first` are
"on disk only": `memory_slice` answers None for them, as the real log does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wal.api import HardState
from wal.entry import Entry, EntryKind
from wal.errors import InvariantError, check

_Operation = Callable[["_Image"], None]


class _Image:
    """The content of a log. Two of them exist: the one in memory, and the one on disk that follows with each flush."""

    __slots__ = ("configurations", "entries", "hard_state", "snapshot_index", "snapshot_offset", "snapshot_term")

    def __init__(self, configuration: bytes) -> None:
        self.hard_state = HardState(0, 0)
        self.entries: list[Entry] = []
        self.snapshot_index = 0
        self.snapshot_term = 0
        self.snapshot_offset = 0
        self.configurations: list[tuple[int, bytes]] = [(0, configuration)]

    def copy(self) -> _Image:
        other = _Image(b"")
        other.hard_state = self.hard_state
        other.entries = list(self.entries)
        other.snapshot_index, other.snapshot_term, other.snapshot_offset = self.snapshot_index, self.snapshot_term, self.snapshot_offset
        other.configurations = list(self.configurations)
        return other

    @property
    def last_index(self) -> int:
        return self.snapshot_index + len(self.entries)

    def save_hard_state(self, state: HardState) -> None:
        self.hard_state = state

    def append(self, entries: Sequence[Entry]) -> None:
        self.entries.extend(entries)
        self.configurations.extend((entry.index, entry.payload()) for entry in entries if entry.kind == EntryKind.CONFIGURATION)

    def truncate_suffix(self, index: int) -> None:
        del self.entries[index - self.snapshot_index - 1 :]
        while self.configurations[-1][0] >= index:
            self.configurations.pop()

    def truncate_prefix(self, index: int, term: int, offset: int) -> None:
        del self.entries[: index - self.snapshot_index - 1]
        self.snapshot_index, self.snapshot_term, self.snapshot_offset = index - 1, term, offset
        while len(self.configurations) > 1 and self.configurations[1][0] < index:
            self.configurations.pop(0)

    def install_snapshot(self, index: int, term: int, offset: int, configuration: bytes) -> None:
        self.entries = []
        self.snapshot_index, self.snapshot_term, self.snapshot_offset = index, term, offset
        self.configurations = [(index, configuration)]


class MemoryLog:
    """Fulfils `LogView`. Invariant: what is on disk plus the staged operations, in order, is what is in memory."""

    def __init__(self, configuration: bytes = b"") -> None:
        self._memory = _Image(configuration)
        self._disk = self._memory.copy()
        self._staged: list[_Operation] = []
        self._in_flight: list[_Operation] | None = None
        self._flush_valid_to = 0  # entries behind were truncated after the flush in flight was taken: it must not count for them
        self.flushed_index = 0
        self.committed_index = 0
        self.memory_first = 1

    # What the core reads

    @property
    def first_index(self) -> int:
        return self._memory.snapshot_index + 1

    @property
    def last_index(self) -> int:
        return self._memory.last_index

    @property
    def last_term(self) -> int:
        return self._memory.entries[-1].term if self._memory.entries else self._memory.snapshot_term

    @property
    def next_offset(self) -> int:
        if not self._memory.entries:
            return self._memory.snapshot_offset
        last = self._memory.entries[-1]
        return last.base_offset + last.record_count

    @property
    def hard_state(self) -> HardState:
        return self._memory.hard_state

    @property
    def configurations(self) -> list[tuple[int, bytes]]:
        return self._memory.configurations

    def term(self, index: int) -> int | None:
        position = index - self._memory.snapshot_index
        if position == 0:
            return self._memory.snapshot_term
        return self._memory.entries[position - 1].term if 0 < position <= len(self._memory.entries) else None

    def memory_slice(self, low: int, max_bytes: int) -> list[Entry] | None:
        if low < max(self.memory_first, self.first_index):
            return None
        return self.read(low, max_bytes)

    def read(self, low: int, max_bytes: int) -> list[Entry]:
        """Entries from `low` on, at least one if there is one; this is what a ReadJob would find."""
        found: list[Entry] = []
        size = 0
        for entry in self._memory.entries[low - self.first_index :] if low >= self.first_index else []:
            size += entry.size
            if found and size > max_bytes:
                break
            found.append(entry)
        return found

    # What the core stages

    def append(self, entries: Sequence[Entry]) -> None:
        for expected, entry in enumerate(entries, self.last_index + 1):
            check(entry.index == expected, f"entry {entry.index} can not follow index {expected - 1}")
        kept = list(entries)
        self._stage(lambda image: image.append(kept))

    def truncate_suffix(self, index: int) -> None:
        if index <= self.committed_index:
            raise InvariantError(f"entries from {index} on can not be removed: {self.committed_index} is committed")
        self.flushed_index = min(self.flushed_index, index - 1)
        self._flush_valid_to = min(self._flush_valid_to, index - 1)
        self._stage(lambda image: image.truncate_suffix(index))

    def truncate_prefix(self, index: int, offset: int) -> None:
        check(self.first_index <= index <= self.committed_index + 1, f"the log can not start at {index}: {self.committed_index} is committed")
        term = self.term(index - 1)
        check(term is not None, f"index {index - 1} is not in the log")
        self._stage(lambda image: image.truncate_prefix(index, term or 0, offset))

    def install_snapshot(self, index: int, term: int, next_offset: int, configuration: bytes) -> None:
        self.flushed_index = min(self.flushed_index, index)
        self._flush_valid_to = min(self._flush_valid_to, self.flushed_index)
        self.committed_index = max(self.committed_index, index)
        self._stage(lambda image: image.install_snapshot(index, term, next_offset, configuration))

    def save_hard_state(self, term: int, vote: int) -> None:
        check(term >= self.hard_state.term, f"the term can not fall from {self.hard_state.term} to {term}")
        state = HardState(term, vote)
        self._stage(lambda image: image.save_hard_state(state))

    def advance_commit(self, index: int) -> None:
        check(self.committed_index <= index <= self.last_index, f"commit {index} is outside {self.committed_index}..{self.last_index}")
        self.committed_index = index

    def _stage(self, operation: _Operation) -> None:
        operation(self._memory)
        self._staged.append(operation)

    # The disk

    def has_staged(self) -> bool:
        return bool(self._staged)

    @property
    def is_flushing(self) -> bool:
        return self._in_flight is not None

    def take_flush(self, operations_max: int | None = None) -> bool:
        """Take what is staged (or only the first `operations_max` operations) as the one flush in flight; False when there is nothing."""
        check(self._in_flight is None, "a flush is in flight already")
        if not self._staged:
            return False
        count = len(self._staged) if operations_max is None else operations_max
        self._in_flight, self._staged = self._staged[:count], self._staged[count:]
        self._flush_valid_to = self.last_index
        return True

    def finish_flush(self) -> None:
        """The fsync returned: what was taken is durable."""
        check(self._in_flight is not None, "no flush is in flight")
        for operation in self._in_flight or ():
            operation(self._disk)
        self._in_flight = None
        self.flushed_index = max(self.flushed_index, min(self._disk.last_index, self._flush_valid_to))

    def crash(self) -> MemoryLog:
        """The log that a restart finds: only what was durable. The commit index is what recovery can prove, the snapshot."""
        log = MemoryLog()
        log._memory = self._disk.copy()
        log._disk = self._disk.copy()
        log.flushed_index = self._disk.last_index
        log.committed_index = self._disk.snapshot_index
        log.memory_first = self._disk.snapshot_index + 1
        return log

    def durable_term(self, index: int) -> int | None:
        """Term of the entry at `index` on the disk, None when it is not there (trimmed, or not flushed)."""
        position = index - self._disk.snapshot_index
        return self._disk.entries[position - 1].term if 0 < position <= len(self._disk.entries) else None

    @property
    def durable_hard_state(self) -> HardState:
        return self._disk.hard_state

    @property
    def durable_snapshot_index(self) -> int:
        return self._disk.snapshot_index

    @property
    def entries(self) -> list[Entry]:
        """All entries in memory (do not change them)."""
        return self._memory.entries
