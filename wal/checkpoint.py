"""The node-wide checkpoint: what recovery begins with, before it replays the journal.

Owns the file's bytes and its two generations. A checkpoint is written beside, fsynced, renamed, and its directory fsynced; the older one goes away
only then. See docs/formats/checkpoint.md.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import msgspec
from crc32c import crc32c

from wal.errors import DamageError
from wal.filesystem import FileSystem, parent, write_durably

CHECKPOINT_MAGIC = b"CHRNCKPT"
CHECKPOINT_VERSION = 1
"""To change the format follow the numbered guide in docs/formats/README.md."""

_HEAD = struct.Struct("<8sHHIQ")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEAD.size + _CRC.size


class SegmentRecord(msgspec.Struct, array_like=True, frozen=True):
    """One segment file: number, first index and offset, last index, end position, largest timestamp, pieces."""

    number: int
    first_index: int
    first_offset: int
    last_index: int
    end_position: int
    max_timestamp: int
    pieces: int


class GroupRecord(msgspec.Struct, array_like=True, frozen=True):
    """One group, as of the checkpoint's flush.

    `written_*`: end of what is in segments. `last_*`: end of what is flushed. `configurations`: at or below written_index, and the base. `applied`:
    (index, data) or None.
    """

    topic: str
    topic_id: bytes
    partition: int
    segments: list[SegmentRecord]
    next_number: int
    written_index: int
    written_term: int
    written_offset: int
    runs: list[tuple[int, int, int]]
    last_index: int
    last_term: int
    term: int
    vote: int
    configurations: list[tuple[int, bytes]]
    first_index: int
    start_offset: int
    needs_state: bool
    quarantined: str
    applied: tuple[int, bytes] | None


class Removal(msgspec.Struct, array_like=True, frozen=True):
    """Segment files of a group that may be removed: all of a deleted group (no numbers), or the numbered ones."""

    topic: str
    topic_id: bytes
    partition: int
    numbers: list[int]
    whole: bool


class Checkpoint(msgspec.Struct, array_like=True, frozen=True):
    """Everything up to flush `flush_number`; what is in journal generations ≥ `replay_generation` is to be replayed.

    `flush_generation`: the one that flush is in. `generation`: the highest one that was in use, never to be used again.
    """

    sequence: int
    replay_generation: int
    generation: int
    flush_number: int
    flush_generation: int
    groups: list[GroupRecord]
    removals: list[Removal]


def pack_checkpoint(checkpoint: Checkpoint) -> bytes:
    body = msgspec.msgpack.encode(checkpoint)
    head = _HEAD.pack(CHECKPOINT_MAGIC, CHECKPOINT_VERSION, 0, crc32c(body), len(body))
    return head + _CRC.pack(crc32c(head)) + body


def unpack_checkpoint(data: bytes, path: str) -> Checkpoint:
    """DamageError names the file and the reason."""
    if len(data) < HEADER_BYTES or data[:8] != CHECKPOINT_MAGIC:
        raise DamageError(f"{path}: position 0: no checkpoint header")
    if crc32c(data[: _HEAD.size]) != _CRC.unpack_from(data, _HEAD.size)[0]:
        raise DamageError(f"{path}: position 0: checksum of the header is wrong")
    _, version, _, body_crc, length = _HEAD.unpack_from(data)
    if version != CHECKPOINT_VERSION:
        raise DamageError(f"{path}: position 8: checkpoint version {version} is not known (this program knows {CHECKPOINT_VERSION})")
    body = data[HEADER_BYTES:]
    if length != len(body):
        raise DamageError(f"{path}: position {HEADER_BYTES}: body has {len(body)} of {length} bytes")
    if crc32c(body) != body_crc:
        raise DamageError(f"{path}: position {HEADER_BYTES}: checksum of the body is wrong")
    try:
        return msgspec.msgpack.decode(body, type=Checkpoint)
    except msgspec.DecodeError as error:
        raise DamageError(f"{path}: position {HEADER_BYTES}: {error}") from error


def checkpoint_name(sequence: int) -> str:
    return f"checkpoint_{sequence:012d}"


def checkpoint_sequence(name: str) -> int | None:
    """The sequence in a checkpoint file's name, None for other files."""
    head, _, tail = name.partition("_")
    return int(tail) if head == "checkpoint" and tail.isdecimal() else None


def write_checkpoint(fs: FileSystem, directory: str, checkpoint: Checkpoint) -> None:
    """Make `checkpoint` durable, then remove all but it and the one before."""
    write_durably(fs, f"{directory}/{checkpoint_name(checkpoint.sequence)}", pack_checkpoint(checkpoint))
    for name in fs.list(directory):
        sequence = checkpoint_sequence(name)
        if sequence is not None and sequence < checkpoint.sequence - 1:
            fs.remove(f"{directory}/{name}")


class LoadedCheckpoint(msgspec.Struct, frozen=True):
    """The newest readable checkpoint, the highest sequence seen, and why a newer one could not be read ("" when it is the newest)."""

    checkpoint: Checkpoint | None
    sequence: int
    problem: str


def load_checkpoint(fs: FileSystem, directory: str) -> LoadedCheckpoint:
    sequences = sorted((found for name in fs.list(directory) if (found := checkpoint_sequence(name)) is not None), reverse=True)
    problem = ""
    for sequence in sequences:
        path = f"{directory}/{checkpoint_name(sequence)}"
        file = fs.open(path)
        try:
            data = file.pread(file.size(), 0)
        finally:
            file.close()
        try:
            return LoadedCheckpoint(unpack_checkpoint(data, path), sequences[0], problem)
        except DamageError as error:
            problem = problem or str(error)
    return LoadedCheckpoint(None, sequences[0] if sequences else 0, problem)


def raft_file(record: GroupRecord) -> bytes:
    """The human-readable copy of a group's hard state (derived, never read back)."""
    state: dict[str, Any] = {
        "topic": record.topic,
        "topic_id": record.topic_id.hex(),
        "partition": record.partition,
        "term": record.term,
        "vote": record.vote,
        "first_index": record.first_index,
        "written_index": record.written_index,
        "last_index": record.last_index,
        "log_start_offset": record.start_offset,
        "quarantined": record.quarantined,
    }
    return json.dumps(state, indent=2).encode() + b"\n"


def write_raft_file(fs: FileSystem, path: str, record: GroupRecord) -> None:
    """Replace the derived copy; it is not fsynced, because nothing depends on it."""
    fs.mkdir(parent(path))
    file = fs.open(path + ".new", write=True, create=True)
    try:
        file.truncate(0)
        file.pwrite(raft_file(record), 0)
    finally:
        file.close()
    fs.rename(path + ".new", path)
