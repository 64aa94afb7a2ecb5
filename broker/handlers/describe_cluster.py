"""DescribeCluster (key 60), versions 0-2: the brokers and the controller.

v1 endpoint type (KIP-919; there are no controllers apart from brokers) · v2 fenced brokers (KIP-1073; a registered broker is never fenced here).
"""

from __future__ import annotations

from broker.errors import ErrorCode
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.describe_cluster import DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse

KEY = 60
VERSIONS = (0, 2)

_BROKERS = 1
_CONTROLLERS = 2
_CLUSTER_OPERATIONS = sum(1 << operation for operation in (5, 7, 8, 9, 10, 11, 12))  # bits by the code of the ACL operation


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, DescribeClusterRequest, handle, on_error, error_body)


def handle(services: Services, request: Request, body: DescribeClusterRequest) -> DescribeClusterResponse:
    if body.endpoint_type != _BROKERS:
        code = ErrorCode.MISMATCHED_ENDPOINT_TYPE if body.endpoint_type == _CONTROLLERS else ErrorCode.UNSUPPORTED_ENDPOINT_TYPE
        return DescribeClusterResponse(error_code=code, error_message="This is a broker; controllers have no endpoints of their own.")
    image = services.broker.image
    brokers = []
    for one in image.brokers.values():
        host, port = services.address(one, request)
        brokers.append(DescribeClusterBroker(broker_id=one.node_id, host=host, port=port, rack=one.rack))
    controller_id = services.broker.controller.controller_id
    return DescribeClusterResponse(
        cluster_id=image.cluster_id,
        controller_id=controller_id if controller_id in image.brokers else -1,
        brokers=brokers,
        cluster_authorized_operations=_CLUSTER_OPERATIONS if body.include_cluster_authorized_operations else -(2**31),
    )


def on_error(body: DescribeClusterRequest, code: int, message: str) -> DescribeClusterResponse:
    return DescribeClusterResponse(error_code=code, error_message=message or None)


def error_body(version: int, code: int) -> bytes:
    return DescribeClusterResponse(error_code=code).encode(version)
