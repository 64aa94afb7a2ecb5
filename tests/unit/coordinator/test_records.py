"""Bytes of `__consumer_offsets`, against Kafka's schemas: written out by hand, and every version that older brokers have written."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.coordinator.groups.records import (
    GroupKey,
    OffsetKey,
    RecordFormatError,
    StoredGroup,
    StoredMember,
    StoredOffset,
    decode_group,
    decode_key,
    decode_offset,
    group_record,
    offset_record,
)
from broker.coordinator.groups.subscription import subscribed_topics
from broker.coordinator.shards import java_hash, partition_for
from tests.unit.coordinator.support import subscription

MEMBER = StoredMember("m-1", "i-1", "c", "/h", 60_000, 10_000, b"sub", b"asg")
GROUP = StoredGroup("consumer", 7, "range", "m-1", 1_234, (MEMBER, MEMBER._replace(member_id="m-2", instance_id=None)))


def string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def test_offset_record() -> None:
    written = offset_record(OffsetKey("g", "topic", 3), StoredOffset(42, 5, "meta", 99))
    assert written.key == b"\x00\x01" + string("g") + string("topic") + b"\x00\x00\x00\x03"
    assert written.value == b"\x00\x03" + struct.pack(">qi", 42, 5) + string("meta") + struct.pack(">q", 99)


def test_an_offset_with_an_expiry_is_written_in_version_1() -> None:
    value = StoredOffset(42, -1, "meta", 99, 500)
    written = offset_record(OffsetKey("g", "t", 0), value).value
    assert written == b"\x00\x01" + struct.pack(">q", 42) + string("meta") + struct.pack(">qq", 99, 500)
    assert decode_offset(written) == value


def test_group_record() -> None:
    written = group_record("g", GROUP._replace(members=(MEMBER,)))
    assert written.key == b"\x00\x02" + string("g")
    member = string("m-1") + string("i-1") + string("c") + string("/h") + struct.pack(">ii", 60_000, 10_000)
    member += struct.pack(">i", 3) + b"sub" + struct.pack(">i", 3) + b"asg"
    head = b"\x00\x03" + string("consumer") + struct.pack(">i", 7) + string("range") + string("m-1") + struct.pack(">qi", 1_234, 1)
    assert written.value == head + member


def test_older_and_newer_versions_are_read() -> None:
    assert decode_offset(b"\x00\x00" + struct.pack(">q", 1) + string("m") + struct.pack(">q", 2)) == StoredOffset(1, -1, "m", 2)
    assert decode_offset(b"\x00\x02" + struct.pack(">q", 1) + string("m") + struct.pack(">q", 2)) == StoredOffset(1, -1, "m", 2)
    flexible = b"\x00\x04" + struct.pack(">qi", 1, 9) + b"\x02m" + struct.pack(">q", 2)
    assert decode_offset(flexible + b"\x00") == StoredOffset(1, 9, "m", 2)
    assert decode_offset(flexible + b"\x01\x00\x10" + b"t" * 16) == StoredOffset(1, 9, "m", 2, topic_id=b"t" * 16)
    member = string("m") + string("c") + string("h") + struct.pack(">i", 10) + struct.pack(">i", 0) * 2
    old = decode_group(b"\x00\x00" + string("consumer") + struct.pack(">i", 1) + string("p") + string("m") + struct.pack(">i", 1) + member)
    assert old.members[0] == StoredMember("m", None, "c", "h", 10, 10, b"", b"") and old.state_timestamp_ms == -1


def test_keys_of_other_kinds_are_left_alone() -> None:
    assert decode_key(b"\x00\x03" + string("g")) is None
    assert decode_key(b"\x00\x00" + string("g") + string("t") + b"\x00\x00\x00\x01") == OffsetKey("g", "t", 1)
    assert decode_key(b"\x00\x02" + string("g")) == GroupKey("g")


texts = st.text(max_size=20)
members = st.builds(
    StoredMember, texts, st.none() | texts, texts, texts, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.binary(), st.binary()
)


@given(st.builds(StoredGroup, texts, st.integers(0, 2**31 - 1), st.none() | texts, st.none() | texts, st.integers(-1, 2**62), st.tuples(members)))
def test_groups_are_read_as_they_were_written(group: StoredGroup) -> None:
    assert decode_group(group_record("g", group).value or b"") == group


@given(st.integers(0, 2**62), st.integers(-1, 2**31 - 1), texts, st.integers(0, 2**62), st.just(b"") | st.binary(min_size=16, max_size=16))
def test_offsets_are_read_as_they_were_written(offset: int, epoch: int, metadata: str, timestamp: int, topic_id: bytes) -> None:
    value = StoredOffset(offset, epoch, metadata, timestamp, topic_id=topic_id)
    written = offset_record(OffsetKey("g", "t", 0), value)
    assert decode_offset(written.value or b"", written.headers) == value


@given(st.binary(max_size=60), st.integers(0, 200))
def test_damaged_bytes_are_refused(data: bytes, cut: int) -> None:
    whole = group_record("g", GROUP).value or b""
    for damaged, decode in ((data, decode_group), (data, decode_offset), (data, decode_key), (whole[: min(cut, len(whole) - 1)], decode_group)):
        try:
            decode(damaged)  # type: ignore[operator]
        except RecordFormatError:
            continue
    with pytest.raises(RecordFormatError):
        decode_group(whole[:-1])


@given(st.binary(max_size=40))
def test_subscriptions(data: bytes) -> None:
    subscribed_topics(data)
    assert subscribed_topics(subscription("a", "b") + data) == {"a", "b"}
    assert subscribed_topics(b"\x00\x00\x7f\xff\xff\xff") is None


def test_the_partition_of_a_group_is_kafkas() -> None:
    """Values of Java's String.hashCode."""
    assert [java_hash(text) for text in ("", "a", "hello", "größe", "polygenelubricants", "😀")] == [0, 97, 99162322, 98762257, -(2**31), 1772899]
    assert partition_for("polygenelubricants", 50) == 0
    assert partition_for("hello", 50) == 99162322 % 50
