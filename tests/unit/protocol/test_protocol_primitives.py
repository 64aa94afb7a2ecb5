"""Varints and the pieces of arrays, with their limits."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocol import primitives as p
from broker.protocol.errors import ProtocolError


@given(st.integers(0, 2**32 - 1), st.binary(max_size=3))
def test_uvarint(value, before):
    out = bytearray(before)
    p.write_uvarint(out, value)
    assert p.read_uvarint(bytes(out), len(before)) == (value, len(out))
    assert len(out) - len(before) == max(1, (value.bit_length() + 6) // 7)


@given(st.integers(-(2**31), 2**31 - 1))
def test_varint(value):
    out = bytearray()
    p.write_varint(out, value)
    assert p.read_varint(memoryview(out), 0) == (value, len(out))


@given(st.integers(-(2**63), 2**63 - 1))
def test_varlong(value):
    out = bytearray()
    p.write_varlong(out, value)
    assert p.read_varlong(out, 0) == (value, len(out))


def test_known_varints():
    """Values of the Protocol Buffers documentation, which Kafka's varints follow."""
    for value, encoded in ((0, b"\x00"), (1, b"\x01"), (300, b"\xac\x02"), (2**32 - 1, b"\xff\xff\xff\xff\x0f")):
        assert p.read_uvarint(encoded, 0) == (value, len(encoded))
    for value, encoded in ((0, b"\x00"), (-1, b"\x01"), (1, b"\x02"), (2147483647, b"\xfe\xff\xff\xff\x0f"), (-2147483648, b"\xff\xff\xff\xff\x0f")):
        assert p.read_varint(encoded, 0) == (value, len(encoded))


@pytest.mark.parametrize("encoded", [b"\xff\xff\xff\xff\x1f", b"\x80\x80\x80\x80\x10", b"\xff" * 5 + b"\x01", b"\x80" * 1000])
def test_uvarint_overflow(encoded):
    with pytest.raises(ProtocolError):
        p.read_uvarint(encoded, 0)


@pytest.mark.parametrize("encoded", [b"\xff" * 9 + b"\x03", b"\x80" * 10 + b"\x01", b"\x80" * 1000])
def test_varlong_overflow(encoded):
    with pytest.raises(ProtocolError):
        p.read_varlong(encoded, 0)


def test_a_varint_that_ends_early():
    for read in (p.read_uvarint, p.read_varint, p.read_varlong):
        with pytest.raises(IndexError):
            read(b"\x80\x80", 0)


def test_values_that_do_not_fit_are_not_written():
    for value in (-1, 2**32):
        with pytest.raises(ValueError):
            p.write_uvarint(bytearray(), value)
    for value in (2**31, -(2**31) - 1):
        with pytest.raises(ValueError):
            p.write_varint(bytearray(), value)
    for value in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError):
            p.write_varlong(bytearray(), value)
    with pytest.raises(ValueError):
        p.pack_uuids([b"short"])


@pytest.mark.parametrize("count", [0, 1, 63, 64, 1000])
def test_arrays_of_numbers(count):
    values = list(range(count))
    assert p.pack_numbers(values, "q") == struct.pack(f">{count}q", *values)
    assert p.pack_int32s(values) == struct.pack(f">{count}i", *values)
    assert p.read_numbers(b"x" + p.pack_numbers(values, "h"), 1, count, "h") == values
    assert p.read_int32s(b"x" + p.pack_int32s(values), 1, count) == values
    ids = [bytes([value % 256]) * 16 for value in values]
    assert p.read_uuids(memoryview(b"x" + p.pack_uuids(ids)), 1, count) == ids


@given(st.lists(st.text(max_size=200), max_size=5))
def test_arrays_of_strings(values):
    for write, read in ((p.write_strings, p.read_strings), (p.write_compact_strings, p.read_compact_strings)):
        out = bytearray()
        write(out, values)
        assert read(bytes(out), 0, len(out), len(values), "test") == (values, len(out))
        for length in range(len(out)):
            with pytest.raises((ProtocolError, IndexError)):
                read(bytes(out[:length]), 0, length, len(values), "test")


def test_null_in_an_array_of_strings_is_refused():
    with pytest.raises(ProtocolError, match="null"):
        p.read_strings(b"\xff\xff", 0, 2, 1, "test")
    with pytest.raises(ProtocolError, match="null"):
        p.read_compact_strings(b"\x00", 0, 1, 1, "test")


def test_tagged_fields_that_lie_about_their_size():
    assert p.skip_tagged_fields(b"\x01\x07\x02ab", 0, 5) == 5
    for section in (b"\x01\x07\x03ab", b"\x03\x01\x00", b"\xff\xff\xff\xff\x0f"):
        with pytest.raises(ProtocolError):
            p.skip_tagged_fields(section, 0, len(section))
