"""JoinGroup (key 11), versions 0-9: become a member of a group; answered when the rebalance is complete.

v1 rebalance time-out · v4 MEMBER_ID_REQUIRED, then the same with the id (KIP-394) · v5 static members (KIP-345) · v6 flexible · v7 protocol type
in the answer · v8 reason · v9 skip_assignment for a static leader that comes back (KIP-814).
"""

from __future__ import annotations

from broker.coordinator.groups.members import JoinRequest, JoinResult, Protocol
from broker.handlers.groups import Reply, callback_route, client_host, coordinator
from broker.handlers.services import Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.join_group import JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember

KEY = 11
VERSIONS = (0, 9)
FIRST_VERSION_MEMBER_ID_REQUIRED = 4
FIRST_VERSION_NULL_PROTOCOL = 7
FIRST_VERSION_SKIP_ASSIGNMENT = 9


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, JoinGroupRequest, handle, on_error)


def handle(services: Services, request: Request, body: JoinGroupRequest, reply: Reply) -> None:
    version = request.api_version
    join = JoinRequest(
        body.group_id,
        body.member_id,
        body.group_instance_id,
        request.client_id or "",
        client_host(request),
        body.session_timeout_ms,
        body.rebalance_timeout_ms if version >= 1 else body.session_timeout_ms,
        body.protocol_type,
        [Protocol(one.name, bytes(one.metadata)) for one in body.protocols],
        version >= FIRST_VERSION_MEMBER_ID_REQUIRED,
        version >= FIRST_VERSION_SKIP_ASSIGNMENT,
    )
    coordinator(services, body.group_id).join(join, lambda result: reply(_encode(version, result)))


def _encode(version: int, result: JoinResult) -> JoinGroupResponse:
    return JoinGroupResponse(
        error_code=result.error,
        generation_id=result.generation_id,
        protocol_type=result.protocol_type,
        protocol_name=result.protocol if version >= FIRST_VERSION_NULL_PROTOCOL else result.protocol or "",
        leader=result.leader,
        skip_assignment=result.skip_assignment,
        member_id=result.member_id,
        members=[JoinGroupResponseMember(member_id=m, group_instance_id=instance, metadata=metadata) for m, instance, metadata in result.members],
    )


def on_error(body: JoinGroupRequest, code: int, message: str) -> JoinGroupResponse:
    return JoinGroupResponse(error_code=code, generation_id=-1, protocol_type=None, protocol_name="", leader="", member_id=body.member_id)
