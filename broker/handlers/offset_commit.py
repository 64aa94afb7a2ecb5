"""OffsetCommit (key 8), versions 2-10: store how far a group has come; answered when that is committed.

v2-4 retention chosen by the client · v6 leader epoch · v7 static members · v8 flexible · v9 GROUP_ID_NOT_FOUND (KIP-848) · v10 topic ids.
"""

from __future__ import annotations

from broker.coordinator.groups.offsets import CommitRequest, TopicPartition
from broker.coordinator.groups.records import StoredOffset
from broker.errors import ErrorCode, KafkaError
from broker.handlers.groups import Reply, callback_route, coordinator, name_and_id
from broker.handlers.services import Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)

KEY = 8
VERSIONS = (2, 10)
FIRST_VERSION_TOPIC_ID = 10
LAST_VERSION_RETENTION = 4

_CODES = {ErrorCode.MESSAGE_TOO_LARGE: ErrorCode.INVALID_COMMIT_OFFSET_SIZE}


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, OffsetCommitRequest, handle, on_error, pipelined=True)


def handle(services: Services, request: Request, body: OffsetCommitRequest, reply: Reply) -> None:
    version = request.api_version
    machine = coordinator(services, body.group_id)
    by_id = version >= FIRST_VERSION_TOPIC_ID
    expires_ms = -1
    if 2 <= version <= LAST_VERSION_RETENTION and body.retention_time_ms >= 0:
        expires_ms = services.broker.wall_time_ms() + body.retention_time_ms
    offsets: dict[TopicPartition, StoredOffset] = {}
    missing = ErrorCode.UNKNOWN_TOPIC_ID if by_id else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    names: list[str | None] = []
    for topic in body.topics:
        found = name_and_id(services, topic.name, topic.topic_id, by_id)
        names.append(found[0] if found is not None else None)
        if found is None:
            continue
        name, topic_id = found
        for one in topic.partitions:
            if services.broker.image.partition(name, one.partition_index) is None:
                continue
            value = StoredOffset(one.committed_offset, one.committed_leader_epoch, one.committed_metadata or "", -1, expires_ms, topic_id)
            offsets[name, one.partition_index] = value

    def done(errors: dict[TopicPartition, ErrorCode]) -> None:
        topics = []
        for topic, name in zip(body.topics, names, strict=True):
            partitions = []
            for one in topic.partitions:
                error = missing if name is None else errors.get((name, one.partition_index), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
                partitions.append(OffsetCommitResponsePartition(partition_index=one.partition_index, error_code=error))
            topics.append(OffsetCommitResponseTopic(name=topic.name, topic_id=topic.topic_id, partitions=partitions))
        reply(OffsetCommitResponse(topics=topics))

    def failed(error: KafkaError) -> None:
        reply(on_error(body, _CODES.get(error.code, error.code), error.message))

    commit = CommitRequest(body.group_id, body.generation_id_or_member_epoch, body.member_id, body.group_instance_id, offsets, version)
    machine.commit(commit, done, failed)


def on_error(body: OffsetCommitRequest, code: int, message: str) -> OffsetCommitResponse:
    return OffsetCommitResponse(
        topics=[
            OffsetCommitResponseTopic(
                name=topic.name,
                topic_id=topic.topic_id,
                partitions=[OffsetCommitResponsePartition(partition_index=one.partition_index, error_code=code) for one in topic.partitions],
            )
            for topic in body.topics
        ]
    )
