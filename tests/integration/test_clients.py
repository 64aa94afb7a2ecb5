"""Unmodified Kafka clients against a real three-node cluster: produce and consume with assigned partitions."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.integration.support import run_program, wait_known
from tests.processes import ProcessCluster

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with ProcessCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running
        assert running.surprises() == []


@pytest.fixture(scope="module")
def admin(cluster: ProcessCluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": cluster.bootstrap})


def make_topic(admin: AdminClient, name: str, partitions: int = 1) -> str:
    admin.create_topics([NewTopic(name, partitions, 3)])[name].result(30)
    return name


def samples() -> list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]]:
    """(key, value, headers, timestamp in ms): with nulls, empty values, headers that repeat, and up to 1 MB."""
    now = 1_700_000_000_000
    return [
        (b"key", b"value", [("a", b"1"), ("a", b"2"), ("empty", b""), ("null", None)], now),
        (None, b"no key", [], now + 1),
        (b"tombstone", None, [], now + 2),
        (b"", b"", [], now + 3),
        ("schlüssel".encode(), "größe €".encode(), [("ü", b"x")], now + 4),
        (b"large", b"v" * (MEGABYTE - 1000), [], now + 5),
    ]


@pytest.mark.parametrize("codec", CODECS)
def test_confluent_kafka(cluster: ProcessCluster, admin: AdminClient, codec: str) -> None:
    topic = make_topic(admin, f"confluent-{codec}")
    producer = Producer(
        {"bootstrap.servers": cluster.bootstrap, "compression.type": codec, "acks": "all", "enable.idempotence": True, "linger.ms": 20}
    )
    offsets: list[int] = []
    for key, value, headers, timestamp in samples():
        told = lambda e, m: offsets.append(m.offset() if e is None else -1)  # noqa: E731
        producer.produce(topic, value, key, partition=0, on_delivery=told, timestamp=timestamp, headers=headers)
    assert producer.flush(30) == 0
    assert offsets == list(range(len(samples())))
    consumer = Consumer(
        {"bootstrap.servers": cluster.bootstrap, "group.id": "x", "enable.auto.commit": False, "fetch.message.max.bytes": 2 * MEGABYTE}
    )
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    found = []
    deadline = time.monotonic() + 30
    while len(found) < len(samples()) and time.monotonic() < deadline:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None:
            found.append((message.key(), message.value(), message.headers() or [], message.timestamp()[1]))
    assert found == samples()
    assert consumer.get_watermark_offsets(TopicPartition(topic, 0)) == (0, len(samples()))
    by_time = consumer.offsets_for_times([TopicPartition(topic, 0, 1_700_000_000_003)])
    assert by_time[0].offset == 3
    consumer.close()


@pytest.mark.parametrize("codec", CODECS)
def test_kafka_python(cluster: ProcessCluster, admin: AdminClient, codec: str) -> None:
    from kafka import KafkaConsumer, KafkaProducer
    from kafka import TopicPartition as Partition

    topic = make_topic(admin, f"python-{codec}")
    servers = cluster.bootstrap.split(",")
    producer = KafkaProducer(
        bootstrap_servers=servers, compression_type=None if codec == "none" else codec, acks="all", max_request_size=2 * MEGABYTE
    )
    rows = samples()
    sent = [producer.send(topic, value, key, [(n, v or b"") for n, v in headers], 0, timestamp) for key, value, headers, timestamp in rows]
    assert [one.get(30).offset for one in sent] == list(range(len(rows)))
    producer.close()
    consumer = KafkaConsumer(
        bootstrap_servers=servers, auto_offset_reset="earliest", consumer_timeout_ms=20_000, max_partition_fetch_bytes=2 * MEGABYTE
    )
    partition = Partition(topic, 0)
    consumer.assign([partition])
    found = []
    for record in consumer:
        found.append((record.key, record.value, [(n, v) for n, v in record.headers], record.timestamp))
        if len(found) == len(rows):
            break
    assert found == [(k, v, [(n, h or b"") for n, h in headers], t) for k, v, headers, t in rows]
    assert consumer.beginning_offsets([partition])[partition] == 0
    assert consumer.end_offsets([partition])[partition] == len(rows)
    assert consumer.offsets_for_times({partition: rows[2][3]})[partition].offset == 2
    consumer.close()


@pytest.mark.parametrize("codec", CODECS)
def test_aiokafka(cluster: ProcessCluster, admin: AdminClient, codec: str) -> None:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
    from aiokafka import TopicPartition as Partition

    topic = make_topic(admin, f"aio-{codec}")
    rows = samples()

    async def round_trip() -> list[Any]:
        producer = AIOKafkaProducer(
            bootstrap_servers=cluster.bootstrap,
            compression_type=None if codec == "none" else codec,
            acks="all",
            enable_idempotence=True,
            max_request_size=2 * MEGABYTE,
        )
        await producer.start()
        for number, (key, value, headers, timestamp) in enumerate(rows):
            result = await producer.send_and_wait(topic, value, key, 0, timestamp, [(n, v or b"") for n, v in headers])
            assert result.offset == number
        await producer.stop()
        consumer = AIOKafkaConsumer(bootstrap_servers=cluster.bootstrap, auto_offset_reset="earliest", max_partition_fetch_bytes=2 * MEGABYTE)
        await consumer.start()
        consumer.assign([Partition(topic, 0)])
        found = []
        while len(found) < len(rows):
            record = await asyncio.wait_for(consumer.getone(), 20)
            found.append((record.key, record.value, [(n, v) for n, v in record.headers], record.timestamp))
        assert (await consumer.end_offsets([Partition(topic, 0)]))[Partition(topic, 0)] == len(rows)
        await consumer.stop()
        return found

    found = asyncio.run(round_trip())
    assert found == [(k, v, [(n, h or b"") for n, h in headers], t) for k, v, headers, t in rows]


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed (Debian: apt-get install kcat)")
@pytest.mark.parametrize("codec", CODECS)
def test_kcat(cluster: ProcessCluster, admin: AdminClient, codec: str) -> None:
    topic = make_topic(admin, f"kcat-{codec}")
    wait_known(cluster, topic)
    lines = "\n".join(f"k{n}:value {n}" for n in range(100))
    run_program(cluster, "kcat", "-P", "-b", cluster.bootstrap, "-t", topic, "-p", "0", "-K:", "-z", codec, text=lines, seconds=30)
    read = ["kcat", "-C", "-b", cluster.bootstrap, "-t", topic, "-p", "0", "-K:", "-e", "-q", "-o", "beginning"]
    assert run_program(cluster, *read, seconds=30).splitlines() == lines.splitlines()


def test_a_record_over_the_limit_is_refused_and_the_connection_goes_on(cluster: ProcessCluster, admin: AdminClient) -> None:
    topic = make_topic(admin, "too-large")
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "message.max.bytes": 5 * MEGABYTE})
    errors: list[Any] = []
    producer.produce(topic, b"x" * (2 * MEGABYTE), partition=0, on_delivery=lambda e, m: errors.append(e))
    producer.produce(topic, b"small", partition=0, on_delivery=lambda e, m: errors.append(e))
    assert producer.flush(30) == 0
    assert errors[0] is not None and errors[0].name() == "MSG_SIZE_TOO_LARGE"
    assert errors[-1] is None


def test_topics_are_created_by_themselves_and_deleted(cluster: ProcessCluster, admin: AdminClient) -> None:
    producer = Producer({"bootstrap.servers": cluster.bootstrap})
    done: list[Any] = []
    producer.produce("by-itself", b"x", on_delivery=lambda e, m: done.append(e))
    assert producer.flush(30) == 0 and done == [None]
    with pytest.raises(KafkaException, match="already exists"):
        make_topic(admin, "by-itself")
    admin.delete_topics(["by-itself"])["by-itself"].result(30)
    deadline = time.monotonic() + 20
    while "by-itself" in admin.list_topics(timeout=10).topics and time.monotonic() < deadline:
        time.sleep(0.1)
    make_topic(admin, "by-itself", 2)
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "x"})
    assert consumer.get_watermark_offsets(TopicPartition("by-itself", 0), 20) == (0, 0)
    consumer.close()


def test_more_partitions_and_leaders_on_every_node(cluster: ProcessCluster, admin: AdminClient) -> None:
    topic = make_topic(admin, "spread", 6)
    deadline = time.monotonic() + 30
    leaders: list[int] = []
    while time.monotonic() < deadline:
        leaders = sorted(p.leader for p in admin.list_topics(topic, timeout=10).topics[topic].partitions.values())
        if leaders == [1, 1, 2, 2, 3, 3]:
            break
        time.sleep(0.2)
    assert leaders == [1, 1, 2, 2, 3, 3]
