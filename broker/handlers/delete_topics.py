"""DeleteTopics (key 20), versions 1-6: delete topics and their data. Any broker takes it: the controller is asked over the cluster's own transport.

v4 flexible · v5 error message · v6 by name or by id (KIP-516).
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.api import TopicResult
from broker.errors import ErrorCode
from broker.handlers.services import ZERO_ID, Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.delete_topics import DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse, DeleteTopicState

KEY = 20
VERSIONS = (1, 6)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, DeleteTopicsRequest, handle, on_error)


async def handle(services: Services, request: Request, body: DeleteTopicsRequest) -> DeleteTopicsResponse:
    if services.broker.settings.get("delete.topic.enable") is False:
        return on_error(body, ErrorCode.TOPIC_DELETION_DISABLED, "delete.topic.enable is false.")
    answers = {}
    wanted: dict[tuple[str | None, bytes], str | bytes] = {}
    for asked in _asked(body):
        key = (asked.name, asked.topic_id)
        topic = services.topic(asked.topic_id if asked.name is None else asked.name)
        answer = answers[key] = DeletableTopicResult(name=asked.name, topic_id=asked.topic_id)
        if asked.name is not None and asked.topic_id != ZERO_ID:
            answer.error_code = ErrorCode.INVALID_REQUEST
            answer.error_message = "A topic is named by its name or by its id, not by both."
        elif topic is None:
            answer.error_code = ErrorCode.UNKNOWN_TOPIC_ID if asked.name is None else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            answer.error_message = "There is no such topic."
        else:
            answer.name = topic.name
            answer.topic_id = topic.topic_id
            wanted[key] = asked.topic_id if asked.name is None else asked.name
    if wanted:
        results: Sequence[TopicResult] = await services.broker.controller.delete_topics(list(wanted.values()), body.timeout_ms)
        for key, result in zip(wanted, results, strict=True):
            answers[key].error_code = result.error
            answers[key].error_message = (result.message or result.error.name) if result.error else None
    return DeleteTopicsResponse(responses=list(answers.values()))


def on_error(body: DeleteTopicsRequest, code: int, message: str) -> DeleteTopicsResponse:
    return DeleteTopicsResponse(
        responses=[DeletableTopicResult(name=one.name, topic_id=one.topic_id, error_code=code, error_message=message or None) for one in _asked(body)]
    )


def _asked(body: DeleteTopicsRequest) -> list[DeleteTopicState]:
    return [*body.topics, *(DeleteTopicState(name=name) for name in body.topic_names)]
