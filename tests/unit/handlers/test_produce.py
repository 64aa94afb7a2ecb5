"""Produce: acks, time limits, errors per partition."""

from __future__ import annotations

import pytest

from broker.errors import ErrorCode
from broker.protocol._generated.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from tests.unit.handlers.fakes import Client, FakePartition, World, batch, decode_answer

ID = b"events".ljust(16, b"\0")


def request(*parts: tuple[str, int, bytes | None], acks: int = -1, timeout_ms: int = 30_000, transactional_id: str | None = None) -> ProduceRequest:
    topics = [
        TopicProduceData(name=name, topic_id=name.encode().ljust(16, b"\0"), partition_data=[PartitionProduceData(index=index, records=records)])
        for name, index, records in parts
    ]
    return ProduceRequest(transactional_id=transactional_id, acks=acks, timeout_ms=timeout_ms, topic_data=topics)


def only(response: ProduceResponse) -> object:
    assert len(response.responses) == 1
    assert len(response.responses[0].partition_responses) == 1
    return response.responses[0].partition_responses[0]


@pytest.fixture
def world() -> World:
    world = World()
    world.broker.add_topic("events", 3, elsewhere=[2])
    return world


@pytest.mark.parametrize("version", range(3, 14))
@pytest.mark.parametrize("acks", [1, -1])
def test_appends_and_answers(world: World, version: int, acks: int) -> None:
    client = world.client()
    first = only(client.call(request(("events", 0, batch(b"a")), acks=acks), ProduceResponse, version))
    second = only(client.call(request(("events", 0, batch(b"b")), acks=acks), ProduceResponse, version))
    assert (first.error_code, first.base_offset) == (0, 0)
    assert (second.error_code, second.base_offset) == (0, 1)
    assert [one[-1:] for one in world.broker.partitions.get("events", 0).batches] == [b"a", b"b"]


def test_waits_for_the_commit_and_no_longer(world: World) -> None:
    partition = world.broker.partitions.get("events", 0)
    partition.auto_commit = False
    client = world.client()
    sent = client.send(0, 9, request(("events", 0, batch())).encode(9))
    assert client.answers() == []
    assert len(world.services.wheel) == 1
    partition.commit()
    assert only(decode_answer(client.answers()[0], sent, ProduceResponse, 9)).error_code == 0
    assert len(world.services.wheel) == 0


@pytest.mark.parametrize("parts", [[("events", 0)], [("events", 0), ("events", 1)]])
def test_time_limit_means_unknown(world: World, parts: list[tuple[str, int]]) -> None:
    world.broker.partitions.get("events", 0).auto_commit = False
    client = world.client()
    sent = client.send(0, 9, request(*[(name, index, batch()) for name, index in parts], timeout_ms=500).encode(9))
    world.clock.advance(499)
    assert client.answers() == []
    world.clock.advance(50)
    response = decode_answer(client.answers()[0], sent, ProduceResponse, 9)
    codes = [one.error_code for topic in response.responses for one in topic.partition_responses]
    assert codes == [ErrorCode.REQUEST_TIMED_OUT, ErrorCode.NONE][: len(parts)]
    # What comes too late changes nothing, and the connection goes on.
    world.broker.partitions.get("events", 0).commit()
    assert client.answers() == []
    world.broker.partitions.get("events", 0).auto_commit = True
    assert only(client.call(request(("events", 0, batch())), ProduceResponse, 9)).error_code == 0


def test_acks_0_has_no_answer(world: World) -> None:
    client = world.client()
    client.send(0, 9, request(("events", 0, batch()), acks=0).encode(9))
    assert client.answers() == []
    assert len(world.broker.partitions.get("events", 0).batches) == 1
    assert only(client.call(request(("events", 0, batch())), ProduceResponse, 9)).base_offset == 1
    assert not client.transport.closing


def test_acks_0_with_an_error_closes(world: World) -> None:
    client = world.client()
    client.send(0, 9, request(("nowhere", 0, batch()), acks=0).encode(9))
    assert client.transport.closing


@pytest.mark.parametrize("acks", [-2, 2, 100])
def test_other_acks_are_refused(world: World, acks: int) -> None:
    answer = only(world.client().call(request(("events", 0, batch()), acks=acks), ProduceResponse, 9))
    assert answer.error_code == ErrorCode.INVALID_REQUIRED_ACKS
    assert world.broker.partitions.get("events", 0).batches == []


@pytest.mark.parametrize("version", [9, 11, 12])
def test_a_transactional_request_goes_through_verification(world: World, version: int) -> None:
    answer = only(world.client().call(request(("events", 0, batch()), transactional_id="tx"), ProduceResponse, version))
    assert answer.error_code == ErrorCode.NONE
    assert world.broker.partitions.get("events", 0).transactional == [("tx", version >= 12)], "KIP-890: version 12 adds the partition by itself"


@pytest.mark.parametrize("topic", ["__consumer_offsets", "__transaction_state"])
def test_only_coordinators_write_to_their_topics(world: World, topic: str) -> None:
    partition = FakePartition(topic, 0, b"i" * 16)
    world.broker.partitions.add(partition)
    answer = only(world.client().call(request((topic, 0, batch())), ProduceResponse, 9))
    assert answer.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION and partition.batches == []


@pytest.mark.parametrize(("version", "expected"), [(3, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE), (6, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE), (7, 0)])
def test_zstd_needs_version_7(world: World, version: int, expected: int) -> None:
    assert only(world.client().call(request(("events", 0, batch(attributes=4))), ProduceResponse, version)).error_code == expected


@pytest.mark.parametrize("records", [None, b"", b"short"])
def test_no_records(world: World, records: bytes | None) -> None:
    assert only(world.client().call(request(("events", 0, records)), ProduceResponse, 9)).error_code == ErrorCode.INVALID_RECORD


def test_unknown_topic_and_partition(world: World) -> None:
    client = world.client()
    assert only(client.call(request(("nope", 0, batch())), ProduceResponse, 9)).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert only(client.call(request(("nope", 0, batch())), ProduceResponse, 13)).error_code == ErrorCode.UNKNOWN_TOPIC_ID
    assert only(client.call(request(("events", 9, batch())), ProduceResponse, 9)).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize("version", [9, 10, 13])
def test_kip_951_tells_the_new_leader(world: World, version: int) -> None:
    response = world.client().call(request(("events", 2, batch())), ProduceResponse, version)
    answer = only(response)
    assert answer.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
    if version >= 10:
        assert (answer.current_leader.leader_id, answer.current_leader.leader_epoch) == (2, 3)
        assert [(one.node_id, one.host, one.port, one.rack) for one in response.node_endpoints] == [(2, "two.example", 9092, "b")]
    else:
        assert answer.current_leader.leader_id == -1


def test_each_partition_has_its_own_result(world: World) -> None:
    response = world.client().call(request(("events", 0, batch()), ("events", 2, batch()), ("nope", 0, batch())), ProduceResponse, 12)
    codes = [(topic.name, topic.partition_responses[0].error_code) for topic in response.responses]
    assert codes == [("events", 0), ("events", ErrorCode.NOT_LEADER_OR_FOLLOWER), ("nope", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)]


def test_nothing_to_append(world: World) -> None:
    assert world.client().call(ProduceRequest(acks=-1, topic_data=[]), ProduceResponse, 9).responses == []
    empty = ProduceRequest(acks=-1, topic_data=[TopicProduceData(name="events"), request(("events", 0, batch())).topic_data[0]])
    response = world.client().call(empty, ProduceResponse, 9)
    assert [len(topic.partition_responses) for topic in response.responses] == [0, 1]


def test_a_client_that_goes_leaves_nothing_behind(world: World) -> None:
    world.broker.partitions.get("events", 0).auto_commit = False
    client: Client = world.client()
    client.send(0, 9, request(("events", 0, batch())).encode(9))
    client.connection.connection_lost(None)
    assert len(world.services.wheel) == 0
    assert world.stats.requests_in_flight == 0
    world.broker.partitions.get("events", 0).commit()


def test_answers_keep_the_order_of_requests(world: World) -> None:
    for index in (0, 1):
        world.broker.partitions.get("events", index).auto_commit = False
    client = world.client()
    first = client.send(0, 9, request(("events", 0, batch())).encode(9))
    second = client.send(0, 9, request(("events", 1, batch())).encode(9))
    world.broker.partitions.get("events", 1).commit()
    assert client.answers() == []
    world.broker.partitions.get("events", 0).commit()
    answers = client.answers()
    assert [int.from_bytes(one[:4], "big") for one in answers] == [first, second]
