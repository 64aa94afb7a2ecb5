"""What the view shows of a node, from the first moment of its start to a running cluster, with a node put together of plain values."""

import asyncio
from types import SimpleNamespace

import httpx
import pytest

from admin_api.app import create_app
from admin_api.metrics import MetricsText
from broker.config import single_node
from broker.metadata.image import BrokerImage, MetadataImage, PartitionImage, TopicImage
from broker.network.stats import NetworkStats
from broker.view import NodeView
from raft.api import ReplicaStatus
from raft.core.core import Role
from raft.core.membership import Membership
from wal.entry import META_GROUP, group_id
from wal.metrics import Histogram

ORDERS = bytes(15) + b"\x07"


class Leaders:
    def leader_of(self, group):
        return (2, 5) if group == group_id(ORDERS, 0) else (-1, -1)

    def isr_of(self, group):
        return (3, 2) if group == group_id(ORDERS, 0) else ()


def make_image():
    partitions = tuple(PartitionImage(number, group_id(ORDERS, number), (2, 3, 1), (1, 2, 3)) for number in (0, 1))
    topic = TopicImage("orders", ORDERS, partitions)
    brokers = {number: BrokerImage(number, "", 9092, f"node{number}:9093", 8080) for number in (1, 2, 3)}
    return MetadataImage(9, "ab" * 16, brokers, {"orders": topic}, {ORDERS: topic})


@pytest.fixture
def node(tmp_path):
    """A node in the first moment of its start."""
    stats = NetworkStats()
    produce = stats.api(0, "Produce")
    produce.requests += 1
    produce.observe(1_500_000)
    return SimpleNamespace(
        node_id=1,
        config=single_node(tmp_path),
        settings={"replica.lag.time.max.ms": 1000},
        stage="not_initialized",
        reasons=(),
        image=MetadataImage(),
        leaders=Leaders(),
        links=SimpleNamespace(own_address="node1:9093", peers={}),
        meta=None,
        driver=None,
        store=None,
        stats=stats,
        flush_ms=Histogram((1, 10)),
        pressure=SimpleNamespace(times_paused=0),
        clock=SimpleNamespace(now_ms=lambda: 50_000),
        started_ms=20_000,
        incarnation=4,
        failure=asyncio.Future(loop=asyncio.new_event_loop()),
    )


def run(node, role=Role.LEADER, leader=1, learners=frozenset()):
    """The same node when it has joined."""
    core = SimpleNamespace(role=role, membership=Membership(frozenset({1, 2, 3}) - learners, learners), replica=1, term=4)
    replicas = [
        ReplicaStatus(1, True, 100, 50_000, 50_000),
        ReplicaStatus(2, True, 100, 49_990, 49_990),
        ReplicaStatus(3, 3 not in learners, 93, 49_000, 45_000),
    ]
    log = SimpleNamespace(topic="__meta", partition=0, last_index=100, quarantined="")
    group = SimpleNamespace(
        core=core, leader=leader, term=4, log=log, replicas=lambda: replicas, commit_index=99, applied_index=98, group_id=META_GROUP
    )
    node.stage, node.image = "ready", make_image()
    node.meta = SimpleNamespace(group=group, snapshot_size=77)
    node.store = SimpleNamespace(groups={META_GROUP: log}, disk_full=False, memory_bytes=5, memory_limit_bytes=10)
    peers = {2: SimpleNamespace(out=[True, True], into=[True, True]), 3: SimpleNamespace(out=[False, False], into=[False, False])}
    node.driver = SimpleNamespace(groups={META_GROUP: group}, peers=peers)
    return NodeView(node)


async def test_every_path_answers_while_the_node_waits_for_its_cluster(node):
    node.stage, node.reasons = "joining", ("Seed node 2@node2:9093 unreachable",)
    transport = httpx.ASGITransport(app=create_app(NodeView(node)))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
        assert health.json()["reasons"] == ["the node has not joined its cluster yet", "Seed node 2@node2:9093 unreachable"]
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not_initialized")
        assert (await client.get("/health/startup")).status_code == 503
        assert (await client.get("/admin/cluster/leader")).status_code == 503
        assert (await client.get("/admin/cluster/members")).json()[0]["addr"] == "node1:9093"
        assert (await client.get("/admin/cluster/partitions")).json() == []
        for path in ("/admin/cluster", "/admin/node/info", "/metrics", "/health/live"):
            assert (await client.get(path)).status_code == 200, path


def test_a_healthy_leader(node):
    view = run(node)
    status, body = view.health()
    assert (status, body["status"], body["cluster_size"], body["is_leader"]) == (200, "healthy", 3, True)
    assert view.ready() == (200, {"status": "ready"})
    assert view.startup()[0] == 200
    assert view.leader() == {"node_id": 1, "addr": "node1:9093", "term": 4}
    members = view.members()
    assert [(member["node_id"], member["state"], member["reachable"], member["lag_entries"]) for member in members] == [
        (1, "leader", True, 0),
        (2, "follower", True, 0),
        (3, "follower", False, 7),
    ]
    info = view.node_info()
    assert (info["uptime_seconds"], info["roles"], info["groups"]) == (30, ["broker", "controller"], {"total": 1, "led": 1})
    assert info["resources"]["memory_bytes"] > 1_000_000
    assert view.cluster()["partitions"] == 2


def test_partitions_with_the_metadata_first(node):
    assert list(run(node).partitions()) == [
        {"topic": "__meta", "partition": 0, "leader": 1, "replicas": [1, 2, 3], "isr": [1, 2]},
        {"topic": "orders", "partition": 0, "leader": 2, "replicas": [2, 3, 1], "isr": [2, 3]},
        {"topic": "orders", "partition": 1, "leader": -1, "replicas": [2, 3, 1], "isr": []},
    ]


def test_a_follower_names_the_same_leader_and_learners(node):
    view = run(node, Role.FOLLOWER, leader=2, learners=frozenset({3}))
    assert view.leader() == {"node_id": 2, "addr": "node2:9093", "term": 4}
    assert [member["state"] for member in view.members()] == ["follower", "leader", "learner"]
    assert "lag_entries" not in view.members()[1]
    assert next(iter(view.partitions()))["isr"] == [1, 2]


def test_without_leader_full_or_quarantined_it_is_unhealthy_with_the_reason(node):
    view = run(node, Role.PRE_CANDIDATE, leader=2)
    assert view.leader() is None
    assert view.ready() == (503, {"status": "no_leader", "reasons": []})
    assert view.health()[1]["reasons"] == ["no leader is known: a majority of the voters must run and reach each other"]
    view = run(node)
    node.store.disk_full = True
    node.store.groups[META_GROUP].quarantined = "bad checksum"
    reasons = view.health()[1]["reasons"]
    assert reasons == ["the disk is full: records are refused until there is room", "__meta-0 is quarantined: bad checksum"]
    node.stage = "catching_up"
    assert view.ready() == (503, {"status": "catching_up", "lag_entries": 2, "reasons": []})


def test_the_promised_metrics(node):
    view = run(node)
    node.flush_ms.observe(3)
    lines = MetricsText(view.families).render().decode().splitlines()
    for expected in (
        "chronik_cluster_nodes 3.0",
        "chronik_raft_state 1.0",
        'chronik_raft_term{partition="__meta"} 4.0',
        "chronik_raft_log_index 100.0",
        'chronik_raft_replication_lag_entries{node="3"} 7.0',
        'chronik_raft_replication_lag_ms{node="2"} 0.0',
        'chronik_raft_replication_lag_ms{node="3"} 5000.0',
        'chronik_raft_append_latency_ms_bucket{le="10"} 1.0',
        "chronik_raft_snapshot_size_bytes 77.0",
        "kraft_leader_id 1.0",
        'chronik_requests_total{api="Produce"} 1.0',
        'chronik_request_latency_seconds_bucket{api="Produce",le="0.001023"} 0.0',
        'chronik_request_latency_seconds_bucket{api="Produce",le="0.002047"} 1.0',
        'chronik_request_latency_seconds_sum{api="Produce"} 0.0015',
    ):
        assert expected in lines, expected


@pytest.mark.parametrize(("role", "value"), [(Role.FOLLOWER, 0), (Role.LEADER, 1), (Role.CANDIDATE, 2), (Role.PRE_CANDIDATE, 2)])
def test_the_numbers_of_the_states(node, role, value):
    text = MetricsText(run(node, role).families).render().decode()
    assert f"chronik_raft_state {value}.0\n" in text
