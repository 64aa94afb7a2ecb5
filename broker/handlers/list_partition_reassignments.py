"""ListPartitionReassignments (key 46), version 0: the moves that are in progress, with the replicas that come and go (KIP-455).

Null topics mean all; what is asked for and not moving is left out.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.errors import ErrorCode
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.metadata.image import PartitionImage, TopicImage
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
    OngoingPartitionReassignment,
    OngoingTopicReassignment,
)

KEY = 46
VERSIONS = (0, 0)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, ListPartitionReassignmentsRequest, handle, on_error, error_body)


def handle(services: Services, request: Request, body: ListPartitionReassignmentsRequest) -> ListPartitionReassignmentsResponse:
    topics: dict[str, OngoingTopicReassignment] = {}
    for topic, one in _asked(services, body):
        if one.original:
            told = topics.setdefault(topic.name, OngoingTopicReassignment(name=topic.name))
            told.partitions.append(
                OngoingPartitionReassignment(
                    partition_index=one.partition,
                    replicas=list(one.shown_replicas),
                    adding_replicas=list(one.adding),
                    removing_replicas=list(one.removing),
                )
            )
    return ListPartitionReassignmentsResponse(error_message=None, topics=list(topics.values()))


def _asked(services: Services, body: ListPartitionReassignmentsRequest) -> Iterable[tuple[TopicImage, PartitionImage]]:
    if body.topics is None:
        for topic in services.broker.image.topics.values():
            for partition in topic.partitions:
                yield topic, partition
        return
    for asked in body.topics:
        found = services.topic(asked.name)
        if found is not None:
            for index in dict.fromkeys(asked.partition_indexes):
                if 0 <= index < len(found.partitions):
                    yield found, found.partitions[index]


def on_error(body: ListPartitionReassignmentsRequest, code: int, message: str) -> ListPartitionReassignmentsResponse:
    return ListPartitionReassignmentsResponse(error_code=code, error_message=message or ErrorCode(code).name)


def error_body(version: int, code: int) -> bytes:
    return ListPartitionReassignmentsResponse(error_code=code).encode(version)
