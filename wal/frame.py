"""Bytes of a frame: 64 bytes of header, then the payload. See docs/formats/frame.md before changing anything.

The header's CRC is seeded with the frame's length, so that one pass over the 56 bytes behind it covers length, kind, group, term, index and the
payload's CRC. The payload's CRC is computed once by who made the entry and is the same on every replica. Knows no files and no threads.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from crc32c import crc32c

from wal.entry import Buffer, Entry
from wal.errors import check
from wal.settings import BLOCK_BYTES

FRAME_VERSION = 1
"""To change the format follow the numbered guide in docs/formats/README.md."""

HEADER_BYTES = 64
COPY_FLAG = 0x8000
"""On an entry frame in the journal: the entry is repeated, because the file that held it is about to be used again. It does not change the end of
the log."""

NEEDS_STATE_FLAG = 0x0001
"""On a log_start frame: entries before it are dispensable only once the state machine's state is in a checkpoint."""

HEAD = struct.Struct("<II56s")
TAIL = struct.Struct("<IBBHI16sIIQqI")
check(HEAD.size == HEADER_BYTES and TAIL.size == HEADER_BYTES - 8, "frame header layout")


class FrameKind(IntEnum):
    ENTRY = 1
    HARD_STATE = 2
    TRUNCATE_SUFFIX = 3
    LOG_START = 4
    SNAPSHOT_INSTALLED = 5
    GROUP_CREATED = 6
    GROUP_DELETED = 7
    QUARANTINED = 8
    PAD = 9


class BadFrame(Exception):
    """Bytes that are no frame; the text is the reason."""


@dataclass(slots=True)
class Header:
    """A decoded header whose CRC was right. `length` counts the header."""

    length: int
    payload_crc: int
    kind: int
    flags: int
    generation: int
    topic_id: bytes
    partition: int
    term: int
    index: int
    base_offset: int
    record_count: int

    @property
    def payload_bytes(self) -> int:
        return self.length - HEADER_BYTES


@dataclass(slots=True)
class Control:
    """A frame that is not an entry, before it has bytes. What the fields mean by kind: docs/formats/frame.md."""

    kind: FrameKind
    term: int = 0
    index: int = 0
    base_offset: int = 0
    payload: bytes = b""
    flags: int = 0

    @property
    def size(self) -> int:
        return len(self.payload)


@dataclass(slots=True)
class Copy:
    """An entry that is repeated in the journal."""

    entry: Entry

    @property
    def size(self) -> int:
        return self.entry.size


Item = Entry | Control | Copy


def pack_header(
    length: int, payload_crc: int, kind: int, flags: int, generation: int, group: tuple[bytes, int], numbers: tuple[int, int, int, int]
) -> bytes:
    """A header's 64 bytes; `group` = (topic id, partition), `numbers` = (term, index, base offset, record count)."""
    tail = TAIL.pack(payload_crc, FRAME_VERSION, kind, flags, generation, *group, *numbers)
    return HEAD.pack(length, crc32c(tail, length), tail)


def pack_pad(length: int, generation: int, group: tuple[bytes, int]) -> bytes:
    """A pad frame of exactly `length` ≥ 64 bytes."""
    return pack_header(length, 0, FrameKind.PAD, 0, generation, group, (0, 0, 0, 0)) + bytes(length - HEADER_BYTES)


def pad_length(position: int) -> int:
    """How long a pad frame at `position` must be to end on a block boundary: 0 when it is there already."""
    rest = -position % BLOCK_BYTES
    return rest if rest == 0 or rest >= HEADER_BYTES else rest + BLOCK_BYTES


def unpack_header(data: Buffer, position: int, limit: int) -> Header:
    """The header at `position` of `data`. `limit` bytes are there from `position` on, in the file; BadFrame tells why it is no frame."""
    if limit < HEADER_BYTES or len(data) - position < HEADER_BYTES:
        raise BadFrame(f"only {min(limit, len(data) - position)} bytes are left for a header of {HEADER_BYTES}")
    length, header_crc, tail = HEAD.unpack_from(data, position)
    if crc32c(tail, length) != header_crc:
        raise BadFrame("zeros where a frame should be" if not length and not any(tail) else "checksum of the header is wrong")
    payload_crc, version, kind, flags, generation, topic_id, partition, term, index, base_offset, record_count = TAIL.unpack(tail)
    if version != FRAME_VERSION:
        raise BadFrame(f"frame version {version} is not known (this program knows {FRAME_VERSION})")
    if length < HEADER_BYTES or length > limit:
        raise BadFrame(f"length {length} does not fit into the {limit} bytes that are left")
    if not FrameKind.ENTRY <= kind <= FrameKind.PAD:
        raise BadFrame(f"frame kind {kind} is not known")
    return Header(length, payload_crc, kind, flags, generation, topic_id, partition, term, index, base_offset, record_count)


def check_payload(header: Header, payload: Buffer) -> None:
    """BadFrame when the payload is not the one that the header was made for."""
    if len(payload) != header.payload_bytes:
        raise BadFrame(f"payload has {len(payload)} of {header.payload_bytes} bytes")
    if header.kind != FrameKind.PAD and crc32c(payload) != header.payload_crc:
        raise BadFrame("checksum of the payload is wrong")


def entry_of(header: Header, payload: Buffer) -> Entry:
    """The entry of an entry frame; `payload` is kept, not copied."""
    return Entry(
        header.term,
        header.index,
        header.flags & ~COPY_FLAG,
        (payload,) if len(payload) else (),
        len(payload),
        header.payload_crc,
        header.base_offset,
        header.record_count,
    )


def pack_created(topic: str, configuration: bytes) -> bytes:
    """Payload of a group_created frame."""
    name = topic.encode()
    return len(name).to_bytes(2, "little") + name + configuration


def unpack_created(payload: Buffer) -> tuple[str, bytes]:
    """(topic, configuration) of a group_created frame."""
    data = bytes(payload)
    length = int.from_bytes(data[:2], "little")
    if len(data) < 2 + length:
        raise BadFrame("group_created payload is too short")
    return data[2 : 2 + length].decode(), data[2 + length :]
