"""The real world for the driver: the loop's clock, a few disk threads, and the kernel's own writes. The simulator has its own.

Thread rules: `submit_*` and every `done` run on the loop thread; jobs run on their own thread, one for flushes, one for background work, two for
reads, so that slow work never delays an fsync. A flush that the kernel can write by itself takes no thread.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import CLOCK_BOOTTIME, clock_gettime_ns
from typing import Protocol

from wal.api import Flush
from wal.uring import KernelWriter

log = logging.getLogger("chronik_server")

READ_THREADS = 2
KERNEL_WRITE_BYTES = 32 << 10
"""Flushes of at least this size are the kernel's. Where processors are short, its workers wait longer for one than a thread of ours
does (p99 at 1,000 records/s 9 ms, not 7), and a small flush is what a single record waits for (docs/adr/0042)."""
NOT_TAKEN = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""Answers to a write that say that it was not begun, and not that the disk failed."""


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


class KernelFlushes:
    """Flushes that a worker of the kernel's writes and syncs. At most one is out, and `done` is called in a turn of the loop of its own.

    `refused(job, done, why)` gets a flush back that the kernel turned out not to take.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, refused: Callable[[Flush, Done, OSError], None]) -> None:
        """OSError when there is no such thing here."""
        self._writer = KernelWriter()
        self._refused = refused
        self._out: tuple[Flush, Done] | None = None
        self._loop = loop
        loop.add_reader(self._writer.eventfd, self._readable)

    def start(self, job: Flush, done: Done) -> bool:
        """Whether the kernel has the flush or has given it back."""
        place = job.place()
        if place is None:
            return False
        try:
            self._writer.start(*place)
        except OSError as error:
            self._refused(job, done, error)
        else:
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
            self._out = None
            if -result in NOT_TAKEN:
                self._refused(job, done, OSError(-result, os.strerror(-result)))
                return
            job.ended(result)
        except Exception as caught:  # noqa: BLE001 - handed to the driver, which decides
            error = caught
        done(error)

    def stop(self, timeout_s: float) -> None:
        """Wait for the flush that is out; nobody is told."""
        self._loop.remove_reader(self._writer.eventfd)
        self._writer.close(timeout_s)


class NodeDisk:
    """Fulfils `raft.api.Disk`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flush = DiskThread(loop, "wal-flush")
        self._background = DiskThread(loop, "wal-background")
        first = DiskThread(loop, "wal-read-1")
        self._reads = [first, *(DiskThread(loop, f"wal-read-{n}", first.queue) for n in range(2, READ_THREADS + 1))]
        self._kernel: KernelFlushes | None = None
        try:
            self._kernel = KernelFlushes(loop, self._refused)
        except OSError as error:
            log.info("flushes are written by a thread of the node: %s", error)

    def submit_flush(self, job: Flush, done: Done) -> None:
        if self._kernel is None or job.size_bytes < KERNEL_WRITE_BYTES or not self._kernel.start(job, done):
            self._flush.queue.put((job, done))

    def _refused(self, job: Flush, done: Done, why: OSError) -> None:
        """The kernel has written nothing, so that nothing can have been lost: a thread writes this flush, and those that follow."""
        log.warning("the kernel takes no flushes any more: %s; they are written by a thread of the node from now on", why)
        if self._kernel is not None:
            self._kernel.stop(0)  # nothing is out
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
            self._kernel.stop(timeout_s)
            self._kernel = None
