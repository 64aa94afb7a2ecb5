"""ApiVersions (key 18), versions 0-4: what this broker serves, derived from the registry.

v1 throttle time · v2 same · v3 flexible, client's name and version, features · v4 features whose lowest version is 0 (KAFKA-17011).
The response header is v0 in every version; an unknown version is answered in v0 form by the dispatcher (KIP-511). Produce is advertised from 0
although 0-2 are refused: librdkafka needs it (KAFKA-18659).
"""

from __future__ import annotations

import re

from broker.errors import ErrorCode
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.api_versions import (
    ApiVersion,
    ApiVersionsRequest,
    ApiVersionsResponse,
    FinalizedFeatureKey,
    SupportedFeatureKey,
)

KEY = 18
VERSIONS = (0, 4)

# Tools switch on what they offer (editing of configurations, for one) by the finalized level of metadata.version. 25 = 4.0-IV3, 7 = 3.3-IV3.
METADATA_VERSION = 25
METADATA_VERSION_LOWEST = 7
# Clients bump epochs by ending transactions (KIP-890) when transaction.version is 2; then they use EndTxn 5 and leave out AddPartitionsToTxn.
TRANSACTION_VERSION = 2

_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?\Z")


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, ApiVersionsRequest, handle, error_body=error_body)


def handle(services: Services, request: Request, body: ApiVersionsRequest) -> ApiVersionsResponse:
    if request.api_version >= 3 and not (_SOFTWARE.match(body.client_software_name) and _SOFTWARE.match(body.client_software_version)):
        return ApiVersionsResponse(error_code=ErrorCode.INVALID_REQUEST)
    lowest_feature = 0 if request.api_version >= 4 else 1  # KAFKA-17011: older clients can not read a lowest version of 0
    return ApiVersionsResponse(
        api_keys=[ApiVersion(api_key=key, min_version=low, max_version=high) for key, low, high in services.dispatcher.advertised()],
        supported_features=[
            SupportedFeatureKey(name="metadata.version", min_version=METADATA_VERSION_LOWEST, max_version=METADATA_VERSION),
            SupportedFeatureKey(name="transaction.version", min_version=lowest_feature, max_version=TRANSACTION_VERSION),
        ],
        finalized_features_epoch=services.broker.image.version,
        finalized_features=[
            FinalizedFeatureKey(name="metadata.version", max_version_level=METADATA_VERSION, min_version_level=METADATA_VERSION),
            FinalizedFeatureKey(name="transaction.version", max_version_level=TRANSACTION_VERSION, min_version_level=TRANSACTION_VERSION),
        ],
    )


def error_body(version: int, code: int) -> bytes:
    return ApiVersionsResponse(error_code=code).encode(version)
