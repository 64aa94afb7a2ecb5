"""Short forms of what the tests of real processes do again and again with librdkafka."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.processes import ProcessCluster

QUIET = {"log_level": 0, "socket.timeout.ms": 2000, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200}


def make_topic(cluster: ProcessCluster, name: str, partitions: int = 1, copies: int = 3) -> str:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, **QUIET})
    admin.create_topics([NewTopic(name, partitions, copies)])[name].result(30)
    return name


def producer_of(cluster: ProcessCluster, **settings: Any) -> Producer:
    return Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all", "linger.ms": 0, **QUIET, **settings})


def produce(producer: Producer, topic: str, values: list[bytes], partition: int = 0, seconds: float = 60.0) -> list[int]:
    """Offsets of `values`; AssertionError when one is not acknowledged."""
    offsets: list[int] = []
    errors: list[KafkaError] = []

    def told(error: KafkaError | None, message: Any) -> None:
        errors.append(error) if error is not None else offsets.append(message.offset())

    for value in values:
        producer.produce(topic, value, partition=partition, on_delivery=told)
    assert producer.flush(seconds) == 0 and not errors, f"not acknowledged: {errors[:3]}"
    return offsets


def time_one(producer: Producer, topic: str, seconds: float = 30.0) -> float:
    """Seconds from sending one record to its acknowledgement."""
    start = time.monotonic()
    produce(producer, topic, [b"x"], 0, seconds)
    return time.monotonic() - start


def consume(cluster: ProcessCluster, topic: str, count: int, partition: int = 0, seconds: float = 60.0) -> list[bytes]:
    """The first `count` values of a partition, or what has come in time."""
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "reader", "enable.auto.commit": False, **QUIET})
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
    found: list[bytes] = []
    end = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        found += [message.value() for message in consumer.consume(count - len(found), 0.5) if message.error() is None]
    consumer.close()
    return found
