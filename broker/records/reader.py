"""Records inside a batch: reading them for look-ups by time and for internal topics. Not for hot paths: one Python step per record.

Every length is checked against the bytes that are left before anything is made of it. Source: Kafka's DefaultRecord (KIP-98, KIP-82).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from broker.records.batch import CODEC_MASK, HEADER, HEADER_BYTES, LOG_APPEND_TIME_BIT, LOG_OVERHEAD_BYTES, max_timestamp
from broker.records.compression import CompressionError, decompress
from wal.entry import Buffer

DEFAULT_MAX_DECOMPRESSED_BYTES = 64 * 1024 * 1024
__all__ = ["DEFAULT_MAX_DECOMPRESSED_BYTES", "Record", "RecordError", "max_timestamp", "read_batch", "read_batches"]


class Record(NamedTuple):
    """One record; `timestamp` in ms. `key` and `value` are None when null."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


class RecordError(ValueError):
    """The records of a batch can not be read: damaged, cut off, or larger than the bound."""


def read_batch(batch: Buffer, max_bytes: int = DEFAULT_MAX_DECOMPRESSED_BYTES) -> Iterator[Record]:
    """The records of one whole batch, in order. `max_bytes` bounds the decompressed size. Raises RecordError."""
    view = memoryview(batch)
    if len(view) < HEADER_BYTES:
        raise RecordError(f"{len(view)} bytes are no batch")
    base_offset, length, _, _, _, attributes, _, base_timestamp, newest, _, _, _, count = HEADER.unpack_from(view)
    if length + LOG_OVERHEAD_BYTES != len(view):
        raise RecordError(f"batch of {len(view)} bytes says {length + LOG_OVERHEAD_BYTES}")
    try:
        data = bytes(decompress(attributes & CODEC_MASK, view[HEADER_BYTES:], max_bytes))
    except CompressionError as cause:
        raise RecordError(str(cause)) from cause
    fixed = newest if attributes & LOG_APPEND_TIME_BIT else None
    position = 0
    for _ in range(count):
        size, position = _varint(data, position)
        end = position + size
        if size < 0 or end > len(data):
            raise RecordError(f"record of {size} bytes, {len(data) - position} are left")
        yield _record(data, position, end, base_offset, base_timestamp, fixed)
        position = end


def read_batches(records: Buffer, max_bytes: int = DEFAULT_MAX_DECOMPRESSED_BYTES) -> Iterator[Record]:
    """The records of several batches behind each other, as a fetch returns them; a batch that is cut off at the end is left out."""
    view = memoryview(records)
    position = 0
    while len(view) - position >= HEADER_BYTES:
        size = HEADER.unpack_from(view, position)[1] + LOG_OVERHEAD_BYTES
        if size < HEADER_BYTES:
            raise RecordError(f"batch of {size} bytes")
        if size > len(view) - position:
            return
        yield from read_batch(view[position : position + size], max_bytes)
        position += size


def _record(data: bytes, position: int, end: int, base_offset: int, base_timestamp: int, fixed_timestamp: int | None) -> Record:
    timestamp_delta, position = _varint(data, position + 1)
    offset_delta, position = _varint(data, position)
    key, position = _bytes(data, position, end)
    value, position = _bytes(data, position, end)
    header_count, position = _varint(data, position)
    if header_count < 0 or header_count > end - position:
        raise RecordError(f"{header_count} headers in {end - position} bytes")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(header_count):
        name, position = _bytes(data, position, end)
        if name is None:
            raise RecordError("header without a name")
        content, position = _bytes(data, position, end)
        headers.append((name.decode("utf-8", "replace"), content))
    if position != end:
        raise RecordError(f"record ends {end - position} bytes before its length")
    timestamp = base_timestamp + timestamp_delta if fixed_timestamp is None else fixed_timestamp
    return Record(base_offset + offset_delta, timestamp, key, value, tuple(headers))


def _bytes(data: bytes, position: int, end: int) -> tuple[bytes | None, int]:
    length, position = _varint(data, position)
    if length < 0:
        return None, position
    if length > end - position:
        raise RecordError(f"field of {length} bytes, {end - position} are left")
    return data[position : position + length], position + length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A zigzag varint of at most ten bytes at `position`: (value, position behind it)."""
    value = shift = 0
    for position in range(position, min(position + 10, len(data))):  # noqa: B020
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position + 1
        shift += 7
    raise RecordError("number is cut off or too long")
