"""SyncGroup (key 14), versions 0-5: the leader's assignment goes in, each member's own comes out, once it is stored.

v3 static members · v4 flexible · v5 protocol type and name are told and checked (KIP-559). While the coordinator takes over the answer is
REBALANCE_IN_PROGRESS, as Kafka's: the rebalance that the member was in is lost, and clients do not expect COORDINATOR_LOAD_IN_PROGRESS here.
"""

from __future__ import annotations

from broker.coordinator.groups.members import SyncResult
from broker.coordinator.groups.rebalance import SyncRequest
from broker.errors import ErrorCode
from broker.handlers.groups import Reply, callback_route, coordinator
from broker.handlers.services import Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.sync_group import SyncGroupRequest, SyncGroupResponse

KEY = 14
VERSIONS = (0, 5)


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, SyncGroupRequest, handle, on_error)


def handle(services: Services, request: Request, body: SyncGroupRequest, reply: Reply) -> None:
    assignments = {one.member_id: bytes(one.assignment) for one in body.assignments}
    sync = SyncRequest(body.group_id, body.generation_id, body.member_id, body.group_instance_id, body.protocol_type, body.protocol_name, assignments)

    def done(result: SyncResult) -> None:
        reply(
            SyncGroupResponse(
                error_code=_told(result.error), protocol_type=result.protocol_type, protocol_name=result.protocol, assignment=result.assignment
            )
        )

    coordinator(services, body.group_id).sync(sync, done)


def on_error(body: SyncGroupRequest, code: int, message: str) -> SyncGroupResponse:
    return SyncGroupResponse(error_code=_told(code), protocol_type=None, protocol_name=None, assignment=b"")


def _told(code: int) -> int:
    return ErrorCode.REBALANCE_IN_PROGRESS if code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS else code
