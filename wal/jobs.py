"""Blocking work of the store: made and completed on the loop thread, `run` on a disk thread.

A job is given copies of what it needs and shares nothing that changes with the loop thread. A flush and one background job may run at the same
time, each with a buffer of its own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wal.checkpoint import Checkpoint, Removal, write_checkpoint, write_raft_file
from wal.entry import Buffer, Entry
from wal.errors import DiskFullError, FlushError
from wal.filesystem import FileSystem, parent
from wal.frame import Item
from wal.group_log import GroupLog
from wal.journal import BlockHeader, JournalFile, make_journal_file, pack_block, padded
from wal.region import RegionWriter
from wal.segment import Describe, PieceTask, index_name, is_disk_full, parse_segment_name, read_segment_header, segment_name


@dataclass(slots=True)
class Batch:
    """Frames of one group in one flush. `slow`: more than plain entries; then `items` must be applied one by one. `first`, `last`: plain entries."""

    log: GroupLog
    epoch: int
    items: Sequence[Item]
    first: Entry | None
    last: Entry | None
    slow: bool


class FlushJob:
    """Write one flush and fsync it. Any error is FlushError: final, never tried again.

    What fits into the writer's buffer is put there at once, on the loop thread; then `run` is one call to the system, or the kernel is given `place`
    and `ended` takes its answer. A larger flush is written piece by piece by `run`.
    """

    __slots__ = ("_complete", "_data", "_file", "_header", "_position", "_writer", "batches", "generation", "size_bytes")

    def __init__(
        self, place: tuple[JournalFile, int, BlockHeader], batches: list[Batch], writer: RegionWriter, complete: Callable[[FlushJob], None]
    ) -> None:
        self._file, self._position, self._header = place
        self.generation = self._header.generation
        self.size_bytes = self._header.length
        self.batches = batches
        self._writer = writer
        self._complete = complete
        self._data: Buffer | None = None
        if padded(self.size_bytes) <= writer.capacity:
            self._fill()
            self._data = writer.filled()

    @property
    def number(self) -> int:
        return self._header.number

    def run(self) -> None:
        file = self._file.file
        try:
            if self._data is not None:
                file.pwrite_durably(self._data, self._position)
            else:
                self._fill()
                self._writer.finish()
                file.fdatasync()
        except OSError as error:
            raise self._failed(error) from error

    def place(self) -> tuple[int, Buffer, int] | None:
        """What the kernel may be told to write durably instead of `run`: (descriptor, bytes, position). None when it takes a thread.

        The bytes stay as they are until the next flush.
        """
        number = self._file.file.kernel_number()
        return (number, self._data, self._position) if self._data is not None and number >= 0 else None

    def ended(self, result: int) -> None:
        """The kernel's answer to `place`: bytes that are durable, or a negative error number. FlushError unless that is all."""
        length = padded(self.size_bytes)
        if result < 0:
            raise self._failed(OSError(-result, os.strerror(-result)))
        if result != length:
            raise self._failed(OSError(errno.EIO, f"short write of {result} of {length} bytes"))

    def complete(self) -> None:
        self._complete(self)

    def _fill(self) -> None:
        writer, generation = self._writer, self.generation
        writer.begin(self._file.file, self._position)
        writer.put(pack_block(self._header))
        for batch in self.batches:
            topic_id, partition = batch.log.key
            writer.put_frames(topic_id, partition, generation, batch.items)

    def _failed(self, error: OSError) -> FlushError:
        return FlushError(f"{self._file.path}: flush {self._header.number} at position {self._position} failed: {error}")


def _nothing() -> None:
    """What is left to do after a job."""


class BackgroundJob:
    """Base of background jobs: turns ENOSPC into DiskFullError, notes failure for the loop thread, and looks at the free space."""

    __slots__ = ("_complete", "failed", "free_bytes", "fs", "root", "size_bytes")

    def __init__(self, fs: FileSystem, root: str) -> None:
        self.fs = fs
        self.root = root
        self.size_bytes = 0
        self.failed = False
        self.free_bytes = 0
        self._complete: Callable[[], None] = _nothing

    def then(self, complete: Callable[[], None]) -> None:
        """What `complete` does."""
        self._complete = complete

    def run(self) -> None:
        try:
            self.work()
            self.free_bytes = self.fs.free_bytes(self.root)
        except DiskFullError:
            self.failed = True
            raise
        except OSError as error:
            if not is_disk_full(error):
                raise
            self.failed = True
            raise DiskFullError(f"{self.root}: {error}: produce is refused until there is space again") from error

    def work(self) -> None:
        """The blocking part; nothing here."""

    def complete(self) -> None:
        complete, self._complete = self._complete, _nothing  # it refers back to the job: megabytes would wait for the cycle collector
        complete()


class WriteBehindJob(BackgroundJob):
    """Write one piece per group."""

    __slots__ = ("_describe", "_direct", "_writer", "epochs", "logs", "tasks")

    def __init__(self, fs: FileSystem, root: str, writer: RegionWriter, describe: Describe, direct: bool) -> None:
        super().__init__(fs, root)
        self._writer = writer
        self._describe = describe
        self._direct = direct
        self.tasks: list[PieceTask] = []
        self.logs: list[GroupLog] = []
        self.epochs: list[int] = []

    def add(self, log: GroupLog, task: PieceTask) -> None:
        self.logs.append(log)
        self.tasks.append(task)
        self.epochs.append(log.epoch)
        self.size_bytes += task.size

    def work(self) -> None:
        for task in self.tasks:
            task.run(self.fs, self._writer, self._describe, self._direct)


class CheckpointJob(BackgroundJob):
    """fsync the segments that the checkpoint refers to, then the checkpoint, then the readable copies of hard states."""

    __slots__ = ("_paths", "_raft_files", "checkpoint")

    def __init__(self, fs: FileSystem, root: str, checkpoint: Checkpoint, paths: Sequence[str], raft_files: Sequence[int]) -> None:
        """`paths`: segment files written since the last checkpoint; `raft_files`: which groups' copies have changed."""
        super().__init__(fs, root)
        self.checkpoint = checkpoint
        self._paths = paths
        self._raft_files = raft_files

    def work(self) -> None:
        directories: dict[str, None] = {}
        for path in self._paths:
            file = self.fs.open(path, write=True)
            try:
                file.fdatasync()
            finally:
                file.close()
            directories[parent(path)] = None
        for directory in directories:
            self.fs.sync_directory(directory)
        write_checkpoint(self.fs, self.root, self.checkpoint)
        for at in self._raft_files:
            record = self.checkpoint.groups[at]
            write_raft_file(self.fs, f"{self.root}/wal/{record.topic}/raft_{record.partition}", record)


class MakeFileJob(BackgroundJob):
    """Make one more journal file."""

    __slots__ = ("_direct", "_number", "_size", "made")

    def __init__(self, fs: FileSystem, root: str, number: int, size: int, direct: bool) -> None:
        super().__init__(fs, root)
        self._number = number
        self._size = size
        self._direct = direct
        self.made: JournalFile | None = None

    def work(self) -> None:
        self.made = make_journal_file(self.fs, f"{self.root}/journal", self._number, self._size, self._direct)


class RemovalJob(BackgroundJob):
    """Rename files of deleted groups and trimmed segments away, then remove them. `moved`: segment files that are gone, also when the job fails."""

    __slots__ = ("moved", "paths", "removals")

    def __init__(self, fs: FileSystem, root: str, removals: Sequence[Removal], paths: Sequence[str]) -> None:
        """`paths`: further files that are simply removed (surplus journal files)."""
        super().__init__(fs, root)
        self.removals = removals
        self.paths = paths
        self.moved: list[str] = []

    def work(self) -> None:
        trash = f"{self.root}/trash"
        self.fs.mkdir(trash)
        for removal in self.removals:
            remove_group_files(self.fs, self.root, removal, self.moved)
        for path in self.paths:
            if self.fs.exists(path):
                self.fs.remove(path)
        empty_trash(self.fs, trash)


class SpaceJob(BackgroundJob):
    """Look whether there is space again."""

    __slots__ = ("_reserve",)

    def __init__(self, fs: FileSystem, root: str, reserve: int) -> None:
        super().__init__(fs, root)
        self._reserve = reserve

    def work(self) -> None:
        free = self.fs.free_bytes(self.root)
        if free < self._reserve:
            raise DiskFullError(f"{self.root}: {free} bytes are free and {self._reserve} are kept for votes and deletes: free some space")


def remove_group_files(fs: FileSystem, root: str, removal: Removal, gone: list[str]) -> None:
    """Move a group's files into the trash; its segments are added to `gone`. Files of another topic id under the same name stay."""
    directory = f"{root}/wal/{removal.topic}"
    names = fs.list(directory)
    moved = False
    if removal.whole:
        numbers = [found[1] for name in names if (found := parse_segment_name(name)) is not None and found[0] == removal.partition]
    else:
        numbers = removal.numbers
    for number in numbers:
        path = f"{directory}/{segment_name(removal.partition, number)}"
        if not fs.exists(path):
            continue
        header = read_segment_header(fs, path)
        if header is not None and header.topic_id != removal.topic_id:
            continue
        gone.append(path)
        for source in (path, index_name(path)):
            if fs.exists(source):
                fs.rename(source, f"{root}/trash/{removal.topic_id.hex()}_{source.rpartition('/')[2]}")
        moved = True
    if moved:
        fs.sync_directory(directory)
        fs.sync_directory(f"{root}/trash")
    if removal.whole:
        copy = f"{directory}/raft_{removal.partition}"
        if fs.exists(copy):
            fs.remove(copy)
        if names and not fs.list(directory):
            fs.rmdir(directory)


def empty_trash(fs: FileSystem, trash: str) -> None:
    """Remove what was renamed into the trash."""
    for name in fs.list(trash):
        fs.remove(f"{trash}/{name}")
