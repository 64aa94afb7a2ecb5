"""CreatePartitions (key 37), versions 0-3: add partitions to topics. Any broker takes it: the controller is asked over the cluster's own transport.

v1 same · v2 flexible · v3 quota error. `count` is the new total; null assignments leave the placing to the controller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from broker.api import TopicResult
from broker.errors import ErrorCode
from broker.handlers.leaders_wait import wait_for_leaders
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.create_partitions import CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopicResult

KEY = 37
VERSIONS = (0, 3)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, CreatePartitionsRequest, handle, on_error)


async def handle(services: Services, request: Request, body: CreatePartitionsRequest) -> CreatePartitionsResponse:
    counts = Counter(topic.name for topic in body.topics)
    answers = {topic.name: CreatePartitionsTopicResult(name=topic.name) for topic in body.topics}
    good = []
    for topic in body.topics:
        answer = answers[topic.name]
        known = services.topic(topic.name)
        if counts[topic.name] > 1:
            answer.error_code = ErrorCode.INVALID_REQUEST
            answer.error_message = "The request names the topic more than once."
        elif known is None:
            answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            answer.error_message = "There is no such topic."
        elif topic.count <= len(known.partitions):
            answer.error_code = ErrorCode.INVALID_PARTITIONS
            answer.error_message = (
                f"The topic has {len(known.partitions)} partitions already; the total can only grow, and {topic.count} is not more."
            )
        else:
            assignments = None if topic.assignments is None else [tuple(one.broker_ids) for one in topic.assignments]
            good.append((topic.name, topic.count, assignments))
    if good:
        results: Sequence[TopicResult] = await services.broker.controller.create_partitions(good, body.timeout_ms, body.validate_only)
        for (name, _, _), result in zip(good, results, strict=True):
            answers[name].error_code = result.error
            answers[name].error_message = (result.message or result.error.name) if result.error else None
        if not body.validate_only:
            grown = [one for (name, _, _), result in zip(good, results, strict=True) if not result.error and (one := services.topic(name))]
            await wait_for_leaders(services.broker, grown, body.timeout_ms)
    return CreatePartitionsResponse(results=list(answers.values()))


def on_error(body: CreatePartitionsRequest, code: int, message: str) -> CreatePartitionsResponse:
    return CreatePartitionsResponse(
        results=[
            CreatePartitionsTopicResult(name=name, error_code=code, error_message=message or None)
            for name in dict.fromkeys(topic.name for topic in body.topics)
        ]
    )
