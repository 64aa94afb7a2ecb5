"""Who writes a flush: the kernel by itself, or a thread; and what happens when the kernel takes none."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import threading
from pathlib import Path

import pytest

from broker.runtime import KERNEL_WRITE_BYTES, NodeDisk
from wal.errors import FlushError
from wal.filesystem import RealFile, RealFileSystem


class Flush:
    """A flush of `size_bytes` zeros into `file`; notes who wrote it."""

    def __init__(self, file: RealFile, size_bytes: int) -> None:
        self.file = file
        self.size_bytes = size_bytes
        self.data = memoryview(mmap.mmap(-1, size_bytes))
        self.data[:] = b"x" * size_bytes
        self.given = self.data
        self.thread = ""
        self.result: int | None = None

    def place(self) -> tuple[int, memoryview, int] | None:
        return self.file.kernel_number(), self.given, 0

    def run(self) -> None:
        self.thread = threading.current_thread().name
        self.file.pwrite_durably(self.data, 0)

    def ended(self, result: int) -> None:
        self.result = result
        if result != self.size_bytes:
            raise FlushError(f"{result} of {self.size_bytes}")


class Disk:
    def __init__(self, file: RealFile) -> None:
        self.file = file
        self.disk = NodeDisk(asyncio.get_running_loop())

    async def flush(self, flush: Flush) -> BaseException | None:
        done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.disk.submit_flush(flush, done.set_result)
        assert not done.done(), "never within the call"
        return await asyncio.wait_for(done, 20)


@pytest.fixture
async def disk(tmp_path: Path):
    file = RealFileSystem().open(str(tmp_path / "journal"), write=True, create=True, direct=True)
    file.pwrite(memoryview(mmap.mmap(-1, 1 << 20)), 0)
    file.fdatasync()
    made = Disk(file)
    if made.disk._kernel is None:
        made.disk.stop()
        pytest.skip("no io_uring here")
    yield made
    made.disk.stop()
    file.close()


async def test_large_flushes_are_the_kernels_and_small_ones_a_threads(disk: Disk) -> None:
    for size, thread in ((4096, "wal-flush"), (KERNEL_WRITE_BYTES, ""), (1 << 20, ""), (8192, "wal-flush")):
        flush = Flush(disk.file, size)
        assert await disk.flush(flush) is None
        assert (flush.thread, flush.result) == (thread, None if thread else size)
        assert Path(disk.file.path).read_bytes()[:size] == b"x" * size


async def test_a_flush_without_a_place_takes_a_thread(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = Flush(disk.file, 65536)
    monkeypatch.setattr(flush, "place", lambda: None)
    assert await disk.flush(flush) is None
    assert flush.thread == "wal-flush"


async def test_a_kernel_that_takes_none_is_left_with_one_line_and_nothing_is_lost(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "chronik_server")
    flush = Flush(disk.file, 65536)
    if disk.file.direct:
        flush.given = flush.data[100:60000]  # O_DIRECT wants whole blocks: EINVAL, as from a kernel that does not know the write
    else:
        pytest.skip("the directory takes no O_DIRECT")
    assert await disk.flush(flush) is None
    assert flush.thread == "wal-flush" and Path(disk.file.path).read_bytes()[:65536] == b"x" * 65536
    for _ in range(2):
        later = Flush(disk.file, 65536)
        assert await disk.flush(later) is None
        assert later.thread == "wal-flush"
    lines = [record.getMessage() for record in caplog.records if "takes no flushes any more" in record.getMessage()]
    assert len(lines) == 1 and os.strerror(errno.EINVAL) in lines[0]


async def test_a_node_without_io_uring_says_so_once_and_uses_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise OSError(errno.EPERM, "io_uring: Operation not permitted")

    monkeypatch.setattr("broker.runtime.KernelWriter", refuse)
    caplog.set_level("INFO", "chronik_server")
    file = RealFileSystem().open(str(tmp_path / "journal"), write=True, create=True, direct=True)
    disk = Disk(file)
    flush = Flush(file, 65536)
    assert await disk.flush(flush) is None
    assert flush.thread == "wal-flush" and Path(file.path).read_bytes() == b"x" * 65536
    assert [record.getMessage() for record in caplog.records] == [
        "flushes are written by a thread of the node: [Errno 1] io_uring: Operation not permitted"
    ]
    disk.disk.stop()
    file.close()


async def test_what_a_flush_makes_of_the_answer_reaches_the_driver(disk: Disk) -> None:
    flush = Flush(disk.file, 65536)
    flush.size_bytes = 65535  # it expects another number than the kernel gives
    error = await disk.flush(flush)
    assert isinstance(error, FlushError) and "65536" in str(error)


async def test_stopping_waits_for_the_flush_that_is_out(disk: Disk) -> None:
    flush = Flush(disk.file, 1 << 20)
    told: list[BaseException | None] = []
    disk.disk.submit_flush(flush, told.append)
    disk.disk.stop()
    assert Path(disk.file.path).read_bytes() == b"x" * (1 << 20)
    await asyncio.sleep(0.01)
    assert told == [], "nobody listens any more"
