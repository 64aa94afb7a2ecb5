from random import Random

import pytest

from wal.errors import DamageError, DiskFullError
from wal.memory_filesystem import MemoryFileSystem
from wal.snapshot import SnapshotStore


def make():
    fs = MemoryFileSystem(Random(1))
    return fs, SnapshotStore(fs, "/s")


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_round_trip_and_retention(compression):
    fs = MemoryFileSystem(Random(1))
    store = SnapshotStore(fs, "/s", compression)
    assert store.latest() is None
    for index in (5, 20, 100):
        store.write(index, 2, b"state" * index, b"conf", index * 3)
    assert fs.list("/s") == ["snapshot_100.snap", "snapshot_20.snap"]
    found = store.latest()
    assert (found.index, found.term, found.next_offset, found.configuration) == (100, 2, 300, b"conf")
    assert store.read(found) == b"state" * 100
    store.write(101, 2, b"")
    assert store.read(store.latest()) == b""


def test_every_flipped_bit_is_noticed():
    fs, store = make()
    store.write(1, 1, bytes(range(256)) * 4, b"conf", 9)
    size = fs.size("/s/snapshot_1.snap")
    for position in range(size):
        trial = fs.clone()
        trial.flip_bit("/s/snapshot_1.snap", position, position % 8)
        assert SnapshotStore(trial, "/s").latest() is None
    fs.flip_bit("/s/snapshot_1.snap", size - 1)
    with pytest.raises(DamageError, match="checksum of the body"):
        store.verify("/s/snapshot_1.snap")


def test_receiving_in_chunks():
    fs, store = make()
    sent = store.write(7, 3, Random(2).randbytes(5000), b"conf", 44)
    data = fs.open(sent.path).pread(99999, 0)
    other = SnapshotStore(fs, "/other")
    receiver = other.receive(7)
    for start in range(0, len(data), 1000):
        receiver.append(start, data[start : start + 1000])
    with pytest.raises(ValueError, match="send from there"):
        receiver.append(3, b"x")
    found = receiver.finish()
    assert other.latest() == found and other.read(found) == store.read(sent) and found.next_offset == 44
    receiver = other.receive(9)
    receiver.append(0, data[:-1])
    with pytest.raises(DamageError):
        receiver.finish()
    receiver = other.receive(9)
    receiver.append(0, data)
    with pytest.raises(DamageError, match="another one was announced"):
        receiver.finish()
    assert fs.list("/other") == ["snapshot_7.snap"]


def test_a_cut_at_any_point_leaves_the_old_or_the_new_one():
    fs, store = make()
    store.write(1, 1, b"old")
    for seed in range(30):
        trial = fs.clone()
        receiver = SnapshotStore(trial, "/s").receive(2)
        receiver.append(0, b"half a file")
        trial.crash(Random(seed))
        again = SnapshotStore(trial, "/s")
        assert again.read(again.latest()) == b"old" and trial.list("/s") == ["snapshot_1.snap"]


def test_full_disk():
    fs, store = make()
    store.write(1, 1, b"old")
    fs.faults.free_bytes = 100
    with pytest.raises(DiskFullError):
        store.write(2, 1, Random(1).randbytes(5000))
    assert fs.list("/s") == ["snapshot_1.snap"]
