"""The real world for the driver: the loop's clock and a few disk threads. The simulator has its own.

Thread rules: `submit_*` and every `done` run on the loop thread; jobs run on their own thread, one for flushes, one for background work, two for
reads, so that slow work never delays an fsync.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import CLOCK_BOOTTIME, clock_gettime_ns
from typing import Protocol

READ_THREADS = 2


class LoopClock:
    """Milliseconds since boot, suspension included, and the loop's timers."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return clock_gettime_ns(CLOCK_BOOTTIME) // 1_000_000

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        self._loop.call_later(delay_ms / 1000, callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)


class _Runs(Protocol):
    def run(self) -> None: ...


Done = Callable[[BaseException | None], None]


class DiskThread:
    """One thread with its own queue; ends when it takes None."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, queue: SimpleQueue[tuple[_Runs, Done] | None] | None = None) -> None:
        self._loop = loop
        self.queue: SimpleQueue[tuple[_Runs, Done] | None] = queue if queue is not None else SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while (item := self.queue.get()) is not None:
            job, done = item
            error: BaseException | None = None
            try:
                job.run()
            except BaseException as caught:  # noqa: BLE001 - handed to the loop thread, which decides
                error = caught
            try:
                self._loop.call_soon_threadsafe(done, error)
            except RuntimeError:
                return  # the loop is closed: nobody is waiting any more
            del item, job, done  # an idle thread keeps no buffers alive

    def stop(self) -> None:
        self.queue.put(None)

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)


class ThreadDisk:
    """Fulfils `raft.api.Disk`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flush = DiskThread(loop, "wal-flush")
        self._background = DiskThread(loop, "wal-background")
        first = DiskThread(loop, "wal-read-1")
        self._reads = [first, *(DiskThread(loop, f"wal-read-{n}", first.queue) for n in range(2, READ_THREADS + 1))]

    def submit_flush(self, job: _Runs, done: Done) -> None:
        self._flush.queue.put((job, done))

    def submit_background(self, job: _Runs, done: Done) -> None:
        self._background.queue.put((job, done))

    def submit_read(self, job: _Runs, done: Done) -> None:
        self._reads[0].queue.put((job, done))

    def stop(self, timeout_s: float = 5.0) -> None:
        """Let each thread finish the job that it has."""
        threads = [self._flush, self._background, *self._reads]
        for thread in threads:
            thread.stop()
        for thread in threads:
            thread.join(timeout_s)
