"""DescribeLogDirs (key 35), versions 1-5: what lies on this broker's disk. There is one directory per broker.

v2 flexible · v3 top-level error · v4 size of the volume (KIP-827) · v5 cordoned directories (KIP-1066; none is). Null topics mean all; topics and
partitions without a replica here are left out.
"""

from __future__ import annotations

from broker.errors import ErrorCode
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.describe_log_dirs import (
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)

KEY = 35
VERSIONS = (1, 5)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, DescribeLogDirsRequest, handle, on_error, error_body)


def handle(services: Services, request: Request, body: DescribeLogDirsRequest) -> DescribeLogDirsResponse:
    administration = services.broker.administration
    wanted: dict[str, set[int]] | None = None
    if body.topics is not None:
        wanted = {}
        for asked in body.topics:
            wanted.setdefault(asked.topic, set()).update(asked.partitions)
    topics: dict[str, DescribeLogDirsTopic] = {}
    for one in administration.replica_sizes():
        if wanted is not None and one.partition not in wanted.get(one.topic, ()):
            continue
        topic = topics.get(one.topic)
        if topic is None:
            topic = topics[one.topic] = DescribeLogDirsTopic(name=one.topic)
        topic.partitions.append(
            DescribeLogDirsPartition(partition_index=one.partition, partition_size=one.size_bytes, offset_lag=one.lag, is_future_key=False)
        )
    total, usable = administration.disk_bytes()
    result = DescribeLogDirsResult(log_dir=administration.log_dir, topics=list(topics.values()), total_bytes=total, usable_bytes=usable)
    return DescribeLogDirsResponse(results=[result])


def on_error(body: DescribeLogDirsRequest, code: int, message: str) -> DescribeLogDirsResponse:
    return DescribeLogDirsResponse(error_code=code)


def error_body(version: int, code: int) -> bytes:
    return DescribeLogDirsResponse(error_code=ErrorCode(code)).encode(version)
