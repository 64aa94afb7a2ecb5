"""The data directory: its lock, its format file, and the opening of everything in it.

Layout: `format`, `lock`, `checkpoint_<sequence>`, `journal/journal_<n>`, `wal/<topic>/wal_<partition>_<segment>.log`, `.idx`, `raft_<partition>`,
`trash/`. The format file is written last when a directory is made, so that its presence says that the directory is ours and complete.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from crc32c import crc32c

from wal.checkpoint import Checkpoint, LoadedCheckpoint, load_checkpoint, write_checkpoint
from wal.errors import DamageError, DataDirectoryError
from wal.filesystem import FileSystem, Lock, write_durably
from wal.journal import JournalFile, journal_number
from wal.recovery import JournalScan, RecoveredGroup, Replay, ScannedFile, scan_file, scan_journal
from wal.segment import segment_name
from wal.settings import BLOCK_BYTES, WalSettings

FORMAT_MAGIC = b"CHRNDATA"
FORMAT_VERSION = 1
"""To change the format follow the numbered guide in docs/formats/README.md."""

_FORMAT = struct.Struct("<8sHHIQ")
_CRC = struct.Struct("<I")


@dataclass(slots=True)
class OpenedDirectory:
    """What was found. `files`: all journal files with the generations that are to be kept (0: free)."""

    lock: Lock
    salt: int
    checkpoint: Checkpoint
    sequence: int
    problem: str
    files: list[JournalFile]
    scan: JournalScan
    replay: Replay


def open_directory(fs: FileSystem, directory: str, settings: WalSettings) -> OpenedDirectory:
    """Lock the directory, make it if it is empty, recover what is in it, fsync what was accepted. Blocks.

    DataDirectoryError when it can not be used; DamageError when no checkpoint can be read.
    """
    try:
        fs.mkdir(directory)
        lock = fs.lock(f"{directory}/lock")
    except OSError as error:
        raise DataDirectoryError(
            f"{directory} can not be used as data directory: {error}: make it writable for this user or choose another"
        ) from error
    try:
        return _open_locked(fs, directory, settings, lock)
    except BaseException:
        lock.close()
        raise


def _open_locked(fs: FileSystem, directory: str, settings: WalSettings, lock: Lock) -> OpenedDirectory:
    salt = _check_format(fs, directory)
    loaded = load_checkpoint(fs, directory)
    checkpoint = loaded.checkpoint
    if checkpoint is None:
        raise DamageError(
            f"{directory}: no checkpoint can be read ({loaded.problem or 'all are missing'}): this node can not take part as it was; "
            "move the directory away and let the node join again under a new replica id"
        )
    files, scanned = _read_journal(fs, directory, settings, salt, checkpoint)
    scan = scan_journal(scanned, checkpoint.flush_number, checkpoint.flush_generation >= checkpoint.replay_generation)
    replay = Replay(checkpoint)
    replay.run(scan)
    for group in replay.groups.values():
        _check_segments(fs, directory, group)
    for file in files:
        if file.generation:
            file.file.fdatasync()
    return OpenedDirectory(lock, salt, checkpoint, loaded.sequence, _problem(loaded), files, scan, replay)


def _problem(loaded: LoadedCheckpoint) -> str:
    return f"{loaded.problem}: went back to the one before" if loaded.problem else ""


def _check_format(fs: FileSystem, directory: str) -> int:
    """The directory's salt. Makes a new directory's first files."""
    path = f"{directory}/format"
    if not fs.exists(path):
        return _make_directory(fs, directory, path)
    file = fs.open(path)
    try:
        data = file.pread(_FORMAT.size + _CRC.size, 0)
    finally:
        file.close()
    if len(data) < _FORMAT.size + _CRC.size or data[:8] != FORMAT_MAGIC:
        raise DataDirectoryError(f"{path} is not a format file of this program: choose another data directory or restore the file")
    _, version, _, _, salt = _FORMAT.unpack_from(data)
    if crc32c(data[: _FORMAT.size]) != _CRC.unpack_from(data, _FORMAT.size)[0]:
        raise DataDirectoryError(f"{path}: position 0: checksum is wrong: the directory is damaged; move it away and let the node join again")
    if version != FORMAT_VERSION:
        raise DataDirectoryError(
            f"{directory} has format version {version}, this program knows {FORMAT_VERSION}: run the program that wrote it, or "
            "migrate as its release notes say"
        )
    return int(salt)


def read_salt(fs: FileSystem, directory: str) -> int:
    """The salt of a directory's journal blocks, 0 when the format file can not be read."""
    path = f"{directory}/format"
    if not fs.exists(path):
        return 0
    file = fs.open(path)
    try:
        data = file.pread(_FORMAT.size, 0)
    finally:
        file.close()
    return int(_FORMAT.unpack(data)[4]) if len(data) == _FORMAT.size and data[:8] == FORMAT_MAGIC else 0


def _make_directory(fs: FileSystem, directory: str, path: str) -> int:
    if fs.exists(f"{directory}/meta.properties"):
        raise DataDirectoryError(f"{directory} belongs to Apache Kafka (meta.properties is there): choose another data directory")
    if any(journal_number(name) is not None for name in fs.list(f"{directory}/journal")) or fs.list(f"{directory}/wal"):
        raise DataDirectoryError(f"{directory} has data but no format file: restore {path} from where it was lost, or choose another data directory")
    try:
        for name in ("journal", "wal", "trash"):
            fs.mkdir(f"{directory}/{name}")
        write_checkpoint(fs, directory, Checkpoint(1, 1, 0, 0, 0, [], []))
        salt = int.from_bytes(fs.random_bytes(8), "little") | 1
        data = _FORMAT.pack(FORMAT_MAGIC, FORMAT_VERSION, 0, 0, salt)
        write_durably(fs, path, data + _CRC.pack(crc32c(data)))
    except OSError as error:
        raise DataDirectoryError(f"{directory} can not be written: {error}") from error
    return salt


def _read_journal(
    fs: FileSystem, directory: str, settings: WalSettings, salt: int, checkpoint: Checkpoint
) -> tuple[list[JournalFile], list[ScannedFile]]:
    files: list[JournalFile] = []
    scanned: list[ScannedFile] = []
    folder = f"{directory}/journal"
    for name in fs.list(folder):
        path = f"{folder}/{name}"
        number = journal_number(name)
        if number is None:
            if name.endswith(".new"):
                fs.remove(path)
            continue
        reader = fs.open(path)
        try:
            size = reader.size()
            data = memoryview(reader.pread(size, 0))
        finally:
            reader.close()
        blocks = scan_file(data, path, salt, checkpoint.replay_generation)
        file = JournalFile(number, path, fs.open(path, write=True, direct=settings.direct), size // BLOCK_BYTES * BLOCK_BYTES)
        if blocks:
            file.generation = blocks[0].header.generation
            scanned.append(ScannedFile(path, data, blocks))
        files.append(file)
    return files, scanned


def _check_segments(fs: FileSystem, directory: str, group: RecoveredGroup) -> None:
    """Every segment that the log needs must be there, and long enough: else the group is quarantined."""
    durable = group.durable
    segments = durable.segments
    segments.drop_before(durable.first_index)
    for info in segments.all():
        path = f"{directory}/wal/{group.topic}/{segment_name(group.group_id_partition, info.number)}"
        if fs.exists(path) and fs.size(path) >= info.end_position:
            continue
        if not durable.quarantined:
            have = f"has {fs.size(path)} bytes" if fs.exists(path) else "is missing"
            durable.quarantined = f"{path}: position {info.end_position}: the file {have}, the checkpoint knows {info.end_position}"
            group.damaged = True
