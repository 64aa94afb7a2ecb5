"""`python -m tests.chaos.run --cycles 100`: kill -9 and SIGSTOP on a real three-node cluster under load of real clients, then check the history.

Each cycle draws a fault: kill the leader of a partition, a follower, a majority, all nodes; or SIGSTOP the leader. What is killed is started
again. At the end a fresh consumer reads everything and the checkers of `tests.chaos.history` look at it. Prints failover times: from the kill of a
leader to the next acknowledged write to its partition.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.chaos.history import History, Outcome, Send, check
from tests.processes import ProcessCluster, wait_until

TOPIC = "chaos"
CLIENT = {"log_level": 0, "socket.timeout.ms": 1000, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100}


@dataclass
class Load:
    """One idempotent producer over all partitions, and what became of each record."""

    bootstrap: str
    partitions: int
    rate: int
    histories: dict[int, History] = field(default_factory=dict)
    acknowledged_at: dict[int, list[float]] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    fatal: str = ""

    def __post_init__(self) -> None:
        self.histories = {p: History() for p in range(self.partitions)}
        self.acknowledged_at = {p: [] for p in range(self.partitions)}

    def run(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 2,
                "message.timeout.ms": 300_000,
                "retry.backoff.ms": 50,
                "retry.backoff.max.ms": 200,
                "topic.metadata.refresh.interval.ms": 1000,
                "error_cb": self._on_error,
                **CLIENT,
            }
        )
        number, start = 0, time.monotonic()
        while not self.stop.is_set() and not self.fatal:
            partition = number % self.partitions
            send = Send(b"p:%d:%s" % (number, b"x" * (number % 300)), Outcome.UNKNOWN)
            self.histories[partition].sends.append(send)
            try:
                told = lambda error, message, s=send, p=partition: self._delivered(s, p, error, message)  # noqa: E731
                producer.produce(TOPIC, send.value, partition=partition, on_delivery=told)
            except BufferError:
                producer.poll(0.05)
                self.histories[partition].sends.pop()
                continue
            number += 1
            producer.poll(0)
            ahead = start + number / self.rate - time.monotonic()
            if ahead > 0:
                producer.poll(min(ahead, 0.05))
        producer.flush(60)

    def _delivered(self, send: Send, partition: int, error: KafkaError | None, message: object) -> None:
        if error is None:
            offset = message.offset()  # type: ignore[attr-defined]
            send.outcome, send.offset = Outcome.OK, offset if offset is not None and offset >= 0 else -1
            self.acknowledged_at[partition].append(time.monotonic())

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.fatal = str(error)

    def acknowledged(self) -> int:
        return sum(len(times) for times in self.acknowledged_at.values())


@dataclass
class Tail:
    """A consumer at the end of every partition, all the time."""

    load: Load
    name: str = "tail"

    def run(self) -> None:
        consumer = Consumer({"bootstrap.servers": self.load.bootstrap, "group.id": "chaos", "enable.auto.commit": False, **CLIENT})
        consumer.assign([TopicPartition(TOPIC, p, OFFSET_BEGINNING) for p in range(self.load.partitions)])
        while not self.load.stop.is_set():
            polls: dict[int, list[tuple[int, bytes]]] = {}
            for message in consumer.consume(500, 0.2):
                if message.error() is None:
                    polls.setdefault(message.partition(), []).append((message.offset(), message.value()))
            for partition, poll in polls.items():
                self.load.histories[partition].polls[self.name].append(poll)
                try:
                    _, high = consumer.get_watermark_offsets(TopicPartition(TOPIC, partition), cached=True)
                except Exception:  # noqa: BLE001 - no watermark is known yet
                    continue
                if high >= 0:
                    self.load.histories[partition].high_watermarks.append((self.name, high))
        consumer.close()


def read_final(bootstrap: str, partitions: int) -> dict[int, list[tuple[int, bytes]]]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "final", "enable.partition.eof": True, **CLIENT})
    consumer.assign([TopicPartition(TOPIC, p, OFFSET_BEGINNING) for p in range(partitions)])
    found: dict[int, list[tuple[int, bytes]]] = {p: [] for p in range(partitions)}
    ended: set[int] = set()
    deadline = time.monotonic() + 120
    while len(ended) < partitions:
        assert time.monotonic() < deadline, f"the final read does not end; ended: {ended}"
        for message in consumer.consume(5000, 1.0):
            if message.error() is None:
                found[message.partition()].append((message.offset(), message.value()))
                ended.discard(message.partition())
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
    consumer.close()
    return found


def gap_after(times: list[float], moment: float) -> float | None:
    """The longest silence that begins before or at the first acknowledgement after `moment`."""
    later = [t for t in times if t > moment]
    if not later:
        return None
    window = [t for t in times if moment - 0.5 < t < later[0] + 3]
    return max((b - a for a, b in pairwise(window) if b > moment), default=later[0] - moment)


def one_cycle(cluster: ProcessCluster, load: Load, kind: str, rng: random.Random, gaps: dict[str, list[float]]) -> str:
    """Returns a few words about what was done and seen."""
    partition = rng.randrange(load.partitions)
    leader = cluster.partition_leader(TOPIC, partition)
    ids = list(cluster.nodes)
    victims = {
        "leader": [leader] if leader else [rng.choice(ids)],
        "stop": [leader] if leader else [rng.choice(ids)],
        "follower": [rng.choice([i for i in ids if i != leader])],
        "majority": rng.sample(ids, len(ids) // 2 + 1),
        "all": ids,
    }[kind]
    if kind == "stop":
        cluster.nodes[victims[0]].send(signal.SIGSTOP)
        moment = time.monotonic()
        time.sleep(rng.uniform(0.5, 4))
        cluster.nodes[victims[0]].send(signal.SIGCONT)
    else:
        for victim in victims:
            cluster.nodes[victim].kill()
        moment = time.monotonic()
        time.sleep(rng.uniform(0.3, 2.5) if kind in ("leader", "follower") else rng.uniform(0, 0.5))
        for victim in victims:
            cluster.nodes[victim].start()
    wait_until(f"acknowledgements after {kind}", lambda: load.fatal or any(t[-1] > moment + 0.2 for t in load.acknowledged_at.values()), 60)
    cluster.wait_ready()
    times = load.acknowledged_at[partition]
    wait_until(f"acknowledgements on partition {partition} after {kind}", lambda: load.fatal or times[-1] > moment + 0.2, 60)
    if kind in ("leader", "stop") and leader:
        gap = gap_after(load.acknowledged_at[partition], moment)
        if gap is not None:
            gaps.setdefault(kind, []).append(gap)
            return f"node {leader}, partition {partition}, gap {gap:.2f} s"
    return f"nodes {victims}"


def run(cycles: int, seed: int, rate: int, directory: Path, partitions: int = 3, kinds: tuple[str, ...] = ()) -> int:
    """Returns the number of anomalies; prints them, the counts and the failover times."""
    rng = random.Random(seed)
    gaps: dict[str, list[float]] = {}
    kinds = kinds or ("leader", "leader", "follower", "majority", "all", "stop")
    with ProcessCluster(directory) as cluster:
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
        admin.create_topics([NewTopic(TOPIC, partitions, 3)])[TOPIC].result(30)
        load = Load(cluster.bootstrap, partitions, rate)
        threads = [threading.Thread(target=load.run, daemon=True), threading.Thread(target=Tail(load).run, daemon=True)]
        for thread in threads:
            thread.start()
        wait_until("the first acknowledgements", lambda: all(load.acknowledged_at.values()))
        started = time.monotonic()
        for cycle in range(cycles):
            kind = kinds[cycle % len(kinds)]
            try:
                told = one_cycle(cluster, load, kind, rng, gaps)
            except AssertionError as error:
                print(f"cycle {cycle + 1}/{cycles} {kind}: {error}", *cluster.surprises(), sep="\n", flush=True)
                return 1
            rate_now = load.acknowledged() / (time.monotonic() - started + 0.001)
            print(f"cycle {cycle + 1}/{cycles} {kind} ({told}): {load.acknowledged()} acknowledged ({rate_now:.0f}/s)", flush=True)
            if load.fatal:
                print(f"the producer gave up: {load.fatal}")
                return 1
            time.sleep(0.5)
        load.stop.set()
        for thread in threads:
            thread.join(90)
        final = read_final(cluster.bootstrap, partitions)
        anomalies = []
        for partition, history in load.histories.items():
            history.final = final[partition]
            anomalies += [f"partition {partition}: {text}" for text in check(history)]
        anomalies += cluster.surprises()
    unplaced = sum(send.outcome == Outcome.OK and send.offset < 0 for history in load.histories.values() for send in history.sends)
    for text in anomalies[:20]:
        print(text)
    for kind, values in gaps.items():
        print(f"failover ({kind}): n={len(values)} p50 {statistics.median(values):.2f} s max {max(values):.2f} s")
    held = sum(len(found) for found in final.values())
    print(
        f"{cycles} cycles, {load.acknowledged()} acknowledged ({unplaced} of them without an offset), {held} in the log, {len(anomalies)} anomalies"
    )
    return len(anomalies)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=int, default=500, help="records per second")
    parser.add_argument("--kinds", default="", help="comma-separated: leader, follower, majority, all, stop")
    parser.add_argument("--dir", help="keep the data here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no node is left behind
    kinds = tuple(k for k in options.kinds.split(",") if k)
    if options.dir:
        return 1 if run(options.cycles, options.seed, options.rate, Path(options.dir), kinds=kinds) else 0
    with tempfile.TemporaryDirectory() as directory:
        return 1 if run(options.cycles, options.seed, options.rate, Path(directory), kinds=kinds) else 0


if __name__ == "__main__":
    sys.exit(main())
