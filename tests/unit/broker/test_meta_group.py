"""`__meta`'s snapshots over real files: made, trimmed behind, restored from, sent and received."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broker.config import NodeConfig, RaftConfig, StorageConfig
from broker.meta_group import SNAPSHOT_LOG_BYTES, MetaGroup, SnapshotFileWriter
from raft.core.membership import encode, simple
from wal.api import AppliedState
from wal.entry import META_GROUP, Entry, group_id
from wal.errors import DamageError, DataDirectoryError, DiskFullError
from wal.filesystem import RealFileSystem
from wal.snapshot import SnapshotStore

BASE = encode(simple([1]))
GROWN = encode(simple([1], [2]))


class Log:
    """Entries 1 … `last`, all of term 1; each consumes two offsets."""

    def __init__(self, last: int = 0, first: int = 1, applied_state: AppliedState | None = None) -> None:
        self.first_index, self.last_index, self.next_offset = first, last, 2 * last
        self.applied_state = applied_state
        self.quarantined = ""
        self.configurations = [(0, BASE)]
        self.in_memory_from = 1
        self.trimmed: list[tuple[int, int]] = []

    def term(self, index: int) -> int | None:
        return 1 if self.first_index - 1 <= index <= self.last_index else None

    def memory_slice(self, low: int, max_bytes: int) -> list[Entry] | None:
        if low < self.in_memory_from:
            return None
        return [Entry(1, low, 0, (), 0, 0, 2 * (low - 1), 2)] if low <= self.last_index else []

    def truncate_prefix(self, index: int, offset: int) -> None:
        self.trimmed.append((index, offset))
        self.first_index = index


class Group:
    def __init__(self, log: Log, applied: int) -> None:
        self.group_id, self.log, self.applied_index = META_GROUP, log, applied
        self.reports: list[tuple[int, bool]] = []
        self.refused: list[int] = []
        self.installed: list[tuple[int, int, bytes, int, bytes]] = []
        self.replaces = True
        self.core = SimpleNamespace(report_snapshot=lambda replica, ok: self.reports.append((replica, ok)))

    def install_snapshot(self, index: int, term: int, configuration: bytes, next_offset: int, data: bytes) -> bool:
        self.installed.append((index, term, configuration, next_offset, data))
        return self.replaces

    def refuse_snapshot(self, index: int) -> None:
        self.refused.append(index)


class Disk:
    """Runs a job when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Any, Any]] = []

    def submit_read(self, job: Any, done: Any) -> None:
        self.jobs.append((job, done))

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        for job, done in jobs:
            error: BaseException | None = None
            try:
                job.run()
            except Exception as caught:  # noqa: BLE001 - handed on, as the disk thread does
                error = caught
            done(error)


class World:
    """A MetaGroup with everything around it but files replaced. `threshold` entries make a snapshot, `kept` stay in the log behind it."""

    def __init__(self, directory: Path, log: Log, applied: int, threshold: int = 10, kept: int = 3) -> None:
        storage = StorageConfig(directory / "wal", directory / "snapshots")
        raft = RaftConfig(snapshot_log_size_threshold=threshold, log_compaction_threshold=kept)
        self.disk = Disk()
        self.sent: list[tuple[int, int, int, Any]] = []
        self.touched: list[Any] = []
        self.fatal: list[BaseException] = []
        self.machine = SimpleNamespace(applied_bytes=0, snapshot=lambda: b"state of %d" % self.group.applied_index)
        self.group = Group(log, applied)
        driver = SimpleNamespace(is_open=lambda group: True, touch=self.touched.append, fatal=self.fatal.append)
        links = SimpleNamespace(send_snapshot=lambda peer, group, index, term, done: self.sent.append((peer, index, term, done)))
        node: Any = SimpleNamespace(
            config=NodeConfig(1, directory, storage, raft=raft),
            files=RealFileSystem(),
            disk=self.disk,
            machine=self.machine,
            driver=driver,
            links=links,
        )
        self.meta = MetaGroup(node)
        self.meta.group = self.group

    @property
    def store(self) -> SnapshotStore:
        return self.meta.files.store


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "snapshots").iterdir())


def test_a_snapshot_is_made_after_enough_entries_and_the_log_trimmed_when_it_is_durable(tmp_path: Path) -> None:
    world = World(tmp_path, Log(last=12), applied=9)
    world.meta.maybe_snapshot()
    assert world.disk.jobs == []
    world.group.applied_index = 11
    world.group.log.configurations.append((12, GROWN))  # behind the snapshot: not in it
    world.meta.maybe_snapshot()
    world.meta.maybe_snapshot()  # one at a time
    assert len(world.disk.jobs) == 1
    assert world.group.log.trimmed == []
    world.disk.run()
    found = world.store.latest()
    assert found is not None
    assert (found.index, found.term, found.next_offset, found.configuration) == (11, 1, 22, BASE)
    assert world.store.read(found) == b"state of 11"
    assert world.group.log.trimmed == [(9, 16)]  # entries 9, 10 and 11 stay
    assert world.touched == [world.group]
    assert (world.meta.snapshot_index, world.meta.snapshot_size) == (11, found.size_bytes)


def test_a_snapshot_is_made_after_enough_bytes(tmp_path: Path) -> None:
    world = World(tmp_path, Log(last=4), applied=4, threshold=1000, kept=1)
    world.machine.applied_bytes = SNAPSHOT_LOG_BYTES - 1
    world.meta.maybe_snapshot()
    assert world.disk.jobs == []
    world.machine.applied_bytes += 1
    world.meta.maybe_snapshot()
    world.disk.run()
    assert names(tmp_path) == ["snapshot_4.snap"]
    world.group.applied_index = 5
    world.group.log.last_index, world.group.log.next_offset = 5, 10
    world.meta.maybe_snapshot()
    assert world.disk.jobs == []  # bytes count from the last one


def test_nothing_is_trimmed_when_the_disk_is_full_and_it_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, Log(last=20), applied=20)

    def full(*_: object) -> None:
        raise DiskFullError("no space: free some")

    with monkeypatch.context() as patch:
        patch.setattr(SnapshotStore, "write", full)
        world.meta.maybe_snapshot()
        world.disk.run()
    assert world.group.log.trimmed == []
    assert world.meta.snapshot_index == 0
    world.meta.maybe_snapshot()
    world.disk.run()
    assert world.meta.snapshot_index == 20


def test_no_snapshot_while_the_offset_behind_the_entry_is_not_in_memory(tmp_path: Path) -> None:
    world = World(tmp_path, Log(last=20), applied=15)
    world.group.log.in_memory_from = 18
    assert not world.meta.make_snapshot()
    world.group.log.in_memory_from = 16
    assert world.meta.make_snapshot()


@pytest.mark.parametrize("in_checkpoint", [0, 5, 30])
def test_the_newer_of_checkpoint_and_snapshot_is_restored(tmp_path: Path, in_checkpoint: int) -> None:
    log = Log(last=40, applied_state=AppliedState(in_checkpoint, b"checkpoint") if in_checkpoint else None)
    world = World(tmp_path, log, applied=0)
    world.store.write(20, 1, b"snapshot", BASE, 40)
    world.meta._restore(log)
    assert log.applied_state == (AppliedState(30, b"checkpoint") if in_checkpoint == 30 else AppliedState(20, b"snapshot"))
    assert world.meta.snapshot_index == 20


def test_a_snapshot_that_was_received_but_not_installed_is_not_restored(tmp_path: Path) -> None:
    """kill -9 between the file and the journal's frame: the log does not lead to it, so nothing of it is known to be ours."""
    log = Log(last=40)
    world = World(tmp_path, log, applied=0)
    world.store.write(30, 1, b"installed", BASE, 60)
    world.store.write(90, 1, b"received only", BASE, 180)
    world.meta._restore(log)
    assert log.applied_state == AppliedState(30, b"installed")
    world.store.write(35, 2, b"of another term", BASE, 70)
    world.meta._restore(log)
    assert world.meta.snapshot_index == 30
    assert names(tmp_path) == ["snapshot_30.snap"]


def test_a_damaged_snapshot_is_passed_over_and_a_missing_state_is_explained(tmp_path: Path) -> None:
    log = Log(last=40, first=21)
    world = World(tmp_path, log, applied=0)
    world.store.write(20, 1, b"first", BASE, 40)
    world.store.write(30, 1, b"second", BASE, 60)
    newest = tmp_path / "snapshots" / "snapshot_30.snap"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x00")
    world.meta._restore(log)
    assert log.applied_state == AppliedState(20, b"first")
    (tmp_path / "snapshots" / "snapshot_20.snap").unlink()
    log.applied_state = None
    with pytest.raises(DataDirectoryError, match=r"begins behind 20.*restore the files.*unregister"):
        world.meta._restore(log)


def test_what_a_follower_needs_is_sent_or_made_first(tmp_path: Path) -> None:
    world = World(tmp_path, Log(last=20), applied=20)
    world.meta.send_snapshot(world.group, 2, 15)  # type: ignore[arg-type]
    assert world.group.reports == [(2, False)]  # the leader asks again
    assert world.sent == []
    world.disk.run()
    replica = 2 + (3 << 32)
    world.meta.send_snapshot(world.group, replica, 15)  # type: ignore[arg-type]
    ((peer, index, term, done),) = world.sent
    assert (peer, index, term) == (2, 20, 1)
    done(True)
    assert world.group.reports == [(2, False), (replica, True)]
    reader = world.meta.files.source.open(META_GROUP, 20, 1)
    assert reader.read(0, reader.size) == (tmp_path / "snapshots" / "snapshot_20.snap").read_bytes()
    reader.close()
    with pytest.raises(DamageError):
        world.meta.files.source.open(META_GROUP, 21, 1)
    with pytest.raises(DamageError):
        world.meta.files.source.open(group_id(b"t" * 16, 0), 20, 1)


def transfer(source: Path, world: World, index: int, chunk: int = 16) -> tuple[SnapshotFileWriter, bytes]:
    data = source.read_bytes()
    writer = world.meta.files.receiver.open(META_GROUP, index, 1, len(data))
    for position in range(0, len(data), chunk):
        writer.write(position, data[position : position + chunk])
    return writer, data


def test_a_received_snapshot_is_checked_and_installed(tmp_path: Path) -> None:
    sender, receiver = World(tmp_path / "a", Log(), applied=0), World(tmp_path / "b", Log(), applied=0)
    path = Path(sender.store.write(50, 4, b"whole state", GROWN, 99).path)
    writer, _ = transfer(path, receiver, 50)
    name = writer.finish()
    receiver.meta.on_received(receiver.group, 50, name)  # type: ignore[arg-type]
    assert receiver.group.installed == []  # not on the loop thread
    receiver.disk.run()
    assert receiver.group.installed == [(50, 4, GROWN, 99, b"whole state")]
    assert receiver.meta.snapshot_index == 50

    receiver.group.replaces = False  # the log had all of it: what is sent stays the state that was installed
    writer, _ = transfer(Path(sender.store.write(60, 4, b"more", GROWN, 120).path), receiver, 60)
    receiver.meta.on_received(receiver.group, 60, writer.finish())  # type: ignore[arg-type]
    receiver.disk.run()
    assert receiver.meta.snapshot_index == 50


def test_a_snapshot_that_is_damaged_on_disk_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, Log(), applied=0)
    path = Path(world.store.write(50, 4, b"whole state", GROWN, 99).path)
    path.write_bytes(path.read_bytes()[:-3])
    world.meta.on_received(world.group, 50, str(path))  # type: ignore[arg-type]
    world.disk.run()
    assert (world.group.installed, world.group.refused) == ([], [50])
    assert world.fatal == []


def test_an_interrupted_transfer_leaves_nothing_and_a_full_disk_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sender, receiver = World(tmp_path / "a", Log(), applied=0), World(tmp_path / "b", Log(), applied=0)
    path = Path(sender.store.write(50, 4, b"whole state", GROWN, 99).path)
    writer, _ = transfer(path, receiver, 50)
    writer.abort()
    assert names(tmp_path / "b") == []
    with pytest.raises(DamageError):  # another one than was announced
        transfer(path, receiver, 51)[0].finish()
    assert names(tmp_path / "b") == []
    with pytest.raises(DamageError):
        receiver.meta.files.receiver.open(group_id(b"t" * 16, 0), 50, 1, 10)

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = receiver.meta.files.receiver.open(META_GROUP, 50, 1, 10)
    with monkeypatch.context() as patch:
        patch.setattr("wal.filesystem.os.pwrite", no_space)
        with pytest.raises(DiskFullError):
            writer.write(0, b"x")
    writer.abort()
    assert names(tmp_path / "b") == []
