"""The real world for the driver: the loop's clock, a few disk threads, and the kernel's own writes. The simulator has its own.

Thread rules: `submit_*` and every `done` run on the loop thread; jobs run on their own thread, one for flushes, one for background work, two for
reads, so that slow work never delays an fsync. A flush that the kernel can write by itself takes no thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import CLOCK_BOOTTIME, clock_gettime_ns
from typing import Protocol

from wal.aio import AsyncWriter
from wal.api import Flush

log = logging.getLogger("chronik_server")

READ_THREADS = 2
KERNEL_WRITE_BYTES = 32 << 10
"""Flushes of at least this size are the kernel's. It ends a write on a worker bound to one processor: where processors are short, a small flush ends
sooner by a thread, which runs on any (p99 at 1,000 records/s 7 ms, not 10; docs/adr/0042)."""


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


class KernelWrites:
    """Flushes that the kernel writes and syncs by itself. At most one is out, and `done` is called in a turn of the loop of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """OSError when there is no such thing here."""
        self._writer = AsyncWriter()
        self._out: tuple[Flush, Done] | None = None
        self._loop = loop
        loop.add_reader(self._writer.eventfd, self._readable)

    def start(self, job: Flush, done: Done) -> bool:
        """Whether the kernel has taken the flush; if not, nothing is out. OSError when it takes none at all."""
        place = job.place() if job.size_bytes >= KERNEL_WRITE_BYTES else None
        if place is None:
            return False
        self._writer.start(*place)
        self._out = job, done
        return True

    def _readable(self) -> None:
        error: BaseException | None = None
        if self._out is None:
            return
        job, done = self._out
        try:
            result = self._writer.finish()
            if result is None:
                return
            job.ended(result)
        except Exception as caught:  # noqa: BLE001 - handed to the driver, which decides
            error = caught
        self._out = None
        done(error)

    def stop(self) -> None:
        """Wait for the flush that is out; nobody is told."""
        self._loop.remove_reader(self._writer.eventfd)
        self._writer.close()


class NodeDisk:
    """Fulfils `raft.api.Disk`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flush = DiskThread(loop, "wal-flush")
        self._background = DiskThread(loop, "wal-background")
        first = DiskThread(loop, "wal-read-1")
        self._reads = [first, *(DiskThread(loop, f"wal-read-{n}", first.queue) for n in range(2, READ_THREADS + 1))]
        self._kernel: KernelWrites | None = None
        try:
            self._kernel = KernelWrites(loop)
        except OSError as error:
            log.info("flushes take a thread: %s", error)

    def submit_flush(self, job: Flush, done: Done) -> None:
        if self._kernel is not None:
            try:
                if self._kernel.start(job, done):
                    return
            except OSError as error:
                # The kernel took nothing, so nothing can have been lost: a thread writes this flush, and those that follow.
                log.warning("the kernel takes no asynchronous writes any more: %s; flushes take a thread from now on", error)
                self._kernel.stop()
                self._kernel = None
        self._flush.queue.put((job, done))

    def submit_background(self, job: _Runs, done: Done) -> None:
        self._background.queue.put((job, done))

    def submit_read(self, job: _Runs, done: Done) -> None:
        self._reads[0].queue.put((job, done))

    def stop(self, timeout_s: float = 5.0) -> None:
        """Let each thread, and the kernel, finish what they have."""
        threads = [self._flush, self._background, *self._reads]
        for thread in threads:
            thread.stop()
        for thread in threads:
            thread.join(timeout_s)
        if self._kernel is not None:
            self._kernel.stop()
            self._kernel = None
