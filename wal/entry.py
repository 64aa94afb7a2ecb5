"""The unit that travels through the whole system: one entry of one replicated log.

Owns: the entry, its kinds and the group's name. Knows neither Raft's rules nor Kafka's formats.
A raft *index* counts entries, a Kafka *offset* counts records; an entry carries both and this layer never converts one into the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NewType

GroupId = NewType("GroupId", bytes)
"""20 bytes: the topic's id (16 bytes) and the partition (4 bytes, big endian). Unique for ever: a topic made again has a new id."""

META_TOPIC = "__meta"
META_TOPIC_ID = bytes(15) + b"\x01"

Buffer = bytes | bytearray | memoryview


def group_id(topic_id: bytes, partition: int) -> GroupId:
    """Name the group of `partition` of the topic with the 16-byte id `topic_id`."""
    return GroupId(topic_id + partition.to_bytes(4, "big"))


META_GROUP = group_id(META_TOPIC_ID, 0)


class EntryKind(IntEnum):
    """What an entry means to the layers above. Only DATA consumes offsets."""

    NOOP = 0
    DATA = 1
    CONFIGURATION = 2
    COMMAND = 3


class Entry:
    """One entry. Its payload is a sequence of buffers, so that it is never joined in memory; they must not change once it is appended.

    Invariants: `size` is the sum of the lengths of `chunks`; `base_offset` is the log end offset before the entry (also for entries that
    consume no offset) and `base_offset + record_count` the one after it; `payload_crc` is the CRC32C of the payload, computed once by who made the
    entry and checked by every replica. `max_timestamp` (ms, -1 unknown) is set by the state machine before the entry is written behind; it is a
    hint for the time index and is not on disk in the frame.
    """

    __slots__ = ("base_offset", "chunks", "index", "kind", "max_timestamp", "payload_crc", "record_count", "size", "term")

    def __init__(
        self,
        term: int,
        index: int,
        kind: int,
        chunks: Sequence[Buffer],
        size: int,
        payload_crc: int,
        base_offset: int = 0,
        record_count: int = 0,
    ) -> None:
        self.term = term
        self.index = index
        self.kind = kind
        self.chunks = chunks
        self.size = size
        self.payload_crc = payload_crc
        self.base_offset = base_offset
        self.record_count = record_count
        self.max_timestamp = -1

    def payload(self) -> bytes:
        """The payload as one `bytes` (a copy: not for hot paths)."""
        return b"".join(self.chunks)

    def __repr__(self) -> str:
        return f"{self.term}/{self.index} {EntryKind(self.kind).name.lower()} offset={self.base_offset}+{self.record_count} size={self.size}"
