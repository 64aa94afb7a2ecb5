"""Settings, records, directories, elections, reassignments, the quorum: what each answers, entry by entry."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.api import QuorumMember, QuorumStatus
from broker.errors import ErrorCode
from broker.handlers.registry import HANDLERS
from broker.protocol._generated import alter_configs as legacy
from broker.protocol._generated import incremental_alter_configs as incremental
from broker.protocol._generated.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ReassignablePartition,
    ReassignableTopic,
)
from broker.protocol._generated.alter_replica_log_dirs import (
    AlterReplicaLogDir,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse,
    AlterReplicaLogDirTopic,
)
from broker.protocol._generated.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopic,
)
from broker.protocol._generated.describe_log_dirs import DescribableLogDirTopic, DescribeLogDirsRequest, DescribeLogDirsResponse
from broker.protocol._generated.describe_quorum import (
    DescribeQuorumRequest,
    DescribeQuorumRequestPartitionData,
    DescribeQuorumRequestTopicData,
    DescribeQuorumResponse,
)
from broker.protocol._generated.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    TopicRequest,
)
from broker.protocol._generated.elect_leaders import ElectLeadersRequest, ElectLeadersResponse, TopicPartitions
from broker.protocol._generated.list_config_resources import ListConfigResourcesRequest, ListConfigResourcesResponse
from broker.protocol._generated.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
    ListPartitionReassignmentsTopics,
)
from broker.protocol._generated.unregister_broker import UnregisterBrokerRequest, UnregisterBrokerResponse
from tests.unit.handlers.fakes import World, batch, decode_answer


@pytest.fixture
def world() -> World:
    world = World()
    world.broker.add_topic("events", 3, {"cleanup.policy": "delete"}, elsewhere=[2])
    return world


async def call_with_time(world: World, request: Any, response: Any, version: int) -> Any:
    """A call whose handler waits on the clock: time goes on until it answers."""
    client = world.client()
    correlation = client.send(request.api_key, version, request.encode(version))
    for _ in range(500):
        await asyncio.sleep(0)
        if answers := client.answers():
            return decode_answer(answers[0], correlation, response, version)
        world.clock.advance(10)
    raise AssertionError("no answer")


class TestIncrementalAlterConfigs:
    def request(self, *configs: incremental.AlterableConfig, kind: int = 2, name: str = "events") -> incremental.IncrementalAlterConfigsRequest:
        resource = incremental.AlterConfigsResource(resource_type=kind, resource_name=name, configs=list(configs))
        return incremental.IncrementalAlterConfigsRequest(resources=[resource])

    @pytest.mark.parametrize("version", range(2))
    async def test_operations_reach_the_controller(self, world: World, version: int) -> None:
        changes = [("retention.ms", "5", 0), ("segment.ms", None, 1), ("cleanup.policy", "compact", 2), ("x", "y", 3)]
        request = self.request(*(incremental.AlterableConfig(name=n, value=v, config_operation=o) for n, v, o in changes))
        request.validate_only = True
        response = await world.client().acall(request, incremental.IncrementalAlterConfigsResponse, version)
        assert [(one.error_code, one.error_message, one.resource_type, one.resource_name) for one in response.responses] == [(0, None, 2, "events")]
        assert world.broker.controller.calls == [("configs", 2, "events", changes, True, False)]

    async def test_each_resource_fails_on_its_own(self, world: World) -> None:
        def resource(kind: int, name: str, *configs: tuple[str, str | None]) -> incremental.AlterConfigsResource:
            return incremental.AlterConfigsResource(
                resource_type=kind,
                resource_name=name,
                configs=[incremental.AlterableConfig(name=k, value=v, config_operation=0) for k, v in configs],
            )

        resources = [
            resource(2, "events", ("retention.ms", "wrong")),
            resource(2, "nope", ("retention.ms", "1")),
            resource(2, "bad name", ("retention.ms", "1")),
            resource(4, "1", ("a", "1"), ("a", "2")),
            resource(4, "2", ("a", None)),
            resource(8, "1", ("broker", "DEBUG")),
            resource(16, "m", ("x", "1")),
            resource(99, "x", ("x", "1")),
            resource(4, "", ("message.max.bytes", "5")),
        ]
        request = incremental.IncrementalAlterConfigsRequest(resources=resources)
        response = await world.client().acall(request, incremental.IncrementalAlterConfigsResponse, 1)
        assert [one.error_code for one in response.responses] == [
            ErrorCode.INVALID_CONFIG,
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ErrorCode.INVALID_TOPIC_EXCEPTION,
            *[ErrorCode.INVALID_REQUEST] * 5,
            ErrorCode.NONE,
        ]
        assert all(bool(one.error_message) == bool(one.error_code) for one in response.responses)

    async def test_repeated_resource(self, world: World) -> None:
        request = self.request(incremental.AlterableConfig(name="retention.ms", value="5"))
        request.resources = request.resources * 2
        response = await world.client().acall(request, incremental.IncrementalAlterConfigsResponse, 1)
        assert [one.error_code for one in response.responses] == [ErrorCode.INVALID_REQUEST] * 2
        assert world.broker.controller.calls == []


@pytest.mark.parametrize("version", range(3))
async def test_alter_configs_replaces(world: World, version: int) -> None:
    resource = legacy.AlterConfigsResource(resource_type=2, resource_name="events", configs=[legacy.AlterableConfig(name="retention.ms", value="7")])
    response = await world.client().acall(legacy.AlterConfigsRequest(resources=[resource]), legacy.AlterConfigsResponse, version)
    assert response.responses[0].error_code == 0
    assert world.broker.controller.calls == [("configs", 2, "events", [("retention.ms", "7", 0)], False, True)]
    resource.configs[0].value = None
    response = await world.client().acall(legacy.AlterConfigsRequest(resources=[resource]), legacy.AlterConfigsResponse, version)
    assert response.responses[0].error_code == ErrorCode.INVALID_REQUEST


def test_list_config_resources(world: World) -> None:
    def listed(version: int, *types: int) -> set[tuple[int, str]]:
        response = world.client().call(ListConfigResourcesRequest(resource_types=list(types)), ListConfigResourcesResponse, version)
        assert response.error_code == 0
        return {(one.resource_type if version else 16, one.resource_name) for one in response.config_resources}

    assert listed(0) == set()
    assert listed(1) == {(2, "events"), (4, "1"), (4, "2"), (8, "1"), (8, "2")}
    assert listed(1, 2, 16) == {(2, "events")}
    wrong = world.client().call(ListConfigResourcesRequest(resource_types=[3]), ListConfigResourcesResponse, 1)
    assert wrong.error_code == ErrorCode.UNSUPPORTED_VERSION


class TestDeleteRecords:
    def request(self, *wanted: tuple[str, int, int]) -> DeleteRecordsRequest:
        topics = [
            DeleteRecordsTopic(name=name, partitions=[DeleteRecordsPartition(partition_index=index, offset=offset)]) for name, index, offset in wanted
        ]
        return DeleteRecordsRequest(topics=topics, timeout_ms=1000)

    @pytest.mark.parametrize("version", range(3))
    async def test_answers_by_partition(self, world: World, version: int) -> None:
        world.broker.add_topic("keys", 1, {"cleanup.policy": "compact"})
        for _ in range(5):
            world.broker.partitions.get("events", 0).append(memoryview(bytearray(batch())), 1, lambda result: None)
        request = self.request(
            ("events", 0, 3), ("events", 1, 1), ("events", 2, 0), ("events", 7, 0), ("nope", 0, 0), ("keys", 0, 0), ("events", 0, -1)
        )
        response = await world.client().acall(request, DeleteRecordsResponse, version)
        told = [(topic.partitions[0].error_code, topic.partitions[0].low_watermark) for topic in response.topics]
        assert told == [
            (0, 3),
            (ErrorCode.OFFSET_OUT_OF_RANGE, -1),
            (ErrorCode.NOT_LEADER_OR_FOLLOWER, -1),
            (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1),
            (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1),
            (ErrorCode.POLICY_VIOLATION, -1),
            (0, 5),
        ]

    async def test_what_is_not_confirmed_is_unknown(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(world.broker.partitions.get("events", 0)), "advance_log_start", lambda self, offset, done: None)
        monkeypatch.setattr("broker.handlers.delete_records.TIMEOUT_MS_MIN", 1)
        request = self.request(("events", 0, 0))
        request.timeout_ms = 1
        client = world.client()
        client.send(21, 2, request.encode(2))
        for _ in range(200):
            await asyncio.sleep(0.001)
            answers = client.answers()
            if answers:
                break
        response, _ = DeleteRecordsResponse.decode(answers[0], 5, 2)
        assert response.topics[0].partitions[0].error_code == ErrorCode.REQUEST_TIMED_OUT


@pytest.mark.parametrize("version", range(1, 6))
def test_describe_log_dirs(world: World, version: int) -> None:
    (result,) = world.client().call(DescribeLogDirsRequest(topics=None), DescribeLogDirsResponse, version).results
    assert result.log_dir == "/data"
    assert [(one.name, [(p.partition_index, p.partition_size, p.is_future_key) for p in one.partitions]) for one in result.topics] == [
        ("events", [(0, 100, False), (1, 101, False)])
    ]
    if version >= 4:
        assert (result.total_bytes, result.usable_bytes) == (1000, 400)
    asked = [DescribableLogDirTopic(topic="events", partitions=[1, 9]), DescribableLogDirTopic(topic="nope", partitions=[0])]
    (result,) = world.client().call(DescribeLogDirsRequest(topics=asked), DescribeLogDirsResponse, version).results
    assert [(one.name, [p.partition_index for p in one.partitions]) for one in result.topics] == [("events", [1])]


@pytest.mark.parametrize("version", [1, 2])
def test_alter_replica_log_dirs(world: World, version: int) -> None:
    def directory(path: str, name: str, *partitions: int) -> AlterReplicaLogDir:
        return AlterReplicaLogDir(path=path, topics=[AlterReplicaLogDirTopic(name=name, partitions=list(partitions))])

    dirs = [directory("/data/", "events", 0, 2, 9), directory("/other", "events", 1), directory("data", "more", 0)]
    response = world.client().call(AlterReplicaLogDirsRequest(dirs=dirs), AlterReplicaLogDirsResponse, version)
    assert {(one.topic_name, p.partition_index): p.error_code for one in response.results for p in one.partitions} == {
        ("events", 0): 0,
        ("events", 2): ErrorCode.REPLICA_NOT_AVAILABLE,
        ("events", 9): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ("events", 1): ErrorCode.LOG_DIR_NOT_FOUND,
        ("more", 0): ErrorCode.LOG_DIR_NOT_FOUND,
    }


class TestElectLeaders:
    async def elect(self, world: World, partitions: list[TopicPartitions] | None, kind: int = 0, version: int = 2) -> dict[tuple[str, int], int]:
        request = ElectLeadersRequest(election_type=kind, topic_partitions=partitions, timeout_ms=500)
        response = await call_with_time(world, request, ElectLeadersResponse, version)
        assert response.error_code == 0
        return {(topic.topic, one.partition_id): one.error_code for topic in response.replica_election_results for one in topic.partition_result}

    @pytest.mark.parametrize("version", range(3))
    async def test_preferred(self, world: World, version: int) -> None:
        asked = [TopicPartitions(topic="events", partitions=[0, 2, 5]), TopicPartitions(topic="nope", partitions=[0])]
        assert await self.elect(world, asked, version=version) == {
            ("events", 0): ErrorCode.ELECTION_NOT_NEEDED,
            ("events", 2): 0,
            ("events", 5): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ("nope", 0): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        }
        group = world.broker.image.topics["events"].partitions[2].group_id
        assert world.broker.administration.transfers == [(group, 2, 1)]

    async def test_all_tells_only_what_happened(self, world: World) -> None:
        assert await self.elect(world, None) == {("events", 2): 0}

    async def test_preferred_is_down(self, world: World) -> None:
        world.broker.administration.running = frozenset({2})
        assert await self.elect(world, [TopicPartitions(topic="events", partitions=[2])]) == {("events", 2): ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE}

    async def test_not_done_in_time(self, world: World) -> None:
        world.broker.administration.stuck = True
        assert await self.elect(world, [TopicPartitions(topic="events", partitions=[2])]) == {("events", 2): ErrorCode.REQUEST_TIMED_OUT}

    async def test_unclean_is_refused(self, world: World) -> None:
        group = world.broker.image.topics["events"].partitions[0].group_id
        world.broker.leaders.known[group] = (-1, 3)
        assert await self.elect(world, [TopicPartitions(topic="events", partitions=[0, 1])], kind=1) == {
            ("events", 0): ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE,
            ("events", 1): ErrorCode.ELECTION_NOT_NEEDED,
        }

    async def test_unknown_kind(self, world: World) -> None:
        response = await world.client().acall(ElectLeadersRequest(election_type=7, topic_partitions=None), ElectLeadersResponse, 2)
        assert response.error_code == ErrorCode.INVALID_REQUEST


class TestReassignments:
    @pytest.mark.parametrize("version", range(2))
    async def test_alter(self, world: World, version: int) -> None:
        partitions = [ReassignablePartition(partition_index=0, replicas=[2, 1]), ReassignablePartition(partition_index=1, replicas=None)]
        topics = [
            ReassignableTopic(name="events", partitions=partitions),
            ReassignableTopic(name="__meta", partitions=[ReassignablePartition(partition_index=0, replicas=[1])]),
        ]
        request = AlterPartitionReassignmentsRequest(topics=topics, timeout_ms=77, allow_replication_factor_change=True)
        response = await world.client().acall(request, AlterPartitionReassignmentsResponse, version)
        assert response.error_code == 0
        told = [(topic.name, one.partition_index, one.error_code) for topic in response.responses for one in topic.partitions]
        assert told == [("events", 0, 0), ("events", 1, 0), ("__meta", 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)]
        assert world.broker.controller.calls == [("reassign", [("events", 0, (2, 1)), ("events", 1, None), ("", 0, (1,))], 77, True)]

    def test_list(self, world: World) -> None:
        from dataclasses import replace

        topic = world.broker.image.topics["events"]
        moving = replace(topic.partitions[1], replicas=(3, 2), original=(1, 2), leaving=(1,))
        topic = replace(topic, partitions=(topic.partitions[0], moving, topic.partitions[2]))
        world.broker.change_image(topics={"events": topic}, topics_by_id={topic.topic_id: topic})
        asked = [ListPartitionReassignmentsTopics(name="events", partition_indexes=[0, 1, 9]), ListPartitionReassignmentsTopics(name="nope")]
        for topics in (None, asked):
            response = world.client().call(ListPartitionReassignmentsRequest(topics=topics), ListPartitionReassignmentsResponse, 0)
            (told,) = response.topics
            (one,) = told.partitions
            assert (told.name, one.partition_index, one.replicas, one.adding_replicas, one.removing_replicas) == ("events", 1, [3, 2, 1], [3], [1])


class TestDescribeQuorum:
    def request(self, name: str, *partitions: int) -> DescribeQuorumRequest:
        asked = [DescribeQuorumRequestPartitionData(partition_index=index) for index in partitions]
        return DescribeQuorumRequest(topics=[DescribeQuorumRequestTopicData(topic_name=name, partitions=asked)])

    @pytest.mark.parametrize("version", range(3))
    async def test_describes(self, world: World, version: int) -> None:
        member = QuorumMember(1, "ab" * 16, 11, 5, 6)
        world.broker.administration.status = QuorumStatus(1, 4, 10, (member, QuorumMember(2, "odd", 9, -1, -1)), (QuorumMember(3, "", 0, -1, -1),))
        response = await world.client().acall(self.request("__cluster_metadata", 0, 1), DescribeQuorumResponse, version)
        known, unknown = response.topics[0].partitions
        assert (known.error_code, known.leader_id, known.leader_epoch, known.high_watermark) == (0, 1, 4, 10)
        assert [(one.replica_id, one.log_end_offset) for one in known.current_voters] == [(1, 11), (2, 9)]
        assert [one.replica_id for one in known.observers] == [3]
        assert unknown.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        if version >= 2:
            assert known.current_voters[0].replica_directory_id == b"\xab" * 16
            assert [(node.node_id, [(one.host, one.port) for one in node.listeners]) for node in response.nodes][:2] == [
                (1, [("n1", 9093)]),
                (2, [("n2", 9093)]),
            ]

    async def test_no_leader_and_other_topics(self, world: World) -> None:
        response = await world.client().acall(self.request("__meta", 0), DescribeQuorumResponse, 2)
        assert response.topics[0].partitions[0].error_code == ErrorCode.LEADER_NOT_AVAILABLE
        response = await world.client().acall(self.request("events", 0), DescribeQuorumResponse, 2)
        assert response.topics[0].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


class TestDescribeTopicPartitions:
    def pages(self, world: World, limit: int, *names: str) -> list[list[tuple[str, list[int]]]]:
        found, cursor = [], None
        while True:
            request = DescribeTopicPartitionsRequest(
                topics=[TopicRequest(name=name) for name in names], response_partition_limit=limit, cursor=cursor
            )
            response = world.client().call(request, DescribeTopicPartitionsResponse, 0)
            found.append([(topic.name, [one.partition_index for one in topic.partitions]) for topic in response.topics])
            if response.next_cursor is None:
                return found
            cursor = Cursor(topic_name=response.next_cursor.topic_name, partition_index=response.next_cursor.partition_index)

    def test_pages(self, world: World) -> None:
        world.broker.add_topic("alpha", 2)
        world.broker.add_topic("zeta", 1)
        everything = [("alpha", [0, 1]), ("events", [0, 1, 2]), ("zeta", [0])]
        assert self.pages(world, 100) == [everything]
        assert self.pages(world, 2) == [[("alpha", [0, 1])], [("events", [0, 1])], [("events", [2]), ("zeta", [0])]]
        assert self.pages(world, 0, "zeta", "alpha", "zeta") == [[("alpha", [0])], [("alpha", [1])], [("zeta", [0])]]

    def test_what_is_told(self, world: World) -> None:
        request = DescribeTopicPartitionsRequest(
            topics=[TopicRequest(name=name) for name in ("events", "nope", "bad name")], response_partition_limit=9
        )
        response = world.client().call(request, DescribeTopicPartitionsResponse, 0)
        codes = {topic.name: topic.error_code for topic in response.topics}
        assert codes == {"events": 0, "nope": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "bad name": ErrorCode.INVALID_TOPIC_EXCEPTION}
        first, _, elsewhere = next(topic for topic in response.topics if topic.name == "events").partitions
        assert (first.leader_id, first.replica_nodes, first.eligible_leader_replicas) == (1, [1, 2], [])
        assert elsewhere.leader_id == 2


async def test_unregister_broker(world: World) -> None:
    response = await world.client().acall(UnregisterBrokerRequest(broker_id=2), UnregisterBrokerResponse, 0)
    assert (response.error_code, response.error_message) == (0, None)
    response = await world.client().acall(UnregisterBrokerRequest(broker_id=9), UnregisterBrokerResponse, 0)
    assert response.error_code == ErrorCode.BROKER_ID_NOT_REGISTERED
    assert response.error_message


def test_every_key_is_served_once() -> None:
    keys = [module.KEY for module in HANDLERS]
    assert len(keys) == len(set(keys))
