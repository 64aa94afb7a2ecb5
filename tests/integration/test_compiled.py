"""Nodes whose hot modules are compiled: they say so, serve produce and fetch, survive kill -9, and write what interpreted ones read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.compiled.loader import ROOT, VARIABLE, current, read_builds
from tests.integration.support import consume, make_topic, produce, producer_of
from tests.processes import ProcessCluster, wait_until

COMPILED, INTERPRETED = {VARIABLE: "1"}, {VARIABLE: "0"}
RECORDS = 200


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    if current(read_builds(ROOT)) is None:
        pytest.skip("the sources as they are were not compiled; `make compiled` does it")
    with ProcessCluster(tmp_path_factory.mktemp("compiled"), environment=COMPILED) as running:
        yield running
        assert running.surprises() == []


def modules_of(cluster: ProcessCluster, node: int) -> str:
    return str(json.loads(cluster.nodes[node].get("/admin/node/info")[1])["hot_modules"])


def values(prefix: str) -> list[bytes]:
    return [b"%s-%d" % (prefix.encode(), number) for number in range(RECORDS)]


def test_the_nodes_run_compiled(cluster: ProcessCluster) -> None:
    assert {modules_of(cluster, node) for node in cluster.nodes} == {"compiled"}
    assert all("Hot modules run compiled" in node.log.read_text() for node in cluster.nodes.values())


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_what_is_produced_is_consumed(cluster: ProcessCluster, compression: str) -> None:
    topic = make_topic(cluster, f"compiled-{compression}", partitions=3)
    producer = producer_of(cluster, **{"enable.idempotence": True, "compression.type": compression, "linger.ms": 2})
    for partition in range(3):
        assert produce(producer, topic, values(f"p{partition}"), partition) == list(range(RECORDS))
    for partition in range(3):
        assert consume(cluster, topic, RECORDS, partition) == values(f"p{partition}")


def test_nothing_acknowledged_is_lost_when_a_leader_is_killed(cluster: ProcessCluster) -> None:
    topic = make_topic(cluster, "compiled-killed")
    producer = producer_of(cluster, **{"enable.idempotence": True})
    produce(producer, topic, values("before"))
    leader = cluster.nodes[cluster.wait_leader(topic)]
    leader.kill()
    produce(producer, topic, values("after"), seconds=30)
    leader.start()
    leader.wait_ready()
    assert consume(cluster, topic, 2 * RECORDS) == values("before") + values("after")


def test_compiled_and_interpreted_nodes_are_one_cluster(cluster: ProcessCluster) -> None:
    """What one kind has written the other reads, from the network and from its own disk; so an upgrade may go either way."""
    topic = make_topic(cluster, "compiled-mixed")
    producer = producer_of(cluster, **{"enable.idempotence": True})
    expected: list[bytes] = []
    for node, environment in ((1, INTERPRETED), (2, INTERPRETED), (1, COMPILED)):
        produce(producer, topic, values(f"before-{len(expected)}"), seconds=30)
        expected += values(f"before-{len(expected)}")
        cluster.nodes[node].terminate()
        cluster.nodes[node].start(**environment)
        cluster.wait_ready()
        assert modules_of(cluster, node) == ("compiled" if environment is COMPILED else "interpreted")
        produce(producer, topic, values(f"after-{len(expected)}"), seconds=30)
        expected += values(f"after-{len(expected)}")
    assert consume(cluster, topic, len(expected)) == expected


def test_what_can_not_be_is_refused(tmp_path: Path) -> None:
    alone = ProcessCluster(tmp_path, nodes=1, environment={VARIABLE: "yes"})
    node = alone.nodes[1]
    node.start()
    try:
        wait_until("the node to refuse", lambda: not node.running)
        assert node.process is not None and node.process.returncode == 2
        assert "CHRONIK_COMPILED is 'yes'" in node.log_tail()
    finally:
        alone.stop()
