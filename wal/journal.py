"""The journal: the one file per node that acknowledgements hang on.

Owns its files, their generations and the numbering of flushes. A file is entered under a new generation each time it is used; one flush is out at a
time; a flush never spans files. `Journal` lives on the loop thread and only hands out places; bytes are written by the flush job. See
docs/formats/journal.md.
"""

from __future__ import annotations

import errno
import mmap
import struct
from dataclasses import dataclass
from enum import IntEnum

from crc32c import crc32c

from wal.entry import Buffer
from wal.errors import DiskFullError, check
from wal.filesystem import File, FileSystem
from wal.settings import BLOCK_BYTES, WalSettings

JOURNAL_MAGIC = b"CHRNJRNL"
JOURNAL_VERSION = 1
"""To change the format follow the numbered guide in docs/formats/README.md."""

BLOCK_HEADER_BYTES = 64
PIECE_BYTES = 1 << 20
_BLOCK = struct.Struct("<8sHHIQQII20x")
_CRC = struct.Struct("<I")
check(_BLOCK.size + _CRC.size == BLOCK_HEADER_BYTES, "block header layout")


class BlockKind(IntEnum):
    FLUSH = 1
    SEAL = 2


@dataclass(slots=True)
class BlockHeader:
    """Head of one flush. `length` counts the header and the frames, not the padding; `salt` is the directory's own number, so that no client can
    imitate a block."""

    kind: int
    generation: int
    number: int
    salt: int
    length: int
    frame_count: int


def pack_block(header: BlockHeader) -> bytes:
    """64 bytes."""
    data = _BLOCK.pack(JOURNAL_MAGIC, JOURNAL_VERSION, header.kind, header.generation, header.number, header.salt, header.length, header.frame_count)
    return data + _CRC.pack(crc32c(data))


def unpack_block(data: Buffer, position: int, salt: int) -> BlockHeader | None:
    """The block header at `position`, None when there is none of this directory (`salt` 0 takes any)."""
    if data[position : position + 8] != JOURNAL_MAGIC or len(data) - position < BLOCK_HEADER_BYTES:
        return None
    end = position + BLOCK_HEADER_BYTES - _CRC.size
    if crc32c(data[position:end]) != _CRC.unpack_from(data, end)[0]:
        return None
    _, version, kind, generation, number, found_salt, length, frame_count = _BLOCK.unpack_from(data, position)
    if version != JOURNAL_VERSION or (salt and found_salt != salt) or length < BLOCK_HEADER_BYTES or kind not in (BlockKind.FLUSH, BlockKind.SEAL):
        return None
    return BlockHeader(kind, generation, number, found_salt, length, frame_count)


def padded(length: int) -> int:
    """Length rounded up to the block size."""
    return (length + BLOCK_BYTES - 1) // BLOCK_BYTES * BLOCK_BYTES


def journal_name(number: int) -> str:
    return f"journal_{number}"


def journal_number(name: str) -> int | None:
    """The number in a journal file's name, None for other files."""
    head, _, tail = name.partition("_")
    return int(tail) if head == "journal" and tail.isdecimal() else None


@dataclass(slots=True)
class JournalFile:
    """One file. `generation` 0: free. Invariant: its first flush was written under `generation`; stale blocks of earlier ones may follow."""

    number: int
    path: str
    file: File
    size: int
    generation: int = 0


def make_journal_file(fs: FileSystem, directory: str, number: int, size_bytes: int, direct: bool) -> JournalFile:
    """Make a file of `size_bytes` zeros, durable under its name. Blocks; DiskFullError leaves nothing behind but a file that is made again."""
    path = f"{directory}/{journal_name(number)}"
    aside = path + ".new"
    try:
        file = fs.open(aside, write=True, create=True, direct=direct)
        try:
            file.truncate(0)
            # Piece by piece, each durable before the next: flushes of a file that is in use go in between, and wait for one piece at most.
            step = min(size_bytes, PIECE_BYTES)
            with memoryview(mmap.mmap(-1, step)) as zeros:
                for position in range(0, size_bytes, step):
                    file.pwrite(zeros[: min(step, size_bytes - position)], position)
                    file.fdatasync()
        finally:
            file.close()
        fs.rename(aside, path)
        fs.sync_directory(directory)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            if fs.exists(aside):
                fs.remove(aside)
            raise DiskFullError(f"no space for journal file {path} ({size_bytes} bytes): free some space") from error
        raise
    return JournalFile(number, path, fs.open(path, write=True, direct=direct), size_bytes)


class Journal:
    """Where the next flush goes.

    Use: `room` tells how many bytes a flush may have in the current file, `enter_next` moves to a free file, `take` reserves a place.
    Invariant: generations rise by one per entered file and flush numbers by one per flush, both for the life of the directory; files hold
    generations ≥ the last checkpoint's `replay generation` or are free.
    """

    __slots__ = ("current", "directory", "files", "free", "generation", "next_number", "position", "salt", "settings")

    def __init__(self, directory: str, settings: WalSettings, salt: int, generation: int, next_number: int) -> None:
        self.directory = directory
        self.settings = settings
        self.salt = salt
        self.generation = generation
        self.next_number = next_number
        self.files: list[JournalFile] = []
        self.free: list[JournalFile] = []
        self.current: JournalFile | None = None
        self.position = 0

    @property
    def room(self) -> int:
        """Bytes left in the current file."""
        return self.settings.journal_file_bytes - self.position if self.current is not None else 0

    def used_files(self) -> int:
        """Files that hold a generation which may be needed, the current one included."""
        return sum(1 for file in self.files if file.generation)

    def add(self, file: JournalFile) -> None:
        """A new or recovered file; free when it has no generation."""
        self.files.append(file)
        if not file.generation:
            self.free.append(file)

    def next_file_number(self) -> int:
        numbers = {file.number for file in self.files}
        number = 1
        while number in numbers:
            number += 1
        return number

    def enter_next(self) -> bool:
        """Go on in a free file under a new generation; False when there is none."""
        if not self.free:
            return False
        file = self.free.pop(0)
        self.generation += 1
        file.generation = self.generation
        self.current = file
        self.position = 0
        return True

    def take(self, kind: BlockKind, frame_bytes: int, frame_count: int) -> tuple[JournalFile, int, BlockHeader]:
        """Reserve the place of the next flush of `frame_bytes`: (file, position, header)."""
        file = self.current
        length = BLOCK_HEADER_BYTES + frame_bytes
        if file is None or padded(length) > self.room:
            check(False, f"a flush of {length} bytes does not fit into {self.room}")
            raise AssertionError
        position = self.position
        header = BlockHeader(kind, self.generation, self.next_number, self.salt, length, frame_count)
        self.next_number += 1
        self.position = position + padded(length)
        return file, position, header

    def release(self, replay_generation: int) -> list[JournalFile]:
        """Free all files of generations before `replay_generation`; returns those that are more than wanted, already forgotten here."""
        surplus: list[JournalFile] = []
        for file in self.files[:]:
            if file.generation and file.generation < replay_generation and file is not self.current:
                file.generation = 0
                if len(self.files) > self.settings.journal_files or file.size != self.settings.journal_file_bytes:
                    self.files.remove(file)
                    surplus.append(file)
                else:
                    self.free.append(file)
        return surplus

    def close(self) -> None:
        for file in self.files:
            file.file.close()
