"""AddOffsetsToTxn (key 25), versions 0-4: make a group's offsets part of a producer's transaction.

v1 same · v2 PRODUCER_FENCED (KIP-588) · v3 flexible · v4 TRANSACTION_ABORTABLE (KIP-890). The partition of `__consumer_offsets` that holds the
group's offsets is added; clients with transaction.version 2 leave this out, and TxnOffsetCommit adds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from broker.coordinator.internal_topics import GROUPS_TOPIC
from broker.coordinator.transactions.machine import Answer
from broker.errors import ErrorCode
from broker.handlers.groups import Reply, callback_route
from broker.handlers.services import Services
from broker.handlers.transactions import fenced_code
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from broker.protocol.message import Message

KEY = 25
VERSIONS = (0, 4)


def route(services: Services) -> Route:
    ordinary = callback_route(services, KEY, VERSIONS, AddOffsetsToTxnRequest, handle, on_error)
    answer = ordinary.handle

    def run(request: Request) -> Coroutine[Any, Any, None] | None:
        if GROUPS_TOPIC in services.broker.image.topics:
            return answer(request)
        body, _ = AddOffsetsToTxnRequest.decode(request.buffer, request.position, request.api_version)  # the buffer is not ours later
        return _make_topic_first(services, request, body)

    ordinary.handle = run
    return ordinary


async def _make_topic_first(services: Services, request: Request, body: AddOffsetsToTxnRequest) -> None:
    """Nobody has used a group yet. The client asks for the group's coordinator only after this request has succeeded, so the topic is made here."""
    request.error_answer = lambda code, message: on_error(body, code, message).encode(request.api_version)
    await services.broker.coordination.internal_topics.ensure(GROUPS_TOPIC)
    answered: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    def reply(answer: Message) -> None:
        if not answered.done():
            answered.set_result(answer)

    handle(services, request, body, reply)
    request.reply((await answered).encode(request.api_version))


def handle(services: Services, request: Request, body: AddOffsetsToTxnRequest, reply: Reply) -> None:
    def done(answer: Answer) -> None:
        reply(AddOffsetsToTxnResponse(error_code=fenced_code(answer.error, request.api_version)))

    if not body.transactional_id or not body.group_id:
        done(Answer(ErrorCode.INVALID_REQUEST))
        return
    partition = services.broker.coordination.groups.partition_of(body.group_id)
    if partition is None:
        done(Answer(ErrorCode.COORDINATOR_NOT_AVAILABLE))
        return
    producer = (body.producer_id, body.producer_epoch)
    services.broker.transactions.add_partitions(body.transactional_id, producer, [(GROUPS_TOPIC, partition)], done)


def on_error(body: AddOffsetsToTxnRequest, code: int, message: str) -> AddOffsetsToTxnResponse:
    return AddOffsetsToTxnResponse(error_code=code)
