import mmap
from random import Random

import pytest

from wal.errors import DataDirectoryError
from wal.filesystem import RealFileSystem, write_durably
from wal.memory_filesystem import MemoryFileSystem


@pytest.fixture(params=["real", "memory"])
def place(request, tmp_path):
    return (RealFileSystem(), str(tmp_path)) if request.param == "real" else (MemoryFileSystem(Random(1)), "/base")


def test_both_do_the_same(place):
    fs, base = place
    fs.mkdir(f"{base}/a/b")
    file = fs.open(f"{base}/a/b/f", write=True, create=True)
    file.pwrite(b"hello", 3)
    file.truncate(6)
    file.fdatasync()
    assert file.pread(100, 0) == b"\0\0\0hel" and file.size() == fs.size(f"{base}/a/b/f") == 6
    file.close()
    fs.rename(f"{base}/a/b/f", f"{base}/a/g")
    fs.sync_directory(f"{base}/a")
    assert fs.list(f"{base}/a") == ["b", "g"] and fs.list(f"{base}/none") == []
    fs.rmdir(f"{base}/a/b")
    write_durably(fs, f"{base}/a/g", b"new")
    assert fs.open(f"{base}/a/g").pread(10, 0) == b"new"
    fs.remove(f"{base}/a/g")
    assert not fs.exists(f"{base}/a/g") and fs.free_bytes(base) > 0 and len(fs.random_bytes(8)) == 8
    with pytest.raises(FileNotFoundError):
        fs.open(f"{base}/a/g")


def test_a_durable_write_is_one_that_a_crash_leaves(place):
    fs, base = place
    fs.mkdir(base)
    for direct in (False, True):
        with memoryview(mmap.mmap(-1, 8192)) as data:
            data[:] = bytes(range(256)) * 32
            file = fs.open(f"{base}/f{direct}", write=True, create=True, direct=direct)
            file.pwrite_durably(data, 4096)
            assert fs.open(f"{base}/f{direct}").pread(8192, 4096) == bytes(data)
        if isinstance(fs, MemoryFileSystem):
            fs.sync_directory(base)
            fs.crash(Random(1), "none")
            assert fs.open(f"{base}/f{direct}").pread(8192, 4096) == bytes(range(256)) * 32


def test_a_directory_is_used_once(place):
    fs, base = place
    fs.mkdir(base)
    lock = fs.lock(f"{base}/lock")
    with pytest.raises(DataDirectoryError, match="in use"):
        fs.lock(f"{base}/lock")
    lock.close()
    fs.lock(f"{base}/lock").close()


def test_crash_loses_what_is_not_synced():
    fs = MemoryFileSystem(Random(1))
    fs.mkdir("/d")
    file = fs.open("/d/f", write=True, create=True)
    file.pwrite(b"a" * 2000, 0)
    file.fdatasync()
    fs.sync_directory("/d")
    file.pwrite(b"b" * 2000, 0)
    fs.open("/d/g", write=True, create=True).fdatasync()
    fs.crash(Random(1), "none")
    assert fs.list("/d") == ["f"] and fs.open("/d/f").pread(9999, 0) == b"a" * 2000
    with pytest.raises(OSError, match="before the crash"):
        file.pread(1, 0)


def test_crash_tears_a_write_at_sectors():
    seen = set()
    for seed in range(40):
        fs = MemoryFileSystem(Random(1))
        fs.mkdir("/d")
        file = fs.open("/d/f", write=True, create=True)
        fs.sync_directory("/d")
        file.pwrite(b"x" * 2048, 0)
        fs.crash(Random(seed))
        data = fs.open("/d/f").pread(9999, 0)
        seen.add(tuple(data[start : start + 512] == b"x" * 512 for start in range(0, 2048, 512)))
        assert all(set(data[start : start + 512]) <= {0, 120} and len(set(data[start : start + 512])) <= 1 for start in range(0, len(data), 512))
    assert len(seen) > 4


def test_a_second_fsync_lies():
    fs = MemoryFileSystem(Random(1))
    fs.mkdir("/d")
    file = fs.open("/d/f", write=True, create=True)
    fs.sync_directory("/d")
    file.pwrite(b"data", 0)
    fs.faults.sync_errors = 1
    with pytest.raises(OSError, match="injected"):
        file.fdatasync()
    file.fdatasync()
    assert file.pread(4, 0) == b"data"
    fs.crash(Random(1), "all")
    assert fs.open("/d/f").pread(4, 0) == b"" and fs.faults.counted["sync_errors"] == 1


def test_other_faults_are_counted():
    fs = MemoryFileSystem(Random(1))
    fs.mkdir("/d")
    file = fs.open("/d/f", write=True, create=True, direct=True)
    with pytest.raises(OSError, match="unaligned"):
        file.pwrite(b"abc", 0)
    fs.faults.free_bytes = 4096
    with pytest.raises(OSError, match="no space"):
        file.pwrite(bytes(8192), 0)
    fs.faults.short_writes = 1
    with pytest.raises(OSError, match="short_writes"):
        file.pwrite(bytes(4096), 0)
    fs.faults.read_errors = 1
    with pytest.raises(OSError, match="read_errors"):
        file.pread(1, 0)
    fs.flip_bit("/d/f", 0)
    assert dict(fs.faults.counted) == {"disk_full": 1, "short_writes": 1, "read_errors": 1, "bit_flips": 1}


def test_names_come_back_in_order_only():
    for seed in range(30):
        fs = MemoryFileSystem(Random(1))
        fs.mkdir("/d")
        for name in "abc":
            fs.open(f"/d/{name}", write=True, create=True)
        fs.crash(Random(seed))
        assert fs.list("/d") in ([], ["a"], ["a", "b"], ["a", "b", "c"])
