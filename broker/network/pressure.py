"""Node-wide memory pressure: while it is on, connections that produce are not read, so that TCP slows the producers down."""

from __future__ import annotations

from collections.abc import Callable


class Pressure:
    """A switch with listeners.

    Use: whoever watches the log's memory calls `set(True)` above the limit and `set(False)` well below it; connections look at `paused` before they
    hand over a Produce, and are told of each change. Consumers and administration go on: they do not fill the log.
    """

    __slots__ = ("_listeners", "paused", "times_paused")

    def __init__(self) -> None:
        self.paused = False
        self.times_paused = 0
        self._listeners: list[Callable[[bool], None]] = []

    def subscribe(self, listener: Callable[[bool], None]) -> None:
        """`listener(paused)` is called at each change, for as long as the node lives."""
        self._listeners.append(listener)

    def set(self, paused: bool) -> None:
        if paused == self.paused:
            return
        self.paused = paused
        self.times_paused += paused
        for listener in self._listeners:
            listener(paused)
