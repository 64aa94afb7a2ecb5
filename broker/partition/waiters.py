"""Who waits for a partition: produce requests until their records are safe, fetches until there is more to read.

Invariant: a callback is called exactly once and then dropped; none is called while the state that it may look at is half changed (the partition takes
the completed ones out first). What waits is bounded by the bytes in flight, since each request here belongs to records that are not applied yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import NamedTuple

from broker.api import AppendResult


class WaitingAppend(NamedTuple):
    """A produce request. `next_offset` = behind its last record; `base_offset` and `log_append_time_ms` go into the answer."""

    next_offset: int
    base_offset: int
    log_append_time_ms: int
    done: Callable[[AppendResult], None]


class AppendQueue:
    """Requests in the order of their offsets; repeated batches, whose originals lie anywhere before, stand in a heap beside."""

    __slots__ = ("_number", "_ordered", "_repeated")

    def __init__(self) -> None:
        self._ordered: deque[WaitingAppend] = deque()
        self._repeated: list[tuple[int, int, WaitingAppend]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._ordered) + len(self._repeated)

    def add(self, waiting: WaitingAppend) -> None:
        """Use: offsets ascend from call to call."""
        self._ordered.append(waiting)

    def add_repeated(self, waiting: WaitingAppend) -> None:
        self._number += 1
        heappush(self._repeated, (waiting.next_offset, self._number, waiting))

    def take(self, next_offset: int) -> list[WaitingAppend]:
        """Remove and return those that end at or below `next_offset`, in order."""
        taken: list[WaitingAppend] = []
        ordered = self._ordered
        while ordered and ordered[0].next_offset <= next_offset:
            taken.append(ordered.popleft())
        while self._repeated and self._repeated[0][0] <= next_offset:
            taken.append(heappop(self._repeated)[2])
        return taken

    def take_above(self, next_offset: int) -> list[WaitingAppend]:
        """Remove and return those that end above `next_offset`."""
        taken: list[WaitingAppend] = []
        while self._ordered and self._ordered[-1].next_offset > next_offset:
            taken.append(self._ordered.pop())
        taken.reverse()
        taken.extend(item[2] for item in self._repeated if item[0] > next_offset)
        self._repeated = sorted(item for item in self._repeated if item[0] <= next_offset)
        return taken

    def take_all(self) -> list[WaitingAppend]:
        taken = [*self._ordered, *(item[2] for item in sorted(self._repeated))]
        self._ordered.clear()
        self._repeated.clear()
        return taken


class FetchWaiters:
    """Fetches that wait for the high watermark; each is woken once, none after its removal. Removal is O(1)."""

    __slots__ = ("_waiters", "_woken")

    def __init__(self) -> None:
        self._waiters: dict[Callable[[], None], None] = {}
        self._woken: dict[Callable[[], None], None] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, waiter: Callable[[], None]) -> None:
        self._waiters[waiter] = None

    def remove(self, waiter: Callable[[], None]) -> None:
        self._waiters.pop(waiter, None)
        self._woken.pop(waiter, None)

    def wake(self) -> None:
        """Call all that wait now. One that is added meanwhile waits for the next time."""
        if not self._waiters:
            return
        woken = list(self._waiters)
        self._woken.update(self._waiters)
        self._waiters.clear()
        for waiter in woken:
            if waiter in self._woken:
                del self._woken[waiter]
                waiter()
