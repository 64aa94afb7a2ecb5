"""Short forms of what the tests of real processes do again and again, with librdkafka or with programs of others."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.processes import ProcessCluster, wait_until
from tests.wire import Wire

QUIET = {"log_level": 0, "socket.timeout.ms": 2000, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200}


def make_topic(cluster: ProcessCluster, name: str, partitions: int = 1, copies: int = 3) -> str:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, **QUIET})
    admin.create_topics([NewTopic(name, partitions, copies)])[name].result(30)
    wait_known(cluster, name)
    return name


def wait_known(cluster: ProcessCluster, topic: str, seconds: float = 30.0) -> None:
    """Until every running node knows the topic and a leader of each of its partitions.

    CreateTopics is answered when the broker that was asked knows them; another one, with a slow disk, may learn of the topic a moment later, as
    with Apache Kafka. Most clients ask again; kcat, for one, ends.
    """

    def known(port: int) -> bool:
        with Wire(port) as wire:
            found = wire.topic(topic)
        return not found.error_code and all(not partition.error_code for partition in found.partitions)

    for node in cluster.nodes.values():
        if node.running:
            wait_until(f"node {node.node} to know {topic} and its leaders", lambda port=node.kafka: known(port), seconds)  # type: ignore[misc]


def run_program(cluster: ProcessCluster, *command: str, text: str = "", seconds: float = 60.0) -> str:
    """Standard output of a program of others. AssertionError with all that it said and the ends of the nodes' logs when it fails or does not end."""
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as late:
        raise AssertionError(told(cluster, command, f"did not end in {seconds:.0f} s", late.stdout or b"", late.stderr or b"")) from None
    if done.returncode:
        raise AssertionError(told(cluster, command, f"ended with status {done.returncode}", done.stdout, done.stderr))
    return done.stdout.decode()


def told(cluster: ProcessCluster, command: tuple[str, ...], what: str, out: bytes, error: bytes) -> str:
    """The text of a program's failure."""
    parts = [f"{' '.join(command)}\n{what}", f"--- standard output:\n{_end(out)}", f"--- standard error:\n{_end(error)}", cluster.log_tails()]
    return "\n".join(parts)


def _end(data: bytes) -> str:
    return data[-4000:].decode(errors="replace").strip() or "(nothing)"


class BackgroundProgram:
    """A program of others that runs beside the test; its output goes to files. Use as a context manager: what is left of it is killed."""

    def __init__(self, cluster: ProcessCluster, folder: Path, *command: str) -> None:
        self._cluster = cluster
        self._command = command
        self.output, self.errors = folder / "output", folder / "errors"
        with open(self.output, "wb") as out, open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)

    def stop(self, seconds: float = 20.0) -> None:
        """As Ctrl-C's milder sibling; it must end."""
        self.process.terminate()
        self.process.wait(seconds)

    def __enter__(self) -> BackgroundProgram:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        status = self.process.poll()
        self.process.kill()
        self.process.wait()
        if isinstance(error, AssertionError):
            what = "was running" if status is None else f"had ended with status {status}"
            raise AssertionError(f"{error}\n{told(self._cluster, self._command, what, self.output.read_bytes(), self.errors.read_bytes())}") from None


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
