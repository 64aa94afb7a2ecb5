"""Building record batches: for internal topics, for topics that recompress, and for tests. Not for hot paths."""

from __future__ import annotations

from collections.abc import Sequence

import crc32c

from broker.records.batch import (
    CODEC_MASK,
    CRC_START,
    HEADER,
    HEADER_BYTES,
    LOG_OVERHEAD_BYTES,
    MAGIC,
    NO_PRODUCER_ID,
    NO_TIMESTAMP,
    BatchInfo,
)
from broker.records.compression import compress, decompress
from broker.records.reader import Record
from wal.entry import Buffer


def build_batch(
    records: Sequence[Record],
    codec: int = 0,
    producer: tuple[int, int, int] = (NO_PRODUCER_ID, -1, -1),
    base_offset: int = 0,
    leader_epoch: int = -1,
    attributes: int = 0,
) -> bytearray:
    """One batch of `records` (their offsets are replaced by base_offset, base_offset + 1, …). `producer` = (id, epoch, base sequence)."""
    base_timestamp = records[0].timestamp if records else NO_TIMESTAMP
    newest = max((record.timestamp for record in records), default=NO_TIMESTAMP)
    body = compress(codec, b"".join(_encode(record, base_timestamp, delta) for delta, record in enumerate(records)))
    producer_id, producer_epoch, base_sequence = producer
    batch = bytearray(HEADER_BYTES + len(body))
    batch[HEADER_BYTES:] = body
    HEADER.pack_into(
        batch,
        0,
        base_offset,
        len(batch) - LOG_OVERHEAD_BYTES,
        leader_epoch,
        MAGIC,
        0,
        attributes | codec,
        len(records) - 1,
        base_timestamp,
        newest,
        producer_id,
        producer_epoch,
        base_sequence,
        len(records),
    )
    seal(batch)
    return batch


def seal(batch: bytearray) -> None:
    """Compute the CRC of a whole batch anew."""
    batch[17:21] = crc32c.crc32c(memoryview(batch)[CRC_START:]).to_bytes(4, "big")


def recompress(records: memoryview, batches: Sequence[BatchInfo], codec: int, max_bytes: int) -> tuple[memoryview, list[BatchInfo]]:
    """The same batches with another codec (compression.type other than producer). No record is parsed.

    `max_bytes` bounds each decompressed batch. Raises CompressionError when a batch can not be decompressed.
    """
    output = bytearray()
    changed: list[BatchInfo] = []
    for info in batches:
        position = len(output)
        batch = records[info.position : info.position + info.size]
        if info.codec == codec:
            output += batch
        else:
            body: Buffer = compress(codec, decompress(info.codec, batch[HEADER_BYTES:], max_bytes))
            fields = list(HEADER.unpack_from(batch))
            fields[1] = HEADER_BYTES + len(body) - LOG_OVERHEAD_BYTES
            fields[5] = (info.attributes & ~CODEC_MASK) | codec
            made = bytearray(HEADER.pack(*fields))
            made += body
            seal(made)
            output += made
        changed.append(info._replace(position=position, size=len(output) - position, attributes=(info.attributes & ~CODEC_MASK) | codec))
    return memoryview(output), changed


def _encode(record: Record, base_timestamp: int, offset_delta: int) -> bytes:
    body = b"".join(
        (
            b"\x00",
            _varint(record.timestamp - base_timestamp),
            _varint(offset_delta),
            _field(record.key),
            _field(record.value),
            _varint(len(record.headers)),
            *(_field(name.encode()) + _field(content) for name, content in record.headers),
        )
    )
    return _varint(len(body)) + body


def _field(content: bytes | None) -> bytes:
    return b"\x01" if content is None else _varint(len(content)) + content


def _varint(number: int) -> bytes:
    value = (number << 1) ^ (number >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
