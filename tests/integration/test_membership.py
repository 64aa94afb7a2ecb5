"""Lost disks, removed brokers and damaged replicas on real processes: nothing comes back under an identity whose promises are gone."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from broker.metadata.controller import METHOD_SUBMIT, SubmitRequest, SubmitResponse
from broker.metadata.operations import Operation, UnregisterBroker
from raft.transport import chronik_cluster_pb2 as cluster_pb
from raft.transport.options import CALL_METHOD
from tests.processes import NodeProcess, ProcessCluster, wait_until

VALUE = b"v" * 1000


def submit(node: NodeProcess, operation: Operation) -> SubmitResponse:
    """An operation on `__meta`, as another broker would send it to the controller."""
    cluster_id = bytes.fromhex(json.loads(node.get("/admin/cluster")[1])["cluster_id"])
    payload = msgspec.msgpack.encode(SubmitRequest(os.urandom(16), "User:ANONYMOUS", operation))
    request = cluster_pb.CallRequest(method=METHOD_SUBMIT, sender=60_000, cluster_id=cluster_id, incarnation=1, payload=payload)
    with grpc.insecure_channel(f"127.0.0.1:{node.raft}") as channel:
        call = channel.unary_unary(
            CALL_METHOD, request_serializer=lambda m: m.SerializeToString(), response_deserializer=cluster_pb.CallResponse.FromString
        )
        answer = call(request, timeout=10)
    assert not answer.error_code, answer.error
    return msgspec.msgpack.decode(answer.payload, type=SubmitResponse)


def leader_of_metadata(node: NodeProcess) -> int:
    return int(json.loads(node.get("/admin/cluster/leader")[1])["node_id"])


def partition(node: NodeProcess, topic: str) -> dict[str, Any]:
    found: dict[str, Any] = next(p for p in json.loads(node.get("/admin/cluster/partitions")[1]) if p["topic"] == topic)
    return found


def produce(bootstrap: str, topic: str, first: int, count: int) -> None:
    failed: list[str] = []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 5})
    for number in range(first, first + count):
        producer.produce(topic, VALUE, str(number).encode(), partition=0, on_delivery=lambda error, _: failed.append(str(error)) if error else None)
        producer.poll(0)
    assert producer.flush(60) == 0
    assert failed == []


def consume_all(bootstrap: str, topic: str, count: int, seconds: float = 60.0) -> list[int]:
    """Keys from the beginning on, until there are `count`."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    keys: list[int] = []
    end = time.monotonic() + seconds
    try:
        while len(keys) < count and time.monotonic() < end:
            keys += [int(message.key()) for message in consumer.consume(1000, 0.5) if message.error() is None]
    finally:
        consumer.close()
    return keys


def exit_of(node: NodeProcess, condition: Callable[[], object] = lambda: True) -> str:
    """The log of a node that must refuse to start, once it has ended."""
    wait_until(f"node {node.node} to give up", lambda: not node.running, 60)
    assert node.process is not None
    assert node.process.returncode != 0
    return node.log.read_text()


@pytest.mark.timeout(300)
def test_a_lost_disk_is_refused_until_its_broker_is_removed_and_then_filled_again(tmp_path: Path) -> None:
    with ProcessCluster(tmp_path) as cluster:
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
        admin.create_topics([NewTopic("kept", 1, 3)])["kept"].result(30)
        produce(cluster.bootstrap, "kept", 0, 3000)
        lost = cluster.nodes[next(n for n in cluster.nodes if n != leader_of_metadata(cluster.nodes[1]))]
        others = [node for node in cluster.nodes.values() if node is not lost]
        data = lost.directory / "data"
        lost.kill()
        shutil.move(data, lost.directory / "old-data")

        lost.start()
        text = exit_of(lost)
        assert f"unregister {lost.node}" in text
        assert "Traceback" not in text

        controller = cluster.nodes[leader_of_metadata(others[0])]
        wait_until("the controller to remove the broker", lambda: submit(controller, UnregisterBroker(lost.node)).result.error == 0, 30)
        shutil.rmtree(data)
        lost.start()
        cluster.wait_ready()
        identity = json.loads((data / "node.json").read_text())
        assert identity["generation"] == 1
        promoted = f"replica of broker {lost.node} has caught up"
        wait_until("its replica to vote again", lambda: any(promoted in node.log.read_text() for node in others), 60)
        wait_until("it to be in sync", lambda: lost.node in partition(others[0], "kept")["isr"], 60)
        members = json.loads(others[0].get("/admin/cluster/members")[1])
        wait_until("three members of __meta", lambda: len(json.loads(others[0].get("/admin/cluster/partitions")[1])[0]["replicas"]) == 3, 30)
        assert {member["node_id"] for member in members} == set(cluster.nodes)

        others[0].kill()  # what is acknowledged is on the refilled disk and one other
        produce(",".join(f"127.0.0.1:{node.kafka}" for node in (others[1], lost)), "kept", 3000, 100)
        assert consume_all(f"127.0.0.1:{others[1].kafka},127.0.0.1:{lost.kafka}", "kept", 3100) == list(range(3100))
        others[0].start()
        cluster.wait_ready()

        lost.kill()  # the disk turns up again: it must not take its place
        shutil.move(data, lost.directory / "new-data")
        shutil.move(lost.directory / "old-data", data)
        lost.start()
        text = exit_of(lost)
        assert "is registered with data directory" in text
        shutil.rmtree(data)
        shutil.move(lost.directory / "new-data", data)
        lost.start()
        cluster.wait_ready()
        assert consume_all(cluster.bootstrap, "kept", 3100) == list(range(3100))
        assert cluster.surprises() == []


@pytest.mark.timeout(300)
def test_a_replica_with_a_flipped_byte_is_given_up_and_filled_again(tmp_path: Path) -> None:
    with ProcessCluster(tmp_path) as cluster:
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
        admin.create_topics([NewTopic("bits", 1, replica_assignment=[[3, 1, 2]])])["bits"].result(30)
        produce(cluster.bootstrap, "bits", 0, 4000)
        sick = cluster.nodes[3]
        sick.terminate()
        segment = sick.directory / "data" / "wal" / "bits" / "wal_0_00000001.log"
        content = bytearray(segment.read_bytes())
        content[len(content) // 2] ^= 0x10
        segment.write_bytes(content)

        sick.start()
        cluster.wait_ready()
        wait_until("the damaged replica to lead", lambda: cluster.partition_leader("bits") == 3, 60)
        assert consume_all(cluster.bootstrap, "bits", 4000) == list(range(4000))
        assert "quarantined" in sick.log.read_text()
        wait_until("the replica to be rebuilt", lambda: "is given up and filled again" in sick.log.read_text(), 60)
        wait_until("it to be in sync again", lambda: 3 in partition(cluster.nodes[1], "bits")["isr"], 60)
        wait_until("its health", lambda: sick.get("/health")[0] == 200, 30)
        kept = list((sick.directory / "data" / "quarantine").rglob("wal_0_00000001.log"))
        assert len(kept) == 1
        assert kept[0].read_bytes() == bytes(content)

        sick.kill()  # and its new identity survives a crash
        sick.start()
        cluster.wait_ready()
        wait_until("it to lead again", lambda: cluster.partition_leader("bits") == 3, 60)
        cluster.nodes[1].kill()
        produce(cluster.bootstrap, "bits", 4000, 100)
        assert consume_all(f"127.0.0.1:{sick.kafka},127.0.0.1:{cluster.nodes[2].kafka}", "bits", 4100) == list(range(4100))
        assert cluster.surprises() == []


@pytest.mark.timeout(120)
def test_a_member_whose_metadata_is_gone_does_not_start_empty(tmp_path: Path) -> None:
    with ProcessCluster(tmp_path, nodes=1) as cluster:
        node = cluster.nodes[1]
        node.terminate()
        data = node.directory / "data"
        identity = (data / "node.json").read_bytes()
        shutil.rmtree(data)
        data.mkdir()
        (data / "node.json").write_bytes(identity)
        node.start()
        assert "is missing" in exit_of(node)
