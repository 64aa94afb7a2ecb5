"""The variable-length pieces of the Kafka protocol: varints, strings, tagged fields, arrays of numbers.

Fixed-size fields are read and written by `struct` in the generated code; here is only what that code calls. Readers take (buffer, position[, size])
and return (value, new position); `size` is the end of the bytes that may be read. They may raise IndexError or struct.error where the bytes run out:
`Message.decode` translates these once. Nothing is allocated before its length is known to fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

from broker.protocol.errors import ProtocolError, bad_length, too_many, truncated

Buffer = bytes | bytearray | memoryview

_CACHED_COUNT_MAX = 64
_NUMBERS: dict[str, tuple[Struct, ...]] = {code: tuple(Struct(f">{count}{code}") for count in range(_CACHED_COUNT_MAX)) for code in "bhHiIqd?"}
_INT32S_FROM = tuple(layout.unpack_from for layout in _NUMBERS["i"])
_PACK_INT32S = tuple(layout.pack for layout in _NUMBERS["i"])


def read_uvarint(buffer: Buffer, position: int) -> tuple[int, int]:
    """Unsigned LEB128 of at most 32 bits, as Kafka reads it: a sixth byte, or bits above the 32nd, is an error."""
    value = buffer[position]
    position += 1
    if value < 0x80:
        return value, position
    value &= 0x7F
    shift = 7
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 28:
            raise ProtocolError(f"a varint before byte {position} is longer than five bytes")
    if value > 0xFFFF_FFFF:
        raise ProtocolError(f"a varint before byte {position} is larger than 32 bits")
    return value, position


def read_varint(buffer: Buffer, position: int) -> tuple[int, int]:
    """Zigzag-coded signed varint of 32 bits."""
    value, position = read_uvarint(buffer, position)
    return (value >> 1) ^ -(value & 1), position


def read_varlong(buffer: Buffer, position: int) -> tuple[int, int]:
    """Zigzag-coded signed varint of 64 bits."""
    value = 0
    shift = 0
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise ProtocolError(f"a varlong before byte {position} is longer than ten bytes")
    if value >> 64:
        raise ProtocolError(f"a varlong before byte {position} is larger than 64 bits")
    return (value >> 1) ^ -(value & 1), position


def write_uvarint(out: bytearray, value: int) -> None:
    """Append `value` (0 ≤ value < 2³²) as unsigned LEB128. ValueError when it is negative or larger."""
    if not 0 <= value <= 0xFFFF_FFFF:
        raise ValueError(f"{value} does not fit an unsigned varint of 32 bits")
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def write_varint(out: bytearray, value: int) -> None:
    """Append `value` (32 bits, signed) zigzag-coded."""
    write_uvarint(out, (value << 1) ^ (value >> 31))


def write_varlong(out: bytearray, value: int) -> None:
    """Append `value` (64 bits, signed) zigzag-coded. ValueError when it does not fit."""
    value = (value << 1) ^ (value >> 63)
    if value >> 64:
        raise ValueError("the value does not fit a varlong of 64 bits")
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def skip_tagged_fields(buffer: Buffer, position: int, size: int) -> int:
    """Step over a section of tagged fields (KIP-482) none of which is known; `position` is that of its count."""
    count, position = read_uvarint(buffer, position)
    if count * 2 > size - position:
        raise too_many("tagged fields", position, count, size - position)
    for _ in range(count):
        _, position = read_uvarint(buffer, position)
        length, position = read_uvarint(buffer, position)
        if length > size - position:
            raise truncated("tagged fields", position, length, size - position)
        position += length
    return position


def write_tag(section: bytearray, tag: int, body: bytearray) -> None:
    """Append one tagged field to a section."""
    write_uvarint(section, tag)
    write_uvarint(section, len(body))
    section += body


def read_numbers(buffer: Buffer, position: int, count: int, code: str) -> list[Any]:
    """`count` big-endian numbers of struct code `code`. The caller has checked that they fit."""
    if count < _CACHED_COUNT_MAX:
        return list(_NUMBERS[code][count].unpack_from(buffer, position))
    return list(Struct(f">{count}{code}").unpack_from(buffer, position))


def pack_numbers(values: Sequence[Any], code: str) -> bytes:
    """The inverse of read_numbers."""
    count = len(values)
    if count < _CACHED_COUNT_MAX:
        return _NUMBERS[code][count].pack(*values)
    return Struct(f">{count}{code}").pack(*values)


def read_int32s(buffer: Buffer, position: int, count: int) -> list[int]:
    """read_numbers for the arrays of Metadata: ids of partitions and brokers."""
    if count < _CACHED_COUNT_MAX:
        return list(_INT32S_FROM[count](buffer, position))
    return list(Struct(f">{count}i").unpack_from(buffer, position))


def pack_int32s(values: Sequence[int]) -> bytes:
    """The inverse of read_int32s."""
    count = len(values)
    if count < _CACHED_COUNT_MAX:
        return _PACK_INT32S[count](*values)
    return Struct(f">{count}i").pack(*values)


def read_uuids(buffer: Buffer, position: int, count: int) -> list[bytes]:
    """`count` ids of 16 bytes. The caller has checked that they fit."""
    return [bytes(buffer[start : start + 16]) for start in range(position, position + 16 * count, 16)]


def pack_uuids(values: Sequence[bytes]) -> bytes:
    for value in values:
        if len(value) != 16:
            raise ValueError(f"an id has 16 bytes, not {len(value)}")
    return b"".join(values)


def read_strings(buffer: Buffer, position: int, size: int, count: int, where: str) -> tuple[list[str], int]:
    """`count` non-null strings with a length of two bytes."""
    values = []
    for _ in range(count):
        length = buffer[position] << 8 | buffer[position + 1]
        position += 2
        if length > 0x7FFF:
            raise bad_length(where, position - 2, length - 0x1_0000)
        end = position + length
        if end > size:
            raise truncated(where, position, length, size - position)
        values.append(str(buffer[position:end], "utf-8"))
        position = end
    return values, position


def read_compact_strings(buffer: Buffer, position: int, size: int, count: int, where: str) -> tuple[list[str], int]:
    """`count` non-null strings with a varint length."""
    values = []
    for _ in range(count):
        length, position = read_uvarint(buffer, position)
        if length == 0:
            raise bad_length(where, position - 1, -1)
        end = position + length - 1
        if end > size:
            raise truncated(where, position, length - 1, size - position)
        values.append(str(buffer[position:end], "utf-8"))
        position = end
    return values, position


def write_strings(out: bytearray, values: Sequence[str]) -> None:
    for value in values:
        raw = value.encode()
        if len(raw) > 0x7FFF:
            raise ValueError(f"a string of {len(raw)} bytes does not fit a length of two bytes")
        out += len(raw).to_bytes(2, "big")
        out += raw


def write_compact_strings(out: bytearray, values: Sequence[str]) -> None:
    for value in values:
        raw = value.encode()
        write_uvarint(out, len(raw) + 1)
        out += raw
