"""What the core needs of a log: the part of `wal.api.GroupLog` that only touches memory.

Everything that changes the log is *staged*: readable at once, durable with the next flush. The core never waits; what is true only after that
flush goes to `messages_after_flush`. The driver, not the core, tells the log of the commit index, once per turn.
`raft.core.memory_log.MemoryLog` is the reference implementation for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wal.api import HardState
from wal.entry import Entry


class LogView(Protocol):
    """One group's log. first_index - 1 ≤ committed_index, flushed_index ≤ last_index (flushed_index may lag behind a snapshot just installed).

    Invariants the core relies on: `flushed_index` falls to index - 1 in `truncate_suffix(index)` and never rises by a flush taken before that
    truncation; a flush that holds an entry holds every hard state staged before it; `last_term` of a log emptied by a snapshot is the
    snapshot's term; `configurations` follows append, truncate_suffix and install_snapshot at once.
    """

    @property
    def first_index(self) -> int: ...

    @property
    def last_index(self) -> int: ...

    @property
    def last_term(self) -> int: ...

    @property
    def flushed_index(self) -> int: ...

    @property
    def committed_index(self) -> int: ...

    @property
    def next_offset(self) -> int: ...

    @property
    def hard_state(self) -> HardState: ...

    @property
    def configurations(self) -> list[tuple[int, bytes]]: ...

    def term(self, index: int) -> int | None: ...

    def append(self, entries: Sequence[Entry]) -> None: ...

    def truncate_suffix(self, index: int) -> None: ...

    def install_snapshot(self, index: int, term: int, next_offset: int, configuration: bytes) -> None: ...

    def save_hard_state(self, term: int, vote: int) -> None: ...

    def memory_slice(self, low: int, max_bytes: int) -> list[Entry] | None: ...


def last_index_within_term(log: LogView, low: int, high: int, term: int) -> int:
    """The largest index in [low, high] whose term is at most `term`; low - 1 when there is none. Terms never fall along a log: binary search.

    Both sides use it to skip whole terms when their logs disagree (end of section 5.3 of the Raft paper).
    """
    floor = low - 1
    while floor < high:
        middle = (floor + high + 1) // 2
        found = log.term(middle)
        if found is not None and found <= term:
            floor = middle
        else:
            high = middle - 1
    return floor
