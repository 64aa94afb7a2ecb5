"""Administration with unmodified clients: settings, deleting records, elections, and moving partitions with data between four nodes under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, ElectionType, IsolationLevel, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourceType
from kafka import KafkaAdminClient
from kafka import TopicPartition as Place
from kafka.errors import ReassignmentInProgressError

from tests.integration.support import run_program, wait_known
from tests.processes import ProcessCluster, wait_until

QUIET = {"log_level": 2}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with ProcessCluster(tmp_path_factory.mktemp("admin"), 4) as running:
        yield running
        assert running.surprises() == []


@pytest.fixture(scope="module")
def admin(cluster: ProcessCluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": cluster.bootstrap, **QUIET})


@pytest.fixture(scope="module")
def kafka_admin(cluster: ProcessCluster) -> Iterator[Any]:
    client = KafkaAdminClient(bootstrap_servers=cluster.bootstrap.split(","))
    yield client
    client.close()


def make_topic(admin: AdminClient, name: str, assignment: list[list[int]], **config: str) -> str:
    admin.create_topics([NewTopic(name, num_partitions=len(assignment), replica_assignment=assignment, config=config)])[name].result(30)
    wait_until(f"leaders of {name}", lambda: all(p.leader > 0 for p in admin.list_topics(name, 10).topics[name].partitions.values()))
    return name


def settings_of(admin: AdminClient, kind: ResourceType, name: str) -> dict[str, Any]:
    resource = ConfigResource(kind, name)
    return dict(admin.describe_configs([resource])[resource].result(30))


def write(cluster: ProcessCluster, topic: str, values: list[bytes], partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all", **QUIET})
    failed: list[Any] = []
    for value in values:
        producer.produce(topic, value, partition=partition, on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(60) == 0
    assert failed == []


def read_all(cluster: ProcessCluster, topic: str, partitions: int, count: int, seconds: float = 60) -> list[tuple[int, int, bytes]]:
    """(partition, offset, value) of what is there, in the order of arrival; ends with `count` records or after `seconds`."""
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "reader", "enable.auto.commit": False, **QUIET})
    consumer.assign([TopicPartition(topic, index, OFFSET_BEGINNING) for index in range(partitions)])
    found: list[tuple[int, int, bytes]] = []
    end = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        found += [(m.partition(), m.offset(), m.value()) for m in consumer.consume(1000, 0.5) if m.error() is None]
    consumer.close()
    return found


def test_settings_of_topics(admin: AdminClient) -> None:
    topic = make_topic(admin, "settings", [[1, 2, 3]], **{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"})
    resource = ConfigResource(ResourceType.TOPIC, topic)
    for name, value, operation in (
        ("retention.ms", "12345", AlterConfigOpType.SET),
        ("cleanup.policy", "delete", AlterConfigOpType.APPEND),
        ("min.cleanable.dirty.ratio", None, AlterConfigOpType.DELETE),
    ):
        resource.add_incremental_config(ConfigEntry(name, value, incremental_operation=operation))
    admin.incremental_alter_configs([resource])[resource].result(30)
    found = settings_of(admin, ResourceType.TOPIC, topic)
    assert {name: found[name].value for name in ("retention.ms", "cleanup.policy", "min.cleanable.dirty.ratio")} == {
        "retention.ms": "12345",
        "cleanup.policy": "compact,delete",
        "min.cleanable.dirty.ratio": "0.5",
    }
    assert (found["retention.ms"].source, found["retention.bytes"].source) == (1, 5)
    wrong = ConfigResource(ResourceType.TOPIC, topic)
    wrong.add_incremental_config(ConfigEntry("retention.ms", "soon", incremental_operation=AlterConfigOpType.SET))
    with pytest.raises(KafkaException, match=r"retention\.ms"):
        admin.incremental_alter_configs([wrong])[wrong].result(30)


def test_a_setting_of_brokers_acts_on_topics_at_once(cluster: ProcessCluster, admin: AdminClient) -> None:
    topic = make_topic(admin, "limits", [[1, 2, 3]])
    for node in cluster.nodes:
        one = ConfigResource(ResourceType.BROKER, str(node))
        one.add_incremental_config(ConfigEntry("message.max.bytes", "2000", incremental_operation=AlterConfigOpType.SET))
        admin.incremental_alter_configs([one])[one].result(30)
        assert settings_of(admin, ResourceType.BROKER, str(node))["message.max.bytes"].value == "2000"
    producer = Producer({"bootstrap.servers": cluster.bootstrap, **QUIET})
    codes: list[str] = []
    producer.produce(topic, b"x" * 5000, on_delivery=lambda error, _: codes.append(error.name() if error else ""))
    producer.flush(30)
    assert codes == ["MSG_SIZE_TOO_LARGE"]
    for node in cluster.nodes:
        one = ConfigResource(ResourceType.BROKER, str(node))
        one.add_incremental_config(ConfigEntry("message.max.bytes", None, incremental_operation=AlterConfigOpType.DELETE))
        admin.incremental_alter_configs([one])[one].result(30)
    write(cluster, topic, [b"x" * 5000])


def test_delete_records_then_consume(cluster: ProcessCluster, admin: AdminClient) -> None:
    topic = make_topic(admin, "trimmed", [[1, 2, 3]])
    write(cluster, topic, [b"%d" % number for number in range(100)])
    place = TopicPartition(topic, 0, 60)
    assert admin.delete_records([place])[place].result(30).low_watermark == 60
    assert [(offset, value) for _, offset, value in read_all(cluster, topic, 1, 40)] == [(number, b"%d" % number) for number in range(60, 100)]
    earliest = admin.list_offsets({TopicPartition(topic, 0): OffsetSpec.earliest()})[TopicPartition(topic, 0)].result(30)
    assert earliest.offset == 60
    beyond = TopicPartition(topic, 0, 101)
    with pytest.raises(KafkaException, match="OFFSET_OUT_OF_RANGE"):
        admin.delete_records([beyond])[beyond].result(30)


def test_kafka_python_admin(kafka_admin: Any, cluster: ProcessCluster, admin: AdminClient) -> None:
    topic = make_topic(admin, "described", [[2, 3, 4], [3, 4, 1]])
    write(cluster, topic, [b"x" * 1000] * 50, 1)
    quorum = kafka_admin.describe_metadata_quorum()
    (partition,) = quorum["topics"][0]["partitions"]
    assert partition["leader_id"] in cluster.nodes
    known = {one["replica_id"] for one in (*partition["current_voters"], *partition["observers"])}
    assert known == set(cluster.nodes)
    sizes = {
        (place["partition_index"], broker["broker"]): place["partition_size"]
        for broker in kafka_admin.describe_log_dirs()
        for directory in broker["log_dirs"]
        for found in directory["topics"]
        if (found.get("name") or found.get("topic")) == topic
        for place in found["partitions"]
    }
    assert set(sizes) == {(0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (1, 1)}
    assert min(sizes[1, node] for node in (3, 4, 1)) > 50_000 > max(sizes[0, node] for node in (2, 3, 4))
    pages = kafka_admin.describe_topic_partitions([topic])
    assert topic in json.dumps(pages, default=str)
    assert "described" in json.dumps(kafka_admin.list_config_resources(), default=str)


def test_command_line_of_kafka_python(cluster: ProcessCluster) -> None:
    def run(*arguments: str) -> str:
        program = [sys.executable, "-m", "kafka.admin", "-b", cluster.bootstrap.split(",")[0], "--format", "json"]
        return run_program(cluster, *program, *arguments)

    run("topics", "create", "-t", "from-cli", "--num-partitions", "2", "--replication-factor", "3")
    assert "from-cli" in run("topics", "list")
    assert "from-cli" in run("topics", "describe", "-t", "from-cli")
    assert '"node_id": 4' in run("cluster", "describe") or '"broker_id": 4' in run("cluster", "describe")
    assert "retention.ms" in run("configs", "describe", "-r", "topic", "-n", "from-cli")


def moves(cluster: ProcessCluster) -> Any:
    """The moves in progress, asked by a fresh client: an old one keeps to the controller that it knows, even if that was killed."""
    client = KafkaAdminClient(bootstrap_servers=cluster.bootstrap.split(","))
    try:
        return client.list_partition_reassignments()
    finally:
        client.close()


class Load:
    """A producer that writes to two partitions of a topic until it is stopped, and remembers what was acknowledged. Use as a context manager."""

    def __init__(self, cluster: ProcessCluster, topic: str) -> None:
        self.acked: list[tuple[int, bytes]] = []
        self.failed: list[str] = []
        self._topic = topic
        self._stop = threading.Event()
        self._producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all", "enable.idempotence": True, **QUIET})
        self._thread = threading.Thread(target=self._run)

    def _told(self, error: Any, message: Any) -> None:
        if error is None:
            self.acked.append((message.partition(), message.value()))
        else:
            self.failed.append(str(error))

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            if len(self._producer) < 5_000:
                self._producer.produce(self._topic, b"%d" % number, partition=number % 2, on_delivery=self._told)
                number += 1
            self._producer.poll(0.001)
        self._producer.flush(60)

    def wait_for_more(self, count: int) -> None:
        wanted = len(self.acked) + count
        wait_until(f"{count} more records", lambda: len(self.acked) >= wanted)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_a_partition_moves_to_other_nodes_under_load(cluster: ProcessCluster, admin: AdminClient, kafka_admin: Any) -> None:
    topic = make_topic(admin, "moving", [[1, 2, 3], [2, 3, 1]])
    before = [b"before %d" % number for number in range(3000)]
    write(cluster, topic, before, 0)
    with Load(cluster, topic) as load:
        load.wait_for_more(500)
        kafka_admin.alter_partition_reassignments({Place(topic, 0): [2, 3, 4], Place(topic, 1): [4, 3, 2]})
        moving = kafka_admin.list_partition_reassignments()
        assert moving[Place(topic, 0)] == {"replicas": [2, 3, 4, 1], "adding_replicas": [4], "removing_replicas": [1]}
        wait_until("the end of the move", lambda: not kafka_admin.list_partition_reassignments())
        load.wait_for_more(500)
    assert load.failed == []
    partitions = {one["partition_index"]: one for one in kafka_admin.describe_topics([topic])[0]["partitions"]}
    assert [partitions[index]["replica_nodes"] for index in (0, 1)] == [[2, 3, 4], [4, 3, 2]]
    assert all(set(one["isr_nodes"]) == {2, 3, 4} for one in partitions.values())
    acked = load.acked + [(0, value) for value in before]
    found = read_all(cluster, topic, 2, len(acked))
    assert sorted((partition, value) for partition, _, value in found) == sorted(acked)  # nothing lost, nothing twice
    files = cluster.nodes[1].directory / "data" / "wal" / topic
    wait_until("the old replicas' files to go", lambda: not any(files.glob("wal_*")))


def test_a_move_goes_on_when_nodes_are_killed(cluster: ProcessCluster, admin: AdminClient, kafka_admin: Any) -> None:
    topic = make_topic(admin, "interrupted", [[1, 2, 3], [1, 2, 3]])
    write(cluster, topic, [b"x" * 1000] * 5000, 0)
    with Load(cluster, topic) as load:
        load.wait_for_more(300)
        kafka_admin.alter_partition_reassignments({Place(topic, 0): [4, 2, 3], Place(topic, 1): [4, 2, 3]})
        cluster.nodes[4].kill()  # the one that is to come
        load.wait_for_more(300)
        cluster.nodes[4].start()
        wait_until("the first step", lambda: "reassignment: broker 4 begins to follow" in cluster.nodes[1].log.read_text())
        cluster.nodes[1].kill()  # the one that leads, and is to go
        load.wait_for_more(300)
        wait_until("the end of the move", lambda: not moves(cluster))
        cluster.nodes[1].start()
        cluster.wait_ready()
        load.wait_for_more(300)
    assert load.failed == []
    acked = load.acked + [(0, b"x" * 1000)] * 5000
    found = read_all(cluster, topic, 2, len(acked))
    assert sorted((partition, value) for partition, _, value in found) == sorted(acked)
    files = cluster.nodes[1].directory / "data" / "wal" / topic
    wait_until("the old replicas' files to go", lambda: not any(files.glob("wal_*")))


def test_a_broker_that_was_away_deletes_its_old_replica_when_it_comes_back(cluster: ProcessCluster, admin: AdminClient, kafka_admin: Any) -> None:
    topic = make_topic(admin, "left-behind", [[1, 2, 3]])
    write(cluster, topic, [b"%d" % number for number in range(200)])
    node = cluster.nodes[3]
    node.kill()
    kafka_admin.alter_partition_reassignments({Place(topic, 0): [1, 2, 4]})
    wait_until("the end of the move", lambda: not kafka_admin.list_partition_reassignments())
    answer = kafka_admin.alter_partition_reassignments({Place(topic, 0): [1, 2, 3]})[Place(topic, 0)]
    assert answer is ReassignmentInProgressError  # the files of its former replica are still there
    node.start()
    cluster.wait_ready()
    wait_until("the old replica to go", lambda: "left-behind-0: replica removed" in node.log.read_text())

    def moved_back() -> bool:
        return kafka_admin.alter_partition_reassignments({Place(topic, 0): [1, 2, 3]})[Place(topic, 0)] is None

    wait_until("the removal to be confirmed", moved_back)
    wait_until("the end of the move back", lambda: not kafka_admin.list_partition_reassignments())
    assert len(read_all(cluster, topic, 1, 200)) == 200


def test_taking_a_move_back(cluster: ProcessCluster, admin: AdminClient, kafka_admin: Any) -> None:
    topic = make_topic(admin, "undecided", [[1, 2, 3]])
    write(cluster, topic, [b"%d" % number for number in range(500)])
    kafka_admin.alter_partition_reassignments({Place(topic, 0): [4, 2, 3]})
    kafka_admin.alter_partition_reassignments({Place(topic, 0): None})
    assert not kafka_admin.list_partition_reassignments()
    wait_until(
        "the old replicas",
        lambda: set(kafka_admin.describe_topics([topic])[0]["partitions"][0]["isr_nodes"]) == {1, 2, 3},
    )
    assert len(read_all(cluster, topic, 1, 500)) == 500


def test_elect_leaders_after_a_kill(cluster: ProcessCluster, admin: AdminClient) -> None:
    topic = make_topic(admin, "elected", [[2, 3, 4]])
    place = TopicPartition(topic, 0)
    wait_until("the preferred leader", lambda: cluster.partition_leader(topic) == 2)
    cluster.nodes[2].kill()
    wait_until("another leader", lambda: cluster.partition_leader(topic) in (3, 4))
    told = admin.elect_leaders(ElectionType.PREFERRED, [place]).result(30)
    assert told[place] is not None and told[place].name() == "PREFERRED_LEADER_NOT_AVAILABLE"
    cluster.nodes[2].start()
    cluster.wait_ready()

    def elected() -> bool:
        answer = admin.elect_leaders(ElectionType.PREFERRED, [place]).result(30)[place]
        return answer is None or answer.name() == "ELECTION_NOT_NEEDED"

    wait_until("the election", elected)
    wait_until("every node to know it", lambda: cluster.partition_leader(topic) == 2)
    unclean = admin.elect_leaders(ElectionType.UNCLEAN, [place]).result(30)[place]
    assert unclean.name() == "ELECTION_NOT_NEEDED"


def outcome(future: Any) -> Any:
    """The result, or the name of the error."""
    try:
        return future.result(30)
    except KafkaException as error:
        return error.args[0].name()


def test_what_confluent_kafka_s_admin_client_is_told(cluster: ProcessCluster, admin: AdminClient) -> None:
    """Method by method, beside what Apache Kafka answers; groups are in test_groups.py."""
    made = admin.create_topics(
        [NewTopic("told", 3, 3), NewTopic("bad!", 1, 1), NewTopic("nine", 1, 9), NewTopic("odd", 1, 3, config={"no.such": "1"})]
    )
    assert [outcome(made[name]) for name in ("told", "bad!", "nine", "odd")] == [
        None,
        "TOPIC_EXCEPTION",
        "INVALID_REPLICATION_FACTOR",
        "INVALID_CONFIG",
    ]
    assert outcome(admin.create_topics([NewTopic("told", 1, 1)], validate_only=True)["told"]) == "TOPIC_ALREADY_EXISTS"
    places = [TopicPartition("told", 0), TopicPartition("told", 1)]
    latest = admin.list_offsets(dict.fromkeys(places, OffsetSpec.latest()))  # at once: every broker knows the leaders
    assert [outcome(latest[place]).offset for place in places] == [0, 0]
    write(cluster, "told", [b"%d" % number for number in range(10)])
    grown = admin.create_partitions([NewPartitions("told", 4), NewPartitions("nowhere", 2)])
    assert [outcome(grown[name]) for name in ("told", "nowhere")] == [None, "UNKNOWN_TOPIC_OR_PART"]
    assert outcome(admin.create_partitions([NewPartitions("told", 2)])["told"]) == "INVALID_PARTITIONS"
    described = admin.describe_topics(TopicCollection(["told", "nowhere"]), include_authorized_operations=True)
    assert len(outcome(described["told"]).partitions) == 4 and outcome(described["told"]).authorized_operations
    assert outcome(described["nowhere"]) == "UNKNOWN_TOPIC_OR_PART"
    whole = admin.describe_cluster(include_authorized_operations=True).result(30)
    assert [node.id for node in sorted(whole.nodes, key=lambda node: node.id)] == [1, 2, 3, 4] and whole.controller.id in (1, 2, 3, 4)
    assert settings_of(admin, ResourceType.TOPIC, "told")["retention.ms"].value == "604800000"
    (unknown,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, "nowhere")]).values()
    assert outcome(unknown) == "UNKNOWN_TOPIC_OR_PART"
    read_only = ConfigResource(ResourceType.BROKER, "1")
    read_only.add_incremental_config(ConfigEntry("log.dirs", "/x", incremental_operation=AlterConfigOpType.SET))
    assert outcome(admin.incremental_alter_configs([read_only])[read_only]) == "INVALID_REQUEST"
    appended = ConfigResource(ResourceType.TOPIC, "told")
    appended.add_incremental_config(ConfigEntry("retention.ms", "5", incremental_operation=AlterConfigOpType.APPEND))
    assert outcome(admin.incremental_alter_configs([appended])[appended]) == "INVALID_CONFIG"
    trimmed = TopicPartition("told", 0, 4)
    assert outcome(admin.delete_records([trimmed])[trimmed]).low_watermark == 4
    for spec, offset in ((OffsetSpec.earliest(), 4), (OffsetSpec.latest(), 10), (OffsetSpec.for_timestamp(0), 4)):
        assert outcome(admin.list_offsets({places[0]: spec}, isolation_level=IsolationLevel.READ_COMMITTED)[places[0]]).offset == offset
    told = {
        place.partition: error.name() for place, error in admin.elect_leaders(ElectionType.PREFERRED, places).result(30).items() if error is not None
    }
    assert set(told.values()) <= {"ELECTION_NOT_NEEDED"}
    deleted = admin.delete_topics(["told", "nowhere"])
    assert [outcome(deleted[name]) for name in ("told", "nowhere")] == [None, "UNKNOWN_TOPIC_OR_PART"]
    with pytest.raises(KafkaException, match="not supported"):
        admin.describe_user_scram_credentials().result(30)


async def test_what_aiokafka_s_admin_client_is_told(cluster: ProcessCluster) -> None:
    from aiokafka import TopicPartition as AioPlace
    from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
    from aiokafka.admin import NewPartitions as AioPartitions
    from aiokafka.admin import NewTopic as AioTopic
    from aiokafka.admin.config_resource import ConfigResource as AioResource
    from aiokafka.admin.config_resource import ConfigResourceType as AioType
    from aiokafka.errors import GroupCoordinatorNotAvailableError

    client = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    await client.start()
    try:
        for code in (0, 36):
            answer = await client.create_topics([AioTopic("aio-admin", 2, 3)])
            assert answer.topic_errors[0][1] == code
            await asyncio.to_thread(wait_known, cluster, "aio-admin")  # each of these calls may go to another broker
        assert "aio-admin" in await client.list_topics()
        (described,) = await client.describe_topics(["aio-admin"])
        assert [one["error_code"] for one in described["partitions"]] == [0, 0]
        assert {one["node_id"] for one in (await client.describe_cluster())["brokers"]} == {1, 2, 3, 4}
        await client.alter_configs([AioResource(AioType.TOPIC, "aio-admin", {"retention.ms": "77"})])
        told = None
        while told != ("retention.ms", "77"):  # another broker may be asked, which hears of it a moment later
            (configs,) = await client.describe_configs([AioResource(AioType.TOPIC, "aio-admin", {"retention.ms": None})])
            told = configs.resources[0][4][0][:2]
        assert (await client.create_partitions({"aio-admin": AioPartitions(3)})).topic_errors[0][1] == 0
        write(cluster, "aio-admin", [b"x"] * 5)
        assert await client.delete_records({AioPlace("aio-admin", 0): RecordsToDelete(before_offset=3)}) == {AioPlace("aio-admin", 0): 3}
        found = 0
        while not found:
            with contextlib.suppress(GroupCoordinatorNotAvailableError):  # the groups' topic is being made
                found = await client.find_coordinator("aio-group")
        assert found in (1, 2, 3, 4)
        assert await client.list_consumer_group_offsets("aio-group") == {}
        (groups,) = await client.describe_consumer_groups(["aio-group"])
        assert groups.groups[0][2] == "Dead"
        assert (await client.delete_topics(["aio-admin"])).topic_error_codes[0][1] == 0
    finally:
        await client.close()
