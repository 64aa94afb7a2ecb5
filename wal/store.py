"""All logs of one node: one journal, one checkpoint, segments of each partition. Fulfils `wal.api.WalStore`.

Owns what goes into a flush, when entries are written behind (which: `wal.write_behind`), when a checkpoint is made, and which journal files may be
used again. Loop thread only; blocking work leaves as jobs (`wal.jobs`), except in `open` and `close`. Groups that do nothing cost nothing: only what
is dirty, ready to be written behind or in no segment is looked at.
"""

from __future__ import annotations

from typing import cast

from wal import api
from wal.api import AppliedState, Flush, Job
from wal.checkpoint import Checkpoint, Removal
from wal.directory import open_directory
from wal.entry import Entry, EntryKind, GroupId
from wal.errors import DiskFullError, FlushError, check
from wal.filesystem import FileSystem, Lock
from wal.frame import HEADER_BYTES, Control, FrameKind, Item
from wal.group_log import GroupLog
from wal.group_record import record_of
from wal.jobs import BackgroundJob, Batch, CheckpointJob, FlushJob, MakeFileJob, RemovalJob, SpaceJob, WriteBehindJob, empty_trash
from wal.journal import BLOCK_HEADER_BYTES, BlockKind, Journal, JournalFile, make_journal_file
from wal.read_job import SegmentAccess
from wal.region import RegionWriter
from wal.segment import Describe, segment_name
from wal.settings import BLOCK_BYTES, WalSettings
from wal.write_behind import WriteBehind


def no_timestamps(_: object) -> int:
    """The default `describe`: nothing is known of payloads."""
    return -1


def is_creation(item: Item) -> bool:
    return type(item) is Control and item.kind == FrameKind.GROUP_CREATED


def created_bytes(log: GroupLog) -> int:
    """Bytes of the group_created frame that is staged, 0 when none is."""
    return HEADER_BYTES + log.staged[0].size if log.staged and is_creation(log.staged[0]) else 0


class WalStore:
    """See `wal.api.WalStore`.

    `_dirty`: logs with something staged. `_clean_target`: all journal generations up to it are being emptied, so that their files can be used
    again. Invariant: a journal file is freed only when a checkpoint is durable whose replay generation is above the file's.
    """

    def __init__(self, fs: FileSystem, directory: str, settings: WalSettings, describe: Describe) -> None:
        """Use `open`."""
        self.fs = fs
        self.directory = directory
        self.settings = settings
        self._logs: dict[GroupId, GroupLog] = {}
        self.groups = cast(dict[GroupId, api.GroupLog], self._logs)
        self.disk_full = False
        self.memory_bytes = 0
        self.memory_limit_bytes = settings.memory_limit
        self.entry_bytes_max = settings.entry_bytes_max
        self.access = SegmentAccess(fs, f"{directory}/wal", describe)
        self.recovery_notes: list[str] = []
        self._lock: Lock | None = None
        self._journal = Journal(f"{directory}/journal", settings, 0, 0, 1)
        self._flush_writer = RegionWriter(settings.buffer_bytes)
        self._write_behind = WriteBehind(self, fs, directory, settings, describe)
        self._dirty: list[GroupLog] = []
        self._deleting: list[GroupLog] = []
        self._flush: FlushJob | None = None
        self._background: BackgroundJob | None = None
        self._seal_wanted = False
        self._sealed = True
        self._flushed_number = 0
        self._flushed_generation = 0
        self._clean_target = 0
        self._copy_reserve = 0
        self._starved = False
        self._checkpoint_wanted = False
        self._checkpoint_sequence = 1
        self._captured: dict[GroupLog, tuple[AppliedState, int]] | None = None
        self._raft_written: dict[GroupId, tuple[object, ...]] = {}
        self._removals: list[Removal] = []
        self._surplus: list[str] = []
        self._failed = False

    # -- open and close -----------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, fs: FileSystem, directory: str, settings: WalSettings, describe: Describe = no_timestamps) -> WalStore:
        """Recover `directory`, or make it. Blocks. `describe` tells the largest timestamp (ms) in a DATA payload, for rebuilding indexes.

        Raises DataDirectoryError (locked, foreign, unwritable, unknown version) and DamageError (no readable checkpoint).
        """
        store = cls(fs, directory.rstrip("/"), settings, describe)
        store._open()
        return store

    def _open(self) -> None:
        opened = open_directory(self.fs, self.directory, self.settings)
        self._lock = opened.lock
        try:
            scan, checkpoint = opened.scan, opened.checkpoint
            journal = self._journal
            journal.salt = opened.salt
            journal.generation = max(checkpoint.generation, scan.generation)
            journal.next_number = scan.last_number + 1
            self._flushed_number = scan.last_number
            self._flushed_generation = scan.blocks[-1].header.generation if scan.blocks else checkpoint.flush_generation
            self._checkpoint_sequence = opened.sequence + 1
            self._checkpoint_wanted = bool(opened.problem)
            self._removals = opened.replay.removals
            self.recovery_notes = [note for note in (opened.problem, scan.torn and f"torn tail ignored: {scan.torn}") if note]
            for group in opened.replay.groups.values():
                log = GroupLog(self, group.group_id, group.topic)
                log.recover(group.durable, group.entries)
                self._logs[group.group_id] = log
                if group.durable.ranges:
                    self._write_behind.holding[log] = None
                if group.damaged:
                    reason, log.quarantined = log.quarantined, ""
                    log.quarantine(reason)
                    self._checkpoint_wanted = True
                    self.recovery_notes.append(f"{log.topic}/{log.partition} quarantined: {reason}")
            for file in opened.files:
                journal.add(file)
            if not journal.free:
                journal.add(self._make_file())
            self._enter_next()
            empty_trash(self.fs, f"{self.directory}/trash")
            self.disk_full = self.fs.free_bytes(self.directory) < self.settings.reserve_bytes
        except BaseException:
            self._close_files()
            raise

    def _make_file(self) -> JournalFile:
        settings = self.settings
        return make_journal_file(self.fs, self._journal.directory, self._journal.next_file_number(), settings.journal_file_bytes, settings.direct)

    def close(self) -> None:
        """Write behind what is committed, make a checkpoint, release the directory. Blocks. Safe after any failure: then only files are closed."""
        try:
            if self._lock is not None and self._flush is None and self._background is None and not self._failed:
                self._close_cleanly()
        except (OSError, DiskFullError, FlushError) as error:
            self.recovery_notes.append(f"closed without a checkpoint: {error}")  # the journal has everything
        finally:
            self._close_files()

    def _close_cleanly(self) -> None:
        while (job := self._plan_write_behind(self._write_behind.unwritten())) is not None:
            job.run()
            job.complete()
        self._capture()
        checkpoint = self._plan_checkpoint()
        if checkpoint is not None:
            checkpoint.run()
            checkpoint.complete()
        if not self._sealed and self._journal.room >= BLOCK_BYTES:
            self._take_seal().run()

    def _close_files(self) -> None:
        self._journal.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # -- groups -------------------------------------------------------------------------------------------------------

    def create_group(self, group_id: GroupId, topic: str, configuration: bytes) -> GroupLog:
        """A new empty group with its first voters (staged)."""
        check(group_id not in self._logs, f"group {topic} {group_id.hex()} exists already")
        check(bool(topic) and "/" not in topic and topic not in (".", ".."), f"{topic!r} can not be a topic's directory")
        log = GroupLog(self, group_id, topic)
        self._logs[group_id] = log
        log.create(configuration)
        return log

    def delete_group(self, group_id: GroupId) -> None:
        """Forget a group at once; its files go away once that is durable."""
        log = self._logs.pop(group_id)
        log.deleted = True
        log.drop_memory()
        log.staged = []
        self._write_behind.forget(log)
        self._deleting.append(log)
        log.staged.append(Control(FrameKind.GROUP_DELETED))
        if not log.is_staged:
            self.stage(log)

    def is_removing(self, group_id: GroupId) -> bool:
        """Whether anything of a deleted group may still be on disk."""
        key = (group_id[:16], int.from_bytes(group_id[16:], "big"))
        return any(log.group_id == group_id for log in self._deleting) or any(r.whole and (r.topic_id, r.partition) == key for r in self._removals)

    # -- what logs tell -----------------------------------------------------------------------------------------------

    def stage(self, log: GroupLog) -> None:
        log.is_staged = True
        self._dirty.append(log)

    def written_behind_soon(self, log: GroupLog) -> None:
        self._write_behind.soon(log)

    def piece_bytes(self) -> int:
        return self.settings.segment_piece_bytes

    def memory_is_short(self) -> bool:
        return self.memory_bytes >= self.memory_limit_bytes * 3 // 4

    # -- flush --------------------------------------------------------------------------------------------------------

    def has_staged(self) -> bool:
        return bool(self._dirty) or self._seal_wanted

    def note_idle(self) -> None:
        """Nothing has been flushed for a while: the next flush is a seal block, unless something is staged before or the journal is sealed
        already."""
        self._seal_wanted = not self._sealed and not self._dirty and self._flush is None

    def next_flush(self) -> Flush | None:
        if self._flush is not None:
            return None
        if not self._dirty:
            if not self._seal_wanted or self._journal.room < BLOCK_BYTES:
                self._seal_wanted = False
                return None
            return self._take_seal()
        journal = self._journal
        can_follow = bool(journal.free) or len(journal.files) < self.settings.journal_files
        reserve = 0 if can_follow else self._copy_reserve + self.settings.journal_file_bytes // 16
        batches, length, count = self._take(journal.room, journal.room - reserve)
        if not batches and journal.free:
            self._enter_next()
            can_follow = bool(journal.free) or len(journal.files) < self.settings.journal_files
            reserve = 0 if can_follow else self._copy_reserve + self.settings.journal_file_bytes // 16
            batches, length, count = self._take(journal.room, journal.room - reserve)
        self._starved = not batches
        if not batches:
            return None
        self._seal_wanted = False
        self._sealed = False
        self._flush = FlushJob(journal.take(BlockKind.FLUSH, length, count), batches, self._flush_writer, self._flush_complete)
        return self._flush

    def _take_seal(self) -> FlushJob:
        self._seal_wanted = False
        self._sealed = True
        self._flush = FlushJob(self._journal.take(BlockKind.SEAL, 0, 0), [], self._flush_writer, self._flush_complete)
        return self._flush

    def _enter_next(self) -> None:
        """Go on in the next file, and begin to empty the oldest ones while there is still slack."""
        journal = self._journal
        check(journal.enter_next(), "no free journal file")
        target = journal.generation - 2
        # A target that is not reached yet stays: what must be repeated may take more than one file, and would begin anew with each.
        if not self._clean_target and any(0 < file.generation <= target for file in journal.files):
            self._clean_target = target
            self._copy_reserve = self._bytes_to_copy(target)

    def _bytes_to_copy(self, target: int) -> int:
        """What repeating everything that is only in generations up to `target` and in no segment would take, at most."""
        size = 0
        for log in self._write_behind.holding:
            durable = log.durable
            if (durable.needed_generation() or target + 1) <= target:
                low, high = durable.segments.written_index, min(durable.last_needed_index(target), log.flushed_index)
                size += BLOCK_BYTES + sum(entry.size + HEADER_BYTES for entry in log.memory_entries if low < entry.index <= high)
        return min(size, self.settings.journal_file_bytes)

    def _take(self, room: int, entry_room: int) -> tuple[list[Batch], int, int]:
        """Frames for one flush: (batches, bytes, frames). All hard states, or nothing; then, in order, what fits.

        `room`: bytes in the file, padding excluded; entries that are new may use only `entry_room`, the rest is for what makes room again.
        """
        settings = self.settings
        room -= BLOCK_HEADER_BYTES
        entry_room -= BLOCK_HEADER_BYTES
        bytes_max = settings.flush_bytes_max  # one entry may be larger
        length = sum(HEADER_BYTES + created_bytes(log) for log in self._dirty if log.hard_state_staged)
        if length > room:
            return [], 0, 0
        count = 0
        entries_left = entries_max = settings.flush_entries_max
        batches: list[Batch] = []
        rest: list[GroupLog] = []
        for log in self._dirty:
            staged = log.staged
            taken = 0
            slow = log.hard_state_staged
            first: Entry | None = None
            last: Entry | None = None
            for item in staged:
                size = HEADER_BYTES + item.size
                if type(item) is Entry:
                    if length + size > entry_room or entries_left <= 0 or (length + size > bytes_max and entries_left < entries_max):
                        break
                    entries_left -= 1
                    if first is None:
                        first = item
                    last = item
                    if item.kind == EntryKind.CONFIGURATION:
                        slow = True
                elif taken or not log.hard_state_staged or not is_creation(item):
                    if length + size > room:
                        break
                    slow = True
                else:
                    size = 0  # counted above: a group's creation never comes behind its first hard state
                length += size
                taken += 1
            items: list[Item]
            if taken == len(staged):
                items, log.staged = staged, []
                log.is_staged = False
            else:
                items, log.staged = staged[:taken], staged[taken:]
                rest.append(log)
            if log.hard_state_staged:
                log.hard_state_staged = False
                state = Control(FrameKind.HARD_STATE, log.hard_state.term, log.hard_state.vote)
                items.insert(1 if items and is_creation(items[0]) else 0, state)
                taken += 1
            count += taken
            if items:
                batches.append(Batch(log, log.epoch, items, first, last, slow))
                if last is not None:
                    log.flight_index = last.index
        self._dirty = rest
        return batches, length, count

    def _flush_complete(self, job: FlushJob) -> None:
        self._flush = None
        self._flushed_number = job.number
        generation = job.generation
        self._flushed_generation = generation
        holding = self._write_behind.holding
        for batch in job.batches:
            log = batch.log
            durable = log.durable
            if batch.slow:
                durable.apply(batch.items, generation)
                self._after_controls(batch)
            elif batch.first is not None and batch.last is not None:
                durable.add_entries(batch.first, batch.last, generation)
            if durable.ranges:
                holding[log] = None
            elif log in holding:
                del holding[log]
            log.advance_flushed()

    def _after_controls(self, batch: Batch) -> None:
        """What follows from frames that replaced or removed a log."""
        log = batch.log
        for item in batch.items:
            if type(item) is not Control:
                continue
            if item.kind == FrameKind.SNAPSHOT_INSTALLED and log.epoch == batch.epoch:
                log.reset_flushed()
                self._checkpoint_wanted = True
            elif item.kind == FrameKind.LOG_START:
                sealed = log.durable.segments.sealed
                self._checkpoint_wanted |= bool(sealed) and sealed[0].last_index < log.durable.first_index  # their files can go away behind it
            elif item.kind == FrameKind.GROUP_DELETED:
                self._deleting = [other for other in self._deleting if other is not log]
                topic_id, partition = log.key
                self._removals = [r for r in self._removals if (r.topic_id, r.partition) != log.key or r.whole]
                self._removals.append(Removal(log.topic, topic_id, partition, [], True))
                self._raft_written.pop(log.group_id, None)

    # -- background ---------------------------------------------------------------------------------------------------

    def next_background(self) -> Job | None:
        if self._background is not None:
            if not self._background.failed:
                return None
            self._background_failed(self._background)
        job = self._plan_background()
        self._background = job
        return job

    def _plan_background(self) -> BackgroundJob | None:
        if self._removals or self._surplus:
            return self._plan_removal()
        journal = self._journal
        short = not journal.free and journal.position > self.settings.journal_file_bytes // 4
        if (short and len(journal.files) < self.settings.journal_files) or (self._starved and not journal.free and not self._clean_target):
            return self._plan_file()
        if self._clean_target:
            job = self._clean()
            if job is not None:
                return job
            if self._starved and not journal.free and self._flush is None:
                return self._plan_file()  # what must be repeated finds no room: one file more, given up again when the journal is clean
        elif self._checkpoint_wanted and (job := self._checkpoint_step()) is not None:
            return job
        if self._write_behind.ready:
            return self._plan_write_behind(list(self._write_behind.ready))
        if self.memory_is_short() and (job := self._plan_write_behind(self._write_behind.largest())) is not None:
            return job
        if self.disk_full:
            space = SpaceJob(self.fs, self.directory, self.settings.reserve_bytes)
            space.then(lambda: self._background_done(space))
            return space
        return None

    def _background_done(self, job: BackgroundJob) -> None:
        self._background = None
        self.disk_full = job.free_bytes < self.settings.reserve_bytes

    def _background_failed(self, job: BackgroundJob) -> None:
        """There was no space. Everything stays as it was, and is planned again when the driver asks."""
        job.then(lambda: None)
        self._background = None
        self.disk_full = True
        if isinstance(job, WriteBehindJob):
            self._write_behind.failed(job)
        elif isinstance(job, RemovalJob):
            self._forget_moved(job)

    def _forget_moved(self, job: RemovalJob) -> None:
        """The next checkpoint must not fsync what is gone. By path is right: nothing was written between the job's start and its end."""
        for path in job.moved:
            self._write_behind.unsynced.pop(path, None)

    def _plan_removal(self) -> BackgroundJob:
        removals, paths = list(self._removals), list(self._surplus)
        job = RemovalJob(self.fs, self.directory, removals, paths)

        def complete() -> None:
            self._background_done(job)
            self._forget_moved(job)
            self._removals = [removal for removal in self._removals if all(removal is not done for done in removals)]
            self._surplus = [path for path in self._surplus if path not in paths]
            for removal in removals:
                for number in removal.numbers:
                    self.access.forget(f"{self.access.directory}/{removal.topic}/{segment_name(removal.partition, number)}")
                if removal.whole:
                    self.access.forget_group(removal.topic_id, removal.partition)

        job.then(complete)
        return job

    def _plan_file(self) -> BackgroundJob:
        journal, settings = self._journal, self.settings
        job = MakeFileJob(self.fs, self.directory, journal.next_file_number(), settings.journal_file_bytes, settings.direct)

        def complete() -> None:
            self._background_done(job)
            if job.made is not None:
                journal.add(job.made)

        job.then(complete)
        return job

    def _plan_write_behind(self, logs: list[GroupLog]) -> BackgroundJob | None:
        job = self._write_behind.plan(logs, self._journal.generation)
        if job is None:
            return None

        def complete(job: WriteBehindJob = job) -> None:
            self._background_done(job)
            self._write_behind.complete(job)

        job.then(complete)
        return job

    # -- checkpoint ---------------------------------------------------------------------------------------------------

    def _clean(self) -> BackgroundJob | None:
        """Empty all journal generations up to the target: write behind what is committed, repeat what is not, then a checkpoint."""
        target = self._clean_target
        self._copy_reserve = min(self._copy_reserve, self._bytes_to_copy(target))
        blockers = [log for log in self._write_behind.holding if (log.durable.needed_generation() or target + 1) <= target]
        if not blockers:
            return self._checkpoint_step()
        writable = [log for log in blockers if log.writable_index > log.durable.segments.written_index]
        if writable:
            return self._plan_write_behind(writable)
        if self._flush is None and sum(log.copied_generation < target and log.stage_copies(target) for log in blockers):
            staged = BackgroundJob(self.fs, self.directory)  # does nothing but give the driver a turn, in which the repeated entries are flushed
            staged.then(lambda: self._background_done(staged))
            return staged
        return None

    def _checkpoint_step(self) -> BackgroundJob | None:
        """Capture the states, then, when they are all covered by what is flushed, plan the checkpoint."""
        if self._captured is None:
            self._capture()
        for log, (state, epoch) in (self._captured or {}).items():
            if log.epoch == epoch and (state.index > log.flushed_index or log.reset_pending) and not log.deleted and not self._starved:
                return None  # soon; but what waits for this checkpoint must not be waited for: then such a log keeps its former state
        return self._plan_checkpoint()

    def _capture(self) -> None:
        """Ask state machines whose group has moved for their state."""
        self._captured = {}
        for log in self._logs.values():
            if log.capture_state is not None and log.captured_commit != log.committed_index:
                state = log.capture_state()
                log.captured_commit = log.committed_index
                if state is not None:
                    self._captured[log] = (state, log.epoch)

    def _plan_checkpoint(self) -> BackgroundJob | None:
        captured, self._captured = self._captured or {}, None
        for log, (state, epoch) in captured.items():
            if log.epoch == epoch and state.index <= log.flushed_index and not log.reset_pending:
                log.durable.applied = state
            else:
                log.captured_commit = -1
        self._checkpoint_wanted = False
        target = self._clean_target
        needed = [generation for log in self._write_behind.holding if (generation := log.durable.needed_generation()) is not None]
        replay = min([*needed, self._journal.generation])
        logs = [log for log in (*self._deleting, *self._logs.values()) if log.durable.exists]
        obsolete: list[Removal] = []
        records = [record_of(log, obsolete) for log in logs]
        gone = [(log, set(log.durable.segments.obsolete)) for log in logs if log.durable.segments.obsolete]
        checkpoint = Checkpoint(
            self._checkpoint_sequence,
            replay,
            self._journal.generation,
            self._flushed_number,
            self._flushed_generation,
            records,
            self._removals + obsolete,
        )
        self._checkpoint_sequence += 1
        changed = []
        for at, (log, record) in enumerate(zip(logs, records, strict=True)):
            state_now = (record.term, record.vote, record.first_index, record.quarantined)
            if self._raft_written.get(log.group_id) != state_now:
                self._raft_written[log.group_id] = state_now
                changed.append(at)
        unsynced = self._write_behind.unsynced
        paths = list(unsynced)
        job = CheckpointJob(self.fs, self.directory, checkpoint, paths, changed)

        def complete() -> None:
            self._background_done(job)
            for path in paths:
                del unsynced[path]
            self._removals.extend(obsolete)
            for log, numbers in gone:
                segments = log.durable.segments
                segments.obsolete = [number for number in segments.obsolete if number not in numbers]
            self._surplus.extend(file.path for file in self._journal.release(replay))
            if target == self._clean_target and replay > target:
                self._clean_target = 0
                self._copy_reserve = 0

        job.then(complete)
        return job
