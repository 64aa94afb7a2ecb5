"""Checks of what clients send: each rule with Kafka's error code."""

from __future__ import annotations

import struct

import crc32c
import pytest

from broker.errors import ErrorCode, KafkaError
from broker.records.batch import HEADER_BYTES, check_batches, last_sequence, max_timestamp, stamp, stored_batches
from broker.records.builder import build_batch, seal
from broker.records.reader import Record
from wal.errors import DamageError

LIMIT = 1 << 20


def make(count: int = 1, **options: object) -> bytearray:
    return build_batch([Record(0, 1000 + i, b"key", b"value") for i in range(count)], **options)  # type: ignore[arg-type]


def changed(position: int, layout: str, *values: int, count: int = 1, codec: int = 0, sealed: bool = True) -> bytearray:
    records = make(count, codec=codec)
    struct.pack_into(layout, records, position, *values)
    if sealed:
        seal(records)
    return records


def code_of(records: bytes | bytearray, batch_limit: int = LIMIT, set_limit: int = LIMIT) -> ErrorCode:
    with pytest.raises(KafkaError) as caught:
        check_batches(memoryview(records), batch_limit, set_limit)
    assert caught.value.message
    return caught.value.code


def test_fields_of_good_batches() -> None:
    records = make(3, producer=(5, 6, 7)) + make(2, codec=1)
    first, second = check_batches(memoryview(records), LIMIT, LIMIT)
    assert (first.position, first.record_count, first.base_timestamp, first.max_timestamp) == (0, 3, 1000, 1002)
    assert first[6:] == (5, 6, 7) and first.codec == 0
    assert (second.position, second.size, second.codec) == (first.size, len(records) - first.size, 1)


@pytest.mark.parametrize(
    ("records", "code"),
    [
        (b"", ErrorCode.INVALID_RECORD),
        (b"\0" * 16, ErrorCode.CORRUPT_MESSAGE),
        (b"\0" * 17, ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT),
        (changed(16, ">b", 1), ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT),
        (changed(16, ">b", 3), ErrorCode.CORRUPT_MESSAGE),
        (make()[:-1], ErrorCode.CORRUPT_MESSAGE),
        (make()[:40], ErrorCode.CORRUPT_MESSAGE),
        (make() + b"\0\0", ErrorCode.CORRUPT_MESSAGE),
        (changed(8, ">i", 48), ErrorCode.CORRUPT_MESSAGE),
        (changed(8, ">i", -1), ErrorCode.CORRUPT_MESSAGE),
        (changed(8, ">i", 0x7FFFFFFF), ErrorCode.CORRUPT_MESSAGE),
        (changed(HEADER_BYTES, ">b", 9, sealed=False), ErrorCode.CORRUPT_MESSAGE),
        (changed(0, ">q", 5), ErrorCode.INVALID_RECORD),
        (changed(57, ">i", 2), ErrorCode.INVALID_RECORD),
        (changed(57, ">i", 0), ErrorCode.INVALID_RECORD),
        (changed(23, ">i", 1), ErrorCode.INVALID_RECORD),
        (changed(23, ">i", -1), ErrorCode.INVALID_RECORD),
        (changed(21, ">h", 0x20), ErrorCode.INVALID_RECORD),
        (changed(21, ">h", 0x10), ErrorCode.INVALID_RECORD),
        (changed(21, ">h", 0x08), ErrorCode.INVALID_TIMESTAMP),
        (changed(21, ">h", 5), ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
        (changed(21, ">h", 7), ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
        (make(producer=(5, 0, -1)), ErrorCode.INVALID_RECORD),
        (make(producer=(5, -1, 0)), ErrorCode.INVALID_RECORD),
    ],
)
def test_bad_batches(records: bytes | bytearray, code: ErrorCode) -> None:
    assert code_of(records) is code


def test_an_error_in_the_second_batch_is_found() -> None:
    assert code_of(make() + changed(21, ">h", 0x20)) is ErrorCode.INVALID_RECORD


def test_sizes() -> None:
    records = make(10)
    assert code_of(records, batch_limit=len(records) - 1) is ErrorCode.MESSAGE_TOO_LARGE
    assert code_of(records + records, set_limit=2 * len(records) - 1) is ErrorCode.RECORD_LIST_TOO_LARGE
    assert len(check_batches(memoryview(records + records), len(records), 2 * len(records))) == 2


@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("wrong", [1, 2, 50, 1_000_000])
def test_a_wrong_count_of_an_uncompressed_batch_is_mostly_found(count: int, wrong: int) -> None:
    """More records than fit, or one where there are several: found. Without a look at every record, small lies are not."""
    if wrong == count:
        return
    records = make(count)
    struct.pack_into(">i", records, 23, wrong - 1)
    struct.pack_into(">i", records, 57, wrong)
    seal(records)
    if wrong == 1 or wrong * 7 > len(records) - HEADER_BYTES:
        assert code_of(records) is ErrorCode.INVALID_RECORD


@pytest.mark.parametrize("first", [b"\x80\x80\x80\x80\x80", b"\x01", b"\xff\xff\xff\xff\x0f", b"\x02"])
def test_a_damaged_first_length(first: bytes) -> None:
    records = make(1)
    records[HEADER_BYTES : HEADER_BYTES + len(first)] = first
    seal(records)
    assert code_of(records) is ErrorCode.INVALID_RECORD


def test_stamping_leaves_the_crc_valid() -> None:
    records = make(3) + make(2)
    view = memoryview(records)
    batches = check_batches(view, LIMIT, LIMIT)
    assert stamp(view, batches, 1 << 40, 9) == (1 << 40) + 5
    second = batches[1].position
    assert struct.unpack_from(">q", records, second)[0] == (1 << 40) + 3
    assert struct.unpack_from(">i", records, second + 12)[0] == 9
    for batch in batches:
        body = view[batch.position + 21 : batch.position + batch.size]
        assert struct.unpack_from(">I", records, batch.position + 17)[0] == crc32c.crc32c(body)


def test_last_sequence_wraps() -> None:
    assert last_sequence(0, 1) == 0
    assert last_sequence(0x7FFFFFFF, 1) == 0x7FFFFFFF
    assert last_sequence(0x7FFFFFFF, 2) == 0


def test_stored_batches_over_any_cut() -> None:
    records = bytes(make(3) + make(2, codec=1) + make(1))
    whole = list(stored_batches((records,)))
    assert [h[3] for h in whole] == [2, 1, 0] and max_timestamp((records,)) == 1002
    for cut in range(len(records) + 1):
        assert list(stored_batches((records[:cut], memoryview(records)[cut:]))) == whole


def test_a_stored_payload_that_is_no_sequence_of_batches() -> None:
    records = bytes(make(3))
    for bad in (records[:-1], records + b"\0", b"\0" * 200):
        with pytest.raises(DamageError):
            list(stored_batches((bad,)))
    assert max_timestamp(()) == -1
