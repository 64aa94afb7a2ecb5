"""The unary methods, reflection and health, as tools see them; and that the generated code is up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import grpc
import pytest
from crc32c import crc32c
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from raft.core.message import Message, MessageType
from raft.transport import chronik_raft_pb2 as pb
from raft.transport import chronik_raft_pb2_grpc as rpc
from raft.transport import generate
from raft.transport.options import RemoteError
from raft.transport.services import GroupStatus, JoinRequest, JoinResponse
from tests.unit.raft_transport.harness import CLUSTER, Node
from wal.entry import META_GROUP, META_TOPIC_ID, GroupId, group_id

MakeNode = Callable[..., Node]
OTHER = group_id(b"topic-id-of-16-b", 3)


class Inspector:
    """Leads __meta, follows OTHER, knows nothing else."""

    def __init__(self) -> None:
        self.stepped: list[tuple[GroupId, Message]] = []
        self.joined: list[JoinRequest] = []

    def status(self, group: GroupId) -> GroupStatus | None:
        return {META_GROUP: GroupStatus(5, 2, 17, "leader", 18, 16), OTHER: GroupStatus(6, 3, 4, "follower")}.get(group)

    async def read_index(self, group: GroupId) -> int:
        return 17 if group == META_GROUP else -1

    def transfer(self, group: GroupId, target: int) -> str:
        return "" if group == META_GROUP else "not leader, leader is node 3"

    async def step_unary(self, group: GroupId, message: Message) -> Message:
        self.stepped.append((group, message))
        if group == OTHER:
            raise RemoteError(0, "the replica is quarantined")
        if message.type is MessageType.APPEND:
            return Message(MessageType.APPEND_RESPONSE, 2, 1, 5, message.index + len(message.entries))
        return Message(MessageType.VOTE_RESPONSE, 2, 1, 5, reject=message.type is MessageType.VOTE)

    async def join(self, request: JoinRequest) -> JoinResponse:
        self.joined.append(request)
        return JoinResponse(False, CLUSTER, 3, "node3:9093", "not leader, leader is node 3")


@pytest.fixture
async def node(make_node: MakeNode) -> tuple[Node, Inspector]:
    two, inspector = make_node(2), Inspector()
    await two.start(inspector)
    return two, inspector


async def test_a_heartbeat_needs_nothing_but_a_node_id(node: tuple[Node, Inspector]) -> None:
    """grpcurl -plaintext -d '{"node_id": 1}' node2:9093 chronik.raft.RaftService/Heartbeat"""
    two, _ = node
    async with grpc.aio.insecure_channel(two.address) as channel:
        answer = await rpc.RaftServiceStub(channel).Heartbeat(json_format.Parse('{"node_id": 1}', pb.HeartbeatRequest()))
    found = json_format.MessageToDict(answer, preserving_proto_field_name=True)
    assert {key: found[key] for key in ("node_id", "term", "leader_id", "commit_index", "role")} == {
        "node_id": 2,
        "term": "5",
        "leader_id": 2,
        "commit_index": "17",
        "role": "leader",
    }
    assert answer.cluster_id == CLUSTER
    assert answer.incarnation == 1


async def test_a_heartbeat_of_another_group(node: tuple[Node, Inspector]) -> None:
    two, _ = node
    async with grpc.aio.insecure_channel(two.address) as channel:
        stub = rpc.RaftServiceStub(channel)
        answer = await stub.Heartbeat(pb.HeartbeatRequest(node_id=1, topic_id=OTHER[:16], partition=3))
        assert (answer.term, answer.leader_id, answer.role, answer.partition) == (6, 3, "follower", 3)
        for request, text in (
            (pb.HeartbeatRequest(topic_id=META_TOPIC_ID, partition=1), "no replica of this group"),
            (pb.HeartbeatRequest(topic_id=b"short"), "16 bytes"),
            (pb.HeartbeatRequest(topic_id=OTHER[:16], partition=-1), "not negative"),
            (pb.HeartbeatRequest(cluster_id=b"quite-another-id"), "belongs to cluster"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=text):
                await stub.Heartbeat(request)


def vote(**fields: Any) -> pb.RequestVoteRequest:
    values = {"cluster_id": CLUSTER, "incarnation": 1, "sender": 1, "receiver": 2, "term": 5, "last_index": 8, "last_term": 4}
    return pb.RequestVoteRequest(**{**values, **fields})


async def test_votes_step_into_the_core_and_answer(node: tuple[Node, Inspector]) -> None:
    two, inspector = node
    async with grpc.aio.insecure_channel(two.address) as channel:
        stub = rpc.RaftServiceStub(channel)
        assert (await stub.RequestVote(vote(pre_vote=True))).granted
        answer = await stub.RequestVote(vote())
        assert not answer.granted
        assert answer.term == 5
        types = [message.type for _, message in inspector.stepped]
        assert types == [MessageType.PRE_VOTE, MessageType.VOTE]
        group, message = inspector.stepped[0]
        assert (group, message.sender, message.receiver, message.term, message.index, message.log_term) == (META_GROUP, 1, 2, 5, 8, 4)
        for request, text in (
            (vote(cluster_id=b""), "names no cluster"),
            (vote(cluster_id=b"quite-another-id"), "belongs to cluster"),
            (vote(sender=2), "can not be that of another node"),
            (vote(topic_id=OTHER[:16], partition=3), "quarantined"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=text):
                await stub.RequestVote(request)
        with pytest.raises(grpc.aio.AioRpcError, match="malformed RequestVoteRequest"):
            await channel.unary_unary("/chronik.raft.RaftService/RequestVote")(b"\xff")
    assert len(inspector.stepped) == 3


async def test_append_entries(node: tuple[Node, Inspector]) -> None:
    two, inspector = node
    record = pb.EntryRecord(kind=1, term=5, index=8, base_offset=3, record_count=2, payload=b"abc", payload_crc=crc32c(b"abc"))
    request = pb.AppendEntriesRequest(
        cluster_id=CLUSTER, incarnation=1, sender=1, receiver=2, term=5, previous_index=7, previous_term=4, commit=6, entries=[record]
    )
    async with grpc.aio.insecure_channel(two.address) as channel:
        stub = rpc.RaftServiceStub(channel)
        answer = await stub.AppendEntries(request)
        assert (answer.success, answer.match_index) == (True, 8)
        [(_, message)] = inspector.stepped
        [entry] = message.entries
        assert (entry.term, entry.index, entry.payload(), entry.base_offset, entry.record_count) == (5, 8, b"abc", 3, 2)
        for change in ({"payload_crc": 1}, {"index": 9}, {"kind": 9}, {"term": 6}):
            bad = pb.AppendEntriesRequest()
            bad.CopyFrom(request)
            for name, value in change.items():
                setattr(bad.entries[0], name, value)
            with pytest.raises(grpc.aio.AioRpcError, match="out of order"):
                await stub.AppendEntries(bad)


async def test_read_index_transfer_and_join(node: tuple[Node, Inspector]) -> None:
    two, inspector = node
    async with grpc.aio.insecure_channel(two.address) as channel:
        stub = rpc.RaftServiceStub(channel)
        assert (await stub.ReadIndex(pb.ReadIndexRequest(node_id=1))).index == 17
        with pytest.raises(grpc.aio.AioRpcError, match="not leader, leader is node 3"):
            await stub.ReadIndex(pb.ReadIndexRequest(topic_id=OTHER[:16], partition=3))
        assert (await stub.TransferLeader(pb.TransferLeaderRequest(cluster_id=CLUSTER, target_node_id=3))).accepted
        refused = await stub.TransferLeader(pb.TransferLeaderRequest(cluster_id=CLUSTER, topic_id=OTHER[:16], partition=3))
        assert (refused.accepted, refused.error_text) == (False, "not leader, leader is node 3")
        with pytest.raises(grpc.aio.AioRpcError, match="names no cluster"):
            await stub.TransferLeader(pb.TransferLeaderRequest(target_node_id=3))
        answer = await stub.Join(pb.JoinRequest(node_id=4, address="node4:9093", incarnation=2, rack="r"))
        assert inspector.joined == [JoinRequest(4, b"", 2, "node4:9093", "r")]
        assert (answer.accepted, answer.cluster_id, answer.leader_id, answer.leader_address, answer.node_id) == (False, CLUSTER, 3, "node3:9093", 2)


async def test_before_it_is_attached_a_node_says_that_it_starts(make_node: MakeNode) -> None:
    two = make_node(2)
    await two.network.start()
    async with grpc.aio.insecure_channel(two.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="starting"):
            await rpc.RaftServiceStub(channel).Heartbeat(pb.HeartbeatRequest(node_id=1))


async def test_reflection_lists_and_describes_the_services(node: tuple[Node, Inspector]) -> None:
    two, _ = node

    def ask() -> tuple[list[str], Any]:
        with grpc.insecure_channel(two.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            return list(database.get_services()), pool.FindServiceByName("chronik.raft.RaftService")

    services, description = await asyncio.to_thread(ask)
    assert {"chronik.raft.RaftService", "chronik.cluster.ClusterService", "grpc.health.v1.Health"} <= set(services)
    methods = {method.name for method in description.methods}
    assert methods == {"Exchange", "InstallSnapshot", "Heartbeat", "RequestVote", "AppendEntries", "ReadIndex", "TransferLeader", "Join"}
    request = GetMessageClass(description.methods_by_name["Heartbeat"].input_type)
    assert json_format.Parse('{"node_id": 1}', request()).node_id == 1


async def test_reflection_answers_under_its_newer_name_too(node: tuple[Node, Inspector]) -> None:
    from grpc_reflection.v1alpha import reflection_pb2

    two, _ = node
    async with grpc.aio.insecure_channel(two.address) as channel:
        call = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answers = [answer async for answer in call]
        assert "chronik.raft.RaftService" in {service.name for service in answers[0].list_services_response.service}


async def test_health_is_serving_until_the_node_stops(node: tuple[Node, Inspector]) -> None:
    two, _ = node
    async with grpc.aio.insecure_channel(two.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "chronik.raft.RaftService", "chronik.cluster.ClusterService"):
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Check(health_pb2.HealthCheckRequest(service="none"))
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await two.network.stop()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_the_generated_code_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("grpc_tools")
    if f"GRPC_GENERATED_VERSION = '{version('grpcio-tools')}'" not in (generate.HERE / "chronik_raft_pb2_grpc.py").read_text():
        pytest.skip("made by another version of the compiler")
    assert generate.main(["--check"]) == 0
    assert generate.main(["--wrong"]) == 2
    assert "usage" in capsys.readouterr().err
