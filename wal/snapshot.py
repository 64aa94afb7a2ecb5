"""Snapshot files of one group: the state machine's whole state at an index.

Owns the file format, the atomic making and receiving of a file, and the retention of the newest two. Blocking: called on a disk thread. A file is
built aside, fsynced, renamed, and its directory fsynced; only then may the log be trimmed. See docs/formats/snapshot.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import zstandard
from crc32c import crc32c

from wal.entry import Buffer
from wal.errors import DamageError, DiskFullError
from wal.filesystem import File, FileSystem
from wal.segment import is_disk_full

SNAPSHOT_MAGIC = b"CHRNSNAP"
SNAPSHOT_VERSION = 1
"""To change the format follow the numbered guide in docs/formats/README.md."""

COMPRESSION_NONE = 0
COMPRESSION_ZSTD = 1
SNAPSHOTS_KEPT = 2
SNAPSHOT_BYTES_MAX = 4 << 30
READ_BYTES = 4 << 20

_HEAD = struct.Struct("<8sHHQIQqIQQI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEAD.size + _CRC.size


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot file. `index`, `term`: the last entry it includes; `next_offset`: the log end offset behind it."""

    path: str
    index: int
    term: int
    next_offset: int
    configuration: bytes
    data_bytes: int
    size_bytes: int


def snapshot_name(index: int) -> str:
    return f"snapshot_{index}.snap"


def snapshot_index(name: str) -> int | None:
    """The index in a snapshot file's name, None for other files."""
    head, _, tail = name.removesuffix(".snap").partition("_")
    return int(tail) if name.endswith(".snap") and head == "snapshot" and tail.isdecimal() else None


class SnapshotStore:
    """The snapshot files in `directory`. Other files there are left alone, except unfinished ones of our own."""

    __slots__ = ("_compression", "_directory", "_fs")

    def __init__(self, fs: FileSystem, directory: str, compression: str = "zstd") -> None:
        self._fs = fs
        self._directory = directory.rstrip("/")
        self._compression = COMPRESSION_NONE if compression == "none" else COMPRESSION_ZSTD
        fs.mkdir(self._directory)
        for name in fs.list(self._directory):
            if name.endswith(".snap.new"):
                fs.remove(f"{self._directory}/{name}")

    def write(self, index: int, term: int, data: bytes, configuration: bytes = b"", next_offset: int = 0) -> Snapshot:
        """Make the snapshot at `index` durable, then remove all but the newest two. DiskFullError leaves nothing behind."""
        stored = zstandard.ZstdCompressor(level=3).compress(data) if self._compression == COMPRESSION_ZSTD else data
        head = _HEAD.pack(
            SNAPSHOT_MAGIC,
            SNAPSHOT_VERSION,
            self._compression,
            index,
            term,
            0,
            next_offset,
            len(configuration),
            len(data),
            len(stored),
            crc32c(stored, crc32c(configuration)),
        )
        receiver = self.receive(index)
        try:
            position = 0
            for part in (head + _CRC.pack(crc32c(head)) + configuration, stored):
                view = memoryview(part)
                for start in range(0, len(view), READ_BYTES):
                    piece = view[start : start + READ_BYTES]
                    receiver.append(position, piece)
                    position += len(piece)
            return receiver.finish()
        except BaseException:
            receiver.abort()
            raise

    def latest(self, index_max: int = 1 << 63) -> Snapshot | None:
        """The newest snapshot that is whole and not above `index_max`; damaged ones are passed over."""
        for index in sorted(self._indexes(), reverse=True):
            if index > index_max:
                continue
            try:
                return self.verify(f"{self._directory}/{snapshot_name(index)}")
            except DamageError:
                continue
        return None

    def read(self, snapshot: Snapshot) -> bytes:
        """The state in `snapshot`, decompressed and checked; DamageError when it is not what was written."""
        return load_snapshot(self._fs, snapshot.path, True)[1]

    def verify(self, path: str) -> Snapshot:
        """Check every byte of a snapshot file; DamageError names file, position and reason."""
        return load_snapshot(self._fs, path, False)[0]

    def receive(self, index: int) -> SnapshotReceiver:
        """Start to receive the file of the snapshot at `index` in chunks; one begun before is thrown away."""
        path = f"{self._directory}/{snapshot_name(index)}"
        try:
            file = self._fs.open(path + ".new", write=True, create=True)
            file.truncate(0)
        except OSError as error:
            if is_disk_full(error):
                raise DiskFullError(f"{path}: no space for a snapshot: free some space") from error
            raise
        return SnapshotReceiver(self, self._fs, file, path)

    def discard_above(self, index: int) -> None:
        """Remove snapshots that are newer than `index`: received, but never installed."""
        for found in self._indexes():
            if found > index:
                self._fs.remove(f"{self._directory}/{snapshot_name(found)}")

    def keep_newest(self) -> None:
        """Remove all but the newest two."""
        for index in sorted(self._indexes(), reverse=True)[SNAPSHOTS_KEPT:]:
            self._fs.remove(f"{self._directory}/{snapshot_name(index)}")

    def _indexes(self) -> list[int]:
        return [found for name in self._fs.list(self._directory) if (found := snapshot_index(name)) is not None]


class SnapshotReceiver:
    """Receives a snapshot file in chunks. Use: `append` in order, then `finish`, or `abort`.

    Invariant: the file has its name only once it is whole, checked and fsynced.
    """

    __slots__ = ("_file", "_fs", "_path", "_store", "received_bytes")

    def __init__(self, store: SnapshotStore, fs: FileSystem, file: File, path: str) -> None:
        self._store = store
        self._fs = fs
        self._file = file
        self._path = path
        self.received_bytes = 0

    def append(self, position: int, chunk: Buffer) -> None:
        """Write `chunk` at `position`, which must be the end of what is there (ValueError otherwise); DiskFullError when there is no space."""
        if position != self.received_bytes:
            raise ValueError(f"{self._path}: chunk at {position}, {self.received_bytes} bytes are there: send from there on")
        try:
            self._file.pwrite(chunk, position)
        except OSError as error:
            if is_disk_full(error):
                raise DiskFullError(f"{self._path}: no space at {position} bytes: free some space") from error
            raise
        self.received_bytes = position + len(chunk)

    def finish(self) -> Snapshot:
        """fsync, check every byte, give the file its name, fsync the directory. DamageError (and nothing left) when it is not whole."""
        aside = self._path + ".new"
        try:
            self._file.fdatasync()
        finally:
            self._file.close()
        try:
            found = self._store.verify(aside)
            if f"/{snapshot_name(found.index)}" != self._path[self._path.rindex("/") :]:
                raise DamageError(f"{aside}: position 8: it is the snapshot at {found.index}, another one was announced")
        except DamageError:
            self._fs.remove(aside)
            raise
        self._fs.rename(aside, self._path)
        self._fs.sync_directory(self._path.rpartition("/")[0])
        self._store.keep_newest()
        return Snapshot(self._path, found.index, found.term, found.next_offset, found.configuration, found.data_bytes, found.size_bytes)

    def abort(self) -> None:
        """Throw away what was received."""
        self._file.close()
        aside = self._path + ".new"
        if self._fs.exists(aside):
            self._fs.remove(aside)


def load_snapshot(fs: FileSystem, path: str, decompress: bool) -> tuple[Snapshot, bytes]:
    """Check every byte of the snapshot file `path`; its state is returned only when it is to be decompressed."""
    try:
        file = fs.open(path)
    except FileNotFoundError as error:
        raise DamageError(f"{path}: position 0: the file is missing") from error
    try:
        size = file.size()
        head = file.pread(HEADER_BYTES, 0)
        if len(head) < HEADER_BYTES or head[:8] != SNAPSHOT_MAGIC:
            raise DamageError(f"{path}: position 0: no snapshot header")
        if crc32c(head[: _HEAD.size]) != _CRC.unpack_from(head, _HEAD.size)[0]:
            raise DamageError(f"{path}: position 0: checksum of the header is wrong")
        _, version, compression, index, term, _, next_offset, configuration_bytes, data_bytes, stored_bytes, body_crc = _HEAD.unpack_from(head)
        if version != SNAPSHOT_VERSION or compression not in (COMPRESSION_NONE, COMPRESSION_ZSTD):
            raise DamageError(f"{path}: position 8: snapshot version {version}, compression {compression} is not known")
        if size != HEADER_BYTES + configuration_bytes + stored_bytes or data_bytes > SNAPSHOT_BYTES_MAX:
            raise DamageError(f"{path}: position {size}: {size} bytes where {HEADER_BYTES + configuration_bytes + stored_bytes} should be")
        configuration = file.pread(configuration_bytes, HEADER_BYTES)
        crc = crc32c(configuration)
        parts: list[bytes] = []
        for position in range(HEADER_BYTES + configuration_bytes, size, READ_BYTES):
            part = file.pread(min(READ_BYTES, size - position), position)
            crc = crc32c(part, crc)
            if decompress:
                parts.append(part)
    finally:
        file.close()
    if crc != body_crc:
        raise DamageError(f"{path}: position {HEADER_BYTES}: checksum of the body is wrong")
    snapshot = Snapshot(path, index, term, next_offset, configuration, data_bytes, size)
    if not decompress:
        return snapshot, b""
    data = b"".join(parts)
    if compression == COMPRESSION_ZSTD:
        try:
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=max(data_bytes, 1))
        except zstandard.ZstdError as error:
            raise DamageError(f"{path}: position {HEADER_BYTES}: {error}") from error
    if len(data) != data_bytes:
        raise DamageError(f"{path}: position {HEADER_BYTES}: {len(data)} bytes of state where {data_bytes} should be")
    return snapshot, data
