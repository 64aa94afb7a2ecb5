"""Fetch (key 1), versions 4-18, by hand: the request as plain tuples, the response as a list of buffers in which record batches are never copied.

A topic is known by its name (`str`) up to v12 and by its id (16 `bytes`) from v13 on. Pure: no I/O, no clock. Every malformation is a ProtocolError.

v5 log start offset · v7 sessions (KIP-227) · v9 leader epoch · v11 rack · v12 flexible, current leader · v13 topic ids (KIP-516) · v15 replica id
moves to a tag · v16 endpoints (KIP-951) · v17, v18 tags that only followers use.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from broker.protocol.errors import DECODE_FAULTS, ProtocolError, bad_length, malformed, too_many, truncated
from broker.protocol.primitives import Buffer, read_numbers, read_uvarint, skip_tagged_fields, write_uvarint
from broker.protocol.produce import Endpoint, LeaderHint, TopicKey, compact_key, endpoints_tag, leader_tag, legacy_string, topic_name

_I16 = Struct(">h")
_I32 = Struct(">i")
_HEAD_V4 = Struct(">iiiib")
_HEAD_V7 = Struct(">iiiibii")
_HEAD_V15 = Struct(">iiibii")
_PARTITION_V4 = Struct(">iqi")
_PARTITION_V5 = Struct(">iqqi")
_PARTITION_V9 = Struct(">iiqqi")
_PARTITION_V12 = Struct(">iiqiqi")


class FetchPartition(NamedTuple):
    topic: TopicKey
    partition: int
    current_leader_epoch: int  # -1 = not fenced
    fetch_offset: int
    max_bytes: int


class FetchRequest(NamedTuple):
    """`session_id` 0 and `session_epoch` -1 below v7. `isolation_level` 1 = read committed. `forgotten` = [(topic, partition), ...]."""

    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    isolation_level: int
    session_id: int
    session_epoch: int
    partitions: list[FetchPartition]
    forgotten: list[tuple[TopicKey, int]]


class FetchedPartition(NamedTuple):
    """The answer for one partition; `chunks` have `size` bytes together. `aborted` = [(producer id, first offset)], None for read_uncommitted."""

    partition: int
    error: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    aborted: Sequence[tuple[int, int]] | None = None
    chunks: Sequence[Buffer] = ()
    size: int = 0
    leader: LeaderHint | None = None


def decode_fetch_request(buffer: Buffer, position: int, version: int) -> tuple[FetchRequest, int]:
    """Decode the body at byte `position`; returns it and the position behind it. Raises ProtocolError."""
    if type(buffer) is not bytes:
        buffer = bytes(buffer)  # slices of bytes are cheaper than those of views, and a Fetch request carries no records
    try:
        if version >= 12:
            return _decode_flexible(buffer, position, len(buffer), version)
        return _decode_legacy(buffer, position, len(buffer), version)
    except DECODE_FAULTS as fault:
        raise malformed("FetchRequest", version, len(buffer), fault) from fault


def _decode_legacy(buffer: bytes, position: int, size: int, version: int) -> tuple[FetchRequest, int]:
    session_id, session_epoch = 0, -1
    if version >= 7:
        _, max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch = _HEAD_V7.unpack_from(buffer, position)
        position += 25
    else:
        _, max_wait_ms, min_bytes, max_bytes, isolation_level = _HEAD_V4.unpack_from(buffer, position)
        position += 17
    (topic_count,) = _I32.unpack_from(buffer, position)
    position += 4
    _check_count("topics", position, topic_count, 6, size)
    partitions: list[FetchPartition] = []
    for _ in range(topic_count):
        name, position = _legacy_name(buffer, position, size)
        (count,) = _I32.unpack_from(buffer, position)
        position += 4
        _check_count("partitions", position, count, 16, size)
        for _ in range(count):
            if version >= 9:
                index, epoch, offset, _, limit = _PARTITION_V9.unpack_from(buffer, position)
                position += 28
            elif version >= 5:
                index, offset, _, limit = _PARTITION_V5.unpack_from(buffer, position)
                epoch = -1
                position += 24
            else:
                index, offset, limit = _PARTITION_V4.unpack_from(buffer, position)
                epoch = -1
                position += 16
            partitions.append(FetchPartition(name, index, epoch, offset, limit))
    forgotten: list[tuple[TopicKey, int]] = []
    if version >= 7:
        (topic_count,) = _I32.unpack_from(buffer, position)
        position += 4
        _check_count("forgotten_topics_data", position, topic_count, 6, size)
        for _ in range(topic_count):
            name, position = _legacy_name(buffer, position, size)
            (count,) = _I32.unpack_from(buffer, position)
            position += 4
            _check_count("partitions", position, count, 4, size)
            forgotten += [(name, index) for index in read_numbers(buffer, position, count, "i")]
            position += 4 * count
    if version >= 11:
        (length,) = _I16.unpack_from(buffer, position)
        position += 2
        if length < 0:
            raise bad_length("FetchRequest.rack_id", position, length)
        if length > size - position:
            raise truncated("FetchRequest.rack_id", position, length, size - position)
        buffer[position : position + length].decode()
        position += length
    return FetchRequest(max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch, partitions, forgotten), position


def _decode_flexible(buffer: bytes, position: int, size: int, version: int) -> tuple[FetchRequest, int]:
    if version >= 15:
        max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch = _HEAD_V15.unpack_from(buffer, position)
        position += 21
    else:
        _, max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch = _HEAD_V7.unpack_from(buffer, position)
        position += 25
    topic_count, position = read_uvarint(buffer, position)
    _check_count("topics", position, topic_count - 1, 3, size)
    partitions: list[FetchPartition] = []
    for _ in range(topic_count - 1):
        key, position = _compact_key(buffer, position, size, version)
        count, position = read_uvarint(buffer, position)
        _check_count("partitions", position, count - 1, 33, size)
        for _ in range(count - 1):
            index, epoch, offset, _, _, limit = _PARTITION_V12.unpack_from(buffer, position)
            position += 32
            partitions.append(FetchPartition(key, index, epoch, offset, limit))
            position = position + 1 if buffer[position] == 0 else skip_tagged_fields(buffer, position, size)
        position = skip_tagged_fields(buffer, position, size)
    topic_count, position = read_uvarint(buffer, position)
    _check_count("forgotten_topics_data", position, topic_count - 1, 3, size)
    forgotten: list[tuple[TopicKey, int]] = []
    for _ in range(topic_count - 1):
        key, position = _compact_key(buffer, position, size, version)
        count, position = read_uvarint(buffer, position)
        count -= 1
        _check_count("partitions", position, count, 4, size)
        forgotten += [(key, index) for index in read_numbers(buffer, position, count, "i")]
        position = skip_tagged_fields(buffer, position + 4 * count, size)
    length, position = read_uvarint(buffer, position)
    if length == 0:
        raise bad_length("FetchRequest.rack_id", position, -1)
    _check_string("rack_id", position, length - 1, size)
    buffer[position : position + length - 1].decode()
    position = skip_tagged_fields(buffer, position + length - 1, size)
    return FetchRequest(max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch, partitions, forgotten), position


def _check_count(field: str, position: int, count: int, smallest: int, size: int) -> None:
    if count < 0:
        raise bad_length(f"FetchRequest.{field}", position, count)
    if count * smallest > size - position:
        raise too_many(f"FetchRequest.{field}", position, count, size - position)


def _check_string(field: str, position: int, length: int, size: int) -> None:
    if length > 32767:
        raise ProtocolError(f"FetchRequest.{field}: a string of {length} bytes at byte {position}, at most 32767 are allowed")
    if length > size - position:
        raise truncated(f"FetchRequest.{field}", position, length, size - position)


def _legacy_name(buffer: bytes, position: int, size: int) -> tuple[str, int]:
    (length,) = _I16.unpack_from(buffer, position)
    position += 2
    if length < 0:
        raise bad_length("FetchRequest.topic", position, length)
    if length > size - position:
        raise truncated("FetchRequest.topic", position, length, size - position)
    return topic_name(buffer[position : position + length]), position + length


def _compact_key(buffer: bytes, position: int, size: int, version: int) -> tuple[TopicKey, int]:
    if version >= 13:
        if size - position < 16:
            raise truncated("FetchRequest.topic_id", position, 16, size - position)
        return buffer[position : position + 16], position + 16
    length, position = read_uvarint(buffer, position)
    if length == 0:
        raise bad_length("FetchRequest.topic", position, -1)
    _check_string("topic", position, length - 1, size)
    return topic_name(buffer[position : position + length - 1]), position + length - 1


# Response

_TOP_V4 = Struct(">i")
_TOP_V7 = Struct(">ihi")
_RESULT_V4 = Struct(">ihqq")
_RESULT_V5 = Struct(">ihqqq")
_ABORTED = Struct(">qq")
_ABORTED_FLEXIBLE = Struct(">qqb")
_MINUS_ONE = b"\xff\xff\xff\xff"


def encode_fetch_response(
    version: int,
    error: int,
    session_id: int,
    topics: Sequence[tuple[TopicKey, Sequence[FetchedPartition]]],
    endpoints: Sequence[Endpoint] = (),
    throttle_time_ms: int = 0,
) -> tuple[list[Buffer], int]:
    """The body of the response as buffers, and their total size. The chunks of the partitions are among them as they are.

    `endpoints` are sent from v16 on, the leader of a partition from v12 on.
    """
    flexible = version >= 12
    parts: list[Buffer] = []
    size = 0
    out = bytearray(_TOP_V7.pack(throttle_time_ms, error, session_id) if version >= 7 else _TOP_V4.pack(throttle_time_ms))
    if flexible:
        write_uvarint(out, len(topics) + 1)
    else:
        out += _I32.pack(len(topics))
    for key, results in topics:
        if flexible:
            out += compact_key(key)
            write_uvarint(out, len(results) + 1)
        else:
            out += legacy_string(key if isinstance(key, str) else "")
            out += _I32.pack(len(results))
        for result in results:
            _encode_partition_head(out, version, result)
            if result.size:
                size += len(out) + result.size
                parts.append(out)
                parts += result.chunks
                out = bytearray()
            if flexible:
                out += b"\0" if result.leader is None else leader_tag(1, result.leader)
        if flexible:
            out.append(0)
    if flexible:
        out += endpoints_tag(endpoints) if endpoints and version >= 16 else b"\0"
    if out:
        parts.append(out)
        size += len(out)
    return parts, size


def _encode_partition_head(out: bytearray, version: int, result: FetchedPartition) -> None:
    """Everything of a partition up to and with the length of its records."""
    if version >= 5:
        out += _RESULT_V5.pack(result.partition, result.error, result.high_watermark, result.last_stable_offset, result.log_start_offset)
    else:
        out += _RESULT_V4.pack(result.partition, result.error, result.high_watermark, result.last_stable_offset)
    aborted = result.aborted
    if version >= 12:
        if aborted is None:
            out.append(0)
        else:
            write_uvarint(out, len(aborted) + 1)
            for producer_id, first_offset in aborted:
                out += _ABORTED_FLEXIBLE.pack(producer_id, first_offset, 0)
        out += _MINUS_ONE
        write_uvarint(out, result.size + 1)
        return
    if aborted is None:
        out += _MINUS_ONE
    else:
        out += _I32.pack(len(aborted))
        for producer_id, first_offset in aborted:
            out += _ABORTED.pack(producer_id, first_offset)
    if version >= 11:
        out += _MINUS_ONE
    out += _I32.pack(result.size)
