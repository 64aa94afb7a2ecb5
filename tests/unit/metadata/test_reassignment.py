"""Reassignments: from the wish to the record that lets a broker delete its replica (KIP-455), and settings with operations (KIP-339)."""

from __future__ import annotations

import pytest

from broker.errors import ErrorCode
from broker.metadata.image import PartitionImage
from broker.metadata.operations import (
    AlterReassignments,
    AssignReplicas,
    ConfigChange,
    ConfigOp,
    ConfirmRemovals,
    CreateTopics,
    DeleteTopics,
    Reassignment,
    SetConfigs,
    SettleReassignment,
    TopicKey,
    TopicSpec,
    UnregisterBroker,
)
from tests.unit.metadata.support import Replica, leading, topic_id
from wal.entry import group_id

GROUP = group_id(topic_id(1), 0)


@pytest.fixture
def replica() -> Replica:
    replica = leading(5)
    replica.run(CreateTopics((TopicSpec("t", topic_id(1), assignments={0: (1, 2, 3)}),)))
    return replica


def partition(replica: Replica) -> PartitionImage:
    return replica.machine.image.topics["t"].partitions[0]


def wish(replica: Replica, *brokers: int) -> int:
    (item,) = replica.run(AlterReassignments((Reassignment("t", 0, brokers or None),))).items
    return item.error


def settle(replica: Replica, *brokers: int) -> None:
    assert replica.run(SettleReassignment(topic_id(1), 0, brokers)).error == 0


def test_a_move_from_wish_to_confirmation(replica: Replica) -> None:
    assert wish(replica, 2, 3, 4) == 0
    moving = partition(replica)
    assert (moving.replicas, moving.original, moving.leaving) == ((2, 3, 4), (1, 2, 3), (1,))
    assert (moving.adding, moving.removing, moving.shown_replicas) == ((4,), (1,), (2, 3, 4, 1))
    settle(replica, 2, 3)  # not what is wished: nothing happens
    assert partition(replica) is moving and not replica.machine.image.removals
    settle(replica, 4, 3, 2)
    done = partition(replica)
    assert (done.replicas, done.original, done.leaving, done.shown_replicas) == ((2, 3, 4), (), (), (2, 3, 4))
    assert replica.machine.image.removals == {(GROUP, 1): 1}
    assert replica.run(ConfirmRemovals(1, (GROUP, GROUP))).error == 0
    assert replica.machine.image.removals == {}


def test_an_identity_is_never_used_twice(replica: Replica) -> None:
    wish(replica, 2, 3, 4)
    settle(replica, 2, 3, 4)
    assert wish(replica, 1, 2, 3) == ErrorCode.REASSIGNMENT_IN_PROGRESS  # broker 1 still has the files of its former replica
    replica.run(ConfirmRemovals(1, (GROUP,)))
    assert wish(replica, 1, 2, 3) == 0
    assert replica.machine.image.replica_id(1, GROUP) == 1 + (1 << 32)


def test_taking_a_move_back(replica: Replica) -> None:
    assert wish(replica) == ErrorCode.NO_REASSIGNMENT_IN_PROGRESS
    wish(replica, 4, 5)
    assert wish(replica) == 0
    back = partition(replica)
    assert (back.replicas, back.original, set(back.leaving)) == ((1, 2, 3), (), {4, 5})
    assert wish(replica) == ErrorCode.NO_REASSIGNMENT_IN_PROGRESS
    settle(replica, 1, 2, 3)
    assert replica.machine.image.removals == {(GROUP, 4): 4, (GROUP, 5): 5}


def test_another_wish_on_the_way_forgets_nobody(replica: Replica) -> None:
    wish(replica, 3, 4)
    wish(replica, 3, 5)
    moving = partition(replica)
    assert (moving.original, set(moving.leaving), moving.adding, moving.removing) == ((1, 2, 3), {1, 2, 4}, (5,), (1, 2))
    settle(replica, 3, 4)  # the report of a leader that does not know the new wish yet
    assert partition(replica) is moving
    settle(replica, 3, 5)
    assert set(replica.machine.image.removals) == {(GROUP, 1), (GROUP, 2), (GROUP, 4)}


def test_another_order_only(replica: Replica) -> None:
    assert wish(replica, 3, 1, 2) == 0
    assert partition(replica).replicas == (3, 1, 2)
    assert not partition(replica).original and not partition(replica).leaving


def test_more_replicas(replica: Replica) -> None:
    wish(replica, 1, 2, 3, 4)
    assert (partition(replica).adding, partition(replica).removing) == ((4,), ())
    settle(replica, 1, 2, 3, 4)
    assert partition(replica).original == () and not replica.machine.image.removals


def test_each_partition_fails_on_its_own(replica: Replica) -> None:
    items = (
        Reassignment("t", 0, (1, 2)),
        Reassignment("t", 1, (1,)),
        Reassignment("u", 0, (1,)),
        Reassignment("", 0, (1,)),
    )
    assert [item.error for item in replica.run(AlterReassignments(items, change_factor=False)).items] == [
        ErrorCode.INVALID_REPLICATION_FACTOR,
        *[ErrorCode.UNKNOWN_TOPIC_OR_PARTITION] * 3,
    ]
    for wrong in ((1, 1), (9,), ()):
        (item,) = replica.run(AlterReassignments((Reassignment("t", 0, wrong),))).items
        assert item.error == ErrorCode.INVALID_REPLICA_ASSIGNMENT
    twice = replica.run(AlterReassignments((Reassignment("t", 0, (4,)), Reassignment("t", 0, (5,)))))
    assert [item.error for item in twice.items] == [ErrorCode.INVALID_REQUEST] * 2
    assert partition(replica).replicas == (1, 2, 3)


def test_removals_go_with_their_topic_and_their_broker(replica: Replica) -> None:
    replica.run(AssignReplicas("t", 0, (4, 5)))
    settle(replica, 4, 5)
    assert len(replica.machine.image.removals) == 3
    replica.run(UnregisterBroker(1))
    assert set(replica.machine.image.removals) == {(GROUP, 2), (GROUP, 3)}
    replica.run(DeleteTopics((TopicKey("t"),)))
    assert replica.machine.image.removals == {}


class TestSettingsWithOperations:
    def run(self, replica: Replica, *changes: tuple[str, str | None, int], kind: int = 2, name: str = "t", replace: bool = False) -> int:
        return replica.run(SetConfigs(kind, name, tuple(ConfigChange(*change) for change in changes), False, replace)).error

    def configs(self, replica: Replica) -> dict[str, str]:
        return dict(replica.machine.image.topics["t"].configs)

    def test_lists(self, replica: Replica) -> None:
        assert self.run(replica, ("cleanup.policy", "compact", ConfigOp.APPEND)) == 0  # begins with the default
        assert self.configs(replica) == {"cleanup.policy": "delete,compact"}
        assert self.run(replica, ("cleanup.policy", "compact,delete", ConfigOp.APPEND)) == 0
        assert self.configs(replica) == {"cleanup.policy": "delete,compact"}
        assert self.run(replica, ("cleanup.policy", "delete", ConfigOp.SUBTRACT)) == 0
        assert self.configs(replica) == {"cleanup.policy": "compact"}
        assert self.run(replica, ("cleanup.policy", None, ConfigOp.DELETE)) == 0
        assert self.configs(replica) == {}

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (("retention.ms", "5", ConfigOp.APPEND), ErrorCode.INVALID_CONFIG),
            (("no.such", "5", ConfigOp.SUBTRACT), ErrorCode.INVALID_CONFIG),
            (("no.such", "5", ConfigOp.SET), ErrorCode.INVALID_CONFIG),
            (("retention.ms", "5", 9), ErrorCode.INVALID_REQUEST),
        ],
    )
    def test_refused(self, replica: Replica, change: tuple[str, str | None, int], code: ErrorCode) -> None:
        assert self.run(replica, ("segment.ms", "77", 0), change) == code
        assert self.configs(replica) == {}

    def test_replacing_removes_what_is_not_named(self, replica: Replica) -> None:
        self.run(replica, ("retention.ms", "5", 0), ("segment.ms", "6", 0))
        assert self.run(replica, ("segment.ms", "7", 0), replace=True) == 0
        assert self.configs(replica) == {"segment.ms": "7"}

    def test_brokers(self, replica: Replica) -> None:
        assert self.run(replica, ("num.partitions", "5", 0), kind=4, name="") == ErrorCode.INVALID_REQUEST  # only the file changes it
        assert self.run(replica, ("max.connections", "5", 0), kind=4, name="77") == ErrorCode.BROKER_ID_NOT_REGISTERED
        assert self.run(replica, ("max.connections", "x", 0), kind=4, name="1") == ErrorCode.INVALID_CONFIG
        assert self.run(replica, ("max.connections", "5", 0), kind=4, name="1") == 0
        assert replica.machine.image.broker_configs == {1: {"max.connections": "5"}}
