"""Produce (key 0), versions 3-13, by hand: the hottest message. The generated classes are the oracle of its tests.

A decoded request is plain tuples; records stay views of the request's buffer. A topic is known by its name (`str`) up to v12 and by its id
(16 `bytes`) from v13 on; the answer uses the same key. Pure: no I/O, no clock. Every malformation is a ProtocolError.

v3 transactional id · v5 log start offset · v7 zstd · v8 error message · v9 flexible · v10 current leader, endpoints (KIP-951) · v13 topic ids
(KIP-516).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from broker.protocol.errors import DECODE_FAULTS, ProtocolError, bad_length, malformed, too_many, truncated
from broker.protocol.primitives import read_uvarint, skip_tagged_fields, write_uvarint

TopicKey = str | bytes

_I16 = Struct(">h")
_I32 = Struct(">i")
_ACKS_TIMEOUT = Struct(">hi")
_LEGACY_START = Struct(">hhiih")
_LEGACY_PARTITION = Struct(">iii")
_FLEXIBLE_START = Struct(">BhiBB")
_COUNT_INDEX = Struct(">Bi")
_PAIR = Struct(">ii")

_NAMES_MAX = 16_384
_names: dict[bytes, str] = {}
_prefixes: dict[tuple[TopicKey, bool], bytes] = {}


class ProduceRequest(NamedTuple):
    """`topics` = [(topic key, [(partition index, records or None), ...]), ...] in the order of the request."""

    transactional_id: str | None
    acks: int
    timeout_ms: int
    topics: list[tuple[TopicKey, list[tuple[int, memoryview | None]]]]


class LeaderHint(NamedTuple):
    """Who leads instead (KIP-951); -1 unknown."""

    leader_id: int
    leader_epoch: int


class Endpoint(NamedTuple):
    node_id: int
    host: str
    port: int
    rack: str | None


class ProducedPartition(NamedTuple):
    """The answer for one partition. `leader` is sent from v10 on, `message` from v8 on."""

    partition: int
    error: int
    base_offset: int
    log_append_time_ms: int
    log_start_offset: int
    message: str | None = None
    leader: LeaderHint | None = None


def topic_name(raw: bytes) -> str:
    """The text of a topic's name, remembered (names repeat for ever). Raises UnicodeDecodeError."""
    name = _names.get(raw)
    if name is None:
        name = raw.decode()
        if len(_names) >= _NAMES_MAX:
            _names.clear()
        _names[raw] = name
    return name


def decode_produce_request(buffer: memoryview, position: int, version: int) -> tuple[ProduceRequest, int]:
    """Decode the body at byte `position`; returns it and the position behind it. Raises ProtocolError."""
    try:
        if version >= 9:
            return _decode_flexible(buffer, position, version)
        return _decode_legacy(buffer, position)
    except DECODE_FAULTS as fault:
        raise malformed("ProduceRequest", version, len(buffer), fault) from fault


def _decode_legacy(buffer: memoryview, position: int) -> tuple[ProduceRequest, int]:
    size = len(buffer)
    if size - position < 26:
        return _decode_legacy_any(buffer, position, size)
    id_length, acks, timeout_ms, topic_count, name_length = _LEGACY_START.unpack_from(buffer, position)
    name_end = position + 14 + name_length
    if id_length == -1 and topic_count == 1 and name_length >= 0 and name_end + 12 <= size:
        partition_count, index, length = _LEGACY_PARTITION.unpack_from(buffer, name_end)
        start = name_end + 12
        stop = start + length
        if partition_count == 1 and start <= stop <= size:
            name = topic_name(bytes(buffer[position + 14 : name_end]))
            return ProduceRequest(None, acks, timeout_ms, [(name, [(index, buffer[start:stop])])]), stop
    return _decode_legacy_any(buffer, position, size)


def _decode_legacy_any(buffer: memoryview, position: int, size: int) -> tuple[ProduceRequest, int]:
    transactional_id, position = _legacy_string(buffer, position, size, "transactional_id")
    acks, timeout_ms = _ACKS_TIMEOUT.unpack_from(buffer, position)
    (topic_count,) = _I32.unpack_from(buffer, position + 6)
    position += 10
    _check_count("topic_data", position, topic_count, 6, size)
    topics: list[tuple[TopicKey, list[tuple[int, memoryview | None]]]] = []
    for _ in range(topic_count):
        name, position = _legacy_string(buffer, position, size, "name")
        if name is None:
            raise bad_length("ProduceRequest.name", position, -1)
        (partition_count,) = _I32.unpack_from(buffer, position)
        position += 4
        _check_count("partition_data", position, partition_count, 8, size)
        partitions: list[tuple[int, memoryview | None]] = []
        for _ in range(partition_count):
            index, length = _PAIR.unpack_from(buffer, position)
            position += 8
            if length < 0:
                if length != -1:
                    raise bad_length("ProduceRequest.records", position, length)
                partitions.append((index, None))
                continue
            if length > size - position:
                raise truncated("ProduceRequest.records", position, length, size - position)
            partitions.append((index, buffer[position : position + length]))
            position += length
        topics.append((name, partitions))
    return ProduceRequest(transactional_id, acks, timeout_ms, topics), position


def _decode_flexible(buffer: memoryview, position: int, version: int) -> tuple[ProduceRequest, int]:
    size = len(buffer)
    if size - position < 20:
        return _decode_flexible_any(buffer, position, size, version)
    null_id, acks, timeout_ms, topic_count, name_length = _FLEXIBLE_START.unpack_from(buffer, position)
    # One topic, one partition, no transactional id, no tagged field: every varint but the records' length is one byte.
    if null_id == 0 and topic_count == 2:
        name_start, name_end = (position + 9, position + 8 + name_length) if version < 13 else (position + 8, position + 24)
        if (0 < name_length < 128 or version >= 13) and name_end + 6 < size:
            partition_count, index = _COUNT_INDEX.unpack_from(buffer, name_end)
            length, start = read_uvarint(buffer, name_end + 5)
            stop = start + length - 1
            if partition_count == 2 and length and stop + 3 <= size and bytes(buffer[stop : stop + 3]) == b"\0\0\0":
                raw = bytes(buffer[name_start:name_end])
                key: TopicKey = topic_name(raw) if version < 13 else raw
                return ProduceRequest(None, acks, timeout_ms, [(key, [(index, buffer[start:stop])])]), stop + 3
    return _decode_flexible_any(buffer, position, size, version)


def _decode_flexible_any(buffer: memoryview, position: int, size: int, version: int) -> tuple[ProduceRequest, int]:
    transactional_id, position = _compact_string(buffer, position, size, "transactional_id")
    acks, timeout_ms = _ACKS_TIMEOUT.unpack_from(buffer, position)
    topic_count, position = read_uvarint(buffer, position + 6)
    _check_count("topic_data", position, topic_count - 1, 3, size)
    topics: list[tuple[TopicKey, list[tuple[int, memoryview | None]]]] = []
    for _ in range(topic_count - 1):
        key: TopicKey
        if version >= 13:
            if size - position < 16:
                raise truncated("ProduceRequest.topic_id", position, 16, size - position)
            key = bytes(buffer[position : position + 16])
            position += 16
        else:
            name, position = _compact_string(buffer, position, size, "name")
            if name is None:
                raise bad_length("ProduceRequest.name", position, -1)
            key = name
        partition_count, position = read_uvarint(buffer, position)
        _check_count("partition_data", position, partition_count - 1, 6, size)
        partitions: list[tuple[int, memoryview | None]] = []
        for _ in range(partition_count - 1):
            (index,) = _I32.unpack_from(buffer, position)
            length, position = read_uvarint(buffer, position + 4)
            if length == 0:
                partitions.append((index, None))
            else:
                length -= 1
                if length > size - position:
                    raise truncated("ProduceRequest.records", position, length, size - position)
                partitions.append((index, buffer[position : position + length]))
                position += length
            position = skip_tagged_fields(buffer, position, size)
        position = skip_tagged_fields(buffer, position, size)
        topics.append((key, partitions))
    position = skip_tagged_fields(buffer, position, size)
    return ProduceRequest(transactional_id, acks, timeout_ms, topics), position


def _check_count(field: str, position: int, count: int, smallest: int, size: int) -> None:
    if count < 0:
        raise bad_length(f"ProduceRequest.{field}", position, count)
    if count * smallest > size - position:
        raise too_many(f"ProduceRequest.{field}", position, count, size - position)


def _legacy_string(buffer: memoryview, position: int, size: int, field: str) -> tuple[str | None, int]:
    (length,) = _I16.unpack_from(buffer, position)
    position += 2
    if length < 0:
        if length != -1:
            raise bad_length(f"ProduceRequest.{field}", position, length)
        return None, position
    if length > size - position:
        raise truncated(f"ProduceRequest.{field}", position, length, size - position)
    return topic_name(bytes(buffer[position : position + length])), position + length


def _compact_string(buffer: memoryview, position: int, size: int, field: str) -> tuple[str | None, int]:
    length, position = read_uvarint(buffer, position)
    if length == 0:
        return None, position
    length -= 1
    if length > 32767:
        raise ProtocolError(f"ProduceRequest.{field}: a string of {length} bytes at byte {position}, at most 32767 are allowed")
    if length > size - position:
        raise truncated(f"ProduceRequest.{field}", position, length, size - position)
    return topic_name(bytes(buffer[position : position + length])), position + length


# Responses

_RESULT_V3 = Struct(">ihqqi")
_RESULT_V5 = Struct(">ihqqqi")
_RESULT_V8 = Struct(">ihqqqihi")
_RESULT_V9 = Struct(">ihqqqIib")  # 01 00 00 00 = no record errors, null message, no tags of the partition, none of the topic; throttle; no tags
_NO_ERRORS = 0x01000000


def encode_produce_response(
    version: int,
    topics: Sequence[tuple[TopicKey, Sequence[ProducedPartition]]],
    endpoints: Sequence[Endpoint] = (),
    throttle_time_ms: int = 0,
) -> bytes:
    """The body of the response, without its header."""
    if len(topics) == 1:
        key, results = topics[0]
        if len(results) == 1:
            index, error, base_offset, append_time_ms, log_start_offset, message, leader = results[0]
            if message is None and leader is None and not endpoints:
                if version >= 9:
                    return _prefix(key, True) + _RESULT_V9.pack(
                        index, error, base_offset, append_time_ms, log_start_offset, _NO_ERRORS, throttle_time_ms, 0
                    )
                if version == 8:
                    return _prefix(key, False) + _RESULT_V8.pack(index, error, base_offset, append_time_ms, log_start_offset, 0, -1, throttle_time_ms)
                if version >= 5:
                    return _prefix(key, False) + _RESULT_V5.pack(index, error, base_offset, append_time_ms, log_start_offset, throttle_time_ms)
                return _prefix(key, False) + _RESULT_V3.pack(index, error, base_offset, append_time_ms, throttle_time_ms)
    if version >= 9:
        return _encode_flexible(version, topics, endpoints, throttle_time_ms)
    return _encode_legacy(version, topics, throttle_time_ms)


def _prefix(key: TopicKey, flexible: bool) -> bytes:
    """What comes before the only partition of the only topic: counts and the topic, remembered."""
    prefix = _prefixes.get((key, flexible))
    if prefix is None:
        if flexible:
            prefix = b"\x02" + compact_key(key) + b"\x02"
        else:
            prefix = b"\0\0\0\x01" + legacy_string(key if isinstance(key, str) else "") + b"\0\0\0\x01"
        if len(_prefixes) >= _NAMES_MAX:
            _prefixes.clear()
        _prefixes[(key, flexible)] = prefix
    return prefix


_PARTITION_V3 = Struct(">ihqq")
_PARTITION_V5 = Struct(">ihqqq")


def _encode_legacy(version: int, topics: Sequence[tuple[TopicKey, Sequence[ProducedPartition]]], throttle_time_ms: int) -> bytes:
    out = bytearray(_I32.pack(len(topics)))
    for key, results in topics:
        out += legacy_string(key if isinstance(key, str) else "")
        out += _I32.pack(len(results))
        for index, error, base_offset, append_time_ms, log_start_offset, message, _ in results:
            if version >= 5:
                out += _PARTITION_V5.pack(index, error, base_offset, append_time_ms, log_start_offset)
            else:
                out += _PARTITION_V3.pack(index, error, base_offset, append_time_ms)
            if version >= 8:
                out += b"\0\0\0\0"
                out += b"\xff\xff" if message is None else legacy_string(message)
    out += _I32.pack(throttle_time_ms)
    return bytes(out)


def _encode_flexible(
    version: int, topics: Sequence[tuple[TopicKey, Sequence[ProducedPartition]]], endpoints: Sequence[Endpoint], throttle_time_ms: int
) -> bytes:
    out = bytearray()
    write_uvarint(out, len(topics) + 1)
    for key, results in topics:
        out += compact_key(key)
        write_uvarint(out, len(results) + 1)
        for index, error, base_offset, append_time_ms, log_start_offset, message, leader in results:
            out += _PARTITION_V5.pack(index, error, base_offset, append_time_ms, log_start_offset)
            out.append(1)
            out += compact_string(message)
            out += b"\0" if leader is None or version < 10 else leader_tag(0, leader)
        out.append(0)
    out += _I32.pack(throttle_time_ms)
    out += endpoints_tag(endpoints) if endpoints and version >= 10 else b"\0"
    return bytes(out)


# Pieces that Produce and Fetch responses share


def legacy_string(text: str) -> bytes:
    raw = text.encode()
    return _I16.pack(len(raw)) + raw


def compact_string(text: str | None) -> bytes:
    if text is None:
        return b"\0"
    raw = text.encode()
    head = bytearray()
    write_uvarint(head, len(raw) + 1)
    return bytes(head) + raw


def compact_key(key: TopicKey) -> bytes:
    return compact_string(key) if isinstance(key, str) else key


def leader_tag(tag: int, leader: LeaderHint) -> bytes:
    """A section of tagged fields that holds only CurrentLeader."""
    return bytes((1, tag, 9)) + _PAIR.pack(leader.leader_id, leader.leader_epoch) + b"\0"


def endpoints_tag(endpoints: Sequence[Endpoint]) -> bytes:
    """A section of tagged fields that holds only NodeEndpoints (tag 0 of Produce and Fetch responses)."""
    body = bytearray()
    write_uvarint(body, len(endpoints) + 1)
    for node_id, host, port, rack in endpoints:
        body += _I32.pack(node_id)
        body += compact_string(host)
        body += _I32.pack(port)
        body += compact_string(rack)
        body.append(0)
    out = bytearray(b"\x01\x00")
    write_uvarint(out, len(body))
    return bytes(out + body)
