"""InitProducerId (key 22), versions 0-5: an id for an idempotent producer.

v1 same · v2 flexible · v3 the producer's present id and epoch (KIP-360) · v4 PRODUCER_FENCED · v5 TRANSACTION_ABORTABLE (KIP-890).
Without a transactional id every call gives a new id with epoch 0, as in Kafka. With one the answer is UNSUPPORTED_VERSION: transactions are not
served, and every client takes this code as final, while COORDINATOR_NOT_AVAILABLE would make it ask for ever.
"""

from __future__ import annotations

from broker.errors import ErrorCode
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.init_producer_id import InitProducerIdRequest, InitProducerIdResponse

KEY = 22
VERSIONS = (0, 5)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, InitProducerIdRequest, handle, on_error, error_body)


async def handle(services: Services, request: Request, body: InitProducerIdRequest) -> InitProducerIdResponse:
    if body.transactional_id == "":
        return _failed(ErrorCode.INVALID_REQUEST)
    if body.transactional_id is not None:
        return _failed(ErrorCode.UNSUPPORTED_VERSION)
    return InitProducerIdResponse(producer_id=await services.broker.controller.allocate_producer_id(), producer_epoch=0)


def on_error(body: InitProducerIdRequest, code: int, message: str) -> InitProducerIdResponse:
    return _failed(code)


def error_body(version: int, code: int) -> bytes:
    return _failed(code).encode(version)


def _failed(code: int) -> InitProducerIdResponse:
    return InitProducerIdResponse(error_code=code, producer_id=-1, producer_epoch=-1)
