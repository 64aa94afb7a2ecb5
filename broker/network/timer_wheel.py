"""One timer for thousands of time limits: a hashed wheel whose slots are sets, so that adding and cancelling cost one set operation each.

Knows no asyncio: time and wake-ups come from `raft.api.Clock`. Runs on the loop thread.
"""

from __future__ import annotations

from collections.abc import Callable

from raft.api import Clock

Expiry = Callable[[], None]


class TimerWheel:
    """Calls entries once, at most one tick (`tick_ms`) after their time and never before it.

    Use: `slot = wheel.add(delay_ms, entry)`; to cancel, `slot.discard(entry)`. Invariant: while an entry waits, a wake-up at or before its tick is
    arranged; an idle wheel arranges none. What is cancelled is let go at once, so a finished request is not kept alive by its long time limit.
    """

    __slots__ = ("_clock", "_next_wake", "_slots", "_tick_ms")

    def __init__(self, clock: Clock, tick_ms: int = 10) -> None:
        self._clock = clock
        self._tick_ms = tick_ms
        self._slots: dict[int, set[Expiry]] = {}
        self._next_wake = 0  # tick of the earliest wake-up that is arranged, 0 for none

    def add(self, delay_ms: int, entry: Expiry) -> set[Expiry]:
        """Call `entry` (hashable) after `delay_ms`; returns the set to discard it from."""
        tick = (self._clock.now_ms() + max(delay_ms, 0)) // self._tick_ms + 1
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = set()
            if not self._next_wake or tick < self._next_wake:
                self._arrange(tick)
        slot.add(entry)
        return slot

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def _arrange(self, tick: int) -> None:
        self._next_wake = tick
        self._clock.call_later(max(tick * self._tick_ms - self._clock.now_ms(), 0), self._wake)

    def _wake(self) -> None:
        now = self._clock.now_ms() // self._tick_ms
        if not self._next_wake or now < self._next_wake:
            # Either a wake-up that an earlier one has made needless, or a timer that fired early: make sure that one is still arranged.
            if self._next_wake:
                self._arrange(self._next_wake)
            return
        self._next_wake = 0
        due = sorted(tick for tick in self._slots if tick <= now)
        expired = [self._slots.pop(tick) for tick in due]
        if self._slots:
            self._arrange(min(self._slots))
        for slot in expired:
            # An entry may cancel another one of its own slot while we go through it.
            while slot:
                slot.pop()()
