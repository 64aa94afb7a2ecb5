from random import Random

import pytest

from tests.unit.wal.helpers import GROUP, SMALL, add, flush, new_store, open_store, payloads, settle
from wal.api import AppliedState
from wal.entry import group_id
from wal.errors import DamageError, DataDirectoryError, InvariantError
from wal.filesystem import RealFileSystem
from wal.journal import BlockKind, unpack_block
from wal.memory_filesystem import MemoryFileSystem
from wal.settings import WalSettings, profile_limits
from wal.store import WalStore


def test_one_flush_for_all_groups():
    fs, store, _ = new_store()
    logs = [store.create_group(group_id(bytes([9] * 16), at), f"t{at}", b"") for at in range(100)]
    settle(store)
    for log in logs:
        add(log, 1, 40)
    syncs = fs.syncs
    flush(store)
    assert fs.syncs == syncs + 1 and all(log.flushed_index == 1 for log in logs)
    assert not store.has_staged() and store.next_flush() is None


def test_all_hard_states_are_in_the_next_flush_even_when_entries_do_not_fit():
    _, store, log = new_store()
    others = [store.create_group(group_id(bytes([9] * 16), at), f"t{at}", b"") for at in range(5)]
    add(log, 60, 1000)
    for other in others:
        other.save_hard_state(4, 2)
    flush(store)
    assert store.has_staged() and log.flushed_index < 60
    assert all(other.durable.hard_state == (4, 2) and other.durable.exists for other in others)


def test_limits_of_the_profile_are_limits_not_waits():
    fs = MemoryFileSystem(Random(1))
    store = open_store(fs, WalSettings(journal_file_bytes=1 << 20, flush_entries_max=10, flush_bytes_max=5000, reserve_bytes=0))
    log = store.create_group(GROUP, "topic", b"")
    add(log, 30, 100)
    flush(store)
    assert log.flushed_index == 10
    add(log, 5, 2000)
    flush(store)
    flush(store)
    assert log.flushed_index == 30
    flush(store)
    assert log.flushed_index == 32
    add(log, 1, 200_000)
    settle(store)
    assert log.flushed_index == 36
    assert profile_limits("low") == (500, 5_000_000)
    with pytest.raises(ValueError, match="low, medium, high, ultra"):
        profile_limits("none")


def test_seal_when_idle_and_only_once():
    fs, store, log = new_store()
    add(log)
    flush(store)
    assert not store.has_staged()
    store.note_idle()
    assert store.has_staged()
    job = store.next_flush()
    assert not store.has_staged() and store.next_flush() is None
    job.run()
    job.complete()
    store.note_idle()
    assert not store.has_staged()
    data = fs.open("/d/journal/journal_1").pread(1 << 20, 0)
    assert [unpack_block(data, at, 0).kind for at in (0, 4096)] == [BlockKind.FLUSH, BlockKind.SEAL]


def test_laps_recycle_files_and_stale_frames_are_not_taken():
    fs, store, log = new_store()
    for _ in range(60):
        add(log, 8, 1000)
        settle(store)
        log.advance_commit(log.flushed_index)
        settle(store)
    assert len([path for path in fs.paths() if "/journal/" in path]) <= SMALL.journal_files
    assert store._journal.generation > 10
    fs.crash(Random(1), "none")
    log = open_store(fs).groups[GROUP]
    assert not log.quarantined and len(payloads(log)) == 480


def test_uncommitted_entries_survive_laps():
    fs, store, log = new_store()
    other = store.create_group(group_id(bytes([8] * 16), 0), "other", b"")
    add(other, 5, 500)
    for _ in range(40):
        add(log, 8, 1000)
        settle(store)
        log.advance_commit(log.flushed_index)
        settle(store)
    assert other.committed_index == 0
    fs.crash(Random(1), "none")
    other = open_store(fs).groups[other.group_id]
    assert not other.quarantined and other.last_index == 5 and len(payloads(other)) == 5


def test_a_deleted_topic_shares_nothing_with_its_successor():
    fs, store, log = new_store()
    add(log, 30, 1000)
    settle(store)
    log.advance_commit(30)
    settle(store)
    assert any(path.endswith(".log") for path in fs.paths())
    store.delete_group(GROUP)
    successor = store.create_group(group_id(bytes([1] * 16), 3), "topic", b"new")
    add(successor, 20, 900)
    settle(store)
    successor.advance_commit(20)
    settle(store)
    assert store.memory_bytes < 4096 and list(store.groups) == [successor.group_id]
    fs.crash(Random(1), "random")
    store = open_store(fs)
    assert list(store.groups) == [successor.group_id]
    settle(store)
    assert len(payloads(store.groups[successor.group_id])) == 20 and not fs.list("/d/trash")


def test_trimmed_segments_go_away():
    fs, store, log = new_store()
    log.capture_state = lambda: AppliedState(log.committed_index, b"state")
    add(log, 60, 1000)
    settle(store)
    log.advance_commit(60)
    settle(store)
    before = [path for path in fs.paths() if path.endswith(".log")]
    log.truncate_prefix(50, 98)
    settle(store)
    after = [path for path in fs.paths() if path.endswith(".log")]
    assert len(before) >= 4 and len(after) <= 2
    fs.crash(Random(1), "none")
    log = open_store(fs).groups[GROUP]
    assert log.start_offset == 98 and log.applied_state == (60, b"state") and len(payloads(log, 50)) == 11
    job = log.read_job(1, 100)
    job.run()
    assert job.entries == []


def test_reading_by_offset_and_timestamp():
    fs, store, log = new_store()
    add(log, 60, 1000)
    settle(store)
    log.advance_commit(60)
    settle(store)
    store.close()
    log = open_store(fs).groups[GROUP]
    for offset in (0, 1, 57, 119):
        job = log.read_job_at_offset(offset, 1)
        job.run()
        assert job.entries[0].index == offset // 2 + 1
    job = log.read_job_at_offset(120, 1)
    job.run()
    assert job.entries == []
    for stamp in (0, 1, 30, 60):
        job = log.read_job_at_timestamp(stamp)
        job.run()
        assert job.entries[0].index <= max(stamp, 1) <= job.entries[-1].index


@pytest.mark.parametrize("harm", ["missing", "short", "wrong"])
def test_sparse_index_is_rebuilt_and_not_believed(harm):
    fs, store, log = new_store()
    add(log, 30, 400)
    settle(store)
    log.advance_commit(30)
    settle(store)
    store.close()
    for path in [path for path in fs.paths() if path.endswith(".idx")]:
        if harm == "missing":
            fs.remove(path)
        elif harm == "short":
            fs.open(path, write=True).truncate(40)
        else:
            fs.flip_bit(path, 30)
    log = open_store(fs).groups[GROUP]
    assert len(payloads(log)) == 30 and log.read_job_at_offset(59, 1).run() is None


def test_damage_in_a_segment_is_never_served():
    fs, store, log = new_store()
    add(log, 30, 400)
    settle(store)
    log.advance_commit(30)
    settle(store)
    path = next(path for path in fs.paths() if path.endswith(".log"))
    fs.flip_bit(path, 4096 + 100)
    with pytest.raises(DamageError, match=r"position 4096: checksum of the payload"):
        log.read_job(1, 100).run()


def test_a_missing_segment_quarantines():
    fs, store, log = new_store()
    add(log, 30, 400)
    settle(store)
    log.advance_commit(30)
    settle(store)
    store.close()
    fs.remove(next(path for path in fs.paths() if path.endswith("00000001.log")))
    store = open_store(fs)
    assert "is missing" in store.groups[GROUP].quarantined and store.recovery_notes


def test_directories_that_can_not_be_used(tmp_path):
    fs = RealFileSystem()
    root = str(tmp_path)
    store = WalStore.open(fs, f"{root}/a", SMALL)
    with pytest.raises(DataDirectoryError, match="in use"):
        WalStore.open(fs, f"{root}/a", SMALL)
    store.close()
    WalStore.open(fs, f"{root}/a", SMALL).close()
    data = bytearray((tmp_path / "a" / "format").read_bytes())
    (tmp_path / "a" / "format").write_bytes(b"x" * len(data))
    with pytest.raises(DataDirectoryError, match="not a format file"):
        WalStore.open(fs, f"{root}/a", SMALL)
    (tmp_path / "a" / "format").unlink()
    with pytest.raises(DataDirectoryError, match="no format file"):
        WalStore.open(fs, f"{root}/a", SMALL)
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "meta.properties").write_text("")
    with pytest.raises(DataDirectoryError, match="Kafka"):
        WalStore.open(fs, f"{root}/k", SMALL)
    (tmp_path / "f").write_text("")
    with pytest.raises(DataDirectoryError, match="can not be used"):
        WalStore.open(fs, f"{root}/f", SMALL)


def test_checkpoints_fall_back_one_and_no_further():
    fs, store, log = new_store()
    add(log, 3)
    settle(store)
    store.close()
    store = open_store(fs)
    store.close()
    newest = [path for path in fs.paths() if "/checkpoint_" in path]
    assert len(newest) == 2
    fs.flip_bit(newest[-1], 40)
    store = open_store(fs)
    assert store.recovery_notes and store.groups[GROUP].last_index == 3 and not store.groups[GROUP].quarantined
    store._close_files()
    for path in newest:
        fs.open(path, write=True).truncate(10)
    with pytest.raises(DamageError, match="no checkpoint can be read"):
        open_store(fs)


def test_topics_are_names_not_paths():
    _, store, _ = new_store()
    for topic in ("", "..", "a/b"):
        with pytest.raises(InvariantError):
            store.create_group(group_id(bytes(16), 7), topic, b"")
    with pytest.raises(InvariantError, match="exists"):
        store.create_group(GROUP, "topic", b"")


def test_settings_are_checked():
    for wrong in ({"journal_file_bytes": 5000}, {"journal_files": 2}, {"segment_piece_bytes_max": 4096}, {"flush_bytes_max": 0}):
        with pytest.raises(InvariantError):
            WalSettings(**wrong)


def test_what_a_deleted_topic_wrote_since_the_last_checkpoint_is_not_asked_for_by_the_next_one():
    _, store, log = new_store()
    other = store.create_group(group_id(bytes([2] * 16), 0), "other", b"voters")
    add(log, 20, 1000)
    settle(store)
    log.advance_commit(20)
    settle(store)
    assert store._write_behind.unsynced
    store.delete_group(GROUP)
    settle(store)
    assert not store.is_removing(GROUP)
    lap = store._journal.generation + SMALL.journal_files + 1
    while store._journal.generation < lap:
        add(other, 10, 1000)
        settle(store)
        other.advance_commit(other.last_index)
        settle(store)
    assert all("/other/" in path for path in store._write_behind.unsynced)
