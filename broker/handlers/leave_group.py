"""LeaveGroup (key 13), versions 0-5: a member goes, or an administrator removes members by instance id.

v3 many members, each with its error (KIP-345) · v4 flexible · v5 reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.errors import ErrorCode
from broker.handlers.groups import Reply, callback_route, coordinator
from broker.handlers.services import Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberResponse

KEY = 13
VERSIONS = (0, 5)
FIRST_VERSION_MANY_MEMBERS = 3


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, LeaveGroupRequest, handle, on_error)


def handle(services: Services, request: Request, body: LeaveGroupRequest, reply: Reply) -> None:
    many = request.api_version >= FIRST_VERSION_MANY_MEMBERS
    identities = [(one.member_id, one.group_instance_id) for one in body.members] if many else [(body.member_id, None)]

    def done(errors: Sequence[ErrorCode]) -> None:
        if not many:
            reply(LeaveGroupResponse(error_code=errors[0]))
            return
        left = [
            MemberResponse(member_id=member_id, group_instance_id=instance_id, error_code=error)
            for (member_id, instance_id), error in zip(identities, errors, strict=True)
        ]
        reply(LeaveGroupResponse(members=left))

    coordinator(services, body.group_id).leave(body.group_id, identities, done, lambda error: reply(LeaveGroupResponse(error_code=error.code)))


def on_error(body: LeaveGroupRequest, code: int, message: str) -> LeaveGroupResponse:
    return LeaveGroupResponse(error_code=code)
