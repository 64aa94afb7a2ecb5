"""DescribeTopicPartitions (key 75), version 0: topics and their partitions, a page at a time (KIP-966).

No topics means all. Topics come in the order of their names; a page ends after `response_partition_limit` partitions (at most
max.request.partition.size.limit) with a cursor that names the first partition of the next. There are no eligible replicas outside the isr here.
"""

from __future__ import annotations

from broker.errors import ErrorCode, KafkaError
from broker.handlers.services import ZERO_ID, Services
from broker.handlers.topic_names import name_problem
from broker.handlers.typed import typed_route
from broker.metadata.image import PartitionImage, TopicImage
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
)
from wal.entry import META_TOPIC

KEY = 75
VERSIONS = (0, 0)

_TOPIC_OPERATIONS = sum(1 << operation for operation in (3, 4, 5, 6, 7, 8, 10, 11))  # bits by the code of the ACL operation


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, DescribeTopicPartitionsRequest, handle, on_error)


def handle(services: Services, request: Request, body: DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse:
    cursor = body.cursor
    if cursor is not None and cursor.partition_index < 0:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"DescribeTopicPartitionsRequest cursor partition must be valid: {cursor.partition_index}")
    if body.topics:
        names = sorted({topic.name for topic in body.topics})
    else:
        names = sorted(name for name in services.broker.image.topics if name != META_TOPIC)
    first = 0
    if cursor is not None:
        names = [name for name in names if name >= cursor.topic_name]
        if names and names[0] == cursor.topic_name:
            first = cursor.partition_index
    setting = services.broker.settings.get("max.request.partition.size.limit")
    limit = max(1, min(body.response_partition_limit, setting if isinstance(setting, int) else 2000))
    response = DescribeTopicPartitionsResponse(next_cursor=None)
    for name in names:
        if limit == 0:
            response.next_cursor = Cursor(topic_name=name, partition_index=0)
            break
        topic = services.topic(name)
        if topic is None:
            code = ErrorCode.INVALID_TOPIC_EXCEPTION if name_problem(name) else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            response.topics.append(DescribeTopicPartitionsResponseTopic(error_code=code, name=name, topic_id=ZERO_ID))
            continue
        page = topic.partitions[first : first + limit]
        response.topics.append(_describe(services, topic, page))
        limit -= len(page)
        if first + len(page) < len(topic.partitions):
            response.next_cursor = Cursor(topic_name=name, partition_index=first + len(page))
            break
        first = 0
    return response


def _describe(services: Services, topic: TopicImage, page: tuple[PartitionImage, ...]) -> DescribeTopicPartitionsResponseTopic:
    broker = services.broker
    registered = broker.image.brokers
    partitions = []
    for one in page:
        leader_id, leader_epoch = broker.leaders.leader_of(one.group_id)
        known = leader_id in registered
        replicas = list(one.shown_replicas)
        isr = list(broker.leaders.isr_of(one.group_id))
        partitions.append(
            DescribeTopicPartitionsResponsePartition(
                error_code=ErrorCode.NONE if known else ErrorCode.LEADER_NOT_AVAILABLE,
                partition_index=one.partition,
                leader_id=leader_id if known else -1,
                leader_epoch=leader_epoch,
                replica_nodes=replicas,
                isr_nodes=isr or replicas,
                eligible_leader_replicas=[],
                last_known_elr=[],
                offline_replicas=[node_id for node_id in replicas if node_id not in registered],
            )
        )
    return DescribeTopicPartitionsResponseTopic(
        name=topic.name, topic_id=topic.topic_id, is_internal=topic.internal, partitions=partitions, topic_authorized_operations=_TOPIC_OPERATIONS
    )


def on_error(body: DescribeTopicPartitionsRequest, code: int, message: str) -> DescribeTopicPartitionsResponse:
    topics = [DescribeTopicPartitionsResponseTopic(error_code=code, name=topic.name, topic_id=ZERO_ID) for topic in body.topics]
    return DescribeTopicPartitionsResponse(topics=topics, next_cursor=None)
