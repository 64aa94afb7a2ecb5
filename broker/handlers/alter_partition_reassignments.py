"""AlterPartitionReassignments (key 45), versions 0-1: move partitions to other brokers, or take a move back (null replicas). KIP-455.

v1 may refuse to change the replication factor (KIP-860). Any broker takes it: the wish is recorded by the controller, and the leader of each
partition moves its replicas one at a time: a learner catches up, votes, and then an old replica goes.
"""

from __future__ import annotations

from broker.errors import ErrorCode
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ReassignablePartitionResponse,
    ReassignableTopicResponse,
)

KEY = 45
VERSIONS = (0, 1)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, AlterPartitionReassignmentsRequest, handle, on_error, error_body)


async def handle(services: Services, request: Request, body: AlterPartitionReassignmentsRequest) -> AlterPartitionReassignmentsResponse:
    response = AlterPartitionReassignmentsResponse(allow_replication_factor_change=body.allow_replication_factor_change, error_message=None)
    items: list[tuple[str, int, tuple[int, ...] | None]] = []
    answers: list[ReassignablePartitionResponse] = []
    for topic in body.topics:
        told = ReassignableTopicResponse(name=topic.name)
        response.responses.append(told)
        for one in topic.partitions:
            answer = ReassignablePartitionResponse(partition_index=one.partition_index, error_message=None)
            told.partitions.append(answer)
            answers.append(answer)
            # The metadata's own name is not a topic to clients.
            name = topic.name if services.topic(topic.name) is not None else ""
            items.append((name, one.partition_index, None if one.replicas is None else tuple(one.replicas)))
    if items:
        results = await services.broker.controller.alter_reassignments(items, body.timeout_ms, body.allow_replication_factor_change)
        for answer, result in zip(answers, results, strict=True):
            answer.error_code = result.error
            answer.error_message = (result.message or result.error.name) if result.error else None
    return response


def on_error(body: AlterPartitionReassignmentsRequest, code: int, message: str) -> AlterPartitionReassignmentsResponse:
    return AlterPartitionReassignmentsResponse(error_code=code, error_message=message or ErrorCode(code).name)


def error_body(version: int, code: int) -> bytes:
    return AlterPartitionReassignmentsResponse(error_code=code).encode(version)
