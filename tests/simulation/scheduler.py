"""Virtual time: one heap of events, one integer seed. Nothing here reads a clock."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from random import Random

SECOND_US = 1_000_000


class Scheduler:
    """Runs events in order of (time, number). `after_event` is called after each one: that is where the invariants look."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now_us = 0
        self.events = 0
        self.after_event: Callable[[], None] | None = None
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self._digest = hashlib.blake2b(digest_size=8)

    def at(self, delay_us: int, callback: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now_us + delay_us, self._number, callback))

    def trace(self, text: str) -> None:
        """Part of the fingerprint of a run: same seed, same trace."""
        self._digest.update(f"{self.now_us} {text}\n".encode())

    def fingerprint(self) -> str:
        return self._digest.hexdigest()

    def run_until(self, end_us: int) -> None:
        while self._heap and self._heap[0][0] <= end_us:
            time_us, _, callback = heapq.heappop(self._heap)
            self.now_us = time_us
            self.events += 1
            callback()
            if self.after_event is not None:
                self.after_event()
        self.now_us = max(self.now_us, end_us)
