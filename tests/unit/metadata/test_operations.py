"""What the controller accepts and refuses, with Kafka's codes and texts."""

from __future__ import annotations

import pytest

from broker.errors import ErrorCode, KafkaError
from broker.metadata.assignment import check_topic_name
from broker.metadata.draft import ControllerPolicy, OperationResult
from broker.metadata.identity import Identity
from broker.metadata.operations import (
    AllocateProducerIds,
    AssignReplicas,
    BumpGeneration,
    ConfigChange,
    ConfirmDeletion,
    CreateCluster,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    PartitionsSpec,
    RegisterBroker,
    SetConfigs,
    TopicKey,
    TopicSpec,
    UnregisterBroker,
    disowned_text,
)
from tests.unit.metadata.support import Replica, leading, topic_id
from wal.entry import META_TOPIC_ID, group_id


def create_one(replica: Replica, spec: TopicSpec, validate_only: bool = False) -> tuple[int, str | None]:
    (item,) = replica.run(CreateTopics((spec,), validate_only)).items
    return item.error, item.message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "Topic name is invalid: the empty string is not allowed"),
        (".", "Topic name is invalid: '.' is not allowed"),
        ("..", "Topic name is invalid: '..' is not allowed"),
        ("x" * 250, f"Topic name is invalid: the length of '{'x' * 250}' is longer than the max allowed length 249"),
        ("a b", "Topic name is invalid: 'a b' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"),
        ("ä", "Topic name is invalid: 'ä' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"),
        ("a\n", "Topic name is invalid: 'a\n' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"),
        ("__meta", "Topic name is invalid: '__meta' is reserved for the metadata of the cluster"),
    ],
)
def test_topic_names(name: str, text: str) -> None:
    check_topic_name("a.b_C-9" + "x" * 242)
    with pytest.raises(KafkaError) as caught:
        check_topic_name(name)
    assert (caught.value.code, caught.value.message) == (ErrorCode.INVALID_TOPIC_EXCEPTION, text)


def spec(**changes: object) -> TopicSpec:
    return TopicSpec(**{"name": "t", "topic_id": topic_id(1), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("topic", "code", "text"),
    [
        (
            spec(partitions=1, replication_factor=4),
            ErrorCode.INVALID_REPLICATION_FACTOR,
            "Unable to replicate the partition 4 time(s): The target replication factor of 4 cannot be reached "
            "because only 3 broker(s) are registered.",
        ),
        (
            spec(replication_factor=0),
            ErrorCode.INVALID_REPLICATION_FACTOR,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        ),
        (spec(partitions=0), ErrorCode.INVALID_PARTITIONS, "Number of partitions was set to an invalid non-positive value."),
        (spec(partitions=-2), ErrorCode.INVALID_PARTITIONS, "Number of partitions was set to an invalid non-positive value."),
        (
            spec(assignments={0: (1,)}, partitions=1),
            ErrorCode.INVALID_REQUEST,
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        ),
        (
            spec(assignments={0: (1,)}, replication_factor=1),
            ErrorCode.INVALID_REQUEST,
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        ),
        (spec(assignments={0: ()}), ErrorCode.INVALID_REPLICA_ASSIGNMENT, "The manual partition assignment includes an empty replica list."),
        (
            spec(assignments={0: (1, 2, 1)}),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes the broker 1 more than once.",
        ),
        (
            spec(assignments={0: (1, 9)}),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes broker 9, but no such broker is registered.",
        ),
        (
            spec(assignments={0: (1, 2), 1: (3,)}),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes a partition with 1 replica(s), "
            "but this is not consistent with previous partitions, which have 2 replica(s).",
        ),
        (
            spec(assignments={0: (1,), 2: (2,)}),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "partitions should be a consecutive 0-based integer sequence",
        ),
        (spec(configs={"retention.ms": None}), ErrorCode.INVALID_CONFIG, "Null value not supported for topic configs: retention.ms"),
        (spec(configs={"no.such": "1"}), ErrorCode.INVALID_CONFIG, "Unknown topic config name: no.such"),
        (spec(name="a_b"), ErrorCode.INVALID_TOPIC_EXCEPTION, "Topic 'a_b' collides with existing topic: a.b"),
        (spec(name="a.b"), ErrorCode.TOPIC_ALREADY_EXISTS, "Topic 'a.b' already exists."),
        (spec(topic_id=META_TOPIC_ID), ErrorCode.INVALID_REQUEST, f"The topic id {META_TOPIC_ID.hex()} can not be used."),
        (spec(topic_id=topic_id(99)), ErrorCode.INVALID_REQUEST, f"The topic id {topic_id(99).hex()} can not be used."),
    ],
)
@pytest.mark.parametrize("validate_only", [False, True])
def test_topics_that_are_refused(topic: TopicSpec, code: ErrorCode, text: str, validate_only: bool) -> None:
    replica = leading()
    assert create_one(replica, spec(name="a.b", topic_id=topic_id(99), partitions=1, replication_factor=1)) == (0, None)
    image = replica.machine.image
    assert create_one(replica, topic, validate_only) == (code, text)
    assert replica.machine.image is image


def test_one_topic_that_fails_leaves_the_others_alone() -> None:
    replica = leading()
    topics = (spec(name="a"), spec(name="!", topic_id=topic_id(2)), spec(name="d", topic_id=topic_id(3)), spec(name="d", topic_id=topic_id(4)))
    items = replica.run(CreateTopics(topics)).items
    assert [item.error for item in items] == [0, ErrorCode.INVALID_TOPIC_EXCEPTION, ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_REQUEST]
    assert items[2].message == "Duplicate topic name."
    assert set(replica.machine.image.topics) == {"a"}


def test_created_topic() -> None:
    replica = leading(policy=ControllerPolicy(default_partitions=6, default_replication_factor=2))
    assert create_one(replica, spec(name="__consumer_offsets", configs={"cleanup.policy": "compact"})) == (0, None)
    topic = replica.machine.image.topics["__consumer_offsets"]
    assert topic is replica.machine.image.topics_by_id[topic_id(1)]
    assert topic.internal and topic.configs == {"cleanup.policy": "compact"}
    assert [p.partition for p in topic.partitions] == list(range(6))
    assert all(len(p.replicas) == 2 and p.first_voters == p.replicas and p.group_id == group_id(topic_id(1), p.partition) for p in topic.partitions)
    assert create_one(replica, spec(name="__consumer_offsets")) == (0, None)  # its own repetition


def test_validate_only_tells_what_would_be_and_changes_nothing() -> None:
    replica = leading()
    before = replica.machine.image
    (item,) = replica.run(CreateTopics((spec(partitions=2, replication_factor=3),), validate_only=True)).items
    assert item.topic is not None and [len(p.replicas) for p in item.topic.partitions] == [3, 3]
    assert replica.machine.image is before


def test_too_many_partitions_at_once() -> None:
    result = leading(policy=ControllerPolicy(partitions_per_request_max=5)).run(CreateTopics((spec(partitions=6),)))
    assert result.error == ErrorCode.POLICY_VIOLATION and "6; at most 5" in result.message


def test_deletion_is_kept_until_every_broker_has_confirmed() -> None:
    replica = leading()
    create_one(replica, spec(partitions=2, replication_factor=1))
    assert replica.run(DeleteTopics((TopicKey(topic_id=topic_id(1)),))).items[0].name == "t"
    deletion = replica.machine.image.deleting[topic_id(1)]
    assert (deletion.name, deletion.partition_count, deletion.pending) == ("t", 2, {1, 2, 3})
    assert create_one(replica, spec())[0] == ErrorCode.INVALID_REQUEST  # the id is not to be used again
    assert create_one(replica, spec(topic_id=topic_id(2))) == (0, None)  # the name is
    replica.run(ConfirmDeletion(1, (topic_id(1), topic_id(1), topic_id(7))))
    replica.run(ConfirmDeletion(1, (topic_id(1),)))
    assert replica.machine.image.deleting[topic_id(1)].pending == {2, 3}
    replica.run(ConfirmDeletion(2, (topic_id(1),)))
    replica.run(UnregisterBroker(3))  # will never confirm
    assert not replica.machine.image.deleting
    assert "t" in replica.machine.image.topics


def test_deletion_of_what_is_not_there() -> None:
    items = leading().run(DeleteTopics((TopicKey("t"), TopicKey(topic_id=topic_id(1))))).items
    assert [item.error for item in items] == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID]


@pytest.mark.parametrize(
    ("count", "assignments", "code", "text"),
    [
        (2, None, ErrorCode.INVALID_PARTITIONS, "Topic already has 2 partition(s)."),
        (1, None, ErrorCode.INVALID_PARTITIONS, "The topic t currently has 2 partition(s); 1 would not be an increase."),
        (
            4,
            ((1, 2),),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified.",
        ),
        (
            3,
            ((1,),),
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The manual partition assignment includes a partition with 1 replica(s), "
            "but this is not consistent with previous partitions, which have 2 replica(s).",
        ),
        (20_000, None, ErrorCode.INVALID_PARTITIONS, "Attempted to add 19998 partitions; add at most 10000 at once."),
    ],
)
def test_partitions_that_are_refused(count: int, assignments: tuple[tuple[int, ...], ...] | None, code: ErrorCode, text: str) -> None:
    replica = leading()
    create_one(replica, spec(partitions=2, replication_factor=2))
    (item,) = replica.run(CreatePartitions((PartitionsSpec("t", count, assignments),))).items
    assert (item.error, item.message) == (code, text)


def test_partitions_are_added_behind() -> None:
    replica = leading()
    create_one(replica, spec(partitions=2, replication_factor=2))
    before = replica.machine.image.topics["t"].partitions
    assert replica.run(CreatePartitions((PartitionsSpec("t", 3),), validate_only=True)).items[0].error == 0
    assert replica.machine.image.topics["t"].partitions is before
    assert replica.run(CreatePartitions((PartitionsSpec("t", 3),))).items[0].error == 0
    assert replica.run(CreatePartitions((PartitionsSpec("t", 4, ((3, 1),)),))).items[0].error == 0
    after = replica.machine.image.topics["t"].partitions
    assert after[:2] == before and after[3].replicas == (3, 1) and [p.partition for p in after] == [0, 1, 2, 3]
    assert {p.replicas[0] for p in after[:3]} == {1, 2, 3}


def register(replica: Replica, node: int, directory: str, generation: int = -1, **more: object) -> OperationResult:
    return replica.run(RegisterBroker(node, "h", 9092, "h:9093", directory, generation=generation, **more))  # type: ignore[arg-type]


def test_node_ids_are_never_taken_over() -> None:
    """RELIABILITY.md, trap 16."""
    replica = Replica()
    replica.lead()
    assert register(replica, 7, "one").value == 0
    assert register(replica, 7, "one").value == 0  # a repetition
    records = replica.machine.image
    assert register(replica, 7, "one", 0).value == 0 and replica.machine.image is records  # at its next start
    wiped = register(replica, 7, "two")
    assert wiped.error == ErrorCode.INVALID_REQUEST and "unregister 7" in wiped.message
    assert replica.run(UnregisterBroker(7)).error == 0
    returned = register(replica, 7, "one", 0)
    assert returned.error == ErrorCode.INVALID_REQUEST and "was removed from the cluster" in returned.message
    assert register(replica, 7, "two").value == 1
    assert replica.machine.image.replica_id(7, group_id(topic_id(1), 0)) == 7 + (1 << 32)
    create_one(replica, spec())
    assert replica.machine.image.topics["t"].partitions[0].replicas == (7,)
    assert replica.machine.image.topics["t"].partitions[0].first_voters == (7 + (1 << 32),)


def test_first_start_of_a_member_that_was_never_registered() -> None:
    replica = Replica()
    replica.lead()
    assert register(replica, 1, "one", 0).error == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"node_id": 0}, "node id 0 is not in"),
        ({"directory_id": ""}, "directory id"),
        ({"raft_address": ""}, "Raft address"),
        ({"port": 70_000}, "port"),
        ({"cluster_id": "other"}, "belongs to cluster other, but the cluster that it reached is mine"),
    ],
)
def test_registrations_that_are_refused(change: dict[str, object], text: str) -> None:
    replica = Replica()
    replica.lead()
    replica.run(CreateCluster("mine"))
    fields = {"node_id": 1, "host": "h", "port": 1, "raft_address": "a", "directory_id": "d", **change}
    result = replica.run(RegisterBroker(**fields))  # type: ignore[arg-type]
    assert result.error == ErrorCode.INVALID_REQUEST and text in result.message


def test_cluster_is_created_once() -> None:
    replica = Replica()
    replica.lead()
    assert replica.run(CreateCluster("a")).error == 0
    assert replica.run(CreateCluster("a")).error == 0
    assert replica.run(CreateCluster("b")).error == replica.run(CreateCluster("")).error == ErrorCode.INVALID_REQUEST
    assert replica.machine.image.cluster_id == "a"


def test_running_broker_is_not_unregistered() -> None:
    replica = leading(policy=ControllerPolicy(available=lambda: frozenset({1, 2})))
    assert "is running" in replica.run(UnregisterBroker(1)).message
    assert replica.run(UnregisterBroker(3)).error == 0
    assert "not currently registered" in replica.run(UnregisterBroker(3)).message


def test_configurations() -> None:
    replica = leading()
    create_one(replica, spec(configs={"retention.ms": "1000"}))
    change = (ConfigChange("retention.ms"), ConfigChange("max.message.bytes", "2000"))
    assert replica.run(SetConfigs(2, "t", change, validate_only=True)).error == 0
    assert replica.machine.image.topics["t"].configs == {"retention.ms": "1000"}
    assert replica.run(SetConfigs(2, "t", change)).error == 0
    assert replica.machine.image.topics["t"].configs == {"max.message.bytes": "2000"}
    assert replica.machine.image.topics_by_id[topic_id(1)] is replica.machine.image.topics["t"]
    assert replica.run(SetConfigs(2, "t", (ConfigChange("max.message.bytes", "x"),))).error == ErrorCode.INVALID_CONFIG
    assert replica.run(SetConfigs(2, "u", ())).error == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert replica.run(SetConfigs(4, "", (ConfigChange("log.retention.ms", "5"),))).error == 0
    assert replica.run(SetConfigs(4, "2", (ConfigChange("log.retention.ms", "6"),))).error == 0
    assert replica.machine.image.broker_configs == {-1: {"log.retention.ms": "5"}, 2: {"log.retention.ms": "6"}}
    assert replica.run(SetConfigs(4, "2", (ConfigChange("log.retention.ms"),))).error == 0
    assert replica.machine.image.broker_configs == {-1: {"log.retention.ms": "5"}}
    for resource_type, name in ((3, "x"), (4, "x"), (4, "02"), (4, "²"), (2, "")):
        assert replica.run(SetConfigs(resource_type, name, ())).error == ErrorCode.INVALID_REQUEST


def test_producer_ids_are_given_once() -> None:
    replica = leading()
    assert [replica.run(AllocateProducerIds()).value for _ in range(3)] == [0, 1000, 2000]
    assert replica.run(AllocateProducerIds(5000)).error == ErrorCode.INVALID_REQUEST


def test_reassignment_is_a_wish() -> None:
    replica = leading(4)
    create_one(replica, spec(partitions=1, replication_factor=2))
    before = replica.machine.image.topics["t"].partitions[0]
    assert replica.run(AssignReplicas("t", 0, (4, 3))).error == 0
    after = replica.machine.image.topics["t"].partitions[0]
    assert after.replicas == (4, 3) and after.first_voters == before.first_voters
    assert replica.run(AssignReplicas("t", 0, (9,))).error == ErrorCode.INVALID_REPLICA_ASSIGNMENT
    assert replica.run(AssignReplicas("t", 1, (1,))).error == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_replica_whose_vote_is_unknown_gets_a_new_identity() -> None:
    replica = leading()
    create_one(replica, spec())
    group = replica.machine.image.topics["t"].partitions[0].group_id
    assert [replica.run(BumpGeneration(2, group, 0)).value for _ in range(2)] == [1, 1]
    assert replica.machine.image.replica_id(2, group) == 2 + (1 << 32)
    assert replica.machine.image.replica_id(2, group_id(topic_id(2), 0)) == 2
    assert replica.run(BumpGeneration(9, group, 0)).error == ErrorCode.INVALID_REQUEST
    replica.run(DeleteTopics((TopicKey("t"),)))
    for node in (1, 2, 3):
        replica.run(ConfirmDeletion(node, (topic_id(1),)))
    assert not replica.machine.image.replica_generations


def test_a_new_disk_gets_an_identity_that_none_of_its_replicas_had() -> None:
    """A replica that was given a newer identity of its own, and then lost with its disk, must not come back under the same one."""
    replica = Replica()
    replica.lead()
    register(replica, 7, "one")
    group = group_id(topic_id(1), 0)
    assert [replica.run(BumpGeneration(7, group, than)).value for than in (0, 1)] == [1, 2]
    lost = replica.machine.image.replica_id(7, group)
    assert replica.run(UnregisterBroker(7)).error == 0
    assert register(replica, 7, "two").value == 3
    assert replica.machine.image.replica_id(7, group) == 7 + (3 << 32) != lost


def test_what_a_data_directory_knows_against_itself() -> None:
    replica = Replica()
    replica.lead()
    own = Identity(1, "member", 7, "one", "mine", 0)
    assert disowned_text(replica.machine.image, own) == ""  # nothing is known yet
    register(replica, 7, "one")
    assert disowned_text(replica.machine.image, own) == ""
    assert "is registered with data directory one" in disowned_text(replica.machine.image, Identity(1, "member", 7, "other", "mine", 0))
    assert disowned_text(replica.machine.image, Identity(1, "member", 7, "new", "mine", 1)) == ""  # its own __meta is older than its joining
    assert replica.run(UnregisterBroker(7)).error == 0
    assert "was removed from the cluster" in disowned_text(replica.machine.image, own)
    assert disowned_text(replica.machine.image, Identity(1, "joined", 7, "new", "mine", 1)) == ""
