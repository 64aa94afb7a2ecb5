"""The unary methods of chronik.raft.RaftService on a running cluster, as any gRPC client calls them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import grpc
import pytest

from raft.transport import chronik_raft_pb2 as pb
from raft.transport import chronik_raft_pb2_grpc as rpc
from tests.processes import NodeProcess, ProcessCluster, wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with ProcessCluster(tmp_path_factory.mktemp("cluster")) as running:
        wait_until("three voters", lambda: len(json.loads(running.nodes[1].get("/admin/cluster/partitions")[1])[0]["isr"]) == 3)
        yield running
        assert running.surprises() == []


@pytest.fixture(scope="module")
def stubs(cluster: ProcessCluster) -> Iterator[dict[int, rpc.RaftServiceStub]]:
    channels = {number: grpc.insecure_channel(f"127.0.0.1:{node.raft}") for number, node in cluster.nodes.items()}
    yield {number: rpc.RaftServiceStub(channel) for number, channel in channels.items()}
    for channel in channels.values():
        channel.close()


def statuses(stubs: dict[int, rpc.RaftServiceStub]) -> dict[int, pb.HeartbeatResponse]:
    return {number: stub.Heartbeat(pb.HeartbeatRequest(node_id=99), timeout=5) for number, stub in stubs.items()}


def settled(stubs: dict[int, rpc.RaftServiceStub]) -> tuple[int, int, dict[int, pb.HeartbeatResponse]]:
    """(leader, a follower, statuses) once all agree on leader and term and have the same log."""
    found: dict[int, pb.HeartbeatResponse] = {}

    def agreed() -> bool:
        found.update(statuses(stubs))
        same = {(s.leader_id, s.term, s.last_index, s.commit_index) for s in found.values()}
        return len(same) == 1 and all(s.leader_id and s.last_index == s.commit_index for s in found.values())

    wait_until("all nodes to agree", agreed, 30)
    leader = next(iter(found.values())).leader_id
    return leader, next(number for number in found if number != leader), found


def test_heartbeat_names_the_same_leader_everywhere(cluster: ProcessCluster, stubs: dict[int, rpc.RaftServiceStub]) -> None:
    leader, _, found = settled(stubs)
    assert {number: status.role for number, status in found.items()} == {n: "leader" if n == leader else "follower" for n in stubs}
    assert {number: status.node_id for number, status in found.items()} == {n: n for n in stubs}
    answers = {node.get("/admin/cluster/leader")[1] for node in cluster.nodes.values()}
    assert [json.loads(answer)["node_id"] for answer in answers] == [leader]


def test_isr_of_the_metadata_is_the_same_everywhere(cluster: ProcessCluster) -> None:
    def told(node: NodeProcess) -> list[int]:
        found: list[int] = json.loads(node.get("/admin/cluster/partitions")[1])[0]["isr"]
        return found

    wait_until("the isr everywhere", lambda: all(told(node) == [1, 2, 3] for node in cluster.nodes.values()), 20)


def test_a_pre_vote_is_refused_while_a_leader_is_alive_and_changes_nothing(stubs: dict[int, rpc.RaftServiceStub]) -> None:
    _, follower, found = settled(stubs)
    status = found[follower]
    request = pb.RequestVoteRequest(
        cluster_id=status.cluster_id,
        incarnation=1,
        sender=77,
        receiver=follower,
        term=status.term + 5,
        last_index=1 << 40,
        last_term=1 << 20,
        pre_vote=True,
    )
    answer = stubs[follower].RequestVote(request, timeout=8)
    assert not answer.granted
    assert answer.sender == follower
    assert statuses(stubs)[follower].term == status.term


def test_an_empty_append_is_checked_against_the_log(stubs: dict[int, rpc.RaftServiceStub]) -> None:
    leader, follower, found = settled(stubs)
    status = found[follower]
    request = pb.AppendEntriesRequest(
        cluster_id=status.cluster_id,
        incarnation=found[leader].incarnation,
        sender=leader,
        receiver=follower,
        term=status.term,
        previous_index=status.commit_index,
        previous_term=status.term,
        commit=status.commit_index,
    )
    answer = stubs[follower].AppendEntries(request, timeout=8)
    assert answer.success
    assert answer.match_index == status.commit_index
    request.previous_index += 1000
    answer = stubs[follower].AppendEntries(request, timeout=8)
    assert not answer.success
    assert answer.hint_index >= status.commit_index


def test_read_index_is_answered_by_the_leader_only(stubs: dict[int, rpc.RaftServiceStub]) -> None:
    leader, follower, found = settled(stubs)
    assert stubs[leader].ReadIndex(pb.ReadIndexRequest(), timeout=8).index >= found[leader].commit_index
    with pytest.raises(grpc.RpcError) as refused:
        stubs[follower].ReadIndex(pb.ReadIndexRequest(), timeout=8)
    assert refused.value.details() == f"not leader, leader is node {leader}"


def test_leadership_moves_when_it_is_asked_to(stubs: dict[int, rpc.RaftServiceStub]) -> None:
    leader, follower, found = settled(stubs)
    request = pb.TransferLeaderRequest(cluster_id=found[leader].cluster_id, target_node_id=follower)
    assert stubs[follower].TransferLeader(request, timeout=8).error_text == f"not leader, leader is node {leader}"
    assert stubs[leader].TransferLeader(request, timeout=8).accepted
    wait_until("the target to lead", lambda: all(status.leader_id == follower for status in statuses(stubs).values()), 20)
    with pytest.raises(grpc.RpcError) as refused:
        stubs[leader].TransferLeader(pb.TransferLeaderRequest(target_node_id=leader), timeout=8)
    assert "names no cluster" in refused.value.details()


def test_join_says_who_may_come_and_where(cluster: ProcessCluster, stubs: dict[int, rpc.RaftServiceStub]) -> None:
    leader, follower, found = settled(stubs)
    cluster_id = found[leader].cluster_id
    answer = stubs[follower].Join(pb.JoinRequest(node_id=9, address="h:1"), timeout=8)
    assert not answer.accepted
    assert (answer.leader_id, answer.leader_address) == (leader, f"127.0.0.1:{cluster.nodes[leader].raft}")
    assert answer.error_text == f"not leader, leader is node {leader}"

    answer = stubs[leader].Join(pb.JoinRequest(node_id=9, address="h:1"), timeout=8)
    assert answer.accepted
    assert answer.cluster_id == cluster_id
    answer = stubs[leader].Join(pb.JoinRequest(node_id=follower, address="h:1"), timeout=8)
    assert not answer.accepted
    assert f"unregister {follower}" in answer.error_text

    member = pb.JoinRequest(node_id=follower, cluster_id=cluster_id, address=f"127.0.0.1:{cluster.nodes[follower].raft}")
    assert stubs[leader].Join(member, timeout=8).accepted
    member.address = "elsewhere:1"
    assert "is registered at" in stubs[leader].Join(member, timeout=8).error_text
    stranger = stubs[leader].Join(pb.JoinRequest(node_id=9, cluster_id=cluster_id), timeout=8)
    assert "is not registered" in stranger.error_text
    with pytest.raises(grpc.RpcError) as refused:
        stubs[leader].Join(pb.JoinRequest(node_id=9, cluster_id=b"another-cluster!"), timeout=8)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
