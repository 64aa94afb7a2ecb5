"""ListGroups (key 16), versions 0-5: the groups that this broker coordinates. v3 flexible · v4 filter by state (KIP-518) · v5 by type (KIP-848)."""

from __future__ import annotations

from broker.errors import ErrorCode, KafkaError
from broker.handlers.groups import Reply, callback_route
from broker.handlers.services import Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.list_groups import ListedGroup, ListGroupsRequest, ListGroupsResponse

KEY = 16
VERSIONS = (0, 5)
CLASSIC = "classic"


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, ListGroupsRequest, handle, on_error)


def handle(services: Services, request: Request, body: ListGroupsRequest, reply: Reply) -> None:
    states = {state.lower() for state in body.states_filter}
    types = {one.lower() for one in body.types_filter}
    found: list[ListedGroup] = []
    error = ErrorCode.NONE
    for machine in services.broker.coordination.groups.leading():
        try:
            groups = machine.list_groups()
        except KafkaError as refused:
            if refused.code is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
                error = refused.code  # what the others know is told all the same
            continue
        found += [
            ListedGroup(group_id=one.group_id, protocol_type=one.protocol_type, group_state=one.state, group_type=CLASSIC)
            for one in groups
            if (not states or one.state.lower() in states) and (not types or CLASSIC in types)
        ]
    reply(ListGroupsResponse(error_code=error, groups=found))


def on_error(body: ListGroupsRequest, code: int, message: str) -> ListGroupsResponse:
    return ListGroupsResponse(error_code=code)
