"""Consumer groups with unmodified clients on three nodes: members that come and go, static members, cooperative rebalances, commits, kcat; each also
across a kill -9 of the coordinator. No commit is lost, none goes back."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from broker.coordinator.shards import partition_for
from tests.integration.support import BackgroundProgram
from tests.processes import ProcessCluster, wait_until

RECORDS = 600
PARTITIONS = 6
SETTINGS = {
    "CHRONIK_KAFKA__GROUP_INITIAL_REBALANCE_DELAY_MS": "100",
    "CHRONIK_KAFKA__GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    "CHRONIK_KAFKA__OFFSETS_TOPIC_NUM_PARTITIONS": "8",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with ProcessCluster(tmp_path_factory.mktemp("groups"), environment=SETTINGS) as running:
        yield running
        assert running.surprises() == []


@pytest.fixture(scope="module")
def admin(cluster: ProcessCluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": cluster.bootstrap})


@pytest.fixture
def topic(cluster: ProcessCluster, admin: AdminClient, request: pytest.FixtureRequest) -> str:
    """A topic with RECORDS records, named after the test, spread over PARTITIONS partitions."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    admin.create_topics([NewTopic(name, PARTITIONS, 3)])[name].result(30)
    produce(cluster, name, range(RECORDS))
    return name


def produce(cluster: ProcessCluster, topic: str, numbers: range) -> None:
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True})
    for number in numbers:
        producer.produce(topic, str(number).encode(), partition=number % PARTITIONS)
    assert producer.flush(30) == 0


def settings(cluster: ProcessCluster, group: str, **more: Any) -> dict[str, Any]:
    return {
        "bootstrap.servers": cluster.bootstrap,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 500,
        **{name.replace("_", "."): value for name, value in more.items()},
    }


def coordinator(cluster: ProcessCluster, group: str) -> int:
    """Broker id. A client of its own each time: librdkafka keeps what it was told before."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    found: list[int] = []

    def known() -> bool:
        node = admin.describe_consumer_groups([group], request_timeout=5)[group].result().coordinator
        found[:] = [node.id] if node is not None else []
        return bool(found)

    wait_until(f"the coordinator of {group}", known, 20)
    return found[0]


def committed(cluster: ProcessCluster, group: str, topic: str) -> dict[int, int]:
    consumer = Consumer(settings(cluster, group))
    try:
        found: dict[int, int] = {}

        def asked() -> bool:
            answers = consumer.committed([TopicPartition(topic, number) for number in range(PARTITIONS)], 5)
            found.update({one.partition: one.offset for one in answers})
            return all(one.error is None for one in answers)

        wait_until("committed offsets", asked, 30)
        return found
    finally:
        consumer.close()


class Members:
    """Confluent consumers of one group, each polled by a thread of its own; keeps what they saw and who owns what."""

    def __init__(self, cluster: ProcessCluster, group: str, topic: str, **more: Any) -> None:
        self.cluster, self.group, self.topic, self.more = cluster, group, topic, more
        self.seen: dict[str, int] = {}
        self.owned: dict[int, set[int]] = {}
        self.errors: list[str] = []
        self.lock = threading.Lock()
        self._threads: dict[int, tuple[threading.Thread, threading.Event]] = {}

    def start(self, number: int, **more: Any) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(number, stop, {**self.more, **more}), daemon=True)
        self._threads[number] = (thread, stop)
        thread.start()

    def stop(self, *numbers: int) -> None:
        chosen = numbers or tuple(self._threads)
        for number in chosen:
            self._threads[number][1].set()
        for number in chosen:
            self._threads.pop(number)[0].join(30)

    def _run(self, number: int, stop: threading.Event, more: dict[str, Any]) -> None:
        consumer = Consumer(settings(self.cluster, self.group, **more))
        cooperative = more.get("partition_assignment_strategy") == "cooperative-sticky"

        def assigned(_: Consumer, partitions: list[TopicPartition]) -> None:
            with self.lock:
                mine = self.owned.setdefault(number, set())
                mine.update(one.partition for one in partitions)
            consumer.incremental_assign(partitions) if cooperative else consumer.assign(partitions)

        def revoked(_: Consumer, partitions: list[TopicPartition]) -> None:
            with self.lock:
                self.owned.setdefault(number, set()).difference_update(one.partition for one in partitions)
            consumer.incremental_unassign(partitions) if cooperative else consumer.unassign()

        consumer.subscribe([self.topic], on_assign=assigned, on_revoke=revoked, on_lost=revoked)
        while not stop.is_set():
            message = consumer.poll(0.1)
            if message is None:
                continue
            if message.error() is not None:
                with self.lock:
                    self.errors.append(str(message.error()))
                continue
            with self.lock:
                value = message.value().decode()
                self.seen[value] = self.seen.get(value, 0) + 1
            try:
                consumer.commit(message=message, asynchronous=True)
            except KafkaException as error:
                self.errors.append(str(error))
        wait_until(f"the last commit of member {number}", lambda: self._commit(consumer), 30)
        consumer.close()
        with self.lock:
            self.owned.pop(number, None)

    @staticmethod
    def _commit(consumer: Consumer) -> bool:
        """Asynchronous commits may fail while there is no coordinator; the last word is said until it is heard."""
        try:
            consumer.commit(asynchronous=False)
        except KafkaException as error:
            return error.args[0].code() in (KafkaError._NO_OFFSET, KafkaError._FATAL, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.FENCED_INSTANCE_ID)
        return True

    def wait_seen(self, count: int, seconds: float = 60.0) -> None:
        wait_until(f"{count} records seen", lambda: len(self.seen) >= count, seconds)

    def wait_balanced(self, *sizes: int) -> None:
        """Each running member owns so many partitions, and every partition has one owner."""

        def balanced() -> bool:
            with self.lock:
                owned = [mine for number, mine in self.owned.items() if number in self._threads]
            return sorted(map(len, owned)) == sorted(sizes) and len(set().union(*owned)) == PARTITIONS

        wait_until(f"partitions shared out as {sizes}; now {self.owned}", balanced, 60)


@pytest.mark.parametrize("strategy", ["range", "roundrobin", "cooperative-sticky"])
def test_members_come_and_go(cluster: ProcessCluster, admin: AdminClient, topic: str, strategy: str) -> None:
    members = Members(cluster, f"come-{strategy}", topic, partition_assignment_strategy=strategy)
    members.start(1)
    members.wait_balanced(6)
    members.start(2)
    members.wait_balanced(3, 3)
    members.start(3)
    members.wait_balanced(2, 2, 2)
    members.stop(1)
    members.wait_balanced(3, 3)
    members.wait_seen(RECORDS)
    described = admin.describe_consumer_groups([f"come-{strategy}"])[f"come-{strategy}"].result()
    assert described.state.name == "STABLE" and len(described.members) == 2
    assert described.partition_assignor == strategy
    members.stop()
    assert committed(cluster, f"come-{strategy}", topic) == dict.fromkeys(range(PARTITIONS), RECORDS // PARTITIONS)


def test_the_coordinator_is_killed(cluster: ProcessCluster, admin: AdminClient, topic: str) -> None:
    """Members keep their generation; every record is seen; what a commit acknowledged is there."""
    members = Members(cluster, "killed", topic, partition_assignment_strategy="cooperative-sticky")
    for number in (1, 2, 3):
        members.start(number)
    members.wait_balanced(2, 2, 2)
    members.wait_seen(RECORDS)
    victim = cluster.nodes[coordinator(cluster, "killed")]
    victim.kill()
    try:
        produce(cluster, topic, range(RECORDS, 2 * RECORDS))
        members.wait_seen(2 * RECORDS)
        members.wait_balanced(2, 2, 2)
    finally:
        victim.start()
        cluster.wait_ready()
    members.start(4)
    members.wait_balanced(1, 1, 2, 2)
    members.stop()
    assert committed(cluster, "killed", topic) == dict.fromkeys(range(PARTITIONS), 2 * RECORDS // PARTITIONS)


def test_no_commit_is_lost_and_none_goes_back(cluster: ProcessCluster, admin: AdminClient, topic: str) -> None:
    """One client commits 1, 2, 3, … while coordinators are killed in turn; another looks what is committed."""
    acknowledged = -1001  # nothing
    problems: list[str] = []
    stop = threading.Event()

    def look() -> None:
        consumer = Consumer(settings(cluster, "steady"))
        newest = -1001
        while not stop.is_set():
            floor = acknowledged
            try:
                found = consumer.committed([TopicPartition(topic, 0)], 5)[0].offset
            except KafkaException:
                continue
            if found < newest or found < floor:
                problems.append(f"{found} after {newest}, acknowledged {floor}")
            newest = max(newest, found)
        consumer.close()

    writer = Consumer(settings(cluster, "steady"))
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    kills, offset, deadline = 0, 0, time.monotonic() + 120
    down: tuple[Any, float] | None = None
    while (kills < 3 or offset < 600) and time.monotonic() < deadline:
        offset += 1
        while time.monotonic() < deadline:
            try:
                answer = writer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
                assert answer[0].error is None
                acknowledged = offset
                break
            except KafkaException as error:
                assert error.args[0].retriable() or error.args[0].code() in RETRIED, error
        if down is not None and time.monotonic() > down[1]:
            down[0].start()
            cluster.wait_ready()
            down = None
        if offset % 150 == 0 and down is None and kills < 3:
            kills += 1
            victim = cluster.nodes[coordinator(cluster, "steady")]
            victim.kill()
            down = (victim, time.monotonic() + 2)
    stop.set()
    watcher.join(10)
    writer.close()
    if down is not None:
        down[0].start()
    cluster.wait_ready()
    assert kills == 3 and not problems
    assert committed(cluster, "steady", topic)[0] == offset


RETRIED = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._WAIT_COORD, KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE}


def test_a_static_member_comes_back_without_a_rebalance(cluster: ProcessCluster, admin: AdminClient, topic: str) -> None:
    members = Members(cluster, "static", topic, session_timeout_ms=20_000)
    for number in (1, 2):
        members.start(number, group_instance_id=f"instance-{number}")
    members.wait_balanced(3, 3)
    before = set(members.owned[2])
    members.stop(1)  # a static member does not leave when it closes
    described = admin.describe_consumer_groups(["static"])["static"].result()
    assert sorted(one.group_instance_id for one in described.members) == ["instance-1", "instance-2"]
    members.start(1, group_instance_id="instance-1")
    members.wait_balanced(3, 3)
    assert members.owned[2] == before
    victim = cluster.nodes[coordinator(cluster, "static")]
    victim.kill()
    members.stop(1)
    members.start(1, group_instance_id="instance-1")
    members.wait_balanced(3, 3)
    victim.start()
    cluster.wait_ready()
    assert members.owned[2] == before
    members.start(3, group_instance_id="instance-2")
    wait_until("the elder of two with one instance id to be fenced", lambda: any("fenced" in error.lower() for error in members.errors), 30)
    members.stop()


def test_a_member_that_dies_is_replaced(cluster: ProcessCluster, topic: str, tmp_path: Path) -> None:
    """Its process ends without a word: after the session time-out the others have its partitions."""
    code = (
        "import sys;from confluent_kafka import Consumer;"
        "c=Consumer(eval(sys.argv[1]));c.subscribe([sys.argv[2]]);print('up',flush=True)\n"
        "while True:\n m=c.poll(0.2)\n if c.assignment(): print('mine',flush=True)"
    )
    config = settings(cluster, "dies", session_timeout_ms=3_000)
    with BackgroundProgram(cluster, tmp_path, sys.executable, "-c", code, repr(config), topic) as member:
        wait_until("the first member to own partitions", lambda: b"mine" in member.output.read_bytes(), 30)
    members = Members(cluster, "dies", topic)
    members.start(1)
    members.wait_balanced(6)
    members.wait_seen(RECORDS)
    members.stop()


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed (Debian: apt-get install kcat)")
def test_kcat_in_group_mode(cluster: ProcessCluster, admin: AdminClient, topic: str, tmp_path: Path) -> None:
    wishes = ["-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=6000"]
    with BackgroundProgram(cluster, tmp_path, "kcat", "-u", "-b", cluster.bootstrap, "-G", "kcat-group", *wishes, topic) as kcat:

        def count() -> int:
            return len(set(kcat.output.read_bytes().split()))

        wait_until("all records", lambda: count() == RECORDS, 60)
        victim = cluster.nodes[coordinator(cluster, "kcat-group")]
        victim.kill()
        produce(cluster, topic, range(RECORDS, 2 * RECORDS))
        wait_until("all records after the kill", lambda: count() == 2 * RECORDS, 60)
        victim.start()
        cluster.wait_ready()
        kcat.stop()
    assert committed(cluster, "kcat-group", topic) == dict.fromkeys(range(PARTITIONS), 2 * RECORDS // PARTITIONS)


def test_administration(cluster: ProcessCluster, admin: AdminClient, topic: str) -> None:
    members = Members(cluster, "administered", topic)
    members.start(1)
    members.wait_seen(RECORDS)
    group = ConsumerGroupTopicPartitions("administered", [TopicPartition(topic, 0, 3)])
    refused = admin.alter_consumer_group_offsets([group])["administered"].result(20)
    assert refused.topic_partitions[0].error.code() == KafkaError.UNKNOWN_MEMBER_ID
    with pytest.raises(KafkaException, match=r"(?i)non.?empty|not empty"):
        admin.delete_consumer_groups(["administered"])["administered"].result(20)
    listed = {one.group_id: one.state.name for one in admin.list_consumer_groups().result(20).valid}
    assert listed["administered"] == "STABLE"
    members.stop()
    wait_until("the group to be empty", lambda: admin.describe_consumer_groups(["administered"])["administered"].result(20).state.name == "EMPTY", 20)
    admin.alter_consumer_group_offsets([group])["administered"].result(20)
    offsets = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions("administered")])["administered"].result(20)
    assert {one.partition: one.offset for one in offsets.topic_partitions}[0] == 3
    admin.delete_consumer_groups(["administered"])["administered"].result(20)
    assert "administered" not in {one.group_id for one in admin.list_consumer_groups().result(20).valid}
    assert committed(cluster, "administered", topic) == dict.fromkeys(range(PARTITIONS), -1001)


def test_offsets_of_a_deleted_topic_are_gone(cluster: ProcessCluster, admin: AdminClient, topic: str) -> None:
    members = Members(cluster, "recreated", topic)
    members.start(1)
    members.wait_seen(RECORDS)
    members.stop()
    assert committed(cluster, "recreated", topic)[0] == RECORDS // PARTITIONS
    admin.delete_topics([topic])[topic].result(30)
    wait_until("the topic to be gone", lambda: topic not in admin.list_topics(timeout=10).topics, 20)
    admin.create_topics([NewTopic(topic, PARTITIONS, 3)])[topic].result(30)
    assert set(committed(cluster, "recreated", topic).values()) == {-1001}


def test_tools_can_read_the_topic(cluster: ProcessCluster, admin: AdminClient, topic: str) -> None:
    """As Burrow does: keys and values of `__consumer_offsets` in Kafka's own format."""
    consumer = Consumer(settings(cluster, "reader-of-offsets"))
    consumer.commit(offsets=[TopicPartition(topic, 3, 42)], asynchronous=False)
    described = admin.list_topics("__consumer_offsets", timeout=10).topics["__consumer_offsets"]
    number = len(described.partitions)
    where = partition_for("reader-of-offsets", number)
    end = admin.list_offsets({TopicPartition("__consumer_offsets", where): OffsetSpec.latest()})
    last = next(iter(end.values())).result(20).offset - 1
    consumer.assign([TopicPartition("__consumer_offsets", where, last)])
    found: list[Any] = []

    def read() -> bool:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None:
            found.append(message)
        return bool(found)

    wait_until("the record", read, 20)
    consumer.close()
    group = b"reader-of-offsets"
    key = b"\x00\x01" + len(group).to_bytes(2, "big") + group + len(topic).to_bytes(2, "big") + topic.encode() + (3).to_bytes(4, "big")
    assert found[0].key() == key
    assert found[0].value()[:10] == b"\x00\x03" + (42).to_bytes(8, "big")


def test_everything_is_there_after_all_nodes_were_killed(cluster: ProcessCluster, admin: AdminClient, topic: str) -> None:
    """Members outlive it too: they keep their generation, because nobody's session ended while there was no coordinator."""
    members = Members(cluster, "all-killed", topic, session_timeout_ms=45_000)
    for number in (1, 2):
        members.start(number)
    members.wait_balanced(3, 3)
    members.wait_seen(RECORDS)
    before = {number: set(mine) for number, mine in members.owned.items()}
    for node in cluster.nodes.values():
        node.kill()
    for node in cluster.nodes.values():
        node.start()
    cluster.wait_ready()
    produce(cluster, topic, range(RECORDS, 2 * RECORDS))
    members.wait_seen(2 * RECORDS)
    assert members.owned == before
    members.stop()
    assert committed(cluster, "all-killed", topic) == dict.fromkeys(range(PARTITIONS), 2 * RECORDS // PARTITIONS)
