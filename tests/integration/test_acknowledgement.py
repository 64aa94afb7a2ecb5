"""The acknowledgement waits for the fsync of a majority, and for no more; a disk that fails or is full acknowledges nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Producer

from tests.integration.support import consume, make_topic, produce, producer_of, time_one
from tests.processes import ProcessCluster, wait_until

DELAY_MS = 300


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with ProcessCluster(tmp_path_factory.mktemp("disks"), faulty_disks=True) as running:
        yield running


@pytest.fixture(autouse=True)
def healthy_disks(cluster: ProcessCluster) -> Iterator[None]:
    yield
    for node in cluster.nodes.values():
        node.faults()
        if not node.running:
            node.start()
    cluster.wait_ready()


def leader_and_followers(cluster: ProcessCluster, topic: str) -> tuple[int, list[int]]:
    leader = cluster.wait_leader(topic)
    return leader, [node for node in cluster.nodes if node != leader]


def delay(cluster: ProcessCluster, slow: list[int]) -> None:
    for number, node in cluster.nodes.items():
        node.faults(**({"flush_delay_ms": DELAY_MS} if number in slow else {}))
    time.sleep(DELAY_MS / 1000)  # what is under way ends first


@pytest.mark.parametrize("slow_leader", [False, True])
def test_no_answer_before_the_fsync_of_a_majority(cluster: ProcessCluster, slow_leader: bool) -> None:
    topic = make_topic(cluster, f"majority-slow-{slow_leader}")
    leader, followers = leader_and_followers(cluster, topic)
    producer = producer_of(cluster)
    produce(producer, topic, [b"warm"] * 3)
    delay(cluster, [leader, followers[0]] if slow_leader else followers)
    times = [time_one(producer, topic) for _ in range(5)]
    assert min(times) >= DELAY_MS / 1000, times


@pytest.mark.parametrize("slow_leader", [False, True])
def test_one_slow_disk_slows_nobody(cluster: ProcessCluster, slow_leader: bool) -> None:
    topic = make_topic(cluster, f"one-slow-{slow_leader}")
    leader, followers = leader_and_followers(cluster, topic)
    producer = producer_of(cluster)
    produce(producer, topic, [b"warm"] * 3)
    delay(cluster, [leader if slow_leader else followers[0]])
    times = [time_one(producer, topic) for _ in range(9)]
    assert statistics.median(times) < DELAY_MS / 1000 / 2, times


def test_acks_1_waits_for_a_disk_but_not_for_the_followers(cluster: ProcessCluster) -> None:
    """The leader's own fsync is enough. So is a majority without it: that is more than was asked for."""
    topic = make_topic(cluster, "acks-1")
    _, followers = leader_and_followers(cluster, topic)
    producer = producer_of(cluster, acks="1")
    produce(producer, topic, [b"warm"] * 3)
    delay(cluster, followers)
    assert statistics.median(time_one(producer, topic) for _ in range(5)) < DELAY_MS / 1000 / 2
    delay(cluster, list(cluster.nodes))
    assert min(time_one(producer, topic) for _ in range(3)) >= DELAY_MS / 1000


def test_a_full_disk_refuses_for_a_while_and_recovers_by_itself(cluster: ProcessCluster) -> None:
    topic = make_topic(cluster, "full")
    leader, _ = leader_and_followers(cluster, topic)
    patient = producer_of(cluster)
    assert produce(patient, topic, [b"before"]) == [0]
    node = cluster.nodes[leader]
    node.faults(free_bytes=0)
    fill(patient, topic, lambda: '"full":true' in node.get("/admin/node/info")[1])
    assert node.get("/health")[0] == 503 and "disk is full" in node.get("/health")[1]
    assert "chronik_wal_disk_full 1.0" in node.get("/metrics")[1]
    errors: list[KafkaError | None] = []
    hasty = producer_of(cluster, **{"message.timeout.ms": 1500})
    hasty.produce(topic, b"refused", partition=0, on_delivery=lambda error, _: errors.append(error))
    assert hasty.flush(20) == 0 and errors and errors[0] is not None
    assert node.running, node.log_tail()
    kept = consume(cluster, topic, 1)
    assert kept == [b"before"]  # reads go on
    node.faults()
    produce(patient, topic, [b"after"])  # a client that is patient sees nothing but a delay
    wait_until("health", lambda: node.get("/health")[0] == 200, 20)


def fill(producer: Producer, topic: str, full: object) -> None:
    """Produce until the node has noticed that its disk is full; what is refused meanwhile stays with the producer."""
    end = time.monotonic() + 20
    while not full():  # type: ignore[operator]
        assert time.monotonic() < end, "the node does not notice that its disk is full"
        for _ in range(8):
            producer.produce(topic, b"f" * 100_000, partition=0)
        producer.poll(0.2)


def test_a_failed_fsync_stops_the_node_at_once(cluster: ProcessCluster) -> None:
    topic = make_topic(cluster, "failed-fsync")
    leader, _ = leader_and_followers(cluster, topic)
    producer = producer_of(cluster, **{"enable.idempotence": True})
    produce(producer, topic, [b"a"])
    node = cluster.nodes[leader]
    node.faults(fsync_error=True)
    start = time.monotonic()
    offsets = produce(producer, topic, [b"b"])  # the others take over; the record is there once
    assert offsets == [1]
    wait_until("the node to stop", lambda: not node.running, 10)
    print(f"stopped and taken over within {time.monotonic() - start:.2f} s")
    assert node.process is not None and node.process.returncode not in (0, None)
    tail = node.log_tail(5)
    assert "[ERROR]" in tail and "Input/output error" in tail and "Traceback" not in tail, tail
    node.faults()
    node.start()
    node.wait_ready()
    assert consume(cluster, topic, 2) == [b"a", b"b"]


def test_a_node_of_its_own_acknowledges_nothing_after_a_failed_fsync(tmp_path: Path) -> None:
    with ProcessCluster(tmp_path, 1, faulty_disks=True) as single:
        topic = make_topic(single, "alone", 1, 1)
        produce(producer_of(single), topic, [b"a"])
        single.nodes[1].faults(fsync_error=True)
        told: list[KafkaError | None] = []
        producer = producer_of(single, **{"message.timeout.ms": 3000})
        producer.produce(topic, b"b", partition=0, on_delivery=lambda error, _: told.append(error))
        wait_until("the node to stop", lambda: producer.poll(0.01) is not None and not single.nodes[1].running, 10)
        producer.flush(10)
        assert told and told[0] is not None
