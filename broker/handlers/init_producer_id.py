"""InitProducerId (key 22), versions 0-5: an id and an epoch for an idempotent or transactional producer.

v1 same · v2 flexible · v3 the producer's present id and epoch (KIP-360) · v4 PRODUCER_FENCED · v5 TRANSACTION_ABORTABLE (KIP-890).
Without a transactional id every call gives a new id with epoch 0, as in Kafka. With one the id's coordinator fences older producers and finishes what
they left open.
"""

from __future__ import annotations

import asyncio

from broker.coordinator.transactions.machine import Answer
from broker.coordinator.transactions.state import NO_EPOCH, NO_PRODUCER_ID
from broker.errors import ErrorCode
from broker.handlers.services import Services
from broker.handlers.transactions import fenced_code
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.init_producer_id import InitProducerIdRequest, InitProducerIdResponse

KEY = 22
VERSIONS = (0, 5)
FIRST_VERSION_FENCED = 4


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, InitProducerIdRequest, handle, on_error, error_body)


async def handle(services: Services, request: Request, body: InitProducerIdRequest) -> InitProducerIdResponse:
    if body.transactional_id is None:
        return InitProducerIdResponse(producer_id=await services.broker.controller.allocate_producer_id(), producer_epoch=0)
    if not body.transactional_id or (body.producer_id == NO_PRODUCER_ID) != (body.producer_epoch == NO_EPOCH):
        return _failed(ErrorCode.INVALID_REQUEST)
    expected = None if body.producer_id == NO_PRODUCER_ID else (body.producer_id, body.producer_epoch)
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    services.broker.transactions.init_producer(
        body.transactional_id, body.transaction_timeout_ms, expected, lambda answer: None if future.done() else future.set_result(answer)
    )
    answer = await future
    if answer.error:
        return _failed(fenced_code(answer.error, request.api_version, FIRST_VERSION_FENCED))
    return InitProducerIdResponse(producer_id=answer.producer_id, producer_epoch=answer.epoch)


def on_error(body: InitProducerIdRequest, code: int, message: str) -> InitProducerIdResponse:
    return _failed(code)


def error_body(version: int, code: int) -> bytes:
    return _failed(code).encode(version)


def _failed(code: int) -> InitProducerIdResponse:
    return InitProducerIdResponse(error_code=code, producer_id=NO_PRODUCER_ID, producer_epoch=NO_EPOCH)
