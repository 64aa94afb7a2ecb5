"""OffsetDelete (key 47), version 0, never flexible: forget offsets of partitions that the group does not read (KIP-496)."""

from __future__ import annotations

from broker.coordinator.groups.offsets import TopicPartition
from broker.errors import ErrorCode, KafkaError
from broker.handlers.groups import Reply, callback_route, coordinator
from broker.handlers.services import Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)

KEY = 47
VERSIONS = (0, 0)


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, OffsetDeleteRequest, handle, on_error)


def handle(services: Services, request: Request, body: OffsetDeleteRequest, reply: Reply) -> None:
    image = services.broker.image
    wanted = [(topic.name, one.partition_index) for topic in body.topics for one in topic.partitions]
    known = [where for where in wanted if image.partition(*where) is not None]

    def done(errors: dict[TopicPartition, ErrorCode]) -> None:
        topics = [
            OffsetDeleteResponseTopic(
                name=topic.name,
                partitions=[
                    OffsetDeleteResponsePartition(
                        partition_index=one.partition_index,
                        error_code=errors.get((topic.name, one.partition_index), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
                    )
                    for one in topic.partitions
                ],
            )
            for topic in body.topics
        ]
        reply(OffsetDeleteResponse(topics=topics))

    def failed(error: KafkaError) -> None:
        reply(OffsetDeleteResponse(error_code=error.code))

    coordinator(services, body.group_id).delete_offsets(body.group_id, known, done, failed)


def on_error(body: OffsetDeleteRequest, code: int, message: str) -> OffsetDeleteResponse:
    return OffsetDeleteResponse(error_code=code)
