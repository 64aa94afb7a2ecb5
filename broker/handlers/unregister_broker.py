"""UnregisterBroker (key 64), version 0: forget a broker that is stopped for good. Its data directory is never accepted again.

Any broker takes it: the controller is asked. A broker that runs is refused: it would only register again.
"""

from __future__ import annotations

from broker.errors import ErrorCode
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.unregister_broker import UnregisterBrokerRequest, UnregisterBrokerResponse

KEY = 64
VERSIONS = (0, 0)

TIMEOUT_MS = 30_000


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, UnregisterBrokerRequest, handle, on_error, error_body)


async def handle(services: Services, request: Request, body: UnregisterBrokerRequest) -> UnregisterBrokerResponse:
    await services.broker.controller.unregister_broker(body.broker_id, TIMEOUT_MS)
    return UnregisterBrokerResponse(error_message=None)


def on_error(body: UnregisterBrokerRequest, code: int, message: str) -> UnregisterBrokerResponse:
    return UnregisterBrokerResponse(error_code=code, error_message=message or ErrorCode(code).name)


def error_body(version: int, code: int) -> bytes:
    return UnregisterBrokerResponse(error_code=code).encode(version)
