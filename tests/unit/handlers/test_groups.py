"""The APIs of consumer groups, each in all its versions, in front of a real coordinator on a log in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from broker.api import AppendResult
from broker.errors import ErrorCode
from broker.protocol._generated.delete_groups import DeleteGroupsRequest, DeleteGroupsResponse
from broker.protocol._generated.describe_groups import DescribeGroupsRequest, DescribeGroupsResponse
from broker.protocol._generated.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from broker.protocol._generated.heartbeat import HeartbeatRequest, HeartbeatResponse
from broker.protocol._generated.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from broker.protocol._generated.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity
from broker.protocol._generated.list_groups import ListGroupsRequest, ListGroupsResponse
from broker.protocol._generated.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from broker.protocol._generated.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from broker.protocol._generated.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
)
from broker.protocol._generated.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
)
from broker.protocol._generated.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from broker.records.batch import prepared_batches, stamp
from tests.unit.coordinator.support import subscription
from tests.unit.handlers.fakes import Client, ManualClock, World, decode_answer

TOPIC = "__consumer_offsets"
EVENTS_ID = b"events".ljust(16, b"\0")
SETTINGS = {"group.initial.rebalance.delay.ms": "0", "offsets.topic.num.partitions": "1"}


class MemoryLog:
    """Commits everything in the next turn, while it leads."""

    leader_epoch = 3

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.leads = True
        self.serves = True
        self.end_offset = 0
        self.shard: Any = None

    def leadership(self) -> tuple[bool, bool]:
        return self.leads, self.leads and self.serves

    def append_prepared(self, batches: Sequence[bytearray], done: Callable[[AppendResult], None]) -> None:
        def commit() -> None:
            data = memoryview(bytearray().join(batches))
            self.end_offset = stamp(data, list(prepared_batches(data)), self.end_offset, 3)
            self.shard.on_data([data])
            done(AppendResult(ErrorCode.NONE))

        self.clock.call_soon(commit)


@pytest.fixture
def world() -> World:
    world = World(SETTINGS)
    world.broker.add_topic(TOPIC, 1)
    world.broker.add_topic("events", 3)
    world.log = MemoryLog(world.clock)  # type: ignore[attr-defined]
    shard = world.broker.coordination.groups.observe(0)
    world.log.shard = shard  # type: ignore[attr-defined]
    shard.attach(world.log)  # type: ignore[attr-defined]
    shard.restore(b"")
    shard.on_leadership(True)
    return world


@pytest.fixture
def client(world: World) -> Client:
    return world.client()


def join(world: World, client: Client, version: int = 9, member: str = "", **more: Any) -> Any:
    request = JoinGroupRequest(
        group_id="g",
        session_timeout_ms=10_000,
        rebalance_timeout_ms=60_000,
        member_id=member,
        protocol_type="consumer",
        protocols=[JoinGroupRequestProtocol(name="range", metadata=subscription("events"))],
        **more,
    )
    correlation = client.send(11, version, request.encode(version))
    world.clock.advance(0)
    (answer,) = client.answers()
    return decode_answer(answer, correlation, JoinGroupResponse, version)


def member_of(world: World, client: Client, version: int = 9) -> Any:
    joined = join(world, client, version)
    if joined.error_code == ErrorCode.MEMBER_ID_REQUIRED:
        joined = join(world, client, version, joined.member_id)
    assert joined.error_code == 0
    return joined


def stable(world: World, client: Client) -> Any:
    joined = member_of(world, client)
    assignments = [SyncGroupRequestAssignment(member_id=joined.member_id, assignment=b"mine")]
    request = SyncGroupRequest(group_id="g", generation_id=1, member_id=joined.member_id, assignments=assignments)
    assert client.call(request, SyncGroupResponse, 4).assignment == b"mine"
    return joined


def commit(client: Client, version: int, offset: int = 7, **more: Any) -> int:
    part = OffsetCommitRequestPartition(partition_index=0, committed_offset=offset, committed_leader_epoch=2, committed_metadata="m")
    unknown = OffsetCommitRequestPartition(partition_index=9, committed_offset=1)
    topic = OffsetCommitRequestTopic(name="events", topic_id=EVENTS_ID, partitions=[part, unknown])
    answer = client.call(OffsetCommitRequest(group_id="g", topics=[topic], **more), OffsetCommitResponse, version)
    first, second = answer.topics[0].partitions
    assert second.error_code == (first.error_code if first.error_code else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    return int(first.error_code)


@pytest.mark.parametrize("version", range(10))
def test_join_and_sync(world: World, client: Client, version: int) -> None:
    joined = member_of(world, client, version)
    assert (joined.generation_id, joined.protocol_name, joined.leader) == (1, "range", joined.member_id)
    assert joined.members[0].metadata == subscription("events")
    sync_version = min(version, 5)
    more: dict[str, Any] = {"protocol_type": "consumer", "protocol_name": "range"} if sync_version >= 5 else {}
    request = SyncGroupRequest(
        group_id="g",
        generation_id=1,
        member_id=joined.member_id,
        assignments=[SyncGroupRequestAssignment(member_id=joined.member_id, assignment=b"mine")],
        **more,
    )
    synced = client.call(request, SyncGroupResponse, sync_version)
    assert (synced.error_code, synced.assignment) == (0, b"mine")


@pytest.mark.parametrize("version", range(10))
def test_a_refused_join(world: World, client: Client, version: int) -> None:
    refused = join(world, client, version, member="nobody")
    assert (refused.error_code, refused.member_id, refused.generation_id) == (ErrorCode.UNKNOWN_MEMBER_ID, "nobody", -1)


@pytest.mark.parametrize("version", range(5))
def test_heartbeat(world: World, client: Client, version: int) -> None:
    joined = stable(world, client)
    beat = HeartbeatRequest(group_id="g", generation_id=1, member_id=joined.member_id)
    assert client.call(beat, HeartbeatResponse, version).error_code == 0
    beat.generation_id = 2
    assert client.call(beat, HeartbeatResponse, version).error_code == ErrorCode.ILLEGAL_GENERATION
    beat.group_id = ""
    assert client.call(beat, HeartbeatResponse, version).error_code == ErrorCode.INVALID_GROUP_ID


@pytest.mark.parametrize("version", range(6))
def test_leave(world: World, client: Client, version: int) -> None:
    joined = stable(world, client)
    members = [MemberIdentity(member_id=joined.member_id), MemberIdentity(member_id="nobody")]
    request = LeaveGroupRequest(group_id="g", member_id=joined.member_id, members=members if version >= 3 else [])
    answer = client.call(request, LeaveGroupResponse, version)
    assert answer.error_code == 0
    if version >= 3:
        assert [one.error_code for one in answer.members] == [0, ErrorCode.UNKNOWN_MEMBER_ID]


@pytest.mark.parametrize("version", range(2, 11))
def test_offset_commit(client: Client, version: int) -> None:
    assert commit(client, version, generation_id_or_member_epoch=-1) == 0
    code = ErrorCode.GROUP_ID_NOT_FOUND if version >= 9 else ErrorCode.ILLEGAL_GENERATION
    other = OffsetCommitRequestTopic(name="none", topic_id=b"x" * 16, partitions=[OffsetCommitRequestPartition(partition_index=0)])
    answer = client.call(OffsetCommitRequest(group_id="h", topics=[other]), OffsetCommitResponse, version)
    missing = ErrorCode.UNKNOWN_TOPIC_ID if version >= 10 else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert answer.topics[0].partitions[0].error_code == missing
    request = OffsetCommitRequest(group_id="other", generation_id_or_member_epoch=4, member_id="m", topics=[other])
    assert client.call(request, OffsetCommitResponse, version).topics[0].partitions[0].error_code == code


@pytest.mark.parametrize("version", range(1, 11))
def test_offset_fetch(client: Client, version: int) -> None:
    commit(client, 9, generation_id_or_member_epoch=-1)
    if version < 8:
        wanted = [OffsetFetchRequestTopic(name="events", partition_indexes=[0, 1])]
        answer = client.call(OffsetFetchRequest(group_id="g", topics=wanted), OffsetFetchResponse, version)
        topic = answer.topics[0]
    else:
        asked = [OffsetFetchRequestTopics(name="events", topic_id=EVENTS_ID, partition_indexes=[0, 1])]
        groups = [OffsetFetchRequestGroup(group_id="g", topics=asked), OffsetFetchRequestGroup(group_id="none", topics=None)]
        answer = client.call(OffsetFetchRequest(groups=groups), OffsetFetchResponse, version)
        assert [one.error_code for one in answer.groups] == [0, 0] and not answer.groups[1].topics
        topic = answer.groups[0].topics[0]
        assert topic.topic_id == (EVENTS_ID if version >= 10 else bytes(16))
    assert [(p.partition_index, p.committed_offset, p.metadata) for p in topic.partitions] == [(0, 7, "m"), (1, -1, "")]
    if version >= 5:
        assert topic.partitions[0].committed_leader_epoch == 2


@pytest.mark.parametrize("version", range(2, 11))
def test_fetch_all_offsets(client: Client, version: int) -> None:
    commit(client, 9, generation_id_or_member_epoch=-1)
    if version < 8:
        topics = client.call(OffsetFetchRequest(group_id="g", topics=None), OffsetFetchResponse, version).topics
    else:
        request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id="g", topics=None)])
        topics = client.call(request, OffsetFetchResponse, version).groups[0].topics
    assert [p.committed_offset for topic in topics for p in topic.partitions] == [7]


def test_fetch_of_an_unknown_topic_id(client: Client) -> None:
    asked = [OffsetFetchRequestTopics(topic_id=b"x" * 16, partition_indexes=[0])]
    request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id="g", topics=asked)])
    answer = client.call(request, OffsetFetchResponse, 10)
    assert answer.groups[0].topics[0].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_ID


@pytest.mark.parametrize("version", range(7))
def test_describe(world: World, client: Client, version: int) -> None:
    joined = stable(world, client)
    request = DescribeGroupsRequest(groups=["g", "none"], include_authorized_operations=version >= 3)
    found, missing = client.call(request, DescribeGroupsResponse, version).groups
    assert (found.group_state, found.protocol_type, found.protocol_data) == ("Stable", "consumer", "range")
    assert [(m.member_id, m.client_id, m.client_host, m.member_assignment) for m in found.members] == [
        (joined.member_id, "test", "/10.0.0.9", b"mine")
    ]
    assert (missing.group_state, missing.error_code) == ("Dead", ErrorCode.GROUP_ID_NOT_FOUND if version >= 6 else 0)


@pytest.mark.parametrize("version", range(6))
def test_list(world: World, client: Client, version: int) -> None:
    stable(world, client)
    answer = client.call(ListGroupsRequest(), ListGroupsResponse, version)
    assert [(g.group_id, g.protocol_type) for g in answer.groups] == [("g", "consumer")]
    if version >= 4:
        assert answer.groups[0].group_state == "Stable"
        assert not client.call(ListGroupsRequest(states_filter=["Empty"]), ListGroupsResponse, version).groups
        assert client.call(ListGroupsRequest(states_filter=["stable"]), ListGroupsResponse, version).groups
    if version >= 5:
        assert not client.call(ListGroupsRequest(types_filter=["share"]), ListGroupsResponse, version).groups
        assert client.call(ListGroupsRequest(types_filter=["Classic"]), ListGroupsResponse, version).groups[0].group_type == "classic"


@pytest.mark.parametrize("version", range(3))
def test_delete_groups(client: Client, version: int) -> None:
    commit(client, 9, generation_id_or_member_epoch=-1)
    answer = client.call(DeleteGroupsRequest(groups_names=["g", "none"]), DeleteGroupsResponse, version)
    assert [(one.group_id, one.error_code) for one in answer.results] == [("g", 0), ("none", ErrorCode.GROUP_ID_NOT_FOUND)]
    assert client.call(DeleteGroupsRequest(groups_names=[]), DeleteGroupsResponse, version).results == []


def test_offset_delete(client: Client) -> None:
    commit(client, 9, generation_id_or_member_epoch=-1)
    parts = [OffsetDeleteRequestPartition(partition_index=0), OffsetDeleteRequestPartition(partition_index=9)]
    request = OffsetDeleteRequest(group_id="g", topics=[OffsetDeleteRequestTopic(name="events", partitions=parts)])
    answer = client.call(request, OffsetDeleteResponse, 0)
    assert [one.error_code for one in answer.topics[0].partitions] == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert client.call(request, OffsetDeleteResponse, 0).error_code == ErrorCode.GROUP_ID_NOT_FOUND, "nothing was left of it"


@pytest.mark.parametrize("version", range(7))
async def test_find_coordinator(world: World, client: Client, version: int) -> None:
    request = FindCoordinatorRequest(key="g", coordinator_keys=["g", "h"] if version >= 4 else [])
    answer = await client.acall(request, FindCoordinatorResponse, version)
    found = answer.coordinators if version >= 4 else [answer]
    assert [(one.error_code, one.node_id, one.host, one.port) for one in found] == [(0, 1, "10.0.0.1", 9092)] * len(found)
    if version >= 1:
        request.key_type = 2
        answer = await client.acall(request, FindCoordinatorResponse, version)
        found = answer.coordinators if version >= 4 else [answer]
        assert {one.error_code for one in found} == {ErrorCode.INVALID_REQUEST}


async def test_the_first_who_asks_makes_the_topic() -> None:
    world = World(SETTINGS)
    answer = await world.client().acall(FindCoordinatorRequest(key="g"), FindCoordinatorResponse, 3)
    assert answer.node_id == 1
    _, (topic,), _, _ = world.broker.controller.calls[0]
    assert (topic.name, topic.partitions, topic.replication_factor) == (TOPIC, 1, 2)
    assert topic.configs["cleanup.policy"] == "compact"


async def test_who_asks_for_its_metadata_makes_the_same_topic() -> None:
    world = World(SETTINGS)
    request = MetadataRequest(topics=[MetadataRequestTopic(name=TOPIC)], allow_auto_topic_creation=True)
    await world.client().acall(request, MetadataResponse, 9)
    _, (topic,), _, _ = world.broker.controller.calls[0]
    assert topic.configs["cleanup.policy"] == "compact"


def test_while_the_coordinator_takes_over(world: World, client: Client) -> None:
    """Members wait for it, and none takes it for an end."""
    world.log.serves = False  # type: ignore[attr-defined]
    assert client.call(HeartbeatRequest(group_id="g", generation_id=1, member_id="m"), HeartbeatResponse, 4).error_code == 0
    sync = SyncGroupRequest(group_id="g", generation_id=1, member_id="m")
    assert client.call(sync, SyncGroupResponse, 3).error_code == ErrorCode.REBALANCE_IN_PROGRESS
    assert commit(client, 9) == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    assert join(world, client, 5).error_code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS


def test_not_the_coordinator(world: World, client: Client) -> None:
    world.log.leads = False  # type: ignore[attr-defined]
    assert commit(client, 9) == ErrorCode.NOT_COORDINATOR
    assert client.call(HeartbeatRequest(group_id="g"), HeartbeatResponse, 4).error_code == ErrorCode.NOT_COORDINATOR
    assert client.call(ListGroupsRequest(), ListGroupsResponse, 4).groups == []
    asked = [OffsetFetchRequestTopic(name="events", partition_indexes=[0])]
    answer = client.call(OffsetFetchRequest(group_id="g", topics=asked), OffsetFetchResponse, 1)
    assert answer.topics[0].partitions[0].error_code == ErrorCode.NOT_COORDINATOR
    assert client.call(OffsetFetchRequest(group_id="g", topics=asked), OffsetFetchResponse, 7).error_code == ErrorCode.NOT_COORDINATOR
    request = DescribeGroupsRequest(groups=["g"])
    assert client.call(request, DescribeGroupsResponse, 5).groups[0].error_code == ErrorCode.NOT_COORDINATOR
