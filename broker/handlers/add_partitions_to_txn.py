"""AddPartitionsToTxn (key 24), versions 0-5: make partitions part of a producer's transaction, or only ask whether they are.

v1 same · v2 PRODUCER_FENCED (KIP-588) · v3 flexible · v4 many transactions at once, verify_only (KIP-890; for brokers, served to all) ·
v5 TRANSACTION_ABORTABLE. All partitions of a transaction are added or none: with one that is refused the others are OPERATION_NOT_ATTEMPTED.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.coordinator.transactions.state import TopicPartition
from broker.errors import ErrorCode
from broker.handlers.groups import Reply, callback_route
from broker.handlers.services import Services
from broker.handlers.transactions import fenced_code, partition_errors
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.add_partitions_to_txn import (
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTopicResult,
    AddPartitionsToTxnTransaction,
)

KEY = 24
VERSIONS = (0, 5)
FIRST_VERSION_BATCHED = 4
FIRST_VERSION_ABORTABLE = 5

Errors = Callable[[dict[TopicPartition, ErrorCode]], None]


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, AddPartitionsToTxnRequest, handle, on_error)


def handle(services: Services, request: Request, body: AddPartitionsToTxnRequest, reply: Reply) -> None:
    version = request.api_version
    if version < FIRST_VERSION_BATCHED:
        single = AddPartitionsToTxnTransaction(
            transactional_id=body.v3_and_below_transactional_id,
            producer_id=body.v3_and_below_producer_id,
            producer_epoch=body.v3_and_below_producer_epoch,
            topics=body.v3_and_below_topics,
        )
        _one(
            services,
            single,
            lambda errors: reply(AddPartitionsToTxnResponse(results_by_topic_v3_and_below=_topics(single.topics, errors, version))),
        )
        return
    results = [AddPartitionsToTxnResult(transactional_id=one.transactional_id) for one in body.transactions]
    waiting = 1 + len(results)

    def done(place: int, errors: dict[TopicPartition, ErrorCode]) -> None:
        nonlocal waiting
        if place >= 0:
            results[place].topic_results = _topics(body.transactions[place].topics, errors, version)
        waiting -= 1
        if not waiting:
            reply(AddPartitionsToTxnResponse(results_by_transaction=results))

    for place, transaction in enumerate(body.transactions):
        _one(services, transaction, lambda errors, place=place: done(place, errors))  # type: ignore[misc]
    done(-1, {})


def _one(services: Services, asked: AddPartitionsToTxnTransaction, done: Errors) -> None:
    partitions = [(topic.name, index) for topic in asked.topics for index in topic.partitions]
    producer = (asked.producer_id, asked.producer_epoch)
    if not asked.transactional_id:
        done(dict.fromkeys(partitions, ErrorCode.INVALID_REQUEST))
        return
    refused = partition_errors(services, partitions)
    if refused:
        done({partition: refused.get(partition, ErrorCode.OPERATION_NOT_ATTEMPTED) for partition in partitions})
    elif asked.verify_only:
        services.broker.transactions.verify(asked.transactional_id, producer, partitions, done)
    else:
        services.broker.transactions.add_partitions(
            asked.transactional_id, producer, partitions, lambda answer: done(dict.fromkeys(partitions, answer.error))
        )


def _topics(topics: list[AddPartitionsToTxnTopic], errors: dict[TopicPartition, ErrorCode], version: int) -> list[AddPartitionsToTxnTopicResult]:
    return [
        AddPartitionsToTxnTopicResult(
            name=topic.name,
            results_by_partition=[
                AddPartitionsToTxnPartitionResult(
                    partition_index=index, partition_error_code=_code(errors.get((topic.name, index), ErrorCode.UNKNOWN_SERVER_ERROR), version)
                )
                for index in topic.partitions
            ],
        )
        for topic in topics
    ]


def _code(error: ErrorCode, version: int) -> int:
    if error is ErrorCode.TRANSACTION_ABORTABLE and version < FIRST_VERSION_ABORTABLE:
        return ErrorCode.INVALID_TXN_STATE
    return fenced_code(error, version)


def on_error(body: AddPartitionsToTxnRequest, code: int, message: str) -> AddPartitionsToTxnResponse:
    topics = [(topic, dict.fromkeys([(topic.name, index) for index in topic.partitions], ErrorCode(code))) for topic in body.v3_and_below_topics]
    return AddPartitionsToTxnResponse(
        error_code=code, results_by_topic_v3_and_below=[found for topic, errors in topics for found in _topics([topic], errors, 0)]
    )
