"""DescribeProducers (key 61), version 0: who writes to a partition with an id, and since which offset a transaction is open there (KIP-664)."""

from __future__ import annotations

from broker.errors import ErrorCode
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.describe_producers import (
    DescribeProducersRequest,
    DescribeProducersResponse,
    PartitionResponse,
    ProducerState,
    TopicResponse,
)

KEY = 61
VERSIONS = (0, 0)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, DescribeProducersRequest, handle, on_error)


def handle(services: Services, request: Request, body: DescribeProducersRequest) -> DescribeProducersResponse:
    return DescribeProducersResponse(
        topics=[
            TopicResponse(name=topic.name, partitions=[_describe(services, topic.name, index) for index in topic.partition_indexes])
            for topic in body.topics
        ]
    )


def _describe(services: Services, topic: str, index: int) -> PartitionResponse:
    partition = services.broker.partitions.get(topic, index)
    if partition is None:
        return PartitionResponse(partition_index=index, error_code=services.not_here(topic, index)[0])
    found = partition.describe_producers()
    if isinstance(found, ErrorCode):
        return PartitionResponse(partition_index=index, error_code=found)
    return PartitionResponse(
        partition_index=index,
        active_producers=[
            ProducerState(
                producer_id=one.producer_id,
                producer_epoch=one.epoch,
                last_sequence=one.last_sequence,
                last_timestamp=one.last_timestamp,
                coordinator_epoch=one.coordinator_epoch,
                current_txn_start_offset=one.first_offset,
            )
            for one in found
        ],
    )


def on_error(body: DescribeProducersRequest, code: int, message: str) -> DescribeProducersResponse:
    return DescribeProducersResponse(
        topics=[
            TopicResponse(
                name=topic.name,
                partitions=[PartitionResponse(partition_index=index, error_code=code, error_message=message) for index in topic.partition_indexes],
            )
            for topic in body.topics
        ]
    )
