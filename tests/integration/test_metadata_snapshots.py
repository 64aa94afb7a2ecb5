"""`__meta` on real processes: a snapshot brings up a follower that the log does not reach; nodes join, vote, and restart from snapshots."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.ports import free_ports
from tests.processes import NodeProcess, ProcessCluster, wait_until

SMALL = {
    "CHRONIK_CLUSTER_RAFT_SNAPSHOT_LOG_SIZE_THRESHOLD": "20",
    "CHRONIK_CLUSTER_RAFT_LOG_COMPACTION_THRESHOLD": "5",
    "CHRONIK_CLUSTER_RAFT_MAX_SNAPSHOT_CHUNK_SIZE": "4096",
}


def admin_of(cluster: ProcessCluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": ",".join(f"127.0.0.1:{node.kafka}" for node in cluster.nodes.values() if node.running)})


def change_metadata(admin: AdminClient, rounds: int, prefix: str) -> None:
    """Each topic is made and deleted in operations of its own, so that each is an entry of its own."""
    for number in range(rounds):
        name = f"{prefix}-{number}"
        admin.create_topics([NewTopic(name, 1, 3)])[name].result(30)
        admin.delete_topics([name])[name].result(30)


def snapshots(node: NodeProcess) -> list[int]:
    return sorted(int(path.stem.split("_")[1]) for path in (node.directory / "data" / "snapshots").glob("snapshot_*.snap"))


def topics(node: NodeProcess) -> set[str]:
    return {json.loads(line)["topic"] for line in _lines(node.get("/admin/cluster/partitions")[1])}


def _lines(body: str) -> list[str]:
    return [line.strip().rstrip(",") for line in body.strip().removeprefix("[").removesuffix("]").splitlines() if line.strip()]


def members(node: NodeProcess) -> dict[int, str]:
    return {member["node_id"]: member["state"] for member in json.loads(node.get("/admin/cluster/members")[1])}


def follower_of(cluster: ProcessCluster) -> NodeProcess:
    leader = json.loads(cluster.nodes[1].get("/admin/cluster/leader")[1])["node_id"]
    return cluster.nodes[max(number for number in cluster.nodes if number != leader)]


def add_node(cluster: ProcessCluster, number: int) -> NodeProcess:
    """A further node, which knows the first three as its seeds."""
    kafka, raft, admin = free_ports(3)
    first = cluster.nodes[1]
    node = NodeProcess(number, first.directory.parent / f"node-{number}", (kafka, raft, admin), first.seeds, first.environment)
    cluster.nodes[number] = node
    node.start()
    return node


@pytest.mark.timeout(240)
def test_a_follower_behind_the_log_is_caught_up_by_a_snapshot(tmp_path: Path) -> None:
    with ProcessCluster(tmp_path, environment=SMALL) as cluster:
        admin = admin_of(cluster)
        late = follower_of(cluster)
        late.kill()
        change_metadata(admin, 40, "gone")
        admin.create_topics([NewTopic("kept", 2, 2)])["kept"].result(30)
        others = [node for node in cluster.nodes.values() if node is not late]
        wait_until("snapshots on the others", lambda: all(snapshots(node) for node in others))

        late.start()
        cluster.wait_ready()
        wait_until("the late node to know the topic", lambda: "kept" in topics(late))
        text = late.log.read_text()
        assert "InstallSnapshot from node" in text
        assert "snapshot installed: index=" in text
        assert re.search(rf"Snapshot transfer complete: node={late.node}, size=\d+", "".join(node.log.read_text() for node in others))
        assert not any(name.startswith("gone") for name in topics(late))
        size = re.search(r"^chronik_raft_snapshot_size_bytes(?:\{[^}]*\})? (\S+)", late.get("/metrics")[1], re.MULTILINE)
        assert size is not None
        assert float(size.group(1)) > 0

        late.kill()  # its state is now the snapshot and what came behind it
        change_metadata(admin, 2, "while-down")
        late.start()
        cluster.wait_ready()
        wait_until("the same topics everywhere", lambda: len({frozenset(topics(node)) for node in cluster.nodes.values()}) == 1)
        assert len({cluster.nodes[n].get("/admin/cluster/leader")[1] for n in cluster.nodes}) == 1
        assert cluster.surprises() == []


@pytest.mark.timeout(240)
def test_a_node_killed_while_it_receives_and_installs_comes_back_whole(tmp_path: Path) -> None:
    with ProcessCluster(tmp_path, environment=SMALL) as cluster:
        admin = admin_of(cluster)
        late = follower_of(cluster)
        late.kill()
        change_metadata(admin, 30, "gone")
        for attempt in range(6):
            before = late.log.stat().st_size
            late.start()
            # Killed at the first sign of the transfer, and a little later each time: while it arrives, is checked, is installed.
            signs = (
                "session from node",
                "InstallSnapshot from node",
                "received: index=",
                "received: index=",
                "snapshot installed",
                "snapshot installed",
            )
            wait_until(
                f"attempt {attempt}",
                lambda start=before, sign=signs[attempt]: sign in late.log.read_text()[start:] or late.get("/health/ready")[0] == 200,
            )
            late.kill()
            change_metadata(admin, 6, f"more-{attempt}")
        late.start()
        cluster.wait_ready()
        admin.create_topics([NewTopic("after", 1, 3)])["after"].result(30)
        wait_until("the same topics everywhere", lambda: {frozenset(topics(n)) for n in cluster.nodes.values()} == {frozenset({"__meta", "after"})})
        assert not list((late.directory / "data" / "snapshots").glob("*.new"))
        assert cluster.surprises() == []


@pytest.mark.timeout(300)
def test_nodes_join_as_learners_and_up_to_five_become_voters(tmp_path: Path) -> None:
    with ProcessCluster(tmp_path, environment=SMALL) as cluster:
        change_metadata(admin_of(cluster), 30, "gone")  # so that the log does not begin at its beginning any more
        for number in (4, 5, 6):
            node = add_node(cluster, number)
            cluster.wait_ready()
            assert "InstallSnapshot from node" in node.log.read_text()
        states = lambda: members(cluster.nodes[6])  # noqa: E731
        wait_until("five voters and a learner", lambda: sorted(states().values()).count("learner") == 1 and len(states()) == 6)
        assert states()[6] == "learner"
        admin = admin_of(cluster)
        admin.create_topics([NewTopic("wide", 6, 3)])["wide"].result(30)
        wait_until("everybody to know it", lambda: all("wide" in topics(node) for node in cluster.nodes.values()))
        assert cluster.surprises() == []
