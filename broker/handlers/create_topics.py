"""CreateTopics (key 19), versions 2-7: make topics. Any broker takes it: the controller is asked over the cluster's own transport.

v4 -1 means the default · v5 flexible, the new topic's settings in the answer (KIP-525) · v6 quota error · v7 topic id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from broker.api import NewTopic, TopicResult
from broker.errors import ErrorCode
from broker.handlers.leaders_wait import wait_for_leaders
from broker.handlers.services import ZERO_ID, Services
from broker.handlers.topic_names import name_problem
from broker.handlers.topic_settings import SettingsView
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.create_topics import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)

KEY = 19
VERSIONS = (2, 7)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, CreateTopicsRequest, handle, on_error)


async def handle(services: Services, request: Request, body: CreateTopicsRequest) -> CreateTopicsResponse:
    asked: dict[str, CreatableTopic] = {topic.name: topic for topic in body.topics}
    repeated = {name for name, count in Counter(topic.name for topic in body.topics).items() if count > 1}
    results = {name: _problem(topic, name in repeated) for name, topic in asked.items()}
    good = [name for name, result in results.items() if result is None]
    if good:
        topics = [_new_topic(asked[name]) for name in good]
        answers: Sequence[TopicResult] = await services.broker.controller.create_topics(topics, body.timeout_ms, body.validate_only)
        results.update(zip(good, answers, strict=True))
        if not body.validate_only:
            created = [result.topic for result in answers if not result.error and result.topic is not None]
            await wait_for_leaders(services.broker, created, body.timeout_ms)
    return CreateTopicsResponse(topics=[_encode(services, name, result) for name, result in results.items() if result is not None])


def on_error(body: CreateTopicsRequest, code: int, message: str) -> CreateTopicsResponse:
    return CreateTopicsResponse(
        topics=[
            CreatableTopicResult(name=name, error_code=code, error_message=message or None, configs=None)
            for name in dict.fromkeys(topic.name for topic in body.topics)
        ]
    )


def _problem(topic: CreatableTopic, repeated: bool) -> TopicResult | None:
    """What can be refused without asking the controller."""
    if repeated:
        return TopicResult(ErrorCode.INVALID_REQUEST, "The request names the topic more than once.")
    problem = name_problem(topic.name)
    if problem:
        return TopicResult(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {problem}")
    if topic.assignments:
        if topic.num_partitions != -1 or topic.replication_factor != -1:
            text = "With a replica assignment, the number of partitions and the replication factor must be -1."
            return TopicResult(ErrorCode.INVALID_REQUEST, text)
        indexes = sorted(one.partition_index for one in topic.assignments)
        if indexes != list(range(len(indexes))):
            return TopicResult(ErrorCode.INVALID_REPLICA_ASSIGNMENT, "The partitions of a replica assignment must be 0, 1, 2, and so on, each once.")
    elif topic.num_partitions == 0 or topic.num_partitions < -1:
        return TopicResult(ErrorCode.INVALID_PARTITIONS, "The number of partitions must be above 0, or -1 for the default.")
    elif topic.replication_factor == 0 or topic.replication_factor < -1:
        return TopicResult(ErrorCode.INVALID_REPLICATION_FACTOR, "The replication factor must be above 0, or -1 for the default.")
    return None


def _new_topic(topic: CreatableTopic) -> NewTopic:
    return NewTopic(
        topic.name,
        topic.num_partitions,
        topic.replication_factor,
        {one.partition_index: tuple(one.broker_ids) for one in topic.assignments},
        {one.name: one.value for one in topic.configs},
    )


def _encode(services: Services, name: str, result: TopicResult) -> CreatableTopicResult:
    topic = result.topic
    if result.error or topic is None:
        message = result.message or (result.error.name if result.error else None)
        return CreatableTopicResult(name=name, error_code=result.error, error_message=message, configs=None, topic_id=ZERO_ID)
    broker = services.broker
    described = SettingsView(broker.static_settings, broker.image.broker_configs, broker.node_id).topic(topic.configs)
    return CreatableTopicResult(
        name=name,
        topic_id=topic.topic_id,
        error_message=None,
        num_partitions=len(topic.partitions),
        replication_factor=len(topic.partitions[0].replicas) if topic.partitions else -1,
        configs=[
            CreatableTopicConfigs(
                name=one.definition.name, value=one.value, read_only=False, config_source=one.source, is_sensitive=one.definition.sensitive
            )
            for one in described
        ],
    )
