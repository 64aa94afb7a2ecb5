"""Signals the leader of a partition under load, again and again, and measures how long no write was acknowledged.

An idempotent producer (acks=all) writes every 5 ms. At the end the partition is read from 0: every acknowledged value must be there once, in order.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from functools import partial

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks.client.job import Job

BEFORE_SECONDS, AFTER_SECONDS, GIVE_UP_SECONDS = 2.0, 1.0, 90.0
EVERY_SECONDS = 0.005
SETTINGS = {
    "linger.ms": 0,
    "acks": "all",
    "enable.idempotence": True,
    "socket.timeout.ms": 1000,
    "retry.backoff.ms": 50,
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 100,
    "log_level": 0,
}


class _Writer:
    """Writes numbers in order and keeps when each was acknowledged."""

    def __init__(self, job: Job) -> None:
        self._topic = job.topic
        self._producer = Producer({**SETTINGS, "bootstrap.servers": job.bootstrap})
        self.sent = 0
        self.acknowledged: list[tuple[int, float]] = []

    def _delivered(self, value: int, error: object, _message: object) -> None:
        if error is None:
            self.acknowledged.append((value, time.perf_counter()))

    @property
    def last(self) -> float:
        return self.acknowledged[-1][1] if self.acknowledged else 0.0

    def write(self, seconds: float, until: float = 0.0) -> None:
        """For `seconds`, and on until a write is acknowledged later than `until`."""
        end = time.perf_counter() + seconds
        give_up = end + GIVE_UP_SECONDS
        while time.perf_counter() < end or (until and self.last <= until):
            if time.perf_counter() > give_up:
                raise TimeoutError(f"no write was acknowledged for {GIVE_UP_SECONDS:.0f} s")
            self._producer.produce(self._topic, b"%012d" % self.sent, partition=0, on_delivery=partial(self._delivered, self.sent))
            self.sent += 1
            self._producer.poll(EVERY_SECONDS)

    def gap(self, since: float) -> float:
        """The longest time without an acknowledgement, from the last one before `since` on."""
        times = [moment for _, moment in self.acknowledged]
        first = max((place for place, moment in enumerate(times) if moment <= since), default=0)
        return max((later - earlier for earlier, later in zip(times[first:], times[first + 1 :], strict=False)), default=0.0)

    def finish(self) -> None:
        self._producer.flush(60)


def _leader(job: Job) -> int:
    """The leader, once all three replicas are in sync."""
    admin = AdminClient({"bootstrap.servers": job.bootstrap, "log_level": 0, "socket.timeout.ms": 2000})
    end = time.perf_counter() + GIVE_UP_SECONDS
    while time.perf_counter() < end:
        found = admin.list_topics(job.topic, timeout=5).topics[job.topic].partitions
        if found and found[0].leader >= 0 and len(found[0].isrs) == 3:
            return int(found[0].leader)
        time.sleep(0.1)
    raise TimeoutError(f"the three replicas of {job.topic} were not in sync within {GIVE_UP_SECONDS:.0f} s")


def _read(job: Job, wanted: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": job.bootstrap, "group.id": "failover", "enable.auto.commit": False, "enable.partition.eof": True})
    consumer.assign([TopicPartition(job.topic, 0, 0)])
    values: list[int] = []
    end = time.perf_counter() + 60
    while time.perf_counter() < end:
        for message in consumer.consume(5000, 1.0):
            if message.error() is None:
                values.append(int(message.value() or b"-1"))
            elif len(values) >= wanted:
                consumer.close()
                return values
    return values


def run(job: Job) -> None:
    """Keys: rounds, signal (KILL or STOP), pids by broker id. After a kill the harness restarts the process and answers with its new id."""
    number = signal.Signals["SIG" + job.text("signal", "KILL")]
    pids = {int(node): int(pid) for node, pid in job.mapping("pids").items()}
    writer, gaps = _Writer(job), []
    job.begin()
    for _ in range(job.count("rounds", 1)):
        writer.write(BEFORE_SECONDS)
        leader = _leader(job)
        # Looking for the leader took time without writes: what is measured begins with a fresh acknowledgement.
        writer.write(0.2, until=time.perf_counter())
        os.kill(pids[leader], number)
        signalled = time.perf_counter()
        writer.write(AFTER_SECONDS, until=signalled + AFTER_SECONDS)
        gaps.append(writer.gap(signalled))
        if number == signal.SIGSTOP:
            os.kill(pids[leader], signal.SIGCONT)
        job.tell("round", node=leader, gap_s=gaps[-1])
        answer = job.answer()
        if answer is None:
            return
        pids.update({int(node): int(pid) for node, pid in answer.items()})
    writer.finish()
    values = _read(job, len(writer.acknowledged))
    acknowledged = [value for value, _ in writer.acknowledged]
    lost = len(set(acknowledged) - set(values))
    repeated = len(values) - len(set(values))
    disordered = sum(later < earlier for earlier, later in itertools.pairwise(values))
    job.end(
        gap_median_s=sorted(gaps)[len(gaps) // 2],
        gap_max_s=max(gaps),
        rounds=len(gaps),
        records=len(acknowledged),
        failed=lost + repeated + disordered,
    )
