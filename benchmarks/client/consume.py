"""Reading a topic from its start with librdkafka from Python, which is slower than most brokers: kcat and the JVM's tool have no such limit."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, TopicPartition

from benchmarks.client.job import READ, Job


def run(job: Job) -> None:
    """Keys: records to read."""
    wanted = job.count("records")
    consumer = Consumer({**READ, "bootstrap.servers": job.bootstrap, "group.id": "benchmark", "enable.auto.commit": False})
    consumer.list_topics(job.topic, timeout=30)
    records = size = 0
    job.begin()
    start = time.perf_counter()
    consumer.assign([TopicPartition(job.topic, partition, 0) for partition in range(job.partitions)])
    end = start + 300
    while records < wanted and time.perf_counter() < end:
        for message in consumer.consume(min(10_000, wanted - records), 1.0):
            if message.error() is None:
                records += 1
                size += len(message.value() or b"")
    seconds = time.perf_counter() - start
    job.end(seconds=seconds, records=records, bytes=size, failed=wanted - records)
    consumer.close()
