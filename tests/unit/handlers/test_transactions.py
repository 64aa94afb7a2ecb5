"""The requests of transactions: what reaches the coordinator, which code each version is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.api import AppendResult
from broker.coordinator.internal_topics import GROUPS_TOPIC, TRANSACTIONS_TOPIC
from broker.coordinator.transactions.machine import Answer
from broker.coordinator.transactions.state import Transaction, TransactionState
from broker.errors import ErrorCode, KafkaError
from broker.handlers import list_transactions
from broker.partition.producers import ProducerDescription
from broker.protocol._generated.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from broker.protocol._generated.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)
from broker.protocol._generated.describe_producers import DescribeProducersRequest, DescribeProducersResponse, TopicRequest
from broker.protocol._generated.describe_transactions import DescribeTransactionsRequest, DescribeTransactionsResponse
from broker.protocol._generated.end_txn import EndTxnRequest, EndTxnResponse
from broker.protocol._generated.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from broker.protocol._generated.list_transactions import ListTransactionsRequest, ListTransactionsResponse
from broker.protocol._generated.write_txn_markers import WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest, WriteTxnMarkersResponse
from broker.records.control import Marker
from tests.unit.handlers.fakes import World


@pytest.fixture
def world() -> World:
    world = World()
    world.broker.add_topic("events", 2)
    return world


FENCED = Answer(ErrorCode.PRODUCER_FENCED)


def add(version: int, *partitions: tuple[str, int], verify_only: bool = False) -> AddPartitionsToTxnRequest:
    topics = [AddPartitionsToTxnTopic(name=name, partitions=[index]) for name, index in partitions]
    if version < 4:
        return AddPartitionsToTxnRequest(
            v3_and_below_transactional_id="tx", v3_and_below_producer_id=5, v3_and_below_producer_epoch=1, v3_and_below_topics=topics
        )
    one = AddPartitionsToTxnTransaction(transactional_id="tx", producer_id=5, producer_epoch=1, verify_only=verify_only, topics=topics)
    return AddPartitionsToTxnRequest(transactions=[one])


def errors(answer: AddPartitionsToTxnResponse, version: int) -> list[int]:
    topics = answer.results_by_topic_v3_and_below if version < 4 else answer.results_by_transaction[0].topic_results
    return [one.partition_error_code for topic in topics for one in topic.results_by_partition]


@pytest.mark.parametrize("version", range(6))
def test_add_partitions(world: World, version: int) -> None:
    answer = world.client().call(add(version, ("events", 0), ("events", 1)), AddPartitionsToTxnResponse, version)
    assert errors(answer, version) == [0, 0]
    assert world.broker.transactions.calls == [("add", "tx", (5, 1), [("events", 0), ("events", 1)])]


@pytest.mark.parametrize("version", range(6))
def test_one_unknown_partition_leaves_the_others_untouched(world: World, version: int) -> None:
    answer = world.client().call(add(version, ("events", 0), ("nowhere", 0)), AddPartitionsToTxnResponse, version)
    assert errors(answer, version) == [ErrorCode.OPERATION_NOT_ATTEMPTED, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert world.broker.transactions.calls == []


@pytest.mark.parametrize("version", range(6))
def test_old_versions_know_no_fencing_code(world: World, version: int) -> None:
    world.broker.transactions.answer = FENCED
    expected = ErrorCode.PRODUCER_FENCED if version >= 2 else ErrorCode.INVALID_PRODUCER_EPOCH
    client = world.client()
    assert errors(client.call(add(version, ("events", 0)), AddPartitionsToTxnResponse, version), version) == [expected]
    ended = client.call(EndTxnRequest(transactional_id="tx", producer_id=5, producer_epoch=1, committed=True), EndTxnResponse, version)
    assert ended.error_code == expected


@pytest.mark.parametrize(("version", "expected"), [(4, ErrorCode.INVALID_TXN_STATE), (5, ErrorCode.TRANSACTION_ABORTABLE)])
def test_verify_only(world: World, version: int, expected: ErrorCode) -> None:
    world.broker.transactions.answer = Answer(ErrorCode.TRANSACTION_ABORTABLE)
    answer = world.client().call(add(version, ("events", 0), verify_only=True), AddPartitionsToTxnResponse, version)
    assert errors(answer, version) == [expected]
    assert world.broker.transactions.calls[0][0] == "verify"


@pytest.mark.parametrize("version", range(6))
def test_end(world: World, version: int) -> None:
    answer = world.client().call(EndTxnRequest(transactional_id="tx", producer_id=5, producer_epoch=1, committed=True), EndTxnResponse, version)
    assert answer.error_code == 0
    assert world.broker.transactions.calls == [("end", "tx", (5, 1), True, 2 if version >= 5 else 0)], "KIP-890: version 5 bumps the epoch"
    assert (answer.producer_id, answer.producer_epoch) == ((42, 1) if version >= 5 else (-1, -1))


@pytest.mark.parametrize("version", range(6))
async def test_init_with_a_present_epoch(world: World, version: int) -> None:
    request = InitProducerIdRequest(
        transactional_id="tx", transaction_timeout_ms=9, producer_id=5 if version >= 3 else -1, producer_epoch=2 if version >= 3 else -1
    )
    world.broker.transactions.answer = FENCED
    answer = await world.client().acall(request, InitProducerIdResponse, version)
    assert answer.error_code == (ErrorCode.PRODUCER_FENCED if version >= 4 else ErrorCode.INVALID_PRODUCER_EPOCH)
    assert world.broker.transactions.calls == [("init", "tx", 9, (5, 2) if version >= 3 else None)]
    if version >= 3:
        half = InitProducerIdRequest(transactional_id="tx", producer_id=5, producer_epoch=-1)
        assert (await world.client().acall(half, InitProducerIdResponse, version)).error_code == ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("version", range(5))
async def test_add_offsets(world: World, version: int) -> None:
    request = AddOffsetsToTxnRequest(transactional_id="tx", producer_id=5, producer_epoch=1, group_id="g")
    world.broker.controller.error = KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    assert (await world.client().acall(request, AddOffsetsToTxnResponse, version)).error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
    world.broker.controller.error = None
    assert (await world.client().acall(request, AddOffsetsToTxnResponse, version)).error_code == 0  # made by this request: no other comes before it
    assert GROUPS_TOPIC in world.broker.image.topics
    world.broker.transactions.calls.clear()
    assert world.client().call(request, AddOffsetsToTxnResponse, version).error_code == 0
    ((_, _, producer, partitions),) = world.broker.transactions.calls
    assert producer == (5, 1) and partitions == [(GROUPS_TOPIC, ord("g") % 50)]


def test_the_coordinators_own_topic_belongs_to_no_transaction(world: World) -> None:
    world.broker.add_topic(TRANSACTIONS_TOPIC, 1)
    answer = world.client().call(add(3, (TRANSACTIONS_TOPIC, 0)), AddPartitionsToTxnResponse, 3)
    assert errors(answer, 3) == [ErrorCode.INVALID_TOPIC_EXCEPTION]


def test_write_markers(world: World) -> None:
    written: list[Marker] = []
    partition: Any = world.broker.partitions.get("events", 0)

    def append_marker(marker: Marker, done: Any) -> None:
        written.append(marker)
        done(AppendResult(ErrorCode.NONE, 7))

    partition.append_marker = append_marker
    topics = [WritableTxnMarkerTopic(name="events", partition_indexes=[0]), WritableTxnMarkerTopic(name="nowhere", partition_indexes=[0])]
    marker = WritableTxnMarker(producer_id=5, producer_epoch=1, transaction_result=False, topics=topics, coordinator_epoch=3)
    for version in (1, 2):
        answer = world.client().call(WriteTxnMarkersRequest(markers=[marker]), WriteTxnMarkersResponse, version)
        found = [one.error_code for topic in answer.markers[0].topics for one in topic.partitions]
        assert found == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert written == [Marker(5, 1, 3, False)] * 2


def test_describe_producers(world: World) -> None:
    partition: Any = world.broker.partitions.get("events", 0)
    partition.describe_producers = lambda: [ProducerDescription(5, 1, 9, 1_000, 3, 40)]
    request = DescribeProducersRequest(
        topics=[TopicRequest(name="events", partition_indexes=[0]), TopicRequest(name="nowhere", partition_indexes=[0])]
    )
    answer = world.client().call(request, DescribeProducersResponse, 0)
    (one,) = answer.topics[0].partitions[0].active_producers
    assert (one.producer_id, one.producer_epoch, one.last_sequence, one.current_txn_start_offset, one.coordinator_epoch) == (5, 1, 9, 40, 3)
    assert answer.topics[1].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    partition.describe_producers = lambda: ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert world.client().call(request, DescribeProducersResponse, 0).topics[0].partitions[0].error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


def test_describe_and_list_transactions(world: World) -> None:
    now = world.broker.wall_time_ms()
    opened = Transaction("tx", 5, 1, TransactionState.ONGOING, 9_000, frozenset({("b", 1), ("a", 0), ("b", 0)}), started_ms=now - 500, updated_ms=now)
    rests = Transaction("old", 6, 0, TransactionState.COMPLETE_ABORT, 9_000, started_ms=now - 10_000)
    world.broker.transactions.found = [opened, rests]
    client = world.client()
    (one,) = client.call(DescribeTransactionsRequest(transactional_ids=["tx"]), DescribeTransactionsResponse, 0).transaction_states
    assert (one.transaction_state, one.transaction_timeout_ms, one.transaction_start_time_ms) == ("Ongoing", 9_000, now - 500)
    assert [(topic.topic, topic.partitions) for topic in one.topics] == [("a", [0]), ("b", [0, 1])]

    def listed(version: int = 1, **filters: Any) -> list[str]:
        answer = client.call(ListTransactionsRequest(**filters), ListTransactionsResponse, version)
        return [found.transactional_id for found in answer.transaction_states]

    assert listed(0) == ["tx", "old"]
    assert listed(state_filters=["CompleteAbort", "Odd"]) == ["old"]
    assert listed(state_filters=["Odd"]) == []
    assert listed(producer_id_filters=[5]) == ["tx"]
    assert listed(duration_filter=100) == ["tx"] and listed(duration_filter=1_000) == []
    world.broker.transactions.failure = KafkaError(ErrorCode.NOT_COORDINATOR)
    (one,) = client.call(DescribeTransactionsRequest(transactional_ids=["tx"]), DescribeTransactionsResponse, 0).transaction_states
    assert one.error_code == ErrorCode.NOT_COORDINATOR
    assert client.call(ListTransactionsRequest(), ListTransactionsResponse, 0).error_code == ErrorCode.NOT_COORDINATOR


class TestListTransactionsByPattern:
    """KIP-1152."""

    def world(self, *ids: str) -> World:
        world = World()
        world.broker.transactions.found = [Transaction(name, number, 0, TransactionState.EMPTY, 9_000) for number, name in enumerate(ids)]
        return world

    async def ask(self, world: World, **filters: Any) -> tuple[int, list[str]]:
        answer = await world.client().acall(ListTransactionsRequest(**filters), ListTransactionsResponse, 2)
        return answer.error_code, [found.transactional_id for found in answer.transaction_states]

    async def test_an_id_must_match_as_a_whole(self) -> None:
        world = self.world("app-1", "app-12", "my-app-1")
        assert await self.ask(world, transactional_id_pattern="app-[0-9]") == (0, ["app-1"])
        assert await self.ask(world, transactional_id_pattern="(?i).*APP.*", producer_id_filters=[1, 2]) == (0, ["app-12", "my-app-1"])

    @pytest.mark.parametrize("none", ["", None])
    async def test_no_pattern_means_all(self, none: str | None) -> None:
        assert await self.ask(self.world("a", "b"), transactional_id_pattern=none) == (0, ["a", "b"])

    async def test_a_bad_one_is_refused(self) -> None:
        assert await self.ask(self.world("a"), transactional_id_pattern="(") == (ErrorCode.INVALID_REGULAR_EXPRESSION, [])

    @pytest.mark.parametrize("pattern", ["((a{100}){100}){100}", "a" * 5000, "(?<=a)b", "\udc00"])
    async def test_one_that_is_too_large_or_not_of_re2_is_refused(self, pattern: str) -> None:
        answer = await list_transactions._matching([], pattern, [])
        assert answer.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION

    async def test_the_loop_turns_while_many_ids_are_matched_and_none_takes_long(self) -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        world = self.world(*(f"{number}" + "a" * 200 for number in range(1000)))
        assert (await self.ask(world, transactional_id_pattern="[0-9]+(a*)*b")) == (0, [])  # for ever, by backtracking
        counting.cancel()
        assert turns > 4
