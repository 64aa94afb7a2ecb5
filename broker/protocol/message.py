"""What all generated classes share: value semantics for nested structs, and versioned decode and encode for whole messages.

A generated class has one slot for each field of any version. A field that a version does not carry has the schema's default after decoding, and is
left out silently when encoding. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, Self

from broker.protocol.errors import DECODE_FAULTS, ENCODE_FAULTS, EncodeError, ProtocolError, malformed, unsupported_version
from broker.protocol.primitives import Buffer

# Default of array arguments: "not given" must differ from None, which is a null array.
UNSET: Any = object()

# Decoded objects take up to about 55 times the bytes that they came from (arrays of the smallest structs), so that the 100 MiB a frame with records
# may have would be too much for any other message. 100,000 partitions in one OffsetCommit are 3 MB.
MAX_BYTES_WITHOUT_RECORDS: Final = 8 * 1024 * 1024

Decoder = Callable[[Any, int, int], tuple[Any, int]]
Encoder = Callable[[bytearray, Any], None]


class Structure:
    """A nested struct of a message. Equal when all fields are equal; mutable, therefore not hashable."""

    __slots__: tuple[str, ...] = ()
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in type(self).__slots__)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in type(self).__slots__)})"


class Message(Structure):
    """A request or response. Invariant: the tables are indexed by version and hold None below `min_version`."""

    __slots__ = ()

    api_key: ClassVar[int]
    min_version: ClassVar[int]
    max_version: ClassVar[int]
    first_flexible_version: ClassVar[int]  # 32767: never flexible
    # Messages with record bytes are decoded from the buffer itself, so that records stay views of it; others from one copy, because strings cut out
    # of bytes cost less than half of strings cut out of a view.
    keeps_views: ClassVar[bool] = False
    _decoders: ClassVar[tuple[Decoder | None, ...]]
    _encoders: ClassVar[tuple[Encoder | None, ...]]

    @classmethod
    def decode(cls, buffer: Buffer, position: int, version: int) -> tuple[Self, int]:
        """Decode the body that starts at byte `position` of `buffer` (one-dimensional bytes, ending where the frame ends).

        Returns the message and the position behind it. Every malformation is a ProtocolError; so is a version that is not generated, or a message
        without records in more than MAX_BYTES_WITHOUT_RECORDS.
        """
        if not cls.min_version <= version <= cls.max_version:
            raise unsupported_version(cls.__name__, version, cls.min_version, cls.max_version)
        size = len(buffer)
        if not cls.keeps_views:
            if size > MAX_BYTES_WITHOUT_RECORDS:
                raise ProtocolError(f"{cls.__name__}: {size} bytes are larger than the {MAX_BYTES_WITHOUT_RECORDS} it may have; split the request")
            if type(buffer) is not bytes:
                buffer = bytes(buffer)
        try:
            return cls._decoders[version](buffer, position, size)  # type: ignore[misc]
        except DECODE_FAULTS as fault:
            raise malformed(cls.__name__, version, size, fault) from fault

    def encode(self, version: int) -> bytes:
        """The body in `version`, without any header. EncodeError when a value does not fit the schema."""
        out = bytearray()
        self.encode_into(out, version)
        return bytes(out)

    def encode_into(self, out: bytearray, version: int) -> None:
        """Append the body to `out`; after an EncodeError `out` is as it was."""
        if not self.min_version <= version <= self.max_version:
            raise EncodeError(f"{type(self).__name__}: version {version} is outside {self.min_version}-{self.max_version}")
        start = len(out)
        try:
            self._encoders[version](out, self)  # type: ignore[misc]
        except ENCODE_FAULTS as fault:
            del out[start:]
            raise EncodeError(f"{type(self).__name__} v{version}: a field has no encoding: {fault}") from fault
