"""Metadata, ApiVersions, DescribeCluster: what clients learn first."""

from __future__ import annotations

import asyncio
import struct

import pytest

from broker.api import NewTopic
from broker.errors import ErrorCode, KafkaError
from broker.handlers.leaders_wait import NEWS_WAIT_MS_MAX
from broker.handlers.registry import HANDLERS
from broker.protocol._generated.api_versions import ApiVersionsRequest, ApiVersionsResponse
from broker.protocol._generated.describe_cluster import DescribeClusterRequest, DescribeClusterResponse
from broker.protocol._generated.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from tests.unit.handlers.fakes import World, decode_answer

ID = b"events".ljust(16, b"\0")


@pytest.fixture
def world() -> World:
    world = World()
    world.broker.add_topic("events", 3, elsewhere=[2])
    world.broker.add_topic("other")
    return world


def ask(*names: str | None, **fields: object) -> MetadataRequest:
    return MetadataRequest(topics=[MetadataRequestTopic(name=name) for name in names], **fields)


@pytest.mark.parametrize("version", [10, 11])
def test_ids_before_their_time_are_refused(world: World, version: int) -> None:
    asked = MetadataRequest(topics=[MetadataRequestTopic(name=None, topic_id=ID), MetadataRequestTopic(name=None, topic_id=bytes(15) + b"x")])
    response = world.client().call(asked, MetadataResponse, version)
    assert [(topic.name, topic.error_code) for topic in response.topics] == [("", ErrorCode.INVALID_REQUEST)] * 2


@pytest.mark.parametrize("version", range(14))
def test_all_topics(world: World, version: int) -> None:
    request = MetadataRequest(topics=[] if version == 0 else None)
    response = world.client().call(request, MetadataResponse, version)
    assert [topic.name for topic in response.topics] == ["events", "other"]
    leaders = [one.leader_id for one in response.topics[0].partitions]
    assert leaders == [1, 1, 2]
    assert response.topics[0].partitions[0].leader_epoch == (3 if version >= 7 else -1)
    assert response.topics[0].partitions[0].replica_nodes == [1, 2]
    # Node 1 advertises nothing, so the client gets the address that it used.
    assert [(one.node_id, one.host, one.port) for one in response.brokers] == [(1, "10.0.0.1", 9092), (2, "two.example", 9092)]
    if version >= 1:
        assert response.controller_id == 1
    if version >= 2:
        assert response.cluster_id == "test-cluster"
    if version >= 10:
        assert response.topics[0].topic_id == ID


def test_no_topics(world: World) -> None:
    assert world.client().call(MetadataRequest(topics=[]), MetadataResponse, 1).topics == []


def test_by_id_with_null_name(world: World) -> None:
    asked = MetadataRequest(topics=[MetadataRequestTopic(name=None, topic_id=ID), MetadataRequestTopic(name=None, topic_id=bytes(15) + b"x")])
    found, unknown = world.client().call(asked, MetadataResponse, 12).topics
    assert (found.error_code, found.name) == (0, "events")
    assert (unknown.error_code, unknown.name) == (ErrorCode.UNKNOWN_TOPIC_ID, None)


def test_errors_by_topic(world: World) -> None:
    asked = ask("events", "nope", "bad name", "", "__meta", "nope", allow_auto_topic_creation=False)
    topics = world.client().call(asked, MetadataResponse, 9).topics
    assert [(topic.name, topic.error_code) for topic in topics] == [
        ("events", 0),
        ("nope", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("bad name", ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("", ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("__meta", ErrorCode.INVALID_TOPIC_EXCEPTION),
    ]
    assert world.broker.controller.calls == []


def test_no_leader_yet(world: World) -> None:
    world.broker.leaders.known.clear()
    world.broker.leaders.version += 1
    topic = world.client().call(ask("events"), MetadataResponse, 9).topics[0]
    assert topic.error_code == 0
    assert {(one.error_code, one.leader_id) for one in topic.partitions} == {(ErrorCode.LEADER_NOT_AVAILABLE, -1)}


@pytest.mark.parametrize("version", [0, 3, 4, 12])
async def test_creates_a_topic_that_is_asked_for(world: World, version: int) -> None:
    response = await world.client().acall(ask("fresh"), MetadataResponse, version)
    assert world.broker.controller.calls[0][1] == [NewTopic("fresh")]
    assert [(topic.name, topic.error_code) for topic in response.topics] == [("fresh", 0)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KafkaError(ErrorCode.REQUEST_TIMED_OUT), ErrorCode.LEADER_NOT_AVAILABLE),
        (KafkaError(ErrorCode.INVALID_REPLICATION_FACTOR), ErrorCode.INVALID_REPLICATION_FACTOR),
    ],
)
async def test_creation_fails(world: World, error: KafkaError, code: ErrorCode) -> None:
    world.broker.controller.error = error
    response = await world.client().acall(ask("fresh", "events"), MetadataResponse, 9)
    assert [topic.error_code for topic in response.topics] == [code, 0]


def test_creation_switched_off() -> None:
    world = World({"auto.create.topics.enable": "false"})
    assert world.client().call(ask("fresh"), MetadataResponse, 9).topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize("names", [("new",), None])
@pytest.mark.parametrize("heard_after_ms", [50, 1_000])
async def test_the_answer_waits_a_moment_for_leaders_that_were_never_heard_of(
    world: World, names: tuple[str, ...] | None, heard_after_ms: int
) -> None:
    broker = world.broker
    group = broker.add_topic("new").partitions[0].group_id
    broker.leaders.known.pop(group, None)
    broker.leaders.silent.add(group)
    client = world.client()
    request = MetadataRequest(topics=None) if names is None else ask(*names)
    correlation = client.send(3, 9, request.encode(9))
    answers: list[bytes] = []
    waited = 0
    while not answers:
        assert waited <= NEWS_WAIT_MS_MAX + 10
        if waited == heard_after_ms:
            broker.leaders.silent.clear()
            broker.leaders.known[group] = (2, 1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        answers = client.answers()
        if not answers:
            broker.clock.advance(10)
            waited += 10
    assert waited >= min(heard_after_ms, NEWS_WAIT_MS_MAX)
    topics = decode_answer(answers[0], correlation, MetadataResponse, 9).topics
    found = next(one for one in topics if one.name == "new").partitions[0]
    assert (found.leader_id, found.error_code) == ((2, 0) if heard_after_ms < NEWS_WAIT_MS_MAX else (-1, ErrorCode.LEADER_NOT_AVAILABLE))


def test_the_cache_follows_image_and_leaders(world: World) -> None:
    client = world.client()

    def leader() -> int:
        return int(client.call(ask("events"), MetadataResponse, 9).topics[0].partitions[0].leader_id)

    group = world.broker.image.topics["events"].partitions[0].group_id
    assert leader() == 1
    world.broker.leaders.known[group] = (2, 4)
    assert leader() == 1  # nobody said that the table changed: the answer comes from the cache
    world.broker.leaders.version += 1
    assert leader() == 2
    world.broker.change_image(topics={}, topics_by_id={})
    asked = ask("events", allow_auto_topic_creation=False)
    assert client.call(asked, MetadataResponse, 9).topics[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_authorized_operations_only_when_asked(world: World) -> None:
    client = world.client()
    assert client.call(ask("events"), MetadataResponse, 8).topics[0].topic_authorized_operations == -(2**31)
    asked = ask("events", include_topic_authorized_operations=True, include_cluster_authorized_operations=True)
    response = client.call(asked, MetadataResponse, 8)
    assert (response.topics[0].topic_authorized_operations, response.cluster_authorized_operations) == (3576, 8096)


@pytest.mark.parametrize("version", range(5))
def test_api_versions(world: World, version: int) -> None:
    response = world.client().call(ApiVersionsRequest(client_software_name="test", client_software_version="1.0"), ApiVersionsResponse, version)
    listed = {one.api_key: (one.min_version, one.max_version) for one in response.api_keys}
    assert response.error_code == 0
    assert listed[0] == (0, 13)  # KAFKA-18659
    assert listed[1] == (4, 18)
    assert listed[18] == (0, 4)
    assert listed == {module.KEY: module.VERSIONS for module in HANDLERS} | {0: (0, 13)}
    if version >= 3:
        assert [(one.name, one.max_version_level) for one in response.finalized_features] == [
            ("metadata.version", 25),
            ("transaction.version", 2),
        ]


def test_kip_511_unknown_version_gets_the_v0_form(world: World) -> None:
    client = world.client()
    correlation = client.send(18, 99, b"whatever the future brings")
    (answer,) = client.answers()
    got, error, count = struct.unpack_from(">ihi", answer)
    assert (got, error, count) == (correlation, ErrorCode.UNSUPPORTED_VERSION, len(HANDLERS))
    assert len(answer) == 10 + 6 * count
    assert not client.transport.closing


def test_bad_client_software_name(world: World) -> None:
    response = world.client().call(ApiVersionsRequest(client_software_name="-bad-", client_software_version="1"), ApiVersionsResponse, 3)
    assert response.error_code == ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("version", range(3))
def test_describe_cluster(world: World, version: int) -> None:
    response = world.client().call(DescribeClusterRequest(), DescribeClusterResponse, version)
    assert (response.cluster_id, response.controller_id) == ("test-cluster", 1)
    assert [(one.broker_id, one.host, one.port, one.rack) for one in response.brokers] == [(1, "10.0.0.1", 9092, None), (2, "two.example", 9092, "b")]


def test_describe_cluster_has_no_controller_endpoints(world: World) -> None:
    response = world.client().call(DescribeClusterRequest(endpoint_type=2), DescribeClusterResponse, 1)
    assert response.error_code == ErrorCode.MISMATCHED_ENDPOINT_TYPE
