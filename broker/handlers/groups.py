"""What the handlers of consumer groups share: routes that answer by callback, the coordinator of a group, topics by name or id."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from broker.coordinator.groups.machine import GroupsMachine
from broker.errors import ErrorCode, KafkaError
from broker.handlers.services import ZERO_ID, Services
from broker.handlers.typed import OnError
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol.api_keys import APIS
from broker.protocol.message import Message

Body = TypeVar("Body", bound=Message)
Reply = Callable[[Message], None]

GROUP_OPERATIONS = sum(1 << operation for operation in (3, 6, 8, 10, 11))
"""Read, delete, describe, and (alter and describe) configs: what Kafka says of groups without ACLs."""
NO_OPERATIONS = -(2**31)


def callback_route(
    services: Services,
    key: int,
    versions: tuple[int, int],
    request_type: type[Body],
    handle: Callable[[Services, Request, Body, Reply], None],
    on_error: OnError[Body],
    pipelined: bool = False,
) -> Route:
    """`handle(services, request, body, reply)` calls `reply` once, now or later; no task is made. A KafkaError that it raises becomes
    `on_error(body, code, message)`."""

    def run(request: Request) -> None:
        version = request.api_version
        body, _ = request_type.decode(request.buffer, request.position, version)
        request.error_answer = lambda code, message: on_error(body, code, message).encode(version)
        handle(services, request, body, lambda answer: request.reply(answer.encode(version)))

    info = APIS[key]
    return Route(key, info.name, versions, info.first_flexible_version, run, pipelined=pipelined)


def coordinator(services: Services, group_id: str) -> GroupsMachine:
    """Raises KafkaError when the group is not coordinated here, or not yet."""
    if not group_id:
        raise KafkaError(ErrorCode.INVALID_GROUP_ID)
    return services.broker.coordination.groups.machine(group_id)


def client_host(request: Request) -> str:
    """As Kafka writes it: a slash and the address."""
    peer = request.connection.peer
    return "/" + peer.rpartition(":")[0].strip("[]")


def name_and_id(services: Services, name: str, topic_id: bytes, by_id: bool) -> tuple[str, bytes] | None:
    """(name, id) of an existing topic that is named in a request; None when there is none."""
    topic = services.topic(topic_id if by_id else name)
    return (topic.name, topic.topic_id) if topic is not None else None


__all__ = ["GROUP_OPERATIONS", "NO_OPERATIONS", "ZERO_ID", "Reply", "callback_route", "client_host", "coordinator", "name_and_id"]
