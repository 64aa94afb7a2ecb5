"""Handlers on the generated classes: decode, call, encode. For everything but Produce and Fetch."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from broker.handlers.services import Services
from broker.network.dispatcher import ErrorBody, Route
from broker.network.request import Request
from broker.protocol.api_keys import APIS
from broker.protocol.message import Message

Body = TypeVar("Body", bound=Message)
Answer = Message | Coroutine[Any, Any, Message]
Handle = Callable[[Services, Request, Body], Answer]
OnError = Callable[[Body, int, str], Message]


def typed_route(
    services: Services,
    key: int,
    versions: tuple[int, int],
    request_type: type[Body],
    handle: Handle[Body],
    on_error: OnError[Body] | None = None,
    error_body: ErrorBody | None = None,
) -> Route:
    """The route of one API. `handle(services, request, body)` returns the response or a coroutine of it.

    `on_error(body, code, message)` is the response when the handler fails as a whole; `error_body(version, code)` the one when not even the body
    could be decoded. Without them the connection is closed in these cases.
    """

    def run(request: Request) -> Coroutine[Any, Any, None] | None:
        body, _ = request_type.decode(request.buffer, request.position, request.api_version)
        if on_error is not None:
            request.error_answer = lambda code, message: on_error(body, code, message).encode(request.api_version)
        answer = handle(services, request, body)
        if isinstance(answer, Message):
            request.reply(answer.encode(request.api_version))
            return None
        return _finish(request, answer)

    info = APIS[key]
    route = Route(key, info.name, versions, info.first_flexible_version, run)
    if error_body is not None:
        route.error_body = error_body
    return route


async def _finish(request: Request, answer: Coroutine[Any, Any, Message]) -> None:
    response = await answer
    request.reply(response.encode(request.api_version))
