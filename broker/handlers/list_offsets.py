"""ListOffsets (key 2), versions 1-11: the offset at a time, or one of the special places of a log.

v2 isolation level · v4 leader epoch · v6 flexible · v7 -3 = record with the largest timestamp (KIP-734) · v8 -4 = earliest local (KIP-405) · v9 -5
= latest tiered (KIP-1005) · v10 time limit · v11 -6 = earliest pending upload (KIP-1023). Nothing is tiered here: -4 is the log start, -5 and -6
are never found. v5 OFFSET_NOT_AVAILABLE (KIP-207), which an older client would not know as one to ask again.
"""

from __future__ import annotations

from functools import partial

from broker.errors import ErrorCode
from broker.handlers.services import Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.list_offsets import (
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from broker.protocol.api_keys import APIS

KEY = 2
VERSIONS = (1, 11)

LATEST_TIERED = -5
EARLIEST_PENDING_UPLOAD = -6


def _lowest_timestamp(version: int) -> int:
    """The special places grew by one with each of these versions."""
    if version >= 11:
        return EARLIEST_PENDING_UPLOAD
    return {7: -3, 8: -4, 9: LATEST_TIERED, 10: LATEST_TIERED}.get(version, -2)


def route(services: Services) -> Route:
    return Route(KEY, APIS[KEY].name, VERSIONS, APIS[KEY].first_flexible_version, partial(handle, services))


def handle(services: Services, request: Request) -> None:
    """Ask every partition; the answer goes out with the last of them (a lookup by time may read from disk)."""
    version = request.api_version
    body, _ = ListOffsetsRequest.decode(request.buffer, request.position, version)
    isolated = body.isolation_level == 1
    lowest = _lowest_timestamp(version)
    response = ListOffsetsResponse(topics=[])
    remaining = 1 + sum(len(topic.partitions) for topic in body.topics)

    def one_less() -> None:
        nonlocal remaining
        remaining -= 1
        if not remaining:
            request.reply(response.encode(version))

    def done(answer: ListOffsetsPartitionResponse, error: ErrorCode, timestamp_ms: int, offset: int, leader_epoch: int) -> None:
        answer.error_code = ErrorCode.LEADER_NOT_AVAILABLE if error is ErrorCode.OFFSET_NOT_AVAILABLE and version < 5 else error
        if not error:
            answer.timestamp = timestamp_ms
            answer.offset = offset
            answer.leader_epoch = leader_epoch
        one_less()

    for topic in body.topics:
        answers: list[ListOffsetsPartitionResponse] = []
        response.topics.append(ListOffsetsTopicResponse(name=topic.name, partitions=answers))
        for asked in topic.partitions:
            answer = ListOffsetsPartitionResponse(partition_index=asked.partition_index)
            answers.append(answer)
            found = services.broker.partitions.get(topic.name, asked.partition_index)
            if found is None:
                done(answer, services.not_here(topic.name, asked.partition_index)[0], -1, -1, -1)
            elif asked.timestamp < lowest:
                done(answer, ErrorCode.UNSUPPORTED_VERSION, -1, -1, -1)
            else:
                timestamp_ms = max(asked.timestamp, LATEST_TIERED)
                found.list_offset(timestamp_ms, asked.current_leader_epoch, isolated, partial(done, answer))
    one_less()
