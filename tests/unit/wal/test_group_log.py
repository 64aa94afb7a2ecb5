import pytest
from crc32c import crc32c

from tests.unit.wal.helpers import GROUP, add, flush, make_entry, new_store, open_store, payloads, settle
from wal.entry import Entry, EntryKind
from wal.errors import InvariantError


def test_append_is_checked_and_readable_at_once():
    _, store, log = new_store()
    add(log, 3)
    assert (log.last_index, log.last_term, log.next_offset, log.flushed_index) == (3, 1, 6, 0)
    assert [entry.index for entry in log.memory_slice(2, 1 << 20)] == [2, 3]
    assert log.memory_slice(4, 1) == []
    for bad in (
        Entry(1, 9, 1, [], 0, 0, 6, 1),
        Entry(0, 4, 1, [], 0, 0, 6, 1),
        Entry(1, 4, 1, [], 0, 0, 7, 1),
        Entry(1, 4, 1, [], store.entry_bytes_max + 1, 0, 6, 1),
    ):
        with pytest.raises(InvariantError, match="can not be appended"):
            log.append([bad])
    assert log.last_index == 3


def test_offsets_are_found_only_in_data_entries():
    _, _, log = new_store()
    log.append([make_entry(log, kind=EntryKind.NOOP)])
    add(log, 2)
    log.append([make_entry(log, kind=EntryKind.COMMAND)])
    assert [log.index_of_offset(offset) for offset in (-1, 0, 1, 2, 3, 4)] == [None, 2, 2, 3, 3, None]


def test_late_fsync_of_a_rewritten_index_does_not_count():
    """RELIABILITY.md, trap 3."""
    _, store, log = new_store()
    add(log, 3)
    job = store.next_flush()
    job.run()
    log.truncate_suffix(2)
    add(log, 2, term=2)
    job.complete()
    assert (log.flushed_index, log.last_index) == (1, 3)
    flush(store)
    assert log.flushed_index == 3


def test_truncation_of_staged_entries_then_partial_flush():
    fs, store, log = new_store()
    add(log, 3)
    log.truncate_suffix(2)
    add(log, 1, term=2)
    flush(store)
    assert log.flushed_index == 2 and [log.term(index) for index in range(4)] == [0, 1, 2, None]
    store.close()
    log = open_store(fs).groups[GROUP]
    assert (log.last_index, log.last_term) == (2, 2)


def test_nothing_committed_is_truncated_and_hard_state_never_goes_back():
    _, store, log = new_store()
    add(log, 3)
    flush(store)
    log.advance_commit(2)
    with pytest.raises(InvariantError, match="committed"):
        log.truncate_suffix(2)
    with pytest.raises(InvariantError, match="behind the end"):
        log.advance_commit(9)
    log.save_hard_state(3, 0)
    log.save_hard_state(3, 1)
    for term, vote in ((2, 1), (3, 2), (3, 0)):
        with pytest.raises(InvariantError, match="go back"):
            log.save_hard_state(term, vote)
    with pytest.raises(InvariantError, match="above the committed"):
        log.truncate_prefix(4, 4)


def test_configurations_follow_the_log():
    fs, store, log = new_store()
    log.append([make_entry(log, b"one", kind=EntryKind.CONFIGURATION)])
    log.append([make_entry(log, b"two", kind=EntryKind.CONFIGURATION)])
    assert log.configurations == [(0, b"voters"), (1, b"one"), (2, b"two")]
    log.truncate_suffix(2)
    assert log.configurations == [(0, b"voters"), (1, b"one")]
    add(log, 3)
    flush(store)
    log.advance_commit(4)
    log.truncate_prefix(3, 2)
    assert log.configurations == [(1, b"one")]
    settle(store)
    store.close()
    log = open_store(fs).groups[GROUP]
    assert log.configurations == [(1, b"one")] and log.first_index == 3 and log.start_offset == 2


def test_install_snapshot_replaces_the_log():
    fs, store, log = new_store()
    add(log, 4)
    settle(store)
    log.install_snapshot(50, 3, 200, b"snapshot")
    assert (log.first_index, log.last_index, log.last_term, log.next_offset, log.start_offset) == (51, 50, 3, 200, 200)
    assert log.term(50) == 3 and log.term(49) is None and log.flushed_index < 50 and log.committed_index == 50
    add(log, 2, term=3)
    settle(store)
    assert log.flushed_index == 52 and list(log.term_runs()) == [(3, 50, 200)]
    fs.crash(store_random(), "none")
    log = open_store(fs).groups[GROUP]
    assert (log.first_index, log.last_index, log.configurations) == (51, 52, [(50, b"snapshot")])
    assert len(payloads(log, 51)) == 2 and log.term(50) == 3


def test_memory_is_given_back_when_entries_are_in_segments():
    _, store, log = new_store()
    add(log, 60, 400)
    settle(store)
    assert store.memory_bytes == 60 * 400
    log.advance_commit(60)
    settle(store)
    assert store.memory_bytes < 4096 and log.memory_slice(1, 1) is None and log.index_of_offset(0) is None
    assert payloads(log) == [index.to_bytes(4, "big") * 100 for index in range(1, 61)]


def test_payload_crc_is_trusted_in_memory_and_checked_from_disk():
    fs, store, log = new_store()
    log.append([Entry(1, 1, 1, [b"abc"], 3, crc32c(b"abx"), 0, 1)])
    settle(store)
    store.note_idle()
    settle(store)
    fs.crash(store_random(), "none")
    assert open_store(fs).groups[GROUP].quarantined


def store_random():
    from random import Random

    return Random(1)
