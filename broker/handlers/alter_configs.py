"""AlterConfigs (key 33), versions 0-2: all settings of a topic or a broker at once; those that are not named go back to their defaults.

v1 same · v2 flexible. Replaced by IncrementalAlterConfigs (KIP-339), but older tools know only this one.
"""

from __future__ import annotations

from broker.handlers.altering import Alteration, alter
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.metadata.operations import ConfigOp
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.alter_configs import AlterConfigsRequest, AlterConfigsResourceResponse, AlterConfigsResponse

KEY = 33
VERSIONS = (0, 2)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, AlterConfigsRequest, handle, on_error)


async def handle(services: Services, request: Request, body: AlterConfigsRequest) -> AlterConfigsResponse:
    alterations = [
        Alteration(one.resource_type, one.resource_name, [(config.name, config.value, int(ConfigOp.SET)) for config in one.configs])
        for one in body.resources
    ]
    outcomes = await alter(services, alterations, body.validate_only, replace=True)
    return AlterConfigsResponse(
        responses=[
            AlterConfigsResourceResponse(error_code=code, error_message=text, resource_type=one.resource_type, resource_name=one.resource_name)
            for one, (code, text) in zip(body.resources, outcomes, strict=True)
        ]
    )


def on_error(body: AlterConfigsRequest, code: int, message: str) -> AlterConfigsResponse:
    return AlterConfigsResponse(
        responses=[
            AlterConfigsResourceResponse(
                error_code=code, error_message=message or None, resource_type=one.resource_type, resource_name=one.resource_name
            )
            for one in body.resources
        ]
    )
