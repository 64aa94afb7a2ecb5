"""DescribeTransactions (key 65), version 0: transactional ids that this broker coordinates, as committed (KIP-664)."""

from __future__ import annotations

from broker.coordinator.transactions.state import DECIDED, Transaction
from broker.coordinator.transactions.state import TransactionState as State
from broker.errors import ErrorCode, KafkaError
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.describe_transactions import DescribeTransactionsRequest, DescribeTransactionsResponse, TopicData, TransactionState

KEY = 65
VERSIONS = (0, 0)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, DescribeTransactionsRequest, handle, on_error)


def handle(services: Services, request: Request, body: DescribeTransactionsRequest) -> DescribeTransactionsResponse:
    return DescribeTransactionsResponse(transaction_states=[_describe(services, name) for name in body.transactional_ids])


def _describe(services: Services, transactional_id: str) -> TransactionState:
    if not transactional_id:
        return TransactionState(transactional_id=transactional_id, error_code=ErrorCode.INVALID_REQUEST)
    try:
        found = services.broker.transactions.describe(transactional_id)
    except KafkaError as error:
        return TransactionState(transactional_id=transactional_id, error_code=error.code)
    return TransactionState(
        transactional_id=transactional_id,
        transaction_state=found.state.text,
        transaction_timeout_ms=found.timeout_ms,
        transaction_start_time_ms=found.started_ms if found.state is State.ONGOING or found.state in DECIDED else -1,
        producer_id=found.producer_id,
        producer_epoch=found.epoch,
        topics=_topics(found),
    )


def _topics(found: Transaction) -> list[TopicData]:
    by_topic: dict[str, list[int]] = {}
    for topic, partition in sorted(found.partitions):
        by_topic.setdefault(topic, []).append(partition)
    return [TopicData(topic=topic, partitions=partitions) for topic, partitions in by_topic.items()]


def on_error(body: DescribeTransactionsRequest, code: int, message: str) -> DescribeTransactionsResponse:
    return DescribeTransactionsResponse(
        transaction_states=[TransactionState(transactional_id=name, error_code=code) for name in body.transactional_ids]
    )
