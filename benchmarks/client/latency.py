"""Latency at a fixed rate: from produce to acknowledgement, or end to end to a consumer that follows."""

from __future__ import annotations

import struct
import threading
import time
from functools import partial

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.client.job import PROMPT, READ, Job, latencies_ms

_SENT = struct.Struct(">d")


def run(job: Job) -> None:
    """Keys: rate, seconds, size. The first fifth is warm-up and not in the percentiles."""
    rate, seconds, size = job.number("rate"), job.number("seconds"), job.count("size", 1024)
    producer = Producer({**PROMPT, "bootstrap.servers": job.bootstrap, "acks": "all"})
    producer.list_topics(job.topic, timeout=30)
    follower = _Follower(job) if job.count("end_to_end") else None
    taken: list[float] = []
    failed = 0

    def delivered(sent: float, error: object, _message: object) -> None:
        nonlocal failed
        if error is None:
            taken.append(time.perf_counter() - sent)
        else:
            failed += 1

    filler = bytes(max(0, size - _SENT.size))
    job.begin()
    start = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = start + number / rate
        while (wait := due - time.perf_counter()) > 0:
            producer.poll(wait)
        sent = time.perf_counter()
        producer.produce(job.topic, _SENT.pack(sent) + filler, partition=number % job.partitions, on_delivery=partial(delivered, sent))
        producer.poll(0)
    failed += producer.flush(60)
    took = time.perf_counter() - start
    if follower is not None:
        ends = latencies_ms(follower.finish(int(rate * seconds) - failed))
        job.end(**ends, seconds=took, failed=failed + int(rate * seconds) - failed - len(follower.taken))
    else:
        job.end(**latencies_ms(taken), seconds=took, failed=failed)


class _Follower:
    """A consumer at the end of every partition, in a thread of its own. Its clock is the producer's: one process."""

    def __init__(self, job: Job) -> None:
        self.taken: list[float] = []
        self._wanted = -1
        self._consumer = Consumer({**READ, "bootstrap.servers": job.bootstrap, "group.id": "end-to-end", "enable.auto.commit": False})
        # By number, so that nothing is missed while the consumer finds its place.
        ends = [self._consumer.get_watermark_offsets(TopicPartition(job.topic, partition), timeout=30)[1] for partition in range(job.partitions)]
        self._consumer.assign([TopicPartition(job.topic, partition, end) for partition, end in enumerate(ends)])
        self._consumer.poll(1.0)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while self._wanted < 0 or len(self.taken) < self._wanted:
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                self.taken.append(time.perf_counter() - _SENT.unpack_from(message.value() or b"")[0])

    def finish(self, wanted: int) -> list[float]:
        self._wanted = wanted
        self._thread.join(30)
        return self.taken
