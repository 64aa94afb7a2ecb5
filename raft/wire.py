"""Many messages of many groups in one transport message.

Owns the bytes between two nodes; knows neither gRPC nor what the messages mean. Pure: no I/O, no clock. `docs/formats/raft-wire.md` is the format:
the protobuf message chronik.raft.RaftBatch, written and walked by hand, because a generated class would copy every payload twice and cost a Python
object per field. Fixed-size rows are packed into three tables; all payloads stand back to back in the last field.

The tables are covered by a CRC32C of their own and each payload by the one its entry carries, so that nothing of what a peer wrote is believed
unchecked. Whatever the bytes are, decoding ends with a result or with WireError, and allocates in proportion to what was received.
"""

from __future__ import annotations

from itertools import islice
from struct import Struct
from typing import NamedTuple

from crc32c import crc32c

from raft.core.message import Message, MessageType
from wal.entry import Buffer, Entry, EntryKind, GroupId
from wal.errors import check

MAX_MESSAGES = 65_536
"""Messages, and entries, and news, in one batch: what decoding may allocate at most."""

_PREFIX = Struct("<2s16scIcQcQcI")  # fields 1 to 5 with their tags
_CHECKED = Struct("<16sIQQ")  # what headers_crc covers before the tables
_MESSAGE = Struct("<20sBBxxI7q")
_ENTRY = Struct("<BxxxIIIqqq")
_NEWS = Struct("<20sqIHxx")
_NODE = Struct("<I")
_ECHO = Struct("<Q")

_TAG_CLUSTER = b"\x0a\x10"
_TAG_SENDER = b"\x15"
_TAG_INCARNATION = b"\x19"
_TAG_BEAT = b"\x21"
_TAG_CRC = b"\x2d"
_TAG_MESSAGES = b"\x32"
_TAG_ENTRIES = b"\x3a"
_TAG_NEWS = b"\x42"
_TAG_ECHO = b"\x49"
_TAG_PAYLOAD = b"\x7a"
_PREFIX_TAGS = (_TAG_CLUSTER, _TAG_SENDER, _TAG_INCARNATION, _TAG_BEAT, _TAG_CRC)

_TYPES: list[MessageType | None] = [None] * 256
for _type in MessageType:
    _TYPES[_type] = _type
_LAST_KIND = max(EntryKind)
_LAST_FLAGS = 3
_APPEND = MessageType.APPEND


class WireError(Exception):
    """The peer's fault: bytes that are not a batch. The session that carried them is closed."""


class LeaderNews(NamedTuple):
    """Who leads a group, as its leader says it: broker ids."""

    group: GroupId
    term: int
    leader: int
    isr: tuple[int, ...]


class Batch:
    """What one node has to say to another in one turn. `beat`: sequence number of a beat, 0 none; an answer echoes it.

    `echo`: as the beat of an answer, in a request that carries answers along, 0 none.
    """

    __slots__ = ("beat", "echo", "messages", "news")

    def __init__(
        self, messages: list[tuple[GroupId, Message]] | None = None, beat: int = 0, news: list[LeaderNews] | None = None, echo: int = 0
    ) -> None:
        self.messages: list[tuple[GroupId, Message]] = [] if messages is None else messages
        self.beat = beat
        self.news: list[LeaderNews] = [] if news is None else news
        self.echo = echo


class Envelope(NamedTuple):
    """Who speaks: the 16 bytes of the cluster's id, the broker id, and which run of that broker."""

    cluster_id: bytes
    sender: int
    incarnation: int


def encode_batch(envelope: Envelope, batch: Batch, out: list[Buffer] | None = None) -> list[Buffer]:
    """Append the parts of one transport message to `out` (a new list when None) and return it; one b"".join of them is the message.

    The parts refer to the entries' own buffers, which must not change until the join. InvariantError when the batch is larger than MAX_MESSAGES or an
    entry's size is not that of its chunks.
    """
    heads: list[bytes] = []
    rows: list[bytes] = []
    chunks: list[Buffer] = []
    payload_size = 0
    pack_message = _MESSAGE.pack
    pack_entry = _ENTRY.pack
    for group, m in batch.messages:
        entries = m.entries
        heads.append(
            pack_message(
                group,
                m.type,
                m.reject | (m.transfer << 1),
                len(entries),
                m.sender,
                m.receiver,
                m.term,
                m.index,
                m.log_term,
                m.commit,
                m.hint_index,
            )
        )
        for e in entries:
            size = e.size
            rows.append(pack_entry(e.kind, e.record_count, size, e.payload_crc, e.term, e.index, e.base_offset))
            payload_size += size
            chunks += e.chunks
    check(len(heads) <= MAX_MESSAGES and len(rows) <= MAX_MESSAGES and len(batch.news) <= MAX_MESSAGES, "a transport message with too many messages")
    check(sum(map(len, chunks)) == payload_size, "an entry whose size is not the size of its chunks")
    messages = b"".join(heads)
    table = b"".join(rows)
    news = _encode_news(batch.news) if batch.news else b""
    crc = crc32c(_CHECKED.pack(envelope.cluster_id, envelope.sender, envelope.incarnation, batch.beat))
    crc = crc32c(news, crc32c(table, crc32c(messages, crc)))
    if batch.echo:
        crc = crc32c(_ECHO.pack(batch.echo), crc)
    parts = [
        _PREFIX.pack(
            _TAG_CLUSTER,
            envelope.cluster_id,
            _TAG_SENDER,
            envelope.sender,
            _TAG_INCARNATION,
            envelope.incarnation,
            _TAG_BEAT,
            batch.beat,
            _TAG_CRC,
            crc,
        )
    ]
    if batch.echo:
        parts += (_TAG_ECHO, _ECHO.pack(batch.echo))
    if messages:
        parts += (_TAG_MESSAGES, _varint(len(messages)), messages)
    if table:
        parts += (_TAG_ENTRIES, _varint(len(table)), table)
    if news:
        parts += (_TAG_NEWS, _varint(len(news)), news)
    if payload_size:
        parts += (_TAG_PAYLOAD, _varint(payload_size))
    head = b"".join(parts)
    if out is None:
        return [head, *chunks]
    out.append(head)
    out += chunks
    return out


def decode_batch(data: memoryview) -> tuple[Envelope, Batch]:
    """Read one transport message. Payloads are slices of `data`, which must not change afterwards. WireError on anything malformed."""
    envelope, beat, crc, echo, messages, table, news, payload = _walk(data)
    if len(envelope.cluster_id) != 16:
        raise WireError(f"the cluster id has {len(envelope.cluster_id)} bytes instead of 16")
    found = crc32c(_CHECKED.pack(*envelope, beat))
    found = crc32c(news, crc32c(table, crc32c(messages, found)))
    if (crc32c(_ECHO.pack(echo), found) if echo else found) != crc:
        raise WireError("the headers of the message do not match their checksum")
    if len(messages) % _MESSAGE.size or len(table) % _ENTRY.size:
        raise WireError("a table of the message does not end with a whole row")
    if len(messages) // _MESSAGE.size > MAX_MESSAGES or len(table) // _ENTRY.size > MAX_MESSAGES:
        raise WireError(f"more than {MAX_MESSAGES} rows in one message")
    return envelope, Batch(_decode_messages(messages, table, payload), beat, _decode_news(news) if len(news) else [], echo)


def _decode_messages(messages: memoryview, table: memoryview, payload: memoryview) -> list[tuple[GroupId, Message]]:
    rows = _ENTRY.iter_unpack(table)
    rows_left = len(table) // _ENTRY.size
    position = 0
    payload_size = len(payload)
    result: list[tuple[GroupId, Message]] = []
    for group, type_code, flags, count, sender, receiver, term, index, log_term, commit, hint_index in _MESSAGE.iter_unpack(messages):
        type_ = _TYPES[type_code]
        if type_ is None or flags > _LAST_FLAGS or (sender | receiver | term | index | log_term | commit | hint_index) < 0:
            raise WireError(f"an impossible message header: type {type_code}, flags {flags}, term {term}, index {index}")
        entries: list[Entry] = []
        if count:
            if count > rows_left or type_ is not _APPEND:
                raise WireError(f"a message of type {type_code} claims {count} entries, {rows_left} are left")
            rows_left -= count
            expected = index
            for kind, record_count, size, payload_crc, entry_term, entry_index, base_offset in islice(rows, count):
                expected += 1
                end = position + size
                if kind > _LAST_KIND or entry_index != expected or base_offset < 0 or entry_term < 0 or end > payload_size:
                    raise WireError(f"an impossible entry header: kind {kind}, index {entry_index} (expected {expected}), size {size}")
                chunk = payload[position:end]
                if crc32c(chunk) != payload_crc:
                    raise WireError(f"the payload of entry {entry_term}/{entry_index} does not match its checksum")
                entries.append(Entry(entry_term, entry_index, kind, (chunk,) if size else (), size, payload_crc, base_offset, record_count))
                position = end
        result.append((group, Message(type_, sender, receiver, term, index, log_term, commit, entries, bool(flags & 1), hint_index, bool(flags & 2))))
    if rows_left or position != payload_size:
        raise WireError(f"{rows_left} entries and {payload_size - position} payload bytes belong to no message")
    return result


def _encode_news(news: list[LeaderNews]) -> bytes:
    parts: list[bytes] = []
    for group, term, leader, isr in news:
        parts.append(_NEWS.pack(group, term, leader, len(isr)))
        parts.extend(map(_NODE.pack, isr))
    return b"".join(parts)


def _decode_news(data: memoryview) -> list[LeaderNews]:
    result: list[LeaderNews] = []
    position = 0
    end = len(data)
    while position < end:
        if end - position < _NEWS.size:
            raise WireError("leader news cut short")
        group, term, leader, count = _NEWS.unpack_from(data, position)
        position += _NEWS.size
        stop = position + count * _NODE.size
        if stop > end or term < 0 or len(result) == MAX_MESSAGES:
            raise WireError(f"leader news claim {count} members of the isr in term {term}, {end - position} bytes are left")
        result.append(LeaderNews(group, term, leader, tuple(node for (node,) in _NODE.iter_unpack(data[position:stop]))))
        position = stop
    return result


def _varint(value: int) -> bytes:
    if value < 0x80:
        return value.to_bytes(1, "little")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """The number at `position` and the position behind it: at most 10 bytes, as protobuf has it."""
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise WireError("a number that does not end")


def _walk(data: memoryview) -> tuple[Envelope, int, int, int, memoryview, memoryview, memoryview, memoryview]:
    """Find the fields: any order, the last of a kind counts, missing ones are zero, unknown ones are skipped, as protobuf demands of a reader."""
    cluster_id: bytes | memoryview = b""
    numbers = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    messages = table = news = payload = data[:0]
    position, end = 0, len(data)
    if end >= _PREFIX.size:
        row = _PREFIX.unpack_from(data)
        if row[::2] == _PREFIX_TAGS:  # as encode_batch writes it
            _, cluster_id, _, numbers[2], _, numbers[3], _, numbers[4], _, numbers[5] = row
            position = _PREFIX.size
    while position < end:
        tag = data[position]
        position += 1
        if tag >= 0x80:
            tag, position = _read_varint(data, position - 1, end)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == 2:
            size, position = _read_varint(data, position, end)
            if size > end - position:
                raise WireError(f"field {field} claims {size} bytes, {end - position} are left")
            block = data[position : position + size]
            position += size
            if field == 6:
                messages = block
            elif field == 7:
                table = block
            elif field == 8:
                news = block
            elif field == 15:
                payload = block
            elif field == 1:
                cluster_id = block
        elif wire_type == 1 or wire_type == 5:
            width = 8 if wire_type == 1 else 4
            if width > end - position:
                raise WireError(f"field {field} is cut short")
            if 2 <= field <= 5 or field == 9:
                if (width == 8) != (field == 3 or field == 4 or field == 9):
                    raise WireError(f"field {field} has the wrong type")
                numbers[field] = int.from_bytes(data[position : position + width], "little")
            position += width
        elif wire_type == 0:
            _, position = _read_varint(data, position, end)
        else:
            raise WireError(f"field {field} has the wire type {wire_type}")
        if not field:
            raise WireError("a field without a number")
    return Envelope(bytes(cluster_id), numbers[2], numbers[3]), numbers[4], numbers[5], numbers[9], messages, table, news, payload
