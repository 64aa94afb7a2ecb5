"""OffsetFetch (key 9), versions 1-10: how far a group has come, answered from what is applied, while nobody else can lead.

v2 null topics mean all that is committed, error of the whole · v5 leader epoch · v6 flexible · v7 require_stable (KIP-447) · v8 many groups
(KIP-709) · v9 member and its epoch (KIP-848; a classic group ignores them, as in Kafka) · v10 topic ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.coordinator.groups.offsets import FetchedOffset
from broker.errors import ErrorCode, KafkaError
from broker.handlers.groups import Reply, callback_route, coordinator, name_and_id
from broker.handlers.services import ZERO_ID, Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)

KEY = 9
VERSIONS = (1, 10)
FIRST_VERSION_ERROR = 2
FIRST_VERSION_MANY_GROUPS = 8
FIRST_VERSION_TOPIC_ID = 10


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, OffsetFetchRequest, handle, on_error, pipelined=True)


def handle(services: Services, request: Request, body: OffsetFetchRequest, reply: Reply) -> None:
    version = request.api_version
    if version >= FIRST_VERSION_MANY_GROUPS:
        by_id = version >= FIRST_VERSION_TOPIC_ID
        reply(OffsetFetchResponse(groups=[_group(services, one.group_id, one.topics, body.require_stable, by_id) for one in body.groups]))
        return
    asked = None if body.topics is None else [OffsetFetchRequestTopics(name=t.name, partition_indexes=t.partition_indexes) for t in body.topics]
    found = _group(services, body.group_id, asked, body.require_stable, False)
    error = found.error_code
    topics = [OffsetFetchResponseTopic(name=topic.name, partitions=_old_form(topic.partitions)) for topic in found.topics]
    if error:
        # Version 1 has no error of the whole: each partition tells it.
        topics = [OffsetFetchResponseTopic(name=t.name, partitions=_old_form(_failed(t, error).partitions)) for t in asked or ()]
    reply(OffsetFetchResponse(topics=topics, error_code=error))


def _old_form(partitions: Sequence[OffsetFetchResponsePartitions]) -> list[OffsetFetchResponsePartition]:
    return [
        OffsetFetchResponsePartition(
            partition_index=one.partition_index,
            committed_offset=one.committed_offset,
            committed_leader_epoch=one.committed_leader_epoch,
            metadata=one.metadata,
            error_code=one.error_code,
        )
        for one in partitions
    ]


def _group(
    services: Services, group_id: str, asked: Sequence[OffsetFetchRequestTopics] | None, require_stable: bool, by_id: bool
) -> OffsetFetchResponseGroup:
    try:
        machine = coordinator(services, group_id)
        if asked is None:
            asked = [_named(services, name, numbers) for name, numbers in machine.fetchable(group_id).items()]
            if by_id:
                asked = [topic for topic in asked if topic.topic_id != ZERO_ID]
        known = [name_and_id(services, topic.name, topic.topic_id, by_id) for topic in asked]
        wanted = [
            (topic.name if found is None else found[0], b"" if found is None else found[1], topic.partition_indexes)
            for topic, found in zip(asked, known, strict=True)
        ]
        offsets = machine.fetch(group_id, wanted, require_stable)
    except KafkaError as error:
        return OffsetFetchResponseGroup(group_id=group_id, error_code=error.code)
    topics = []
    for topic, found, values in zip(asked, known, offsets, strict=True):
        if found is None and by_id:
            topics.append(_failed(topic, ErrorCode.UNKNOWN_TOPIC_ID))
        else:
            topics.append(_told(topic, values))
    return OffsetFetchResponseGroup(group_id=group_id, topics=topics)


def _named(services: Services, name: str, numbers: list[int]) -> OffsetFetchRequestTopics:
    topic = services.topic(name)
    return OffsetFetchRequestTopics(name=name, topic_id=topic.topic_id if topic is not None else ZERO_ID, partition_indexes=numbers)


def _told(topic: OffsetFetchRequestTopics, values: Sequence[FetchedOffset]) -> OffsetFetchResponseTopics:
    partitions = [
        OffsetFetchResponsePartitions(
            partition_index=number,
            committed_offset=value.offset,
            committed_leader_epoch=value.leader_epoch,
            metadata=value.metadata,
            error_code=value.error,
        )
        for number, value in zip(topic.partition_indexes, values, strict=True)
    ]
    return OffsetFetchResponseTopics(name=topic.name, topic_id=topic.topic_id, partitions=partitions)


def _failed(topic: OffsetFetchRequestTopics, error: int) -> OffsetFetchResponseTopics:
    return _told(topic, [FetchedOffset(error=ErrorCode(error))] * len(topic.partition_indexes))


def on_error(body: OffsetFetchRequest, code: int, message: str) -> OffsetFetchResponse:
    return OffsetFetchResponse(error_code=code, groups=[OffsetFetchResponseGroup(group_id=one.group_id, error_code=code) for one in body.groups])
