"""DeleteGroups (key 42), versions 0-2: forget empty groups and their offsets. v2 flexible."""

from __future__ import annotations

from functools import partial

from broker.errors import ErrorCode, KafkaError
from broker.handlers.groups import Reply, callback_route, coordinator
from broker.handlers.services import Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.delete_groups import DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse

KEY = 42
VERSIONS = (0, 2)


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, DeleteGroupsRequest, handle, on_error)


def handle(services: Services, request: Request, body: DeleteGroupsRequest, reply: Reply) -> None:
    names = list(dict.fromkeys(body.groups_names))
    results: dict[str, int] = {}

    def finish(group_id: str, code: int) -> None:
        results[group_id] = code
        if len(results) == len(names):
            reply(DeleteGroupsResponse(results=[DeletableGroupResult(group_id=name, error_code=results[name]) for name in names]))

    def deleted(group_id: str, _: None) -> None:
        finish(group_id, ErrorCode.NONE)

    def failed(group_id: str, error: KafkaError) -> None:
        finish(group_id, error.code)

    if not names:
        reply(DeleteGroupsResponse())
    for group_id in names:
        try:
            coordinator(services, group_id).delete_group(group_id, partial(deleted, group_id), partial(failed, group_id))
        except KafkaError as error:
            finish(group_id, error.code)


def on_error(body: DeleteGroupsRequest, code: int, message: str) -> DeleteGroupsResponse:
    return DeleteGroupsResponse(results=[DeletableGroupResult(group_id=name, error_code=code) for name in body.groups_names])
