"""Codecs: what other libraries write we read, what we write they read, and nothing grows beyond its bound."""

from __future__ import annotations

import gzip
import tracemalloc

import cramjam
import pytest
import zstandard

from broker.records.batch import HEADER_BYTES
from broker.records.builder import build_batch, seal
from broker.records.compression import Codec, CompressionError, compress, decompress
from broker.records.reader import Record, RecordError, read_batch, read_batches

DATA = [b"", b"a", b"abc" * 50_000, bytes(range(256)) * 700]
PACKED = [codec for codec in Codec if codec is not Codec.NONE]


@pytest.mark.parametrize("data", DATA, ids=len)
@pytest.mark.parametrize("codec", Codec)
def test_round_trip(codec: Codec, data: bytes) -> None:
    assert bytes(decompress(codec, compress(codec, data), len(data))) == data


@pytest.mark.parametrize("data", DATA, ids=len)
def test_streams_of_other_libraries(data: bytes) -> None:
    linked = bytes(cramjam.lz4.compress(data))
    streams = [
        (Codec.GZIP, gzip.compress(data)),
        (Codec.GZIP, gzip.compress(data[:5]) + gzip.compress(data[5:])),
        (Codec.SNAPPY, bytes(cramjam.snappy.compress_raw(data))),
        (Codec.LZ4, linked),
        (Codec.ZSTD, zstandard.ZstdCompressor(write_content_size=False).compress(data)),
        (Codec.ZSTD, zstandard.ZstdCompressor().compress(data[:5]) + zstandard.ZstdCompressor().compress(data[5:])),
    ]
    for codec, stream in streams:
        assert bytes(decompress(codec, stream, len(data) + 1)) == data


def test_other_libraries_read_ours() -> None:
    data = DATA[2]
    assert gzip.decompress(bytes(compress(Codec.GZIP, data))) == data
    assert bytes(cramjam.lz4.decompress(bytes(compress(Codec.LZ4, data)))) == data
    assert zstandard.ZstdDecompressor().decompress(bytes(compress(Codec.ZSTD, data))) == data
    kafka_codec = pytest.importorskip("kafka.codec")
    if kafka_codec.has_snappy():
        assert kafka_codec.snappy_decode(bytes(compress(Codec.SNAPPY, data))) == data


@pytest.mark.parametrize("codec", PACKED)
def test_more_than_the_bound_is_refused(codec: Codec) -> None:
    stream = compress(codec, bytes(300_000))
    assert len(decompress(codec, stream, 300_000)) == 300_000
    with pytest.raises(CompressionError, match="more than 299999"):
        decompress(codec, stream, 299_999)


@pytest.mark.parametrize("codec", PACKED)
def test_a_bomb_never_holds_much_more_than_the_bound(codec: Codec) -> None:
    bound = 1 << 20
    bomb = bytes(compress(codec, bytes(64 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(CompressionError):
            decompress(codec, bomb, bound)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    allowed = 16 << 20 if codec is Codec.ZSTD else 5 * bound
    assert peak < len(bomb) + bound + allowed


@pytest.mark.parametrize("codec", PACKED)
def test_damaged_and_cut_streams(codec: Codec) -> None:
    stream = bytes(compress(codec, DATA[3]))
    for bad in (b"\xff" * 50, stream[:3], stream[: len(stream) // 2], stream[:-1]):
        with pytest.raises(CompressionError):
            decompress(codec, bad, 1 << 20)


def test_unknown_codec() -> None:
    with pytest.raises(CompressionError):
        decompress(5, b"", 10)


@pytest.mark.parametrize("codec", Codec)
def test_records_come_back(codec: Codec) -> None:
    records = [
        Record(0, 1000, None, None),
        Record(1, 900, b"", b"x" * 300, (("h", b"1"), ("é", None))),
        Record(2, 5_000_000_000_000, b"k", b"", (("", b""),)),
    ]
    batch = build_batch(records, codec, base_offset=40)
    assert list(read_batch(batch)) == [r._replace(offset=r.offset + 40) for r in records]
    assert [r.offset for r in read_batches(batch + batch + batch[:-1])] == [40, 41, 42] * 2


def test_kafka_python_reads_our_batches_and_we_its() -> None:
    memory = pytest.importorskip("kafka.record.memory_records")
    ours = build_batch([Record(0, 1000 + i, b"k%d" % i, b"v", [("h", b"x")]) for i in range(5)], Codec.GZIP)
    theirs = memory.MemoryRecords(bytes(ours)).next_batch()
    assert theirs.validate_crc()
    assert [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in theirs] == [(i, 1000 + i, b"k%d" % i, b"v", [("h", b"x")]) for i in range(5)]
    builder = memory.MemoryRecordsBuilder(magic=2, compression_type=1, batch_size=10_000)
    for i in range(5):
        builder.append(timestamp=i, key=None, value=b"v%d" % i, headers=[])
    builder.close()
    assert [(r.timestamp, r.value) for r in read_batches(builder.buffer())] == [(i, b"v%d" % i) for i in range(5)]


@pytest.mark.parametrize("position", range(HEADER_BYTES, HEADER_BYTES + 12))
@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0xFF])
def test_damaged_records_raise_one_error(position: int, byte: int) -> None:
    batch = build_batch([Record(0, 0, b"k", b"v", [("h", b"x")])])
    before = list(read_batch(batch))
    batch[position] = byte
    seal(batch)
    try:
        assert len(list(read_batch(batch))) == len(before)
    except RecordError:
        pass


def test_a_bomb_in_a_batch() -> None:
    batch = build_batch([Record(0, 0, None, bytes(1 << 20))], Codec.ZSTD)
    with pytest.raises(RecordError):
        list(read_batch(batch, max_bytes=1 << 19))
