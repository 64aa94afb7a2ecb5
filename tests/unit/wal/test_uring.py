"""Writes that the kernel ends by itself, on a real file, and flushes through them."""

from __future__ import annotations

import errno
import mmap
import os
import select
from pathlib import Path

import pytest

from tests.unit.wal.helpers import GROUP, SMALL, add, flush, new_store, open_store, payloads
from wal.errors import FlushError, WalError
from wal.filesystem import RealFile, RealFileSystem
from wal.journal import PIECE_BYTES, make_journal_file
from wal.memory_filesystem import MemoryFile
from wal.uring import KernelWriter


@pytest.fixture
def writer():
    try:
        made = KernelWriter()
    except OSError as error:
        pytest.skip(f"{error}")
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path):
    made = RealFileSystem().open(str(tmp_path / "file"), write=True, create=True, direct=True)
    made.pwrite(memoryview(mmap.mmap(-1, 64 << 10)), 0)
    made.fdatasync()
    yield made
    made.close()


def pattern(length: int, seed: int) -> memoryview:
    data = memoryview(mmap.mmap(-1, length))
    data[:] = bytes((seed + at // 4096) % 256 for at in range(length))
    return data


def end_of(writer: KernelWriter) -> int | None:
    assert select.select([writer.eventfd], [], [], 20)[0], "the end of the write is told"
    return writer.finish()


def test_a_write_ends_by_itself_and_is_where_it_belongs(writer: KernelWriter, file: RealFile) -> None:
    for seed, position in ((1, 0), (2, 8192), (3, 32768)):
        data = pattern(8192, seed)
        assert writer.finish() is None, "nothing is out"
        writer.start(file.kernel_number(), data, position)
        assert writer.busy
        assert end_of(writer) == 8192
        assert not writer.busy and Path(file.path).read_bytes()[position : position + 8192] == bytes(data)


def test_one_write_at_a_time(writer: KernelWriter, file: RealFile) -> None:
    data = pattern(4096, 1)
    writer.start(file.kernel_number(), data, 0)
    with pytest.raises(WalError, match="one write at a time"):
        writer.start(file.kernel_number(), data, 4096)
    assert end_of(writer) == 4096


def test_what_the_kernel_does_not_take_is_said_at_once(writer: KernelWriter, file: RealFile, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as refusing:
        refusing.setattr(KernelWriter, "_call", staticmethod(lambda *_: 0))
        with pytest.raises(OSError, match="has taken nothing"):
            writer.start(file.kernel_number(), pattern(4096, 1), 0)
    assert not writer.busy
    for seed in range(5):
        writer.start(file.kernel_number(), pattern(4096, seed), 0)
        assert end_of(writer) == 4096, "it can be used on"
        assert Path(file.path).read_bytes()[:4096] == bytes(pattern(4096, seed))


def test_a_failed_write_is_a_number_below_zero(writer: KernelWriter, file: RealFile) -> None:
    unused = os.dup(file.fd)
    os.close(unused)
    writer.start(unused, pattern(4096, 1), 0)
    assert end_of(writer) == -errno.EBADF
    if file.direct:
        writer.start(file.kernel_number(), pattern(8192, 1)[100:4196], 0)
        assert end_of(writer) == -errno.EINVAL
    writer.start(file.kernel_number(), pattern(4096, 5), 0)
    assert end_of(writer) == 4096


def test_a_system_without_it_says_so(writer: KernelWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EPERM, "io_uring: Operation not permitted")

    with monkeypatch.context() as forbidden:
        forbidden.setattr(KernelWriter, "_call", staticmethod(refuse))
        with pytest.raises(OSError, match="not permitted"):
            KernelWriter()
    monkeypatch.setattr("wal.uring._FEATURES", 1 << 31)
    with pytest.raises(OSError, match="of a kernel before"):
        KernelWriter()


def test_closing_waits_for_what_is_out(writer: KernelWriter, file: RealFile) -> None:
    data = pattern(65536, 7)
    writer.start(file.kernel_number(), data, 0)
    writer.close()
    assert not writer.busy and Path(file.path).read_bytes() == bytes(data)
    writer.close()


def test_a_flush_by_the_kernel_is_recovered_like_any_other(tmp_path: Path, writer: KernelWriter) -> None:
    fs = RealFileSystem()
    store = open_store(fs, SMALL, str(tmp_path / "d"))
    log = store.create_group(GROUP, "topic", b"voters")
    add(log, 3)
    job = store.next_flush()
    place = job.place()
    assert place is not None
    writer.start(*place)
    result = end_of(writer)
    assert result == len(place[1]) > 0 and result % 4096 == 0
    job.ended(result)
    job.complete()
    assert log.flushed_index == 3
    before = payloads(log)
    store.close()
    again = open_store(fs, SMALL, str(tmp_path / "d"))
    assert payloads(again.groups[GROUP]) == before
    again.close()


@pytest.mark.parametrize(
    ("result", "why"),
    [(-errno.EIO, "Input/output error"), (-errno.ENOSPC, "No space left"), (0, "short write of 0 of"), (512, "short write of 512 of")],
)
def test_a_flush_that_is_not_whole_is_final(result: int, why: str) -> None:
    _, store, log = new_store()
    add(log)
    job = store.next_flush()
    with pytest.raises(FlushError, match=why) as failed:
        job.ended(result)
    assert f"flush {job.number} at position" in str(failed.value)
    assert log.flushed_index == 0


def test_a_flush_larger_than_the_buffer_takes_a_thread() -> None:
    _, store, log = new_store()
    add(log, 10, 1000)
    job = store.next_flush()
    assert job.size_bytes > SMALL.buffer_bytes and job.place() is None
    job.run()
    job.complete()
    assert log.flushed_index == 10


def test_a_file_in_memory_has_no_number_for_the_kernel() -> None:
    _, store, log = new_store()
    add(log)
    assert store.next_flush().place() is None


def test_a_journal_file_is_made_in_pieces_that_are_durable_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushes wait for the disk to take what was written before them: never for a whole new file."""
    fs, store, log = new_store()
    unsynced = []
    written = MemoryFile.pwrite

    def pwrite(self, data, position):
        written(self, data, position)
        unsynced.append(sum(len(data) for _, data in self._inode.pending if isinstance(data, bytes)))

    monkeypatch.setattr(MemoryFile, "pwrite", pwrite)
    made = make_journal_file(fs, "/d/journal", 9, 3 * PIECE_BYTES + 4096, True)
    assert made.file.size() == made.size == 3 * PIECE_BYTES + 4096
    assert len(unsynced) == 4 and max(unsynced) <= PIECE_BYTES
    assert not any(made.file.pread(made.size, 0))
    add(log)
    flush(store)


def test_a_write_that_hangs_does_not_keep_the_process(writer: KernelWriter, file: RealFile, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pattern(4096, 7)
    writer.start(file.kernel_number(), data, 0)
    with monkeypatch.context() as hanging:
        hanging.setattr(KernelWriter, "finish", lambda _: None)
        writer.close(0.2)
    assert writer.busy and writer.eventfd >= 0, "the kernel may still read the buffer: nothing is given back"
    assert end_of(writer) == 4096
