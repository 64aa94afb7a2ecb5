"""raft.wire: whatever goes in comes out, it is protobuf, and no bytes do harm."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from raft import wire
from raft.core.message import Message, MessageType
from raft.transport import chronik_raft_pb2 as pb
from raft.wire import Batch, Envelope, LeaderNews, WireError, decode_batch, encode_batch
from wal.entry import Entry, EntryKind, GroupId, group_id
from wal.errors import InvariantError

number = st.integers(0, 2**63 - 1)
small = st.integers(0, 2**32 - 1)
group = st.binary(min_size=20, max_size=20).map(GroupId)
envelope = st.builds(Envelope, st.binary(min_size=16, max_size=16), small, st.integers(0, 2**64 - 1))


@st.composite
def entries_behind(draw: st.DrawFn, index: int) -> list[Entry]:
    result = []
    for position in range(draw(st.integers(0, 4))):
        chunks = draw(st.lists(st.binary(max_size=60), max_size=3))
        payload = b"".join(chunks)
        kind = draw(st.sampled_from(EntryKind))
        result.append(Entry(draw(number), index + 1 + position, kind, chunks, len(payload), crc32c(payload), draw(number), draw(small)))
    return result


@st.composite
def messages(draw: st.DrawFn) -> Message:
    type_ = draw(st.sampled_from(MessageType))
    index = draw(st.integers(0, 2**62))
    entries = draw(entries_behind(index)) if type_ is MessageType.APPEND else ()
    flags = draw(st.booleans()), draw(st.booleans())
    return Message(type_, draw(number), draw(number), draw(number), index, draw(number), draw(number), entries, flags[0], draw(number), flags[1])


news = st.builds(LeaderNews, group, number, small, st.lists(small, max_size=5).map(tuple))
numbers = st.integers(0, 2**64 - 1)
batches = st.builds(Batch, st.lists(st.tuples(group, messages()), max_size=6), numbers, st.lists(news, max_size=4), st.just(0) | numbers)


def plain_entry(entry: Entry) -> tuple[object, ...]:
    return entry.term, entry.index, int(entry.kind), entry.payload(), entry.size, entry.payload_crc, entry.base_offset, entry.record_count


def plain(batch: Batch) -> object:
    heads = [
        (
            g,
            m.type,
            m.sender,
            m.receiver,
            m.term,
            m.index,
            m.log_term,
            m.commit,
            m.reject,
            m.hint_index,
            m.transfer,
            [plain_entry(e) for e in m.entries],
        )
        for g, m in batch.messages
    ]
    return heads, batch.beat, batch.news, batch.echo


@settings(deadline=None, max_examples=150)
@given(envelope, batches)
def test_what_goes_in_comes_out(who: Envelope, batch: Batch) -> None:
    data = b"".join(encode_batch(who, batch, None))
    found, decoded = decode_batch(memoryview(data))
    assert found == who
    assert plain(decoded) == plain(batch)
    for _, message in decoded.messages:
        assert type(message.type) is MessageType
        for entry in message.entries:
            assert sum(map(len, entry.chunks)) == entry.size
            assert all(isinstance(chunk, memoryview) and chunk.obj is data for chunk in entry.chunks), "payloads are slices of what was received"


@settings(deadline=None, max_examples=100)
@given(envelope, batches)
def test_it_is_protobuf_both_ways(who: Envelope, batch: Batch) -> None:
    official = pb.RaftBatch.FromString(b"".join(encode_batch(who, batch, None)))
    assert (official.cluster_id, official.sender, official.incarnation, official.beat, official.echo) == (*who, batch.beat, batch.echo)
    assert official.payload == b"".join(entry.payload() for _, message in batch.messages for entry in message.entries)
    found, decoded = decode_batch(memoryview(official.SerializeToString()))
    assert found == who
    assert plain(decoded) == plain(batch)


def official_batch(batch: Batch | None = None) -> pb.RaftBatch:
    return pb.RaftBatch.FromString(b"".join(encode_batch(Envelope(bytes(16), 1, 1), batch or Batch(), None)))


@settings(deadline=None, max_examples=60)
@given(batches, st.binary(max_size=40), st.integers(16, 5000))
def test_unknown_fields_and_another_order_are_accepted(batch: Batch, content: bytes, number_of_field: int) -> None:
    data = b"".join(encode_batch(Envelope(bytes(16), 1, 1), batch, None))
    unknown = wire._varint(number_of_field << 3 | 2) + wire._varint(len(content)) + content + wire._varint(number_of_field << 3) + b"\xff\x01"
    for mixed in (data + unknown, unknown + data):
        assert plain(decode_batch(memoryview(mixed))[1]) == plain(batch)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_batch_or_a_wire_error(data: bytes) -> None:
    try:
        decode_batch(memoryview(data))
    except WireError:
        pass


@settings(deadline=None, max_examples=200)
@given(batches, st.integers(0, 2**32), st.data())
def test_a_changed_message_is_refused_or_decodes_to_the_same(batch: Batch, seed: int, data: st.DataObject) -> None:
    """One flipped bit, or a cut, changes no message silently: each byte is under a checksum, or says where the others are."""
    who = Envelope(b"0123456789abcdef", 5, 9)
    whole = bytearray(b"".join(encode_batch(who, batch, None)))
    source = random.Random(seed)
    if data.draw(st.booleans()):
        del whole[source.randrange(len(whole)) :]
    else:
        whole[source.randrange(len(whole))] ^= 1 << source.randrange(8)
    try:
        found, decoded = decode_batch(memoryview(bytes(whole)))
    except WireError:
        return
    assert (found, plain(decoded)) == (who, plain(batch))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400), st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=200))
def test_tables_with_a_right_checksum_and_any_content(messages_table: bytes, entries: bytes, news_table: bytes, payload: bytes) -> None:
    """What a hostile peer can do: the checksum of the headers is no secret."""
    official = pb.RaftBatch(cluster_id=bytes(16), messages=messages_table, entries=entries, news=news_table, payload=payload)
    official.headers_crc = crc32c(news_table, crc32c(entries, crc32c(messages_table, crc32c(wire._CHECKED.pack(bytes(16), 0, 0, 0)))))
    try:
        decode_batch(memoryview(official.SerializeToString()))
    except WireError:
        pass


def with_tables(messages_table: bytes, entries: bytes = b"", news_table: bytes = b"", payload: bytes = b"") -> memoryview:
    official = pb.RaftBatch(cluster_id=bytes(16), messages=messages_table, entries=entries, news=news_table, payload=payload)
    official.headers_crc = crc32c(news_table, crc32c(entries, crc32c(messages_table, crc32c(wire._CHECKED.pack(bytes(16), 0, 0, 0)))))
    return memoryview(official.SerializeToString())


def head(type_: int = 1, flags: int = 0, count: int = 0, index: int = 0) -> bytes:
    return wire._MESSAGE.pack(bytes(20), type_, flags, count, 1, 2, 3, index, 0, 0, 0)


def row(kind: int = 1, size: int = 0, crc: int = 0, index: int = 1, offset: int = 0) -> bytes:
    return wire._ENTRY.pack(kind, 0, size, crc, 1, index, offset)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (with_tables(head(type_=0)), "impossible message"),
        (with_tables(head(type_=12)), "impossible message"),
        (with_tables(head(flags=4)), "impossible message"),
        (with_tables(head(index=-1)), "impossible message"),
        (with_tables(head()[:-1]), "whole row"),
        (with_tables(head(count=1)), "claims 1 entries, 0 are left"),
        (with_tables(head(count=2**32 - 1), row()), "claims 4294967295 entries"),
        (with_tables(head(type_=2, count=1), row()), "claims"),
        (with_tables(head(), row()), "belong to no message"),
        (with_tables(head(), payload=b"x"), "belong to no message"),
        (with_tables(head(count=1), row(kind=4)), "impossible entry"),
        (with_tables(head(count=1), row(index=2)), "expected 1"),
        (with_tables(head(count=1), row(offset=-1)), "impossible entry"),
        (with_tables(head(count=1), row(size=2**32 - 1), payload=b"x"), "impossible entry"),
        (with_tables(head(count=1), row(size=1, crc=5), payload=b"x"), "checksum"),
        (with_tables(b"", news_table=bytes(35)), "cut short"),
        (with_tables(b"", news_table=wire._NEWS.pack(bytes(20), 1, 1, 65535)), "claim 65535"),
        (memoryview(b""), "cluster id"),
        (memoryview(b"\x0a\xff\xff\xff\xff\x0f"), "claims"),
        (memoryview(b"\x0a" + b"\xff" * 12), "does not end"),
        (memoryview(b"\x0b"), "wire type"),
        (memoryview(b"\x00\x00"), "without a number"),
        (memoryview(b"\x11" + bytes(8)), "wrong type"),
    ],
)
def test_each_lie_has_its_own_text(data: memoryview, text: str) -> None:
    with pytest.raises(WireError, match=text):
        decode_batch(data)


def test_a_wrong_cluster_or_sender_in_the_envelope_is_under_the_checksum() -> None:
    official = official_batch(Batch(beat=7))
    official.beat = 8
    with pytest.raises(WireError, match="checksum"):
        decode_batch(memoryview(official.SerializeToString()))


def test_decoding_allocates_in_proportion_to_what_came() -> None:
    """Empty entries are the worst that can be sent: 40 bytes each. And a claimed size alone allocates nothing."""
    rows = b"".join(row(kind=0, index=i + 1) for i in range(50_000))
    worst = with_tables(head(count=50_000), rows)
    claim = memoryview(b"\x7a\xff\xff\xff\xff\x7f")
    tracemalloc.start()
    try:
        _, batch = decode_batch(worst)
        assert len(batch.messages[0][1].entries) == 50_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        del batch
        with pytest.raises(WireError):
            decode_batch(claim)
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(worst)


def test_too_many_rows_are_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    beat = Message(MessageType.HEARTBEAT, 1, 2, 3)
    batch = Batch([(group_id(bytes(16), i), beat) for i in range(9)])
    data = b"".join(encode_batch(Envelope(bytes(16), 1, 1), batch, None))
    monkeypatch.setattr(wire, "MAX_MESSAGES", 8)
    with pytest.raises(WireError, match="more than 8 rows"):
        decode_batch(memoryview(data))
    with pytest.raises(InvariantError):
        encode_batch(Envelope(bytes(16), 1, 1), batch, None)


def test_an_entry_whose_size_lies_is_not_sent() -> None:
    entry = Entry(1, 1, EntryKind.DATA, (b"abc",), 4, crc32c(b"abc"))
    with pytest.raises(InvariantError):
        encode_batch(Envelope(bytes(16), 1, 1), Batch([(group_id(bytes(16), 0), Message(MessageType.APPEND, 1, 2, 1, entries=[entry]))]), None)


def test_parts_are_appended_to_the_given_list_and_payloads_are_not_copied() -> None:
    payload = bytearray(b"payload")
    entry = Entry(1, 1, EntryKind.DATA, (payload,), 7, crc32c(payload))
    out: list[bytes | bytearray | memoryview] = [b"before"]
    message = Message(MessageType.APPEND, 1, 2, 1, entries=[entry])
    assert encode_batch(Envelope(bytes(16), 1, 1), Batch([(group_id(bytes(16), 0), message)]), out) is out
    assert out[0] == b"before"
    assert out[-1] is payload


def test_the_bytes_of_version_1() -> None:
    """Golden: a node of another version must read these. A change here is a change of the format."""
    entry = Entry(3, 11, EntryKind.DATA, (b"ab", b"c"), 3, crc32c(b"abc"), 100, 2)
    append = Message(MessageType.APPEND, 1, 2, 3, 10, 2, 9, [entry])
    batch = Batch([(group_id(b"T" * 16, 5), append)], 7, [LeaderNews(group_id(b"N" * 16, 1), 4, 2, (1, 2))])
    data = b"".join(encode_batch(Envelope(b"C" * 16, 1, 6), batch, None))
    assert data.hex() == GOLDEN


GOLDEN = (
    "0a104343434343434343434343434343434315010000001906000000000000002107000000000000002dac98cc6f325454545454545454545454545454545454"
    "0000000501000000010000000100000000000000020000000000000003000000000000000a000000000000000200000000000000090000000000000000000000"
    "000000003a28010000000200000003000000b73f4b3603000000000000000b000000000000006400000000000000422c4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e4e"
    "000000010400000000000000020000000200000001000000020000007a03616263"
)
