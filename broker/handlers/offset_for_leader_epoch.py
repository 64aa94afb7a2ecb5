"""OffsetForLeaderEpoch (key 23), versions 2-4: where an epoch ended, so that a consumer notices that records it has read were truncated (KIP-320).

v2 current leader epoch, for fencing · v3 replica id · v4 flexible.
"""

from __future__ import annotations

from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
)

KEY = 23
VERSIONS = (2, 4)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, OffsetForLeaderEpochRequest, handle)


def handle(services: Services, request: Request, body: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse:
    return OffsetForLeaderEpochResponse(
        topics=[
            OffsetForLeaderTopicResult(topic=topic.topic, partitions=[_answer(services, topic.topic, asked) for asked in topic.partitions])
            for topic in body.topics
        ]
    )


def _answer(services: Services, topic: str, asked: OffsetForLeaderPartition) -> EpochEndOffset:
    found = services.broker.partitions.get(topic, asked.partition)
    if found is None:
        return EpochEndOffset(error_code=services.not_here(topic, asked.partition)[0], partition=asked.partition)
    error, leader_epoch, end_offset = found.end_of_epoch(asked.current_leader_epoch, asked.leader_epoch)
    if error:
        return EpochEndOffset(error_code=error, partition=asked.partition)
    return EpochEndOffset(partition=asked.partition, leader_epoch=leader_epoch, end_offset=end_offset)
