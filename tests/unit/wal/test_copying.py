"""The journal comes round: what is in no segment yet is repeated, and nothing of that may stop the node. Faults that the simulator has found."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.unit.wal.helpers import GROUP, add, open_store
from wal.api import AppliedState
from wal.durable import DurableLog
from wal.entry import Entry, EntryKind, GroupId, group_id
from wal.frame import Copy
from wal.group_log import GroupLog
from wal.jobs import CheckpointJob, MakeFileJob
from wal.memory_filesystem import MemoryFileSystem
from wal.settings import WalSettings

OTHER = group_id(bytes([8] * 16), 0)
FILE_BYTES = 32 << 10


class Journal:
    """A store whose log `busy` fills the journal and whose log `slow` commits nothing until it is told."""

    def __init__(self, files: int) -> None:
        self.fs = MemoryFileSystem(Random(1))
        self.fs.mkdir("/")
        settings = WalSettings(
            journal_file_bytes=FILE_BYTES,
            journal_files=files,
            segment_bytes=256 << 10,
            segment_piece_bytes=4096,
            segment_piece_bytes_max=256 << 10,
            cache_bytes=0,
            reserve_bytes=0,
        )
        self.store = open_store(self.fs, settings)
        self.busy = self.store.create_group(GROUP, "busy", b"")
        self.slow = self.store.create_group(OTHER, "slow", b"")
        self.copies = 0
        self.files_made = 0
        self.flush()

    @property
    def generation(self) -> int:
        return self.store._journal.generation

    def flush(self) -> bool:
        """One flush; False when there is no room."""
        job: Any = self.store.next_flush()
        if job is None:
            return False
        self.copies += sum(type(item) is Copy for batch in job.batches for item in batch.items)
        job.run()
        job.complete()
        return True

    def background(self) -> bool:
        job = self.store.next_background()
        if job is None:
            return False
        self.files_made += isinstance(job, MakeFileJob)
        job.run()
        job.complete()
        return True

    def fill(self, log: GroupLog, until_generation: int) -> None:
        """Flush entries of 1,000 bytes, committing nothing, until the journal has come so far; files are made as they are needed."""
        while self.generation < until_generation:
            if not self.store.has_staged():
                add(log, 7, 1000)  # two blocks
            if not self.flush():
                assert self.background(), "there is neither room nor anything to do about it"
                self.flush()

    def commit(self, log: GroupLog) -> None:
        log.advance_commit(log.flushed_index)

    def settle(self, steps: int = 200) -> None:
        """Flushes and background work until nothing is left to do; a store that goes round for ever fails."""
        for _ in range(steps):
            if not self.flush() and not self.background():
                return
        raise AssertionError(f"still at work after {steps} steps")


def test_a_copied_entry_gives_its_generation_up() -> None:
    """Also what lay before it: entries of the old range that are in segments were never looked at again."""
    durable = DurableLog()
    for index, generation in ((1, 1), (6, 2)):
        entries = [Entry(1, n, EntryKind.DATA, (b"x",), 1, 0, n, 1) for n in (index, index + 4)]
        durable.add_entries(entries[0], entries[1], generation)
    durable.segments.written_index = 4
    durable.apply([Copy(Entry(1, 5, EntryKind.DATA, (b"x",), 1, 0, 5, 1))], 3)
    assert (durable.needed_generation(), durable.last_needed_index(1)) == (2, 0)
    assert durable.ranges == [(5, 3), (6, 2)]


def test_what_is_written_behind_meanwhile_needs_no_room_for_copies() -> None:
    """The reserve was made for what had to be repeated then; it goes down as less is left, not only when nothing is."""
    journal = Journal(3)
    journal.fill(journal.slow, 2)
    journal.fill(journal.busy, 3)
    journal.commit(journal.slow)
    journal.commit(journal.busy)
    while not isinstance(job := journal.store.next_background(), CheckpointJob):
        assert job is not None
        job.run()
        job.complete()
    add(journal.busy, 10, 1000)
    assert journal.flush() and journal.busy.flushed_index == journal.busy.last_index, "the checkpoint that frees a file is not done yet"


def test_only_what_is_in_old_generations_needs_room_for_copies() -> None:
    journal = Journal(3)
    add(journal.slow, 1, 100)
    journal.flush()
    journal.fill(journal.busy, 2)
    journal.commit(journal.busy)
    while journal.busy.durable.ranges:
        assert journal.background()
    add(journal.slow, 20, 1000)
    journal.flush()
    journal.fill(journal.busy, 3)
    add(journal.busy, 10, 1000)
    assert journal.flush() and journal.busy.flushed_index == journal.busy.last_index


def test_copies_that_take_more_than_one_file_do_not_begin_anew() -> None:
    journal = Journal(4)
    journal.fill(journal.slow, 3)
    in_first = journal.slow.durable.ranges[1][0] - journal.slow.durable.ranges[0][0]
    add(journal.busy, 15, 1000)
    journal.flush()
    assert journal.generation == 3
    first = journal.store._journal.files[0]
    while first.generation == 1:
        assert journal.background() or journal.flush()
        journal.flush()
        assert journal.generation <= 5 and journal.copies <= in_first, f"{journal.copies} copies of {in_first} entries"
    assert journal.generation == 4 and journal.copies == in_first


def test_copies_that_find_no_room_get_one_more_file() -> None:
    """Votes have eaten the room that was kept for them, one block each."""
    journal = Journal(3)
    journal.fill(journal.slow, 2)
    journal.fill(journal.busy, 3)
    for term in range(1, 6):
        journal.busy.save_hard_state(term, 0)
        assert journal.flush()
    add(journal.busy, 1, 1000)
    journal.commit(journal.busy)
    journal.settle()
    assert journal.busy.flushed_index == journal.busy.last_index
    journal.commit(journal.slow)
    for _ in range(100):
        add(journal.busy, 4, 1000)
        journal.settle()
        journal.commit(journal.busy)
    assert len(journal.store._journal.files) == 3, "it is given up again"
    journal.fs.crash(Random(1), "none")
    recovered: dict[GroupId, Any] = open_store(journal.fs).groups  # type: ignore[assignment]
    assert recovered[OTHER].last_index == journal.slow.last_index and not recovered[OTHER].quarantined


def test_a_checkpoint_does_not_wait_for_a_flush_that_waits_for_it() -> None:
    """A follower has applied what the leader says is committed, ahead of its own flush; that flush needs the room that only the checkpoint makes."""
    journal = Journal(3)
    while journal.flush() or len(journal.store._journal.files) < 3 or journal.generation < 3:
        if not journal.store.has_staged():
            add(journal.busy, 1, 1000)
        elif not journal.flush():
            job = journal.store.next_background()
            assert isinstance(job, MakeFileJob)
            job.run()
            job.complete()
    ahead = journal.busy.last_index
    assert journal.busy.flushed_index < ahead and journal.store.next_flush() is None
    journal.busy.advance_commit(ahead)
    journal.busy.capture_state = lambda: AppliedState(ahead, b"state")
    journal.settle()
    assert journal.busy.flushed_index == ahead
    assert journal.files_made == 0, "nor does it take one more file to get out of that"
