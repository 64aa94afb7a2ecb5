"""Heartbeat (key 12), versions 0-4: a member is alive, and learns of a rebalance. v3 static members · v4 flexible.

While the coordinator takes over it says yes to everybody, as Kafka does: for some clients COORDINATOR_LOAD_IN_PROGRESS in answer to a heartbeat
is the end, and no session ends before the coordinator has begun to count.
"""

from __future__ import annotations

from broker.errors import ErrorCode
from broker.handlers.groups import Reply, callback_route, coordinator
from broker.handlers.services import Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.heartbeat import HeartbeatRequest, HeartbeatResponse

KEY = 12
VERSIONS = (0, 4)


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, HeartbeatRequest, handle, on_error, pipelined=True)


def handle(services: Services, request: Request, body: HeartbeatRequest, reply: Reply) -> None:
    machine = coordinator(services, body.group_id)
    machine.heartbeat(
        body.group_id,
        body.generation_id,
        body.member_id,
        body.group_instance_id,
        lambda error: reply(HeartbeatResponse(error_code=_told(error))),
    )


def on_error(body: HeartbeatRequest, code: int, message: str) -> HeartbeatResponse:
    return HeartbeatResponse(error_code=_told(code))


def _told(code: int) -> int:
    return ErrorCode.NONE if code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS else code
