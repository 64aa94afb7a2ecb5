"""Where a program runs: a cluster, one client library, names of its own; and the stage that runs it with every library at once and kills a node.

The libraries' programs run side by side, so that one kill -9 serves all of them. A program calls `middle()` where it wants to be hit: all wait for
each other there, the coordinator's node is killed, all go on without it; `wait_back()` waits until it runs again.
"""

from __future__ import annotations

import itertools
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from broker.coordinator.shards import partition_for
from tests.integration.programs.clients import FencedError, Library, Reader, Reading
from tests.integration.programs.journal import Journal
from tests.processes import ProcessCluster, wait_until

COORDINATORS = 4
ENVIRONMENT = {
    "CHRONIK_KAFKA__GROUP_INITIAL_REBALANCE_DELAY_MS": "100",
    "CHRONIK_KAFKA__OFFSETS_TOPIC_NUM_PARTITIONS": str(COORDINATORS),
    "CHRONIK_KAFKA__TRANSACTION_STATE_LOG_NUM_PARTITIONS": str(COORDINATORS),
}
WAIT_SECONDS = 60.0
FIRST_TIMESTAMP_MS = 1_700_000_000_000
QUIET = {"log_level": 0, "socket.timeout.ms": 5000, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 300}


@dataclass(slots=True)
class Kill:
    """The kill -9 of one act, shared by the scenes. Without `wanted` nothing is killed and nobody waits."""

    wanted: bool
    down: threading.Event = field(default_factory=threading.Event)
    back: threading.Event = field(default_factory=threading.Event)


class Scene:
    """One program with one library. `coordinator` is the partition of the coordinators' topics to which all its names hash."""

    def __init__(self, cluster: ProcessCluster, library: Library, act: str, kill: Kill, serial: int) -> None:
        self.cluster, self.library, self.act, self._kill = cluster, library, act, kill
        self.name = f"{act}-{library.name}-{serial}"
        self.bootstrap = cluster.bootstrap
        self.progress = 0
        self.problems: list[str] = []
        self.ids: list[str] = []
        self.arrived = threading.Event()
        self.over = threading.Event()
        self._names = itertools.count()

    @property
    def killing(self) -> bool:
        return self._kill.wanted

    def id(self, what: str) -> str:
        """A group or transactional id whose coordinator is the one that will be killed."""
        while True:
            found = f"{self.name}-{what}-{next(self._names)}"
            if partition_for(found, COORDINATORS) == 0:
                self.ids.append(found)
                return found

    def describe(self) -> str:
        """How the coordinator sees the scene's groups, for whoever has to find out why a program failed."""
        if not self.ids:
            return ""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, **QUIET})
        lines = []
        for name, future in admin.describe_consumer_groups(self.ids, request_timeout=10).items():
            try:
                group = future.result()
            except KafkaException as error:
                lines.append(f"{name}: {error}")
                continue
            members = [f"{m.member_id}: {[p.partition for p in m.assignment.topic_partitions]}" for m in group.members]
            lines.append(f"{name}: {group.state.name} {members}")
        return "\n".join(lines)

    def topic(self, what: str, partitions: int) -> str:
        name = f"{self.name}-{what}"
        admin = AdminClient({"bootstrap.servers": self.bootstrap, **QUIET})
        admin.create_topics([NewTopic(name, partitions, 3)])[name].result(30)
        return name

    def middle(self) -> None:
        """Here the coordinator's node dies, if it is to."""
        if not self._kill.wanted:
            return
        self.arrived.set()
        if not self._kill.down.wait(WAIT_SECONDS):
            raise AssertionError("nothing was killed")

    def wait_back(self) -> None:
        if self._kill.wanted and not self._kill.back.wait(WAIT_SECONDS):
            raise AssertionError("the killed node did not come back")

    def wait(self, what: str, condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
        wait_until(f"{self.library.name}: {what}", condition, seconds)

    def reader(self, reading: Reading, journal: Journal, name: str) -> Reader:
        return self.library.reader(self.bootstrap, reading, journal.member(name))


class Feed(threading.Thread):
    """Writes numbered records to every partition in turn, idempotently, at a measured pace, until stopped: offset n of a partition is its n-th."""

    def __init__(self, scene: Scene, topic: str, partitions: int, batch: int = 12, pause: float = 0.05, at_least: int = 0) -> None:
        super().__init__(name=f"feed of {topic}", daemon=True)
        self._scene, self.topic, self.partitions, self._batch, self._pause, self._at_least = scene, topic, partitions, batch, pause, at_least
        self._ending = threading.Event()
        self.acked: dict[int, int] = dict.fromkeys(range(partitions), 0)
        self.problems: list[str] = []
        self.start()

    @staticmethod
    def value(partition: int, offset: int) -> bytes:
        return f"{partition}:{offset}".encode()

    @staticmethod
    def timestamp(offset: int) -> int:
        return FIRST_TIMESTAMP_MS + 1000 * offset

    def _told(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self.problems.append(f"feed: {error}")
        elif message.value() != self.value(message.partition(), message.offset()):
            self.problems.append(f"feed: {message.value()!r} was given offset {message.offset()}")
        else:
            self.acked[message.partition()] = max(self.acked[message.partition()], message.offset() + 1)

    def run(self) -> None:
        producer = Producer({"bootstrap.servers": self._scene.bootstrap, "enable.idempotence": True, "linger.ms": 5, **QUIET})
        sent = 0
        while not self._ending.is_set() or sent < self._at_least * self.partitions:
            for _ in range(self._batch):
                partition, offset = sent % self.partitions, sent // self.partitions
                producer.produce(
                    self.topic, self.value(partition, offset), partition=partition, timestamp=self.timestamp(offset), on_delivery=self._told
                )
                sent += 1
            producer.poll(0)
            self._ending.wait(self._pause)
            while len(producer) > 500:
                producer.poll(0.05)
        left = producer.flush(WAIT_SECONDS)
        if left:
            self.problems.append(f"feed: {left} records without an answer")

    def stop(self) -> dict[int, int]:
        """How many records each partition has."""
        self._ending.set()
        self.join(WAIT_SECONDS + 10)
        self._scene.problems += self.problems
        return dict(self.acked)


class MemberThread(threading.Thread):
    """A member of a group: polls, commits, counts, until stopped."""

    def __init__(self, scene: Scene, reading: Reading, journal: Journal, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._scene, self._reading, self._journal = scene, reading, journal
        self._ending = threading.Event()
        self.fenced = False
        self.start()

    def run(self) -> None:
        try:
            reader = self._scene.reader(self._reading, self._journal, self.name)
            try:
                while not self._ending.is_set():
                    self._scene.progress += reader.step()
            finally:
                reader.close()
        except FencedError:
            self.fenced = True
        except BaseException:  # noqa: BLE001 - told as a problem of the scene
            self._scene.problems.append(f"member {self.name}: {traceback.format_exc(limit=-4)}")

    def stop(self) -> None:
        self._ending.set()
        self.join(WAIT_SECONDS)
        if self.is_alive():
            self._scene.problems.append(f"member {self.name} does not end")


class Members:
    """The running members of a group."""

    def __init__(self, scene: Scene, reading: Reading, journal: Journal, partitions: int) -> None:
        self._scene, self._reading, self._journal, self._partitions = scene, reading, journal, partitions
        self._running: dict[str, MemberThread] = {}

    def start(self, name: str, instance: str | None = None) -> MemberThread:
        reading = Reading(self._reading.topic, self._reading.group, self._reading.strategy, instance, self._reading.read_committed)
        member = self._running[name] = MemberThread(self._scene, reading, self._journal, name)
        return member

    def running(self, name: str) -> MemberThread:
        return self._running[name]

    def stop(self, *names: str) -> None:
        chosen = [self._running.pop(name) for name in names or tuple(self._running)]
        for one in chosen:
            one._ending.set()
        for one in chosen:
            one.stop()

    def wait_balanced(self, *sizes: int) -> None:
        def balanced() -> bool:
            if self._scene.problems:
                raise AssertionError(self._scene.problems[0])
            owned = self._journal.owned()
            return sorted(len(owned.get(name, ())) for name in self._running) == sorted(sizes)

        try:
            self._scene.wait(f"partitions shared out as {sizes}", balanced)
        except AssertionError as error:
            raise AssertionError(f"{error}; now {self._journal.owned()}") from None


class Watcher(threading.Thread):
    """Asks again and again what a group has committed: none goes back, and none is below what was acknowledged before asking."""

    def __init__(self, scene: Scene, group: str, topic: str, partitions: int, journal: Journal) -> None:
        super().__init__(name=f"watcher of {group}", daemon=True)
        self._scene, self._group, self._topic, self._partitions, self._journal = scene, group, topic, partitions, journal
        self._ending = threading.Event()
        self.looks = 0
        self.start()

    def run(self) -> None:
        consumer = Consumer({"bootstrap.servers": self._scene.bootstrap, "group.id": self._group, "enable.auto.commit": False, **QUIET})
        newest: dict[int, int] = {}
        places = [TopicPartition(self._topic, partition) for partition in range(self._partitions)]
        while not self._ending.wait(0.03):
            floor = self._journal.acked()
            try:
                answers = consumer.committed(places, 5)
            except KafkaException:
                continue
            self.looks += 1
            for one in answers:
                if one.error is not None:
                    continue
                offset, low = max(0, one.offset), max(newest.get(one.partition, 0), floor.get(one.partition, 0))
                if offset < low:
                    self._scene.problems.append(f"a commit went back: partition {one.partition}: {offset} after {low}")
                newest[one.partition] = max(offset, low)
        consumer.close()

    def stop(self) -> None:
        self._ending.set()
        self.join(20)
        if not self.looks:
            self._scene.problems.append("nobody could see what is committed")


def committed_of(scene: Scene, group: str, topic: str, partitions: int) -> dict[int, int]:
    """As a fresh client is told."""
    consumer = Consumer({"bootstrap.servers": scene.bootstrap, "group.id": group, "enable.auto.commit": False, **QUIET})
    found: dict[int, int] = {}

    def asked() -> bool:
        answers = consumer.committed([TopicPartition(topic, partition) for partition in range(partitions)], 5)
        found.update({one.partition: max(0, one.offset) for one in answers})
        return all(one.error is None for one in answers)

    try:
        wait_until("committed offsets", asked, 30)
        return found
    finally:
        consumer.close()


def read_all(scene: Scene, topic: str, partitions: int, committed: bool = True) -> dict[int, list[bytes]]:
    """Values of every partition up to its end, in order, as a fresh client sees them."""
    consumer = Consumer(
        {
            "bootstrap.servers": scene.bootstrap,
            "group.id": "fresh",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            **QUIET,
        }
    )
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(partitions)])
    found: dict[int, list[bytes]] = {partition: [] for partition in range(partitions)}
    ended: set[int] = set()

    def read() -> bool:
        for message in consumer.consume(500, 0.2):
            error = message.error()
            if error is None:
                found[message.partition()].append(message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
        return len(ended) == partitions

    try:
        wait_until(f"the ends of {topic}", read, 60)
        return found
    finally:
        consumer.close()


def wait_no_open_transaction(scene: Scene, topic: str, partitions: int) -> None:
    """Every marker is written: readers of committed records reach the end."""
    clients = [
        Consumer({"bootstrap.servers": scene.bootstrap, "group.id": "w", "isolation.level": f"read_{kind}", **QUIET})
        for kind in ("committed", "uncommitted")
    ]

    def reached() -> bool:
        places = [TopicPartition(topic, partition) for partition in range(partitions)]
        return all(len({client.get_watermark_offsets(place, 5)[1] for client in clients}) == 1 for place in places)

    try:
        scene.wait(f"the end of all transactions on {topic}", reached)
    finally:
        for client in clients:
            client.close()


Program = Callable[[Scene], None]


class Stage:
    """Runs programs on one cluster."""

    def __init__(self, cluster: ProcessCluster) -> None:
        self.cluster = cluster
        self._serial = itertools.count()
        self._prime()

    def _prime(self) -> None:
        """The coordinators' topics exist and have leaders."""
        plain = Consumer({"bootstrap.servers": self.cluster.bootstrap, "group.id": "prime", **QUIET})
        wait_until("a group coordinator", lambda: plain.committed([TopicPartition("prime", 0)], 5), 30)
        plain.close()
        writer = Producer({"bootstrap.servers": self.cluster.bootstrap, "transactional.id": "prime", **QUIET})
        writer.init_transactions(30)

    def run(self, act: str, program: Program, libraries: Sequence[Library], kill: bool, topics: Iterable[str]) -> Mapping[str, list[str]]:
        """Problems by library; `topics` are the coordinators' topics whose leaders are killed, one after the other when they are two nodes."""
        serial = next(self._serial)
        shared = Kill(kill)
        scenes = [Scene(self.cluster, library, act, shared, serial) for library in libraries]
        threads = [threading.Thread(target=self._play, args=(program, scene), name=scene.name, daemon=True) for scene in scenes]
        for thread in threads:
            thread.start()
        if kill:
            try:
                self._kill(shared, scenes, topics)
            finally:
                shared.down.set()
                shared.back.set()
        for thread, scene in zip(threads, scenes, strict=True):
            thread.join(4 * WAIT_SECONDS)
            if thread.is_alive():
                scene.problems.append("the program does not end")
        return {scene.library.name: scene.problems for scene in scenes}

    @staticmethod
    def _play(program: Program, scene: Scene) -> None:
        try:
            program(scene)
        except BaseException:  # noqa: BLE001 - told as a problem of the scene
            scene.problems.append(f"{traceback.format_exc(limit=-4)}\n{scene.describe()}")
        finally:
            scene.over.set()
            scene.arrived.set()

    def _kill(self, shared: Kill, scenes: Sequence[Scene], topics: Iterable[str]) -> None:
        for scene in scenes:
            wait_until(f"{scene.name} to come to its middle", scene.arrived.is_set, 2 * WAIT_SECONDS)
        victims: list[int] = []
        for topic in topics:
            # Between the first kill and the second the leader may have moved; the node that led at the beginning is hit.
            node = self.cluster.wait_leader(topic, 0)
            if node not in victims:
                victims.append(node)
        for number, node in enumerate(victims):
            victim = self.cluster.nodes[node]
            before = {scene.name: scene.progress for scene in scenes}
            victim.kill()
            shared.down.set()
            for scene in scenes:
                self._wait_progress(scene, before[scene.name])
            victim.start()
            self.cluster.wait_ready()
            if number + 1 < len(victims):
                time.sleep(0.3)

    @staticmethod
    def _wait_progress(scene: Scene, before: int) -> None:
        """Work goes on without the killed node."""
        try:
            wait_until("progress", lambda: scene.progress > before or scene.over.is_set() or scene.problems, WAIT_SECONDS)
        except AssertionError:
            scene.problems.append("no progress while the coordinator's node was away")
