"""Keys and values in `__consumer_offsets`, byte for byte as Kafka writes them, so that tools that read the topic work.

Written: OffsetCommitKey 1, OffsetCommitValue 3, GroupMetadataKey 2, GroupMetadataValue 3 (big endian, the version first, not flexible); a null value
deletes. Read: every version up to 4. A record header `topic.id` of ours (16 bytes) tells an offset of a topic from one of its predecessor of the same
name; tools do not see it. Every length is checked against the bytes that are left.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from broker.coordinator.runtime import Write
from broker.errors import ErrorCode, KafkaError

OFFSET_KEY_VERSION = 1
OFFSET_VALUE_VERSION = 3
GROUP_KEY_VERSION = 2
GROUP_VALUE_VERSION = 3
NEWEST_VALUE_VERSION = 4
TOPIC_ID_HEADER = "topic.id"
STRING_BYTES_MAX = 32767

_SHORT = struct.Struct(">h")
_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")
_OFFSET_HEAD = struct.Struct(">hqi")


class StoredOffset(NamedTuple):
    """A committed offset. `record_offset`: where its record stands, the later wins. `expire_timestamp_ms` -1: the broker's retention decides.
    `topic_id` b"" when not known."""

    offset: int
    leader_epoch: int
    metadata: str
    commit_timestamp_ms: int
    expire_timestamp_ms: int = -1
    topic_id: bytes = b""
    record_offset: int = -1


class StoredMember(NamedTuple):
    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    subscription: bytes
    assignment: bytes


class StoredGroup(NamedTuple):
    """A group as the last completed rebalance left it. `protocol` and `leader` are None while it is empty."""

    protocol_type: str
    generation_id: int
    protocol: str | None
    leader: str | None
    state_timestamp_ms: int
    members: tuple[StoredMember, ...]


class OffsetKey(NamedTuple):
    group: str
    topic: str
    partition: int


class GroupKey(NamedTuple):
    group: str


class RecordFormatError(ValueError):
    """A key or a value that is none of Kafka's."""


# -- writing ----------------------------------------------------------------------------------------------------------


def offset_record(key: OffsetKey, value: StoredOffset) -> Write:
    """`expire_timestamp_ms` ≥ 0 (a retention that the client asked for) needs version 1, which has no leader epoch, as in Kafka."""
    headers = ((TOPIC_ID_HEADER, value.topic_id),) if value.topic_id else ()
    if value.expire_timestamp_ms >= 0:
        body = b"".join(
            (
                struct.pack(">hq", 1, value.offset),
                _string(value.metadata),
                struct.pack(">qq", value.commit_timestamp_ms, value.expire_timestamp_ms),
            )
        )
    else:
        head = _OFFSET_HEAD.pack(OFFSET_VALUE_VERSION, value.offset, value.leader_epoch)
        body = b"".join((head, _string(value.metadata), _LONG.pack(value.commit_timestamp_ms)))
    return Write(offset_key(key), body, headers)


def offset_tombstone(key: OffsetKey) -> Write:
    return Write(offset_key(key), None)


def offset_key(key: OffsetKey) -> bytes:
    return b"".join((_SHORT.pack(OFFSET_KEY_VERSION), _string(key.group), _string(key.topic), _INT.pack(key.partition)))


def group_record(group_id: str, group: StoredGroup) -> Write:
    parts = [
        _SHORT.pack(GROUP_VALUE_VERSION),
        _string(group.protocol_type),
        _INT.pack(group.generation_id),
        _string(group.protocol),
        _string(group.leader),
        _LONG.pack(group.state_timestamp_ms),
        _INT.pack(len(group.members)),
    ]
    for member in group.members:
        parts += (
            _string(member.member_id),
            _string(member.instance_id),
            _string(member.client_id),
            _string(member.client_host),
            struct.pack(">ii", member.rebalance_timeout_ms, member.session_timeout_ms),
            _bytes(member.subscription),
            _bytes(member.assignment),
        )
    return Write(_group_key(group_id), b"".join(parts))


def group_tombstone(group_id: str) -> Write:
    return Write(_group_key(group_id), None)


def _group_key(group_id: str) -> bytes:
    return _SHORT.pack(GROUP_KEY_VERSION) + _string(group_id)


def _string(text: str | None) -> bytes:
    if text is None:
        return b"\xff\xff"
    data = text.encode()
    if len(data) > STRING_BYTES_MAX:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"a name of {len(data)} bytes; at most {STRING_BYTES_MAX} can be stored")
    return _SHORT.pack(len(data)) + data


def _bytes(data: bytes) -> bytes:
    return _INT.pack(len(data)) + data


# -- reading ----------------------------------------------------------------------------------------------------------


def decode_key(data: bytes) -> OffsetKey | GroupKey | None:
    """None for keys of other kinds (consumer and share groups). Raises RecordFormatError."""
    reader = _Reader(data)
    version = reader.int16()
    if version in (0, OFFSET_KEY_VERSION):
        return OffsetKey(reader.text(), reader.text(), reader.int32())
    return GroupKey(reader.text()) if version == GROUP_KEY_VERSION else None


def decode_offset(data: bytes, headers: Sequence[tuple[str, bytes | None]] = ()) -> StoredOffset:
    """Raises RecordFormatError."""
    reader = _Reader(data)
    version = reader.value_version()
    offset = reader.int64()
    leader_epoch = reader.int32() if version >= 3 else -1
    metadata = reader.text()
    committed = reader.int64()
    expires = reader.int64() if version == 1 else -1
    topic_id = next((content for name, content in headers if name == TOPIC_ID_HEADER and content is not None), b"")
    if reader.flexible and not topic_id:
        topic_id = reader.tags().get(0, b"")
    return StoredOffset(offset, leader_epoch, metadata, committed, expires, topic_id)


def decode_group(data: bytes) -> StoredGroup:
    """Raises RecordFormatError."""
    reader = _Reader(data)
    version = reader.value_version()
    protocol_type, generation_id = reader.text(), reader.int32()
    protocol, leader = reader.nullable(), reader.nullable()
    timestamp_ms = reader.int64() if version >= 2 else -1
    members = tuple(_decode_member(reader, version) for _ in range(reader.count()))
    return StoredGroup(protocol_type, generation_id, protocol, leader, timestamp_ms, members)


def _decode_member(reader: _Reader, version: int) -> StoredMember:
    member_id = reader.text()
    instance_id = reader.nullable() if version >= 3 else None
    client_id, client_host = reader.text(), reader.text()
    rebalance = reader.int32() if version >= 1 else -1
    session = reader.int32()
    member = StoredMember(
        member_id, instance_id, client_id, client_host, rebalance if version >= 1 else session, session, reader.blob(), reader.blob()
    )
    if reader.flexible:
        reader.tags()
    return member


class _Reader:
    """Bytes of one key or value. `flexible` from version 4 on: lengths are unsigned varints of length + 1."""

    __slots__ = ("_data", "_position", "flexible")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self.flexible = False

    def value_version(self) -> int:
        version = self.int16()
        if not 0 <= version <= NEWEST_VALUE_VERSION:
            raise RecordFormatError(f"value version {version}, this program reads 0 to {NEWEST_VALUE_VERSION}")
        self.flexible = version >= 4
        return version

    def _number(self, form: struct.Struct) -> int:
        end = self._position + form.size
        if end > len(self._data):
            raise RecordFormatError(f"cut off at byte {self._position} of {len(self._data)}")
        number: int = form.unpack_from(self._data, self._position)[0]
        self._position = end
        return number

    def int16(self) -> int:
        return self._number(_SHORT)

    def int32(self) -> int:
        return self._number(_INT)

    def int64(self) -> int:
        return self._number(_LONG)

    def _varint(self) -> int:
        value = shift = 0
        while shift < 35 and self._position < len(self._data):
            byte = self._data[self._position]
            self._position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise RecordFormatError("a number is cut off or too long")

    def _take(self, length: int) -> bytes:
        end = self._position + length
        if length < 0 or end > len(self._data):
            raise RecordFormatError(f"a length of {length} bytes at byte {self._position}, {len(self._data) - self._position} are left")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def nullable(self) -> str | None:
        length = self._varint() - 1 if self.flexible else self.int16()
        if length == -1:
            return None
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as cause:
            raise RecordFormatError("a string is not UTF-8") from cause

    def text(self) -> str:
        text = self.nullable()
        if text is None:
            raise RecordFormatError("null where a string must be")
        return text

    def blob(self) -> bytes:
        return self._take(self._varint() - 1 if self.flexible else self.int32())

    def count(self) -> int:
        count = self._varint() - 1 if self.flexible else self.int32()
        if not 0 <= count <= len(self._data) - self._position:
            raise RecordFormatError(f"{count} members in {len(self._data) - self._position} bytes")
        return count

    def tags(self) -> dict[int, bytes]:
        return {self._varint(): self._take(self._varint()) for _ in range(self._varint())}
