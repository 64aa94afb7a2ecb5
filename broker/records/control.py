"""Control batches: the markers that end a transaction on a partition (KIP-98), in Kafka's format.

A control batch has one record: key = version i16, type i16 (0 abort, 1 commit); value = version i16, coordinator epoch i32. It consumes one offset.
Knows no partition and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from broker.records.batch import CONTROL_BIT, HEADER_BYTES, LOG_OVERHEAD_BYTES, TRANSACTIONAL_BIT, stored_batches
from broker.records.builder import build_batch
from broker.records.reader import Record, RecordError, read_batch
from wal.entry import Buffer
from wal.errors import DamageError

ABORT = 0
COMMIT = 1
_KEY = Struct(">hh")
_VALUE = Struct(">hi")
_VERSION = 0


class Marker(NamedTuple):
    """The end of `producer_id`'s transaction. `coordinator_epoch` fences markers of older coordinators."""

    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    commit: bool


class MarkerEnd(NamedTuple):
    """What a stored marker says beyond its batch's header."""

    coordinator_epoch: int
    commit: bool


def marker_batch(marker: Marker, timestamp_ms: int) -> bytearray:
    """The batch of one marker; base offset and leader epoch are stamped by the partition."""
    record = Record(0, timestamp_ms, _KEY.pack(_VERSION, COMMIT if marker.commit else ABORT), _VALUE.pack(_VERSION, marker.coordinator_epoch))
    producer = (marker.producer_id, marker.producer_epoch, -1)
    return build_batch([record], producer=producer, attributes=TRANSACTIONAL_BIT | CONTROL_BIT)


def read_marker(batch: Buffer) -> MarkerEnd | None:
    """What the whole control batch says; None for a control record of another type (none is written here). Raises DamageError."""
    try:
        record = next(read_batch(batch), None)
    except RecordError as cause:
        raise DamageError(f"stored control batch can not be read: {cause}") from cause
    if record is None or record.key is None or len(record.key) < _KEY.size:
        raise DamageError("stored control batch has no key")
    kind = _KEY.unpack_from(record.key)[1]
    if kind not in (ABORT, COMMIT):
        return None
    if record.value is None or len(record.value) < _VALUE.size:
        raise DamageError("stored transaction marker has no value")
    return MarkerEnd(_VALUE.unpack_from(record.value)[1], kind == COMMIT)


def markers_of(chunks: Sequence[Buffer]) -> dict[int, MarkerEnd]:
    """All transaction markers of a stored payload by base offset."""
    found: dict[int, MarkerEnd] = {}
    payload: memoryview | None = None
    position = 0
    for base_offset, length, attributes, *_ in stored_batches(chunks):
        size = length + LOG_OVERHEAD_BYTES
        if attributes & CONTROL_BIT:
            if payload is None:
                payload = memoryview(chunks[0] if len(chunks) == 1 else b"".join(chunks))
            end = read_marker(payload[position : position + max(size, HEADER_BYTES)])
            if end is not None:
                found[base_offset] = end
        position += size
    return found
