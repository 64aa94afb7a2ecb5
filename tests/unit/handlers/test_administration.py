"""Topics, settings, producer ids, offsets by time and epoch; also with every null that the schemas allow."""

from __future__ import annotations

import pytest

from broker.errors import ErrorCode, KafkaError
from broker.protocol._generated.create_partitions import (
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
)
from broker.protocol._generated.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from broker.protocol._generated.delete_topics import DeleteTopicsRequest, DeleteTopicsResponse, DeleteTopicState
from broker.protocol._generated.describe_configs import DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResponse
from broker.protocol._generated.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from broker.protocol._generated.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic
from broker.protocol._generated.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from tests.unit.handlers.fakes import World, batch, decode_answer

ID = b"events".ljust(16, b"\0")


@pytest.fixture
def world() -> World:
    world = World({"log.retention.ms": "5000"})
    world.broker.add_topic("events", 3, {"cleanup.policy": "compact"}, elsewhere=[2])
    return world


class TestCreateTopics:
    @pytest.mark.parametrize("version", range(2, 8))
    async def test_creates(self, world: World, version: int) -> None:
        topic = CreatableTopic(name="new", num_partitions=2, replication_factor=1, configs=[CreatableTopicConfig(name="retention.ms", value="1000")])
        response = await world.client().acall(CreateTopicsRequest(topics=[topic]), CreateTopicsResponse, version)
        (result,) = response.topics
        assert (result.name, result.error_code, result.error_message) == ("new", 0, None)
        if version >= 5:
            assert (result.num_partitions, result.replication_factor) == (2, 2)
            configs = {one.name: (one.value, one.config_source) for one in result.configs}
            assert configs["retention.ms"] == ("1000", 1)
            assert configs["cleanup.policy"] == ("delete", 5)
        if version >= 7:
            assert result.topic_id == b"new".ljust(16, b"\0")

    async def test_what_is_wrong_is_told_by_topic(self, world: World) -> None:
        one = CreatableReplicaAssignment(partition_index=1, broker_ids=[1])
        topics = [
            CreatableTopic(name="events", num_partitions=1, replication_factor=1),
            CreatableTopic(name="bad name", num_partitions=1, replication_factor=1),
            CreatableTopic(name="twice", num_partitions=1, replication_factor=1),
            CreatableTopic(name="twice", num_partitions=1, replication_factor=1),
            CreatableTopic(name="zero", num_partitions=0, replication_factor=1),
            CreatableTopic(name="rf", num_partitions=1, replication_factor=0),
            CreatableTopic(name="both", num_partitions=1, replication_factor=-1, assignments=[one]),
            CreatableTopic(name="gap", num_partitions=-1, replication_factor=-1, assignments=[one]),
            CreatableTopic(name="good", num_partitions=-1, replication_factor=-1),
        ]
        response = await world.client().acall(CreateTopicsRequest(topics=topics), CreateTopicsResponse, 7)
        assert {one.name: one.error_code for one in response.topics} == {
            "events": ErrorCode.TOPIC_ALREADY_EXISTS,
            "bad name": ErrorCode.INVALID_TOPIC_EXCEPTION,
            "twice": ErrorCode.INVALID_REQUEST,
            "zero": ErrorCode.INVALID_PARTITIONS,
            "rf": ErrorCode.INVALID_REPLICATION_FACTOR,
            "both": ErrorCode.INVALID_REQUEST,
            "gap": ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "good": 0,
        }
        assert all(one.error_message for one in response.topics if one.error_code)

    async def test_null_value_reaches_the_controller(self, world: World) -> None:
        topic = CreatableTopic(name="new", num_partitions=1, replication_factor=1, configs=[CreatableTopicConfig(name="x", value=None)])
        await world.client().acall(CreateTopicsRequest(topics=[topic], validate_only=True), CreateTopicsResponse, 5)
        ((_, (new,), _, validate_only),) = world.broker.controller.calls
        assert new.configs == {"x": None}
        assert validate_only is True
        assert "new" not in world.broker.image.topics

    @pytest.mark.parametrize(
        ("error", "code"),
        [(KafkaError(ErrorCode.NOT_CONTROLLER, "who knows"), ErrorCode.NOT_CONTROLLER), (ValueError("a bug"), ErrorCode.UNKNOWN_SERVER_ERROR)],
    )
    async def test_failure_as_a_whole(self, world: World, error: Exception, code: ErrorCode, caplog: pytest.LogCaptureFixture) -> None:
        world.broker.controller.error = error
        client = world.client()
        topic = CreatableTopic(name="new", num_partitions=1, replication_factor=1)
        response = await client.acall(CreateTopicsRequest(topics=[topic]), CreateTopicsResponse, 7)
        assert [one.error_code for one in response.topics] == [code]
        assert "a bug" not in str(response)
        assert len([one for one in caplog.records if one.exc_info]) == (1 if code == ErrorCode.UNKNOWN_SERVER_ERROR else 0)
        assert not client.transport.closing


class TestDeleteTopics:
    @pytest.mark.parametrize("version", range(1, 7))
    async def test_deletes(self, world: World, version: int) -> None:
        if version >= 6:
            request = DeleteTopicsRequest(topics=[DeleteTopicState(name="events"), DeleteTopicState(name=None, topic_id=ID)])
        else:
            request = DeleteTopicsRequest(topic_names=["events", "nope"])
        response = await world.client().acall(request, DeleteTopicsResponse, version)
        if version >= 6:
            assert [(one.name, one.topic_id, one.error_code) for one in response.responses] == [("events", ID, 0), ("events", ID, 0)]
            assert world.broker.controller.calls == [("delete", ["events", ID], 0)]
        else:
            assert [(one.name, one.error_code) for one in response.responses] == [("events", 0), ("nope", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)]

    async def test_errors(self, world: World) -> None:
        topics = [DeleteTopicState(name="events", topic_id=ID), DeleteTopicState(name=None, topic_id=bytes(15) + b"x")]
        response = await world.client().acall(DeleteTopicsRequest(topics=topics), DeleteTopicsResponse, 6)
        assert [one.error_code for one in response.responses] == [ErrorCode.INVALID_REQUEST, ErrorCode.UNKNOWN_TOPIC_ID]
        assert world.broker.controller.calls == []

    async def test_switched_off(self) -> None:
        world = World({"delete.topic.enable": "false"})
        response = await world.client().acall(DeleteTopicsRequest(topic_names=["x"]), DeleteTopicsResponse, 4)
        assert response.responses[0].error_code == ErrorCode.TOPIC_DELETION_DISABLED


@pytest.mark.parametrize("version", range(4))
async def test_create_partitions(world: World, version: int) -> None:
    topics = [
        CreatePartitionsTopic(name="events", count=5, assignments=None),
        CreatePartitionsTopic(name="nope", count=5, assignments=[CreatePartitionsAssignment(broker_ids=[1])]),
    ]
    response = await world.client().acall(CreatePartitionsRequest(topics=topics), CreatePartitionsResponse, version)
    assert [(one.name, one.error_code) for one in response.results] == [("events", 0), ("nope", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)]
    assert world.broker.controller.calls == [("partitions", [("events", 5, None)], 0, False)]
    response = await world.client().acall(
        CreatePartitionsRequest(topics=[CreatePartitionsTopic(name="events", count=3)]), CreatePartitionsResponse, version
    )
    assert response.results[0].error_code == ErrorCode.INVALID_PARTITIONS


@pytest.mark.parametrize("version", range(6))
async def test_init_producer_id(world: World, version: int) -> None:
    client = world.client()
    first = await client.acall(InitProducerIdRequest(transactional_id=None), InitProducerIdResponse, version)
    second = await client.acall(InitProducerIdRequest(transactional_id=None), InitProducerIdResponse, version)
    assert (first.error_code, first.producer_epoch) == (0, 0)
    assert second.producer_id != first.producer_id
    given = await client.acall(InitProducerIdRequest(transactional_id="tx", transaction_timeout_ms=7), InitProducerIdResponse, version)
    assert (given.error_code, given.producer_id, given.producer_epoch) == (0, 42, 1)
    assert world.broker.transactions.calls == [("init", "tx", 7, None)]
    assert (await client.acall(InitProducerIdRequest(transactional_id=""), InitProducerIdResponse, version)).error_code == ErrorCode.INVALID_REQUEST
    world.broker.controller.error = KafkaError(ErrorCode.REQUEST_TIMED_OUT)
    failed = await client.acall(InitProducerIdRequest(transactional_id=None), InitProducerIdResponse, version)
    assert failed.error_code == ErrorCode.REQUEST_TIMED_OUT


class TestDescribeConfigs:
    @pytest.mark.parametrize("version", range(1, 5))
    def test_topic(self, world: World, version: int) -> None:
        asked = DescribeConfigsResource(resource_type=2, resource_name="events", configuration_keys=None)
        request = DescribeConfigsRequest(resources=[asked], include_synonyms=True, include_documentation=True)
        (result,) = world.client().call(request, DescribeConfigsResponse, version).results
        configs = {one.name: one for one in result.configs}
        assert result.error_code == 0
        assert (configs["cleanup.policy"].value, configs["cleanup.policy"].config_source) == ("compact", 1)
        assert (configs["retention.ms"].value, configs["retention.ms"].config_source) == ("5000", 4)
        assert [(one.name, one.source) for one in configs["cleanup.policy"].synonyms] == [("cleanup.policy", 1), ("log.cleanup.policy", 5)]
        if version >= 3:
            assert configs["retention.ms"].config_type == 5
            assert configs["retention.ms"].documentation

    def test_some_keys(self, world: World) -> None:
        asked = DescribeConfigsResource(resource_type=2, resource_name="events", configuration_keys=["retention.ms", "no.such.key"])
        (result,) = world.client().call(DescribeConfigsRequest(resources=[asked]), DescribeConfigsResponse, 4).results
        assert [one.name for one in result.configs] == ["retention.ms"]

    def test_broker_and_dynamic(self, world: World) -> None:
        world.broker.change_image(broker_configs={1: {"max.connections": "7"}, -1: {"max.connections": "9"}})
        resources = [DescribeConfigsResource(resource_type=4, resource_name=name, configuration_keys=["max.connections"]) for name in ("1", "")]
        response = world.client().call(DescribeConfigsRequest(resources=resources, include_synonyms=True), DescribeConfigsResponse, 4)
        own, default = (one.configs[0] for one in response.results)
        assert (own.value, own.config_source) == ("7", 2)
        assert [one.source for one in own.synonyms] == [2, 3, 5]
        assert (default.value, default.config_source) == ("9", 3)

    def test_passwords_are_not_shown(self, world: World) -> None:
        asked = DescribeConfigsResource(resource_type=4, resource_name="1", configuration_keys=None)
        (result,) = world.client().call(DescribeConfigsRequest(resources=[asked], include_synonyms=True), DescribeConfigsResponse, 4).results
        assert all(one.value is None and all(s.value is None for s in one.synonyms) for one in result.configs if one.is_sensitive)

    @pytest.mark.parametrize(
        ("kind", "name", "code"),
        [
            (2, "nope", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
            (2, "", ErrorCode.INVALID_TOPIC_EXCEPTION),
            (4, "2", ErrorCode.INVALID_REQUEST),
            (4, "x", ErrorCode.INVALID_REQUEST),
            (8, "1", ErrorCode.INVALID_REQUEST),
        ],
    )
    def test_errors(self, world: World, kind: int, name: str, code: ErrorCode) -> None:
        asked = DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=None)
        (result,) = world.client().call(DescribeConfigsRequest(resources=[asked]), DescribeConfigsResponse, 4).results
        assert (result.error_code, bool(result.error_message)) == (code, True)


class TestListOffsets:
    def ask(self, *timestamps: int, partition: int = 0, topic: str = "events") -> ListOffsetsRequest:
        parts = [ListOffsetsPartition(partition_index=partition, timestamp=one) for one in timestamps]
        return ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=topic, partitions=parts)])

    @pytest.mark.parametrize("version", range(1, 12))
    def test_ends(self, world: World, version: int) -> None:
        partition = world.broker.partitions.get("events", 0)
        partition.append(memoryview(bytearray(batch())), 1, lambda result: None)
        response = world.client().call(self.ask(-1, -2), ListOffsetsResponse, version)
        latest, earliest = response.topics[0].partitions
        assert (latest.offset, earliest.offset) == (1, 0)
        assert latest.leader_epoch == (3 if version >= 4 else -1)

    @pytest.mark.parametrize(
        ("version", "timestamp", "code"), [(6, -3, 35), (7, -4, 35), (8, -5, 35), (10, -6, 35), (11, -7, 35), (11, -6, 0), (9, -5, 0)]
    )
    def test_special_places_by_version(self, world: World, version: int, timestamp: int, code: int) -> None:
        response = world.client().call(self.ask(timestamp), ListOffsetsResponse, version)
        assert response.topics[0].partitions[0].error_code == code

    def test_by_time_waits_for_the_disk(self, world: World) -> None:
        client = world.client()
        sent = client.send(2, 7, self.ask(50, -1).encode(7))
        assert client.answers() == []
        world.broker.partitions.get("events", 0).disk.pop()()
        response = decode_answer(client.answers()[0], sent, ListOffsetsResponse, 7)
        assert [(one.timestamp, one.offset) for one in response.topics[0].partitions] == [(77, 0), (-1, 0)]

    def test_errors(self, world: World) -> None:
        client = world.client()
        for partition, topic, code in ((2, "events", 6), (9, "events", 3), (0, "nope", 3)):
            response = client.call(self.ask(-1, partition=partition, topic=topic), ListOffsetsResponse, 7)
            assert response.topics[0].partitions[0].error_code == code
        assert client.call(ListOffsetsRequest(topics=[]), ListOffsetsResponse, 7).topics == []

    @pytest.mark.parametrize(("version", "code"), [(4, ErrorCode.LEADER_NOT_AVAILABLE), (5, ErrorCode.OFFSET_NOT_AVAILABLE)])
    def test_a_new_leader_is_told_so_that_the_client_asks_again(
        self, world: World, version: int, code: ErrorCode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """KIP-207: clients know OFFSET_NOT_AVAILABLE from v5 on."""
        partition = world.broker.partitions.get("events", 0)
        monkeypatch.setattr(partition, "list_offset", lambda *asked: asked[-1](ErrorCode.OFFSET_NOT_AVAILABLE, -1, -1, -1))
        answer = world.client().call(self.ask(-1), ListOffsetsResponse, version).topics[0].partitions[0]
        assert (answer.error_code, answer.offset) == (code, -1)


@pytest.mark.parametrize("version", range(2, 5))
def test_offset_for_leader_epoch(world: World, version: int) -> None:
    parts = [
        OffsetForLeaderPartition(partition=index, current_leader_epoch=epoch, leader_epoch=2) for index, epoch in ((0, 3), (1, 1), (2, -1), (9, -1))
    ]
    request = OffsetForLeaderEpochRequest(topics=[OffsetForLeaderTopic(topic="events", partitions=parts)])
    answers = world.client().call(request, OffsetForLeaderEpochResponse, version).topics[0].partitions
    assert [(one.partition, one.error_code) for one in answers] == [
        (0, 0),
        (1, ErrorCode.FENCED_LEADER_EPOCH),
        (2, ErrorCode.NOT_LEADER_OR_FOLLOWER),
        (9, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]
    assert (answers[0].leader_epoch, answers[0].end_offset) == (2, 0)
