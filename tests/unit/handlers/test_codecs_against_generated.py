"""The hand-written Produce and Fetch codecs against the generated ones: the clever function against the plain one."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocol._generated import fetch as gf
from broker.protocol._generated import produce as gp
from broker.protocol.errors import ProtocolError
from broker.protocol.fetch import FetchedPartition, decode_fetch_request, encode_fetch_response
from broker.protocol.produce import Endpoint, LeaderHint, ProducedPartition, decode_produce_request, encode_produce_response

I32 = st.integers(-(2**31), 2**31 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
I16 = st.integers(-(2**15), 2**15 - 1)
NAME = st.text(max_size=200)
ID = st.binary(min_size=16, max_size=16)
PREFIX = st.binary(max_size=5)


def small_lists(of: st.SearchStrategy, max_size: int = 3) -> st.SearchStrategy:
    return st.lists(of, max_size=max_size)


@st.composite
def produce_requests(draw: st.DrawFn) -> gp.ProduceRequest:
    record = st.one_of(st.none(), st.binary(max_size=300))
    part = st.builds(gp.PartitionProduceData, index=I32, records=record)
    topic = st.builds(gp.TopicProduceData, name=NAME, topic_id=ID, partition_data=small_lists(part))
    single = st.builds(gp.TopicProduceData, name=NAME, topic_id=ID, partition_data=st.lists(part, min_size=1, max_size=1))
    topics = draw(st.one_of(small_lists(topic), st.lists(single, min_size=1, max_size=1)))
    transactional_id = draw(st.one_of(st.none(), st.none(), NAME))
    return gp.ProduceRequest(transactional_id=transactional_id, acks=draw(I16), timeout_ms=draw(I32), topic_data=topics)


@given(produce_requests(), st.integers(3, 13), PREFIX)
def test_produce_request(request_: gp.ProduceRequest, version: int, prefix: bytes) -> None:
    raw = request_.encode(version)
    buffer = memoryview(bytearray(prefix + raw))
    got, end = decode_produce_request(buffer, len(prefix), version)
    assert end == len(buffer)
    assert got.transactional_id == request_.transactional_id
    assert (got.acks, got.timeout_ms) == (request_.acks, request_.timeout_ms)
    expected = [
        (topic.topic_id if version >= 13 else topic.name, [(part.index, part.records) for part in topic.partition_data])
        for topic in request_.topic_data
    ]
    assert [(key, [(index, None if r is None else bytes(r)) for index, r in parts]) for key, parts in got.topics] == expected
    for _, parts in got.topics:
        for _, records in parts:
            assert records is None or (not records.readonly and records.obj is buffer.obj)


@given(produce_requests(), st.integers(3, 13), st.data())
def test_produce_request_truncated_or_changed(request_: gp.ProduceRequest, version: int, data: st.DataObject) -> None:
    raw = request_.encode(version)
    if data.draw(st.booleans()) and raw:
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    elif raw:
        place = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:place] + bytes([data.draw(st.integers(0, 255))]) + raw[place + 1 :]
    _same_verdict(decode_produce_request, gp.ProduceRequest.decode, raw, version)


def _same_verdict(ours: object, oracle: object, raw: bytes, version: int, skips_tags: bool = False) -> None:
    """Both take the bytes and stop at the same place, or both call them malformed.

    `skips_tags`: ours does not look into tagged fields that the oracle knows, and so may take what it refuses; nothing but ProtocolError even then.
    """
    buffer = memoryview(bytearray(raw))
    try:
        _, expected = oracle(buffer, 0, version)  # type: ignore[operator]
    except ProtocolError:
        if skips_tags:
            with contextlib.suppress(ProtocolError):
                ours(buffer, 0, version)  # type: ignore[operator]
            return
        with pytest.raises(ProtocolError):
            ours(buffer, 0, version)  # type: ignore[operator]
    else:
        assert ours(buffer, 0, version)[1] == expected  # type: ignore[operator]


@given(st.binary(max_size=120), st.integers(3, 13))
def test_produce_request_random_bytes(raw: bytes, version: int) -> None:
    _same_verdict(decode_produce_request, gp.ProduceRequest.decode, raw, version)


@given(st.binary(max_size=120), st.integers(4, 18))
def test_fetch_request_random_bytes(raw: bytes, version: int) -> None:
    _same_verdict(decode_fetch_request, gf.FetchRequest.decode, raw, version, skips_tags=version >= 12)


LEADER = st.one_of(st.none(), st.builds(LeaderHint, st.integers(0, 2**31 - 1), I32))
ENDPOINTS = small_lists(st.builds(Endpoint, I32, NAME, I32, st.one_of(st.none(), NAME)))
PRODUCED = st.builds(ProducedPartition, I32, st.integers(-1, 120), I64, I64, I64, st.one_of(st.none(), NAME), LEADER)


@given(st.data(), st.integers(3, 13), ENDPOINTS, I32)
def test_produce_response(data: st.DataObject, version: int, endpoints: list[Endpoint], throttle: int) -> None:
    key = ID if version >= 13 else NAME
    topics = data.draw(
        st.one_of(
            small_lists(st.tuples(key, small_lists(PRODUCED))),
            st.lists(st.tuples(key, st.lists(PRODUCED, min_size=1, max_size=1)), min_size=1, max_size=1),
        )
    )
    raw = encode_produce_response(version, topics, endpoints, throttle)
    got, end = gp.ProduceResponse.decode(raw, 0, version)
    assert end == len(raw)
    assert got.throttle_time_ms == throttle
    assert len(got.responses) == len(topics)
    for response, (key_, results) in zip(got.responses, topics, strict=True):
        assert (response.topic_id if version >= 13 else response.name) == key_
        assert len(response.partition_responses) == len(results)
        for one, result in zip(response.partition_responses, results, strict=True):
            assert (one.index, one.error_code, one.base_offset, one.log_append_time_ms) == result[:4]
            assert one.log_start_offset == (result.log_start_offset if version >= 5 else -1)
            assert one.error_message == (result.message if version >= 8 else None)
            leader = result.leader if version >= 10 and result.leader is not None else LeaderHint(-1, -1)
            assert (one.current_leader.leader_id, one.current_leader.leader_epoch) == leader
    nodes = [(one.node_id, one.host, one.port, one.rack) for one in got.node_endpoints]
    assert nodes == ([tuple(one) for one in endpoints] if version >= 10 else [])


@st.composite
def fetch_requests(draw: st.DrawFn) -> gf.FetchRequest:
    part = st.builds(
        gf.FetchPartition,
        partition=I32,
        current_leader_epoch=I32,
        fetch_offset=I64,
        log_start_offset=I64,
        last_fetched_epoch=I32,
        partition_max_bytes=I32,
        replica_directory_id=ID,
        high_watermark=I64,
    )
    topic = st.builds(gf.FetchTopic, topic=NAME, topic_id=ID, partitions=small_lists(part))
    forgotten = st.builds(gf.ForgottenTopic, topic=NAME, topic_id=ID, partitions=small_lists(I32, 70))
    return gf.FetchRequest(
        cluster_id=draw(st.one_of(st.none(), NAME)),
        replica_id=draw(I32),
        max_wait_ms=draw(I32),
        min_bytes=draw(I32),
        max_bytes=draw(I32),
        isolation_level=draw(st.integers(0, 1)),
        session_id=draw(I32),
        session_epoch=draw(I32),
        topics=draw(small_lists(topic)),
        forgotten_topics_data=draw(small_lists(forgotten)),
        rack_id=draw(NAME),
    )


@given(fetch_requests(), st.integers(4, 18), PREFIX)
def test_fetch_request(request_: gf.FetchRequest, version: int, prefix: bytes) -> None:
    raw = prefix + request_.encode(version)
    got, end = decode_fetch_request(raw, len(prefix), version)
    assert end == len(raw)
    assert got.max_wait_ms == request_.max_wait_ms
    assert (got.min_bytes, got.max_bytes, got.isolation_level) == (request_.min_bytes, request_.max_bytes, request_.isolation_level)
    assert (got.session_id, got.session_epoch) == ((request_.session_id, request_.session_epoch) if version >= 7 else (0, -1))
    assert got.partitions == [
        (
            topic.topic_id if version >= 13 else topic.topic,
            one.partition,
            one.current_leader_epoch if version >= 9 else -1,
            one.fetch_offset,
            one.partition_max_bytes,
        )
        for topic in request_.topics
        for one in topic.partitions
    ]
    forgotten = [(topic.topic_id if version >= 13 else topic.topic, one) for topic in request_.forgotten_topics_data for one in topic.partitions]
    assert got.forgotten == (forgotten if version >= 7 else [])


@given(fetch_requests(), st.integers(4, 18), st.data())
def test_fetch_request_truncated_or_changed(request_: gf.FetchRequest, version: int, data: st.DataObject) -> None:
    raw = request_.encode(version)
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        place = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:place] + bytes([data.draw(st.integers(0, 255))]) + raw[place + 1 :]
    _same_verdict(decode_fetch_request, gf.FetchRequest.decode, raw, version, skips_tags=version >= 12)


@st.composite
def fetched(draw: st.DrawFn) -> FetchedPartition:
    chunks = draw(small_lists(st.binary(min_size=1, max_size=300)))
    aborted = draw(st.one_of(st.none(), small_lists(st.tuples(I64, I64))))
    return FetchedPartition(
        draw(I32), draw(st.integers(-1, 120)), draw(I64), draw(I64), draw(I64), aborted, chunks, sum(map(len, chunks)), draw(LEADER)
    )


@given(st.data(), st.integers(4, 18), ENDPOINTS, st.integers(-1, 120), I32)
def test_fetch_response(data: st.DataObject, version: int, endpoints: list[Endpoint], error: int, session_id: int) -> None:
    key = ID if version >= 13 else NAME
    topics = data.draw(small_lists(st.tuples(key, small_lists(fetched()))))
    parts, size = encode_fetch_response(version, error, session_id, topics, endpoints)
    raw = b"".join(parts)
    assert size == len(raw)
    got, end = gf.FetchResponse.decode(raw, 0, version)
    assert end == len(raw)
    assert (got.error_code, got.session_id) == ((error, session_id) if version >= 7 else (0, 0))
    assert len(got.responses) == len(topics)
    for response, (key_, results) in zip(got.responses, topics, strict=True):
        assert (response.topic_id if version >= 13 else response.topic) == key_
        for one, result in zip(response.partitions, results, strict=True):
            assert (one.partition_index, one.error_code, one.high_watermark, one.last_stable_offset) == result[:4]
            assert one.log_start_offset == (result.log_start_offset if version >= 5 else -1)
            aborted = None if one.aborted_transactions is None else [(a.producer_id, a.first_offset) for a in one.aborted_transactions]
            assert aborted == result.aborted
            assert bytes(one.records) == b"".join(result.chunks)
            assert one.preferred_read_replica == -1
            leader = result.leader if version >= 12 and result.leader is not None else LeaderHint(-1, -1)
            assert (one.current_leader.leader_id, one.current_leader.leader_epoch) == leader
    nodes = [(one.node_id, one.host, one.port, one.rack) for one in got.node_endpoints]
    assert nodes == ([tuple(one) for one in endpoints] if version >= 16 else [])


def test_fetch_response_does_not_copy_chunks() -> None:
    chunk = memoryview(bytearray(1000))
    parts, _ = encode_fetch_response(12, 0, 0, [("t", [FetchedPartition(0, 0, 1, 1, 0, None, [chunk], 1000)])])
    assert any(part is chunk for part in parts)
