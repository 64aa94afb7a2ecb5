"""ListConfigResources (key 74), versions 0-1: what has settings.

v0 lists client metrics only, of which there are none · v1 by type (KIP-1142): topics, brokers, broker loggers, client metrics, groups; no type = all.
"""

from __future__ import annotations

from broker.errors import ErrorCode
from broker.handlers.altering import BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.list_config_resources import ConfigResource, ListConfigResourcesRequest, ListConfigResourcesResponse
from wal.entry import META_TOPIC

KEY = 74
VERSIONS = (0, 1)

_TYPES = (TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, ListConfigResourcesRequest, handle, on_error, error_body)


def handle(services: Services, request: Request, body: ListConfigResourcesRequest) -> ListConfigResourcesResponse:
    if request.api_version == 0:
        return ListConfigResourcesResponse()
    wanted = set(body.resource_types) or set(_TYPES)
    if not wanted.issubset(_TYPES):
        return ListConfigResourcesResponse(error_code=ErrorCode.UNSUPPORTED_VERSION)
    image = services.broker.image
    found: list[ConfigResource] = []
    if TOPIC in wanted:
        found += [ConfigResource(resource_name=name, resource_type=TOPIC) for name in image.topics if name != META_TOPIC]
    for kind in (BROKER, BROKER_LOGGER):
        if kind in wanted:
            found += [ConfigResource(resource_name=str(node_id), resource_type=kind) for node_id in image.brokers]
    return ListConfigResourcesResponse(config_resources=found)


def on_error(body: ListConfigResourcesRequest, code: int, message: str) -> ListConfigResourcesResponse:
    return ListConfigResourcesResponse(error_code=code)


def error_body(version: int, code: int) -> bytes:
    return ListConfigResourcesResponse(error_code=code).encode(version)
