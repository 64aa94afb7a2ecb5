"""Records of `__transaction_state` in Kafka's own format: TransactionLogKey version 0, TransactionLogValue versions 0 (read) and 1 (written).

Key: version i16, transactional id (i16 length). Value 1: version i16, producer id i64, epoch i16, timeout i32, state i8, compact array of (topic,
compact array of i32 partitions), last update i64, start i64, tags: 0 previous producer id i64, 1 next producer id i64, 2 the client's transaction
version i16, 3 next epoch i16 (Kafka's; read over). Tag 1000 is ours: the epoch before the present one, i16; Kafka skips it. Version 0 has plain
strings and arrays and no tags. A value null removes the id.
"""

from __future__ import annotations

from struct import Struct, error

from broker.coordinator.transactions.state import NO_EPOCH, NO_PRODUCER_ID, TopicPartition, Transaction, TransactionState
from wal.errors import DamageError

KEY_VERSION = 0
VALUE_VERSION = 1
_TAG_PREVIOUS, _TAG_NEXT, _TAG_VERSION, _TAG_LAST_EPOCH = 0, 1, 2, 1000
_I16 = Struct(">h")
_I32 = Struct(">i")
_I64 = Struct(">q")
_HEAD = Struct(">hqhib")
_TIMES = Struct(">qq")


def encode_key(transactional_id: str) -> bytes:
    name = transactional_id.encode()
    return _I16.pack(KEY_VERSION) + _I16.pack(len(name)) + name


def decode_key(data: bytes) -> str | None:
    """The transactional id; None for a key of another kind, which is skipped. Raises DamageError."""
    try:
        version, length = _I16.unpack_from(data)[0], _I16.unpack_from(data, 2)[0]
    except error as cause:
        raise DamageError(f"a key of __transaction_state has {len(data)} bytes") from cause
    if version != KEY_VERSION:
        return None
    if len(data) != 4 + length:
        raise DamageError(f"a key of __transaction_state has {len(data)} bytes and says {4 + length}")
    return data[4:].decode()


def encode_value(transaction: Transaction) -> bytes:
    """Partitions are sorted, so that equal transactions have equal bytes."""
    t = transaction
    out = bytearray(_HEAD.pack(VALUE_VERSION, t.producer_id, t.epoch, t.timeout_ms, t.state))
    by_topic: dict[str, list[int]] = {}
    for topic, partition in sorted(t.partitions):
        by_topic.setdefault(topic, []).append(partition)
    _write_uvarint(out, len(by_topic) + 1)
    for topic, partitions in by_topic.items():
        name = topic.encode()
        _write_uvarint(out, len(name) + 1)
        out += name
        _write_uvarint(out, len(partitions) + 1)
        for partition in partitions:
            out += _I32.pack(partition)
        out.append(0)
    out += _TIMES.pack(t.updated_ms, t.started_ms)
    tags: list[tuple[int, bytes]] = []
    if t.previous_producer_id != NO_PRODUCER_ID:
        tags.append((_TAG_PREVIOUS, _I64.pack(t.previous_producer_id)))
    if t.next_producer_id != NO_PRODUCER_ID:
        tags.append((_TAG_NEXT, _I64.pack(t.next_producer_id)))
    if t.client_version:
        tags.append((_TAG_VERSION, _I16.pack(t.client_version)))
    if t.last_epoch != NO_EPOCH:
        tags.append((_TAG_LAST_EPOCH, _I16.pack(t.last_epoch)))
    _write_uvarint(out, len(tags))
    for tag, content in tags:
        _write_uvarint(out, tag)
        _write_uvarint(out, len(content))
        out += content
    return bytes(out)


def decode_value(transactional_id: str, data: bytes) -> Transaction:
    """Raises DamageError when the value can not be read: skipping it would make replicas differ."""
    try:
        version, producer_id, epoch, timeout_ms, state = _HEAD.unpack_from(data)
        if version not in (0, 1):
            raise DamageError(f"a value of __transaction_state has version {version}, this program reads 0 and 1: start the newer program")
        reader = _Reader(data, _HEAD.size, flexible=version == 1)
        partitions = reader.partitions()
        updated_ms, started_ms = reader.times()
        tags = reader.tags() if version == 1 else {}
        return Transaction(
            transactional_id,
            producer_id,
            epoch,
            TransactionState(state),
            timeout_ms,
            partitions,
            _number(tags, _TAG_LAST_EPOCH, _I16, NO_EPOCH),
            _number(tags, _TAG_PREVIOUS, _I64, NO_PRODUCER_ID),
            _number(tags, _TAG_NEXT, _I64, NO_PRODUCER_ID),
            _number(tags, _TAG_VERSION, _I16, 0),
            started_ms,
            updated_ms,
        )
    except (error, IndexError, ValueError) as cause:
        raise DamageError(f"the value of transactional id {transactional_id!r} in __transaction_state can not be read: {cause}") from cause


class _Reader:
    """Goes through a value; every count is checked against the bytes that are left."""

    __slots__ = ("_data", "_flexible", "_position")

    def __init__(self, data: bytes, position: int, flexible: bool) -> None:
        self._data = data
        self._position = position
        self._flexible = flexible

    def partitions(self) -> frozenset[TopicPartition]:
        found: list[TopicPartition] = []
        for _ in range(self._count(3)):
            length = self._uvarint() - 1 if self._flexible else self._fixed(_I16)
            topic = self._bytes(length).decode()
            found.extend((topic, self._fixed(_I32)) for _ in range(self._count(4)))
            if self._flexible:
                self.tags()
        return frozenset(found)

    def times(self) -> tuple[int, int]:
        return self._fixed(_I64), self._fixed(_I64)

    def tags(self) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for _ in range(self._uvarint()):
            tag = self._uvarint()
            found[tag] = self._bytes(self._uvarint())
        return found

    def _count(self, smallest: int) -> int:
        count = self._uvarint() - 1 if self._flexible else self._fixed(_I32)
        if count * smallest > len(self._data) - self._position:
            raise ValueError(f"{count} elements in {len(self._data) - self._position} bytes")
        return max(count, 0)

    def _bytes(self, length: int) -> bytes:
        if not 0 <= length <= len(self._data) - self._position:
            raise ValueError(f"field of {length} bytes in {len(self._data) - self._position}")
        self._position += length
        return self._data[self._position - length : self._position]

    def _fixed(self, form: Struct) -> int:
        value: int = form.unpack_from(self._data, self._position)[0]
        self._position += form.size
        return value

    def _uvarint(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._position]
            self._position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 28:
                raise ValueError("number is too long")


def _number(tags: dict[int, bytes], tag: int, form: Struct, default: int) -> int:
    content = tags.get(tag)
    return default if content is None else int(form.unpack(content)[0])


def _write_uvarint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
