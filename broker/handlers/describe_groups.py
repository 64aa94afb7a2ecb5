"""DescribeGroups (key 15), versions 0-6: state, members and assignments of groups. v3 authorized operations · v4 static members · v5 flexible ·
v6 GROUP_ID_NOT_FOUND with a message (KIP-1043); before, a group that does not exist is described as Dead."""

from __future__ import annotations

from broker.coordinator.groups.group import GroupState
from broker.errors import ErrorCode, KafkaError
from broker.handlers.groups import GROUP_OPERATIONS, NO_OPERATIONS, Reply, callback_route, coordinator
from broker.handlers.services import Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.describe_groups import DescribedGroup, DescribedGroupMember, DescribeGroupsRequest, DescribeGroupsResponse

KEY = 15
VERSIONS = (0, 6)
FIRST_VERSION_NOT_FOUND = 6


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, DescribeGroupsRequest, handle, on_error)


def handle(services: Services, request: Request, body: DescribeGroupsRequest, reply: Reply) -> None:
    operations = GROUP_OPERATIONS if body.include_authorized_operations else NO_OPERATIONS
    reply(DescribeGroupsResponse(groups=[_describe(services, request.api_version, group_id, operations) for group_id in body.groups]))


def _describe(services: Services, version: int, group_id: str, operations: int) -> DescribedGroup:
    try:
        found = coordinator(services, group_id).describe(group_id)
    except KafkaError as error:
        return _failed(group_id, error.code, error.message or None)
    if found is None:
        if version >= FIRST_VERSION_NOT_FOUND:
            return _failed(group_id, ErrorCode.GROUP_ID_NOT_FOUND, f"Group {group_id} not found.", GroupState.DEAD.value)
        return _failed(group_id, ErrorCode.NONE, None, GroupState.DEAD.value)
    return DescribedGroup(
        error_message=None,
        group_id=group_id,
        group_state=found.state,
        protocol_type=found.protocol_type,
        protocol_data=found.protocol,
        members=[
            DescribedGroupMember(
                member_id=one.member_id,
                group_instance_id=one.instance_id,
                client_id=one.client_id,
                client_host=one.client_host,
                member_metadata=one.metadata,
                member_assignment=one.assignment,
            )
            for one in found.members
        ],
        authorized_operations=operations,
    )


def _failed(group_id: str, code: int, message: str | None, state: str = "") -> DescribedGroup:
    return DescribedGroup(error_code=code, error_message=message, group_id=group_id, group_state=state, authorized_operations=NO_OPERATIONS)


def on_error(body: DescribeGroupsRequest, code: int, message: str) -> DescribeGroupsResponse:
    return DescribeGroupsResponse(groups=[_failed(group_id, code, message or None) for group_id in body.groups])
