"""IncrementalAlterConfigs (key 44), versions 0-1: set, delete, append to and subtract from settings of topics and brokers (KIP-339).

v1 flexible. Each resource succeeds or fails as a whole and on its own. Appending to a list that is not set begins with its default.
"""

from __future__ import annotations

from broker.handlers.altering import Alteration, alter
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.incremental_alter_configs import (
    AlterConfigsResourceResponse,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)

KEY = 44
VERSIONS = (0, 1)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, IncrementalAlterConfigsRequest, handle, on_error)


async def handle(services: Services, request: Request, body: IncrementalAlterConfigsRequest) -> IncrementalAlterConfigsResponse:
    alterations = [
        Alteration(one.resource_type, one.resource_name, [(config.name, config.value, config.config_operation) for config in one.configs])
        for one in body.resources
    ]
    outcomes = await alter(services, alterations, body.validate_only, replace=False)
    return IncrementalAlterConfigsResponse(
        responses=[
            AlterConfigsResourceResponse(error_code=code, error_message=text, resource_type=one.resource_type, resource_name=one.resource_name)
            for one, (code, text) in zip(body.resources, outcomes, strict=True)
        ]
    )


def on_error(body: IncrementalAlterConfigsRequest, code: int, message: str) -> IncrementalAlterConfigsResponse:
    return IncrementalAlterConfigsResponse(
        responses=[
            AlterConfigsResourceResponse(
                error_code=code, error_message=message or None, resource_type=one.resource_type, resource_name=one.resource_name
            )
            for one in body.resources
        ]
    )
