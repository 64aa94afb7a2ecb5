"""Producing as fast as librdkafka can, by one producer or many in one process."""

from __future__ import annotations

import os
import random
import time

from confluent_kafka import Producer

from benchmarks.client.job import BATCH, Job

CALLBACK_EVERY = 1000
"""Only so many records have a callback: one for each would measure the client, and these show whether sends fail."""
POLL_EVERY = 1000
WORDS = [f"{word}{number}" for number in range(40) for word in ("order", "user", "item", "price", "status", "created", "shipped", "city")]


def payloads(size: int, compressible: bool) -> list[bytes]:
    """Values to choose from. Random bytes do not compress; the others are words and numbers, as events in JSON are, and differ."""
    if not compressible:
        return [os.urandom(size)]
    source = random.Random(1)
    found = []
    for _ in range(256):
        text = ""
        while len(text) < size:
            text += f'"{source.choice(WORDS)}": {source.randrange(100_000)}, '
        found.append(text[:size].encode())
    return found


def run(job: Job) -> None:
    """Keys: records, size, acks, idempotence, compression, producers."""
    records, size, producers = job.count("records"), job.count("size"), job.count("producers", 1)
    compression = job.text("compression", "none")
    settings = {
        **BATCH,
        "bootstrap.servers": job.bootstrap,
        "acks": job.text("acks", "all"),
        "enable.idempotence": bool(job.count("idempotence")),
        "compression.type": compression,
        "queue.buffering.max.kbytes": BATCH["queue.buffering.max.kbytes"] // producers,
    }
    many = [Producer(settings) for _ in range(producers)]
    for producer in many:
        producer.list_topics(job.topic, timeout=30)
    values, failed = payloads(size, compression != "none"), 0

    def delivered(error: object, _message: object) -> None:
        nonlocal failed
        failed += error is not None

    topic, partitions, kinds = job.topic, job.partitions, len(values)
    job.begin()
    start = time.perf_counter()
    for number in range(records):
        producer = many[number % producers]
        callback = delivered if number % CALLBACK_EVERY == 0 else None
        while True:
            try:
                # Of many producers each writes to all partitions.
                producer.produce(topic, values[number % kinds], partition=number // producers % partitions, on_delivery=callback)
                break
            except BufferError:
                producer.poll(0.005)
        if number % POLL_EVERY == 0:
            producer.poll(0)
    failed += sum(producer.flush(120) for producer in many)
    seconds = time.perf_counter() - start
    job.end(seconds=seconds, records=records, bytes=records * size, failed=failed)
