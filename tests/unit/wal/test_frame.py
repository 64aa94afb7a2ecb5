import pytest
from hypothesis import given
from hypothesis import strategies as st

from wal.frame import (
    HEADER_BYTES,
    BadFrame,
    FrameKind,
    check_payload,
    pack_created,
    pack_header,
    pack_pad,
    pad_length,
    unpack_created,
    unpack_header,
)
from wal.settings import BLOCK_BYTES

u32 = st.integers(0, 2**32 - 1)


@given(st.integers(64, 1000), u32, u32, st.binary(min_size=16, max_size=16), u32, u32, st.integers(0, 2**64 - 1), st.integers(-1, 2**62), u32)
def test_header_round_trip(length, crc, generation, topic, partition, term, index, offset, records):
    data = pack_header(length, crc, FrameKind.ENTRY, 1, generation, (topic, partition), (term, index, offset, records))
    header = unpack_header(data, 0, length)
    assert len(data) == HEADER_BYTES
    assert (header.length, header.payload_crc, header.kind, header.flags, header.generation) == (length, crc, 1, 1, generation)
    assert (header.topic_id, header.partition, header.term, header.index) == (topic, partition, term, index)
    assert (header.base_offset, header.record_count, header.payload_bytes) == (offset, records, length - 64)


def test_every_bit_of_the_header_is_covered():
    data = pack_header(100, 5, FrameKind.ENTRY, 1, 7, (bytes(range(16)), 2), (3, 4, 5, 6))
    for bit in range(64 * 8):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadFrame):
            unpack_header(bad, 0, 1 << 30)


def test_zeros_are_no_frame_and_lengths_are_checked():
    with pytest.raises(BadFrame, match="zeros"):
        unpack_header(bytes(64), 0, 64)
    with pytest.raises(BadFrame, match="does not fit"):
        unpack_header(pack_header(1000, 0, 1, 0, 0, (bytes(16), 0), (0, 0, 0, 0)), 0, 999)
    with pytest.raises(BadFrame, match="left"):
        unpack_header(bytes(10), 0, 10)


def test_payload_is_checked():
    header = unpack_header(pack_header(67, 0x364B3FB7, 1, 0, 0, (bytes(16), 0), (0, 0, 0, 0)), 0, 67)
    check_payload(header, b"abc")
    with pytest.raises(BadFrame, match="checksum of the payload"):
        check_payload(header, b"abd")
    with pytest.raises(BadFrame, match="2 of 3"):
        check_payload(header, b"ab")


@given(st.integers(0, 3 * BLOCK_BYTES))
def test_pad_ends_on_a_block(position):
    length = pad_length(position)
    assert (position + length) % BLOCK_BYTES == 0
    assert length == 0 or HEADER_BYTES <= length < BLOCK_BYTES + HEADER_BYTES
    if length:
        assert unpack_header(pack_pad(length, 1, (bytes(16), 0)), 0, length).kind == FrameKind.PAD


def test_created_payload():
    assert unpack_created(pack_created("tópico", b"conf")) == ("tópico", b"conf")
    with pytest.raises(BadFrame):
        unpack_created(b"\x09\x00abc")
