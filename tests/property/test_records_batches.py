"""Record batches: what is built is accepted, stamped and read back; arbitrary bytes never do worse than a KafkaError."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import KafkaError
from broker.records.batch import HEADER_BYTES, check_batches, max_timestamp, stamp, stored_batches
from broker.records.builder import build_batch, recompress, seal
from broker.records.reader import Record, RecordError, read_batch, read_batches

LIMIT = 1 << 20
field = st.none() | st.binary(max_size=40)
record = st.builds(Record, st.just(0), st.integers(0, 1 << 45), field, field, st.lists(st.tuples(st.text(max_size=5), field), max_size=3))
batch = st.builds(build_batch, st.lists(record, min_size=1, max_size=8), st.integers(0, 4))


@settings(max_examples=60, deadline=None)
@given(st.lists(batch, min_size=1, max_size=4), st.integers(0, 1 << 50), st.integers(0, 4))
def test_checked_stamped_recompressed_read(batches: list[bytearray], base_offset: int, codec: int) -> None:
    records = memoryview(bytearray(b"".join(batches)))
    before = list(read_batches(records))
    infos = check_batches(records, LIMIT, LIMIT)
    assert [b.size for b in infos] == [len(b) for b in batches]
    packed, infos = recompress(records, infos, codec, LIMIT)
    end = stamp(packed, infos, base_offset, 3)
    after = list(read_batches(packed))
    assert [r.offset for r in after] == list(range(base_offset, end))
    assert [r[1:] for r in after] == [r[1:] for r in before]
    assert check_batches(packed[: infos[0].size], LIMIT, LIMIT) if base_offset == 0 else True
    assert max_timestamp((packed,)) == max(r.timestamp for r in before)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_arbitrary_changes_are_a_kafka_error_or_harmless(data: st.DataObject) -> None:
    records = data.draw(batch)
    for _ in range(data.draw(st.integers(1, 4))):
        records[data.draw(st.integers(0, len(records) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()) and len(records) >= HEADER_BYTES:
        seal(records)
    try:
        infos = check_batches(memoryview(records), LIMIT, LIMIT)
    except KafkaError:
        return
    assert sum(b.size for b in infos) == len(records)
    assert sum(h[3] + 1 for h in stored_batches((records,))) == sum(b.record_count for b in infos)
    try:
        for _ in read_batch(records, LIMIT):
            pass
    except RecordError:
        pass


@given(st.binary(max_size=300))
def test_arbitrary_bytes(records: bytes) -> None:
    try:
        check_batches(memoryview(records), LIMIT, LIMIT)
    except KafkaError:
        pass
    try:
        list(read_batches(records, LIMIT))
    except RecordError:
        pass
