"""The admin interface and the gRPC services of a live three-node cluster: the same view everywhere, honest when something is wrong."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.integration.support import make_topic, produce, producer_of
from tests.processes import NodeProcess, ProcessCluster, wait_until

METRICS = (
    "chronik_cluster_nodes",
    "chronik_raft_state",
    'chronik_raft_term{partition="__meta"}',
    "chronik_raft_log_index",
    "chronik_raft_append_latency_ms_bucket",
    "chronik_raft_append_latency_ms_count",
    "chronik_raft_snapshot_size_bytes",
    "kraft_leader_id",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with ProcessCluster(tmp_path_factory.mktemp("cluster")) as running:
        make_topic(running, "orders", 3)
        for partition in range(3):
            produce(producer_of(running), "orders", [b"x"], partition)
        yield running
        assert running.surprises() == []


def get(node: NodeProcess, path: str) -> Any:
    status, body = node.get(path)
    assert status == 200, f"{path}: {status} {body}"
    return json.loads(body)


def test_every_node_tells_the_same(cluster: ProcessCluster) -> None:
    def views(path: str) -> list[Any]:
        return [get(node, path) for node in cluster.nodes.values()]

    wait_until("three voters", lambda: all(len(found) == 3 and "learner" not in str(found) for found in views("/admin/cluster/members")))
    leader = views("/admin/cluster/leader")
    assert leader[0] == leader[1] == leader[2] and {"node_id", "addr", "term"} <= leader[0].keys()
    names = [[(m["node_id"], m["addr"], m["state"]) for m in view] for view in views("/admin/cluster/members")]
    assert names[0] == names[1] == names[2] and [state for _, _, state in names[0]].count("leader") == 1
    assert {number: addr for number, addr, _ in names[0]} == {n.node: f"127.0.0.1:{n.raft}" for n in cluster.nodes.values()}
    wait_until("all in sync", lambda: all(len(row["isr"]) == 3 for view in views("/admin/cluster/partitions") for row in view))

    def same() -> bool:
        partitions = views("/admin/cluster/partitions")
        return bool(partitions[0] == partitions[1] == partitions[2])

    wait_until("the same partitions everywhere", same)
    rows = views("/admin/cluster/partitions")[0]
    assert [(row["topic"], row["partition"]) for row in rows] == [("__meta", 0), ("orders", 0), ("orders", 1), ("orders", 2)]
    assert all(row["leader"] in row["isr"] and row["replicas"] == [1, 2, 3] for row in rows if row["topic"] == "__meta")
    for node in cluster.nodes.values():
        body = node.get("/admin/cluster/partitions")[1]
        assert [line for line in body.splitlines() if "__meta" in line and '"leader"' in line]  # one per line, for grep
        summary = get(node, "/admin/cluster")
        assert summary["leader"] == leader[0] and len(summary["members"]) == 3
        info = get(node, "/admin/node/info")
        assert info["node_id"] == node.node and info["pid"] == node.pid
        health = get(node, "/health")
        assert health["status"] == "healthy" and health["cluster_size"] == 3 and health["is_leader"] == (leader[0]["node_id"] == node.node)


def test_metrics_of_the_contract(cluster: ProcessCluster) -> None:
    leader = get(cluster.nodes[1], "/admin/cluster/leader")["node_id"]
    for node in cluster.nodes.values():
        text = node.get("/metrics")[1]
        for name in METRICS:
            assert re.search(rf"^{re.escape(name)}", text, re.MULTILINE), name
        assert "chronik_cluster_nodes 3.0" in text and f"kraft_leader_id {leader}.0" in text
        assert f"chronik_raft_state {1 if node.node == leader else 0}.0" in text
    text = cluster.nodes[leader].get("/metrics")[1]
    for follower in {1, 2, 3} - {leader}:
        assert f'chronik_raft_replication_lag_entries{{node="{follower}"}}' in text
        assert f'chronik_raft_replication_lag_ms{{node="{follower}"}}' in text


def test_wrong_paths_and_methods_are_explained(cluster: ProcessCluster) -> None:
    status, body = cluster.nodes[1].get("/admin/cluster/partition")
    assert status == 404 and "/admin/cluster/partitions" in body


def test_health_is_honest(cluster: ProcessCluster) -> None:
    one, two, three = cluster.nodes.values()
    three.send(signal.SIGKILL)
    three.kill()

    def reachable() -> list[bool]:
        return [member["reachable"] for member in get(one, "/admin/cluster/members")]

    wait_until("node 3 to be seen as gone", lambda: reachable() == [True, True, False], 20)
    wait_until("a leader", lambda: one.get("/health")[0] == 200, 20)  # two of three serve
    two.kill()
    wait_until("no quorum to be told", lambda: one.get("/health")[0] == 503, 20)
    body = json.loads(one.get("/health")[1])
    assert body["status"] == "unhealthy" and any("majority" in reason for reason in body["reasons"]), body
    assert one.get("/health/live")[0] == 200
    assert one.get("/health/ready")[0] == 503 and "no_leader" in one.get("/health/ready")[1]
    assert one.get("/admin/cluster/leader")[0] == 503
    assert "kraft_leader_id 0.0" in one.get("/metrics")[1]
    two.start()
    three.start()
    cluster.wait_ready()
    wait_until("health everywhere", lambda: all(node.get("/health")[0] == 200 for node in cluster.nodes.values()), 20)


def test_grpc_services_are_listed_and_answer(cluster: ProcessCluster) -> None:
    """What `grpcurl -plaintext HOST:PORT list` and a unary Heartbeat do, by the reflection client."""
    for node in cluster.nodes.values():
        with grpc.insecure_channel(f"127.0.0.1:{node.raft}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            assert {"chronik.raft.RaftService", "grpc.health.v1.Health"} <= set(database.get_services())
            service = DescriptorPool(database).FindServiceByName("chronik.raft.RaftService")
            methods = {method.name: method for method in service.methods}
            assert {"AppendEntries", "RequestVote", "InstallSnapshot", "ReadIndex", "TransferLeader", "Heartbeat"} <= methods.keys()
            method = methods["Heartbeat"]
            request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
            call = channel.unary_unary(
                "/chronik.raft.RaftService/Heartbeat", request_serializer=request.SerializeToString, response_deserializer=response.FromString
            )
            print(call(request(), timeout=5))
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
