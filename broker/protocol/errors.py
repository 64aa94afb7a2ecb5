"""Errors of the codec, by whose fault they are.

ProtocolError is the peer's (malformed bytes), EncodeError is ours (a value that the schema has no room for).
"""

from __future__ import annotations

import struct

# What straight-line decoders raise when the bytes run out or are not UTF-8; Message.decode turns them into ProtocolError.
DECODE_FAULTS = (struct.error, IndexError, UnicodeDecodeError)
# What straight-line encoders raise for a value of the wrong type or range; Message.encode_into turns them into EncodeError.
ENCODE_FAULTS = (struct.error, AttributeError, TypeError, UnicodeEncodeError, ValueError, OverflowError)


class ProtocolError(Exception):
    """The bytes are not what the protocol allows. The text says in which message and field, and at which byte. The connection is closed."""


class EncodeError(Exception):
    """A message holds a value that this version of its schema can not carry: our own fault."""


def truncated(where: str, position: int, length: int, left: int) -> ProtocolError:
    return ProtocolError(f"{where}: a length of {length} bytes at byte {position}, but {left} are left")


def bad_length(where: str, position: int, length: int) -> ProtocolError:
    """For a length that is negative, or null where the schema allows no null."""
    if length == -1:
        return ProtocolError(f"{where}: null at byte {position}, which this version does not allow")
    return ProtocolError(f"{where}: negative length {length} at byte {position}")


def too_many(where: str, position: int, count: int, left: int) -> ProtocolError:
    return ProtocolError(f"{where}: {count} elements announced at byte {position}, but only {left} bytes are left")


def bad_tag(where: str, position: int, expected: int) -> ProtocolError:
    return ProtocolError(f"{where}: the tagged field ends at byte {position}, its announced length at {expected}")


def malformed(name: str, version: int, size: int, fault: Exception) -> ProtocolError:
    """Translate one of DECODE_FAULTS, met while decoding `name` from a buffer of `size` bytes."""
    if isinstance(fault, UnicodeDecodeError):
        return ProtocolError(f"{name} v{version}: a string is not UTF-8 ({fault.reason}): {bytes(fault.object[:40])!r}")
    if isinstance(fault, IndexError):
        return ProtocolError(f"{name} v{version}: truncated, a field starts at the end of the {size} bytes")
    return ProtocolError(f"{name} v{version}: truncated, {fault}")


def unsupported_version(name: str, version: int, first: int, last: int) -> ProtocolError:
    return ProtocolError(f"{name}: version {version} is outside {first}-{last}")
