"""TxnOffsetCommit: verification first, then the group's coordinator; codes by version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker.coordinator.groups.offsets import CommitRequest
from broker.coordinator.internal_topics import GROUPS_TOPIC
from broker.errors import ErrorCode, KafkaError
from broker.handlers import txn_offset_commit
from broker.protocol._generated.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
)
from tests.unit.handlers.fakes import World


class Group:
    """The coordinator of the group, here."""

    def __init__(self) -> None:
        self.commits: list[CommitRequest] = []
        self.refuse: KafkaError | None = None
        self.shard = self
        self.index = 0

    def commit(self, request: CommitRequest, done: Callable[[Any], None], failed: Callable[[KafkaError], None]) -> None:
        self.commits.append(request)
        if self.refuse is not None:
            failed(self.refuse)
        else:
            done(dict.fromkeys(request.offsets, ErrorCode.NONE))


@pytest.fixture
def group(world: World, monkeypatch: pytest.MonkeyPatch) -> Group:
    found = Group()
    monkeypatch.setattr(txn_offset_commit, "coordinator", lambda services, name: found)
    return found


@pytest.fixture
def world() -> World:
    world = World()
    world.broker.add_topic("events", 2)
    world.broker.add_topic(GROUPS_TOPIC, 1)
    return world


def gate(world: World, error: ErrorCode) -> list[tuple[Any, ...]]:
    asked: list[tuple[Any, ...]] = []
    partition: Any = world.broker.partitions.get(GROUPS_TOPIC, 0)

    def enter(transactional_id: str, producer: tuple[int, int], add: bool, then: Callable[[ErrorCode, str, Any], None]) -> None:
        asked.append((transactional_id, producer, add))
        then(error, "", None)

    partition.enter_transaction = enter
    return asked


def request(version: int) -> TxnOffsetCommitRequest:
    partitions = [TxnOffsetCommitRequestPartition(partition_index=index, committed_offset=7, committed_metadata=None) for index in (0, 9)]
    topics = [TxnOffsetCommitRequestTopic(name="events", partitions=partitions)]
    made = TxnOffsetCommitRequest(transactional_id="tx", group_id="g", producer_id=5, producer_epoch=1, topics=topics)
    if version >= 3:
        made.generation_id, made.member_id = 4, "m"
    return made


def codes(answer: TxnOffsetCommitResponse) -> list[int]:
    return [one.error_code for topic in answer.topics for one in topic.partitions]


@pytest.mark.parametrize("version", range(6))
def test_offsets_reach_the_group_as_part_of_the_transaction(world: World, group: Group, version: int) -> None:
    asked = gate(world, ErrorCode.NONE)
    answer = world.client().call(request(version), TxnOffsetCommitResponse, version)
    assert codes(answer) == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert asked == [("tx", (5, 1), version >= 5)], "KIP-890: version 5 adds the partition by itself"
    (commit,) = group.commits
    assert commit.producer == (5, 1) and commit.transactional
    assert (commit.generation_id, commit.member_id) == ((4, "m") if version >= 3 else (-1, ""))
    assert {place: value.offset for place, value in commit.offsets.items()} == {("events", 0): 7}


@pytest.mark.parametrize(
    ("said", "version", "told"),
    [
        (ErrorCode.TRANSACTION_ABORTABLE, 3, ErrorCode.INVALID_TXN_STATE),
        (ErrorCode.TRANSACTION_ABORTABLE, 4, ErrorCode.TRANSACTION_ABORTABLE),
        (ErrorCode.PRODUCER_FENCED, 5, ErrorCode.INVALID_PRODUCER_EPOCH),
        (ErrorCode.NOT_COORDINATOR, 5, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS),
        (ErrorCode.CONCURRENT_TRANSACTIONS, 5, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS),
        (ErrorCode.NOT_LEADER_OR_FOLLOWER, 5, ErrorCode.NOT_COORDINATOR),
        (ErrorCode.INVALID_PRODUCER_ID_MAPPING, 5, ErrorCode.INVALID_PRODUCER_ID_MAPPING),
    ],
)
def test_what_the_transactions_coordinator_refuses(world: World, group: Group, said: ErrorCode, version: int, told: ErrorCode) -> None:
    gate(world, said)
    assert codes(world.client().call(request(version), TxnOffsetCommitResponse, version)) == [told, told]
    assert group.commits == []


def test_a_member_of_an_old_generation_is_refused(world: World, group: Group) -> None:
    gate(world, ErrorCode.NONE)
    group.refuse = KafkaError(ErrorCode.ILLEGAL_GENERATION)
    assert codes(world.client().call(request(3), TxnOffsetCommitResponse, 3)) == [ErrorCode.ILLEGAL_GENERATION] * 2
