"""Power cuts at every single step of a scripted session, flipped bits in every kind of file, full disks, failed fsyncs (RELIABILITY.md, Disk)."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from crc32c import crc32c

from wal.api import AppliedState
from wal.checkpoint import load_checkpoint
from wal.entry import Buffer, Entry, EntryKind, GroupId, group_id
from wal.errors import DamageError, DataDirectoryError, DiskFullError, FlushError, WalError
from wal.memory_filesystem import Keep, MemoryFile, MemoryFileSystem
from wal.recovery import scan_file
from wal.settings import WalSettings
from wal.store import WalStore

SETTINGS = WalSettings(
    journal_file_bytes=16 << 10,
    segment_bytes=16 << 10,
    segment_piece_bytes=4 << 10,
    segment_piece_bytes_max=8 << 10,
    buffer_bytes=8 << 10,
    cache_bytes=0,
    reserve_bytes=0,
)
GROUPS = [group_id(bytes(15) + bytes([9 + i]), i) for i in range(2)]


class PowerCut(BaseException):
    """Not an Exception, so that nothing in the store can take it for an I/O error."""


class FusedFile(MemoryFile):
    def pwrite(self, data: Buffer, position: int) -> None:
        self._fs.burn()  # type: ignore[attr-defined]
        super().pwrite(data, position)

    def fdatasync(self) -> None:
        self._fs.burn()  # type: ignore[attr-defined]
        super().fdatasync()

    def truncate(self, size: int) -> None:
        self._fs.burn()  # type: ignore[attr-defined]
        super().truncate(size)


class FusedFileSystem(MemoryFileSystem):
    """Cuts the power before the n-th change of the disk."""

    def __init__(self, random: Random, fuse: int) -> None:
        super().__init__(random)
        self.fuse = fuse
        self.burnt = 0

    def burn(self) -> None:
        self.burnt += 1
        if self.burnt == self.fuse:
            raise PowerCut

    def open(self, path: str, *, write: bool = False, create: bool = False, direct: bool = False) -> MemoryFile:
        plain = super().open(path, write=write, create=create, direct=direct)
        return FusedFile(self, path, plain._inode, write, direct)

    def rename(self, source: str, target: str) -> None:
        self.burn()
        super().rename(source, target)

    def remove(self, path: str) -> None:
        self.burn()
        super().remove(path)

    def sync_directory(self, path: str) -> None:
        self.burn()
        super().sync_directory(path)


@dataclass
class Known:
    """What the session was told is durable."""

    entries: dict[GroupId, dict[int, bytes]] = field(default_factory=lambda: {g: {} for g in GROUPS})
    last: dict[GroupId, int] = field(default_factory=lambda: dict.fromkeys(GROUPS, 0))
    term: dict[GroupId, int] = field(default_factory=lambda: dict.fromkeys(GROUPS, 0))
    first: dict[GroupId, int] = field(default_factory=lambda: dict.fromkeys(GROUPS, 1))


def settle(store: WalStore, known: Known) -> None:
    """Run all work that there is, and note what is durable after each flush."""
    busy = True
    while busy:
        flush = store.next_flush()
        if flush is not None:
            flush.run()
            flush.complete()
            for gid, log in store.groups.items():
                known.last[gid] = log.flushed_index
                known.term[gid] = log.hard_state.term
        background = store.next_background()
        if background is not None:
            background.run()
            background.complete()
        busy = flush is not None or background is not None


def session(fs: MemoryFileSystem, known: Known, steps: int = 24) -> WalStore:
    """Appends, truncations, votes, trims, laps, rolls: the same every time."""
    random = Random(5)
    fs.mkdir("/d")
    store = WalStore.open(fs, "/d/n", SETTINGS)
    for gid in GROUPS:
        log = store.create_group(gid, f"t{gid[-1]}", b"voters")
        log.capture_state = lambda log=log: AppliedState(log.committed_index, b"state")
    for step in range(steps):
        for gid in GROUPS:
            log = store.groups[gid]
            if step % 6 == 5 and log.last_index > log.committed_index:
                log.truncate_suffix(log.last_index)
                known.entries[gid].pop(log.last_index + 1)
                known.last[gid] = min(known.last[gid], log.last_index)
            if step % 4 == 0:
                log.save_hard_state(step // 4 + 1, 7)
            for _ in range(2):
                payload = random.randbytes(random.randrange(200, 2500))
                term = max(log.hard_state.term, log.last_term)
                entry = Entry(term, log.last_index + 1, EntryKind.DATA, [payload], len(payload), crc32c(payload), log.next_offset, 2)
                log.append([entry])
                known.entries[gid][entry.index] = payload
        settle(store, known)
        for gid in GROUPS:
            log = store.groups[gid]
            log.advance_commit(max(log.committed_index, log.flushed_index - 2))
            if step % 8 == 7:
                log.truncate_prefix(log.committed_index - 1, log.start_offset + 1)
                known.first[gid] = log.first_index
        settle(store, known)
    return store


def contents(store: WalStore, gid: GroupId, low: int) -> dict[int, bytes]:
    """All entries from `low` on, as a reader gets them."""
    log = store.groups[gid]
    found: dict[int, bytes] = {}
    low = max(low, log.first_index)
    while low <= log.last_index:
        job = log.read_job(low, 4000)
        job.run()
        assert job.entries and job.entries[0].index == low
        for entry in job.entries:
            found[entry.index] = entry.payload()
        low = job.entries[-1].index + 1
    return found


def check_recovered(store: WalStore, known: Known) -> None:
    for gid in GROUPS:
        log = store.groups.get(gid)
        if log is None:
            assert known.last[gid] == 0 and known.term[gid] == 0, "a durable group is gone"
            continue
        assert not log.quarantined, log.quarantined
        assert log.hard_state.term >= known.term[gid]
        assert log.last_index >= known.last[gid]
        assert log.first_index <= known.first[gid]
        found = contents(store, gid, 1)
        for index in range(known.first[gid], known.last[gid] + 1):
            assert found[index] == known.entries[gid][index]


def count_steps() -> int:
    fs = FusedFileSystem(Random(1), -1)
    session(fs, Known())
    return fs.burnt


@pytest.mark.parametrize("keep", ["none", "random", "all"])
def test_power_cut_at_every_step_recovers(keep: Keep) -> None:
    total = count_steps()
    assert total > 400
    for fuse in range(1, total + 1, 3 if keep == "random" else 7):
        fs = FusedFileSystem(Random(1), fuse)
        known = Known()
        with pytest.raises(PowerCut):
            session(fs, known)
        fs.fuse = -1
        fs.crash(Random(fuse), keep)
        store = WalStore.open(fs, "/d/n", SETTINGS)
        check_recovered(store, known)
        settle(store, Known())
        store.close()
        check_recovered(WalStore.open(fs, "/d/n", SETTINGS), known)


@pytest.fixture(scope="module")
def sealed() -> tuple[MemoryFileSystem, Known]:
    """A session that was killed when the journal was sealed."""
    fs = MemoryFileSystem(Random(1))
    known = Known()
    store = session(fs, known)
    for gid in GROUPS:
        log = store.groups[gid]
        log.save_hard_state(log.hard_state.term + 1, 3)
        log.append([Entry(log.hard_state.term, log.last_index + 1, EntryKind.DATA, [b"last"], 4, crc32c(b"last"), log.next_offset, 2)])
        known.entries[gid][log.last_index] = b"last"
        flush = store.next_flush()
        assert flush is not None
        flush.run()
        flush.complete()
        known.last[gid], known.term[gid] = log.flushed_index, log.hard_state.term
    store.note_idle()
    seal = store.next_flush()
    assert seal is not None
    seal.run()
    seal.complete()
    fs.crash(Random(1), "none")
    return fs, known


@pytest.mark.parametrize("seed", range(12))
def test_one_flipped_bit_is_noticed_or_harmless(sealed: tuple[MemoryFileSystem, Known], seed: int) -> None:
    fs, known = sealed
    random = Random(seed)
    noticed = 0
    paths = [path for path in fs.paths() if fs.size(path)]
    for _ in range(25):
        path = random.choice(paths)
        trial = fs.clone()
        trial.flip_bit(path, random.randrange(trial.size(path)), random.randrange(8))
        try:
            store = WalStore.open(trial, "/d/n", SETTINGS)
        except (DamageError, DataDirectoryError):
            noticed += 1
            continue
        for gid in GROUPS:
            log = store.groups[gid]
            if log.quarantined:
                noticed += 1
                continue
            assert log.last_index == known.last[gid], f"{path}: something was cut silently"
            assert log.hard_state.term == known.term[gid]
            try:
                found = contents(store, gid, known.first[gid])
            except DamageError:
                noticed += 1
                continue
            assert all(found[index] == known.entries[gid][index] for index in range(known.first[gid], known.last[gid] + 1))
    assert noticed


def test_damage_before_the_last_flush_is_no_torn_tail(sealed: tuple[MemoryFileSystem, Known]) -> None:
    fs, _ = sealed
    trial = fs.clone()
    store = WalStore.open(trial, "/d/n", SETTINGS)
    assert not store.recovery_notes
    checkpoint = load_checkpoint(fs, "/d/n").checkpoint
    assert checkpoint is not None
    hit = 0
    for path in [path for path in fs.paths() if "/journal/" in path]:
        file = fs.open(path)
        data = memoryview(file.pread(file.size(), 0))
        for place in scan_file(data, path, 0, checkpoint.replay_generation):
            if place.header.number > checkpoint.flush_number and place.header.frame_count:
                trial = fs.clone()
                trial.flip_bit(path, place.position + 70)
                store = WalStore.open(trial, "/d/n", SETTINGS)
                assert any(log.quarantined for log in store.groups.values())
                hit += 1
    assert hit


def test_quarantine_is_durable_and_log_can_be_refilled(sealed: tuple[MemoryFileSystem, Known]) -> None:
    fs, _ = sealed
    trial = fs.clone()
    store = WalStore.open(trial, "/d/n", SETTINGS)
    log = store.groups[GROUPS[0]]
    log.quarantine("because")
    settle(store, Known())
    trial.crash(Random(2), "none")
    store = WalStore.open(trial, "/d/n", SETTINGS)
    log = store.groups[GROUPS[0]]
    assert log.quarantined == "because"
    log.install_snapshot(0, 0, 0, b"voters")
    log.append([Entry(1, 1, EntryKind.DATA, [b"x"], 1, crc32c(b"x"), 0, 1)])
    log.quarantine("")
    settle(store, Known())
    trial.crash(Random(2), "none")
    log = WalStore.open(trial, "/d/n", SETTINGS).groups[GROUPS[0]]
    assert (log.quarantined, log.first_index, log.last_index, log.next_offset) == ("", 1, 1, 1)


def test_failed_fsync_is_final() -> None:
    fs = MemoryFileSystem(Random(1))
    known = Known()
    store = session(fs, known, 3)
    store.groups[GROUPS[0]].save_hard_state(99, 1)
    fs.faults.sync_errors = 1
    flush = store.next_flush()
    assert flush is not None
    with pytest.raises(FlushError, match="journal"):
        flush.run()
    assert store.next_flush() is None, "nothing is acknowledged after a failed fsync"
    store.close()
    fs.crash(Random(1), "all")
    check_recovered(WalStore.open(fs, "/d/n", SETTINGS), known)


def test_full_disk_refuses_and_recovers_by_itself() -> None:
    fs = MemoryFileSystem(Random(1))
    known = Known()
    store = session(fs, known, 6)
    fs.faults.free_bytes = 0
    failed = 0
    for _ in range(40):
        for gid in GROUPS:
            log = store.groups[gid]
            payload = bytes(900)
            if store.memory_bytes < SETTINGS.memory_limit:
                log.append([Entry(log.last_term, log.last_index + 1, EntryKind.DATA, [payload], 900, crc32c(payload), log.next_offset, 2)])
                known.entries[gid][log.last_index] = payload
            log.save_hard_state(log.hard_state.term + 1, 1)
        flush = store.next_flush()
        if flush is not None:
            flush.run()
            flush.complete()
        for gid in GROUPS:
            store.groups[gid].advance_commit(max(store.groups[gid].committed_index, store.groups[gid].flushed_index))
        background = store.next_background()
        if background is not None:
            try:
                background.run()
                background.complete()
            except DiskFullError:
                failed += 1
    assert failed and store.disk_full
    for gid in GROUPS:
        assert contents(store, gid, known.first[gid]), "reads go on"
    fs.faults.free_bytes = None
    settle(store, known)
    settle(store, known)
    assert not store.disk_full
    assert not store.has_staged()
    fs.crash(Random(3), "none")
    check_recovered(WalStore.open(fs, "/d/n", SETTINGS), known)


def test_errors_are_our_own() -> None:
    assert issubclass(FlushError, WalError) and issubclass(DiskFullError, WalError)
