"""Headers of Kafka's record batches, version 2: checking what a client sent, walking what is stored, stamping in place.

Knows no partition, no clock and no compression. Records themselves are never parsed here: cost is one Struct call per batch.
Layout (big endian): base_offset 0 i64 · length 8 i32 (bytes behind it) · leader_epoch 12 i32 · magic 16 i8 · crc 17 u32 (CRC32C from byte 21) ·
attributes 21 i16 · last_offset_delta 23 i32 · base_timestamp 27 i64 · max_timestamp 35 i64 · producer_id 43 i64 · producer_epoch 51 i16 ·
base_sequence 53 i32 · record count 57 i32 · records 61.

What is believed: the record count of a *compressed* batch is checked against last_offset_delta only (Kafka decompresses every batch; here that
would cost more than all the rest of a produce). A lie harms only the readers of that batch: offsets follow the header on every replica.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

import crc32c

from broker.errors import ErrorCode, KafkaError
from wal.entry import Buffer
from wal.errors import DamageError, check

LOG_OVERHEAD_BYTES = 12
CRC_START = 21
HEADER_BYTES = 61
MIN_RECORD_BYTES = 7  # length, attributes, timestamp delta, offset delta, key length, value length, header count: one byte each
MAGIC = 2
MAGIC_POSITION = 16
ATTRIBUTES_POSITION = 21
MAX_SEQUENCE = 0x7FFFFFFF
NO_PRODUCER_ID = -1
NO_TIMESTAMP = -1

CODEC_MASK = 0x07
LOG_APPEND_TIME_BIT = 0x08
TRANSACTIONAL_BIT = 0x10
CONTROL_BIT = 0x20
LAST_CODEC = 4

HEADER = Struct(">qiibIhiqqqhii")
"""All fields in the order of the module docstring."""
_APPLIED = Struct(">qi9xhi8xqqhi")
_WALK = Struct(">qi11xi")
_CRC = Struct(">I")
_OFFSET = Struct(">q")
_EPOCH = Struct(">i")
_ATTRIBUTES = Struct(">h")
_PRODUCER = Struct(">qh")


class BatchInfo(NamedTuple):
    """A checked batch of one produce request. `position` and `size` are bytes in the request's records."""

    position: int
    size: int
    record_count: int
    attributes: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int

    @property
    def codec(self) -> int:
        return self.attributes & CODEC_MASK


def check_batches(records: memoryview, max_batch_bytes: int, max_set_bytes: int) -> list[BatchInfo]:
    """Walk one produce request's records for one partition and check each batch header; raises KafkaError with Kafka's code for what is wrong.

    `max_batch_bytes` is max.message.bytes; `max_set_bytes` bounds all batches together. The checks are Kafka's (LogValidator, DefaultRecordBatch),
    except that the records inside are looked at only as far as the module docstring says.
    """
    total = len(records)
    if total == 0:
        raise KafkaError(ErrorCode.INVALID_RECORD, "no record batch; a produce request needs at least one batch for each partition")
    if total > max_set_bytes:
        raise KafkaError(ErrorCode.RECORD_LIST_TOO_LARGE, f"{total} bytes for one partition; the limit is {max_set_bytes}: send less at once")
    found: list[BatchInfo] = []
    position = 0
    while position < total:
        left = total - position
        if left <= MAGIC_POSITION:
            raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"{left} bytes behind the last batch are no batch")
        magic = records[position + MAGIC_POSITION]
        if magic != MAGIC:
            _refuse_magic(magic)
        if left < HEADER_BYTES:
            raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"{left} bytes are left, a batch header needs {HEADER_BYTES}")
        (base_offset, length, _, _, crc, attributes, last_delta, base_timestamp, max_timestamp, producer_id, epoch, sequence, count) = (
            HEADER.unpack_from(records, position)
        )
        size = LOG_OVERHEAD_BYTES + length
        if size < HEADER_BYTES or size > left:
            raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"batch length {length} does not fit the {left} bytes that are left")
        if size > max_batch_bytes:
            raise KafkaError(ErrorCode.MESSAGE_TOO_LARGE, f"batch of {size} bytes; max.message.bytes is {max_batch_bytes}")
        end = position + size
        if crc32c.crc32c(records[position + CRC_START : end]) != crc:
            raise KafkaError(ErrorCode.CORRUPT_MESSAGE, "CRC32C of the batch does not match: it was changed on its way; send it again")
        if base_offset != 0 and not found:
            raise KafkaError(ErrorCode.INVALID_RECORD, f"base offset is {base_offset}, a producer sends 0")
        if count <= 0 or last_delta != count - 1:
            raise KafkaError(ErrorCode.INVALID_RECORD, f"record count {count} does not match the last offset delta {last_delta}")
        if attributes & (CONTROL_BIT | CODEC_MASK):
            _check_attributes(attributes)
        if attributes & LOG_APPEND_TIME_BIT:
            raise KafkaError(ErrorCode.INVALID_TIMESTAMP, "a producer must not set the timestamp type to LogAppendTime")
        if producer_id >= 0:
            if sequence < 0 or epoch < 0:
                raise KafkaError(ErrorCode.INVALID_RECORD, f"producer id {producer_id} with epoch {epoch} and sequence {sequence}; both must be ≥ 0")
        elif attributes & TRANSACTIONAL_BIT:
            raise KafkaError(ErrorCode.INVALID_RECORD, "a transactional batch needs a producer id")
        if not attributes & CODEC_MASK:
            _check_uncompressed(records, position, size, count)
        found.append(BatchInfo(position, size, count, attributes, base_timestamp, max_timestamp, producer_id, epoch, sequence))
        position = end
    return found


def prepared_batches(records: memoryview) -> Iterator[BatchInfo]:
    """The batches of what the broker itself has built. Raises InvariantError when they are not whole: that is our own fault."""
    position = 0
    while position < len(records):
        check(len(records) - position >= HEADER_BYTES, f"{len(records) - position} bytes of a prepared append are no batch")
        _, length, _, _, _, attributes, last_delta, base_timestamp, max_timestamp, producer_id, epoch, sequence, count = HEADER.unpack_from(
            records, position
        )
        size = LOG_OVERHEAD_BYTES + length
        check(HEADER_BYTES <= size <= len(records) - position and count == last_delta + 1 > 0, f"a prepared batch says {size} bytes, {count} records")
        yield BatchInfo(position, size, count, attributes, base_timestamp, max_timestamp, producer_id, epoch, sequence)
        position += size


def _refuse_magic(magic: int) -> None:
    if magic in (0, 1):
        raise KafkaError(
            ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT, f"message format {magic} is not served since Kafka 4.0; use a client of 0.11 or newer"
        )
    raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"magic byte {magic} is no message format")


def _check_attributes(attributes: int) -> None:
    if attributes & CONTROL_BIT:
        raise KafkaError(ErrorCode.INVALID_RECORD, "clients may not write control batches")
    if attributes & CODEC_MASK > LAST_CODEC:
        raise KafkaError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"compression codec {attributes & CODEC_MASK} is unknown")


def _check_uncompressed(records: memoryview, position: int, size: int, count: int) -> None:
    """The cheap check of a record count: the first record's length must leave room for the others, and be all there is when it is alone."""
    room = size - HEADER_BYTES
    if count * MIN_RECORD_BYTES > room:
        raise KafkaError(ErrorCode.INVALID_RECORD, f"{count} records do not fit {room} bytes")
    at = position + HEADER_BYTES
    value = shift = 0
    while True:
        byte = records[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 28 or at >= position + size:
            raise KafkaError(ErrorCode.INVALID_RECORD, "the first record's length is no varint")
    length = (value >> 1) ^ -(value & 1)
    left = position + size - at
    if length < MIN_RECORD_BYTES - 1 or length > left - (count - 1) * MIN_RECORD_BYTES or (count == 1 and length != left):
        raise KafkaError(ErrorCode.INVALID_RECORD, f"the first record's length {length} does not match {count} records in {room} bytes")


def stamp(records: memoryview, batches: Sequence[BatchInfo], base_offset: int, leader_epoch: int) -> int:
    """Write base offset and leader epoch into each batch in place (the CRC does not cover them); returns the offset behind the last record."""
    offset = base_offset
    for batch in batches:
        _OFFSET.pack_into(records, batch.position, offset)
        _EPOCH.pack_into(records, batch.position + 12, leader_epoch)
        offset += batch.record_count
    return offset


def stamp_log_append_time(records: memoryview, batches: Sequence[BatchInfo], now_ms: int) -> None:
    """Set the timestamp type and the largest timestamp of each batch and compute its CRC anew (message.timestamp.type=LogAppendTime, KIP-32)."""
    for batch in batches:
        _ATTRIBUTES.pack_into(records, batch.position + 21, batch.attributes | LOG_APPEND_TIME_BIT)
        _OFFSET.pack_into(records, batch.position + 35, now_ms)
        _CRC.pack_into(records, batch.position + 17, crc32c.crc32c(records[batch.position + CRC_START : batch.position + batch.size]))


def producer_of(records: Buffer) -> tuple[int, int]:
    """(producer id, epoch) of the first batch, whose header must be whole."""
    return _PRODUCER.unpack_from(records, 43)


def last_sequence(base_sequence: int, record_count: int) -> int:
    """Sequence of the last record; sequences go on at 0 behind 2^31 - 1."""
    return (base_sequence + record_count - 1) & MAX_SEQUENCE


def stored_batches(chunks: Sequence[Buffer]) -> Iterator[tuple[int, int, int, int, int, int, int, int]]:
    """Walk the batches of a stored payload: (base_offset, length, attributes, last_offset_delta, max_timestamp, producer_id, epoch, base_sequence).

    A batch may span chunks (then the rest is joined once). Raises DamageError when the payload is not a sequence of whole batches.
    """
    unpack_from = _APPLIED.unpack_from
    for number, chunk in enumerate(chunks):
        position, end = 0, len(chunk)
        while position < end:
            if end - position < HEADER_BYTES:
                break
            header = unpack_from(chunk, position)
            behind = position + LOG_OVERHEAD_BYTES + header[1]
            if behind > end:
                break
            if header[1] < HEADER_BYTES - LOG_OVERHEAD_BYTES:
                raise DamageError(f"stored batch at byte {position} of a payload has length {header[1]}")
            yield header
            position = behind
        if position < end:
            yield from _spanning(chunks, number, position)
            return


def _spanning(chunks: Sequence[Buffer], number: int, position: int) -> Iterator[tuple[int, int, int, int, int, int, int, int]]:
    if number == len(chunks) - 1:
        raise DamageError(f"stored payload ends inside a batch ({len(chunks[number]) - position} bytes are left)")
    rest = b"".join([memoryview(chunks[number])[position:], *chunks[number + 1 :]])
    yield from stored_batches((rest,))


def max_timestamp(chunks: Sequence[Buffer]) -> int:
    """Largest timestamp of a stored payload in ms, -1 for none: what the log's time index is made of."""
    largest = NO_TIMESTAMP
    for header in stored_batches(chunks):
        if header[4] > largest:
            largest = header[4]
    return largest


def walk_header(chunk: Buffer, position: int) -> tuple[int, int, int]:
    """(base_offset, whole size in bytes, last_offset) of the batch whose first 27 bytes are at `position`."""
    base_offset, length, delta = _WALK.unpack_from(chunk, position)
    if length < HEADER_BYTES - LOG_OVERHEAD_BYTES:
        raise DamageError(f"stored batch {base_offset} has length {length}")
    return base_offset, length + LOG_OVERHEAD_BYTES, base_offset + delta


WALK_BYTES = _WALK.size
