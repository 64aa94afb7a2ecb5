"""DeleteRecords (key 21), versions 0-2: move the start of partitions up to an offset, -1 = to the high watermark. Asked of each partition's leader.

v1 same · v2 flexible. The new start is an entry of the partition's log: it is answered when a majority has it on disk. What is not answered in
time may have happened: REQUEST_TIMED_OUT.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.errors import ErrorCode
from broker.handlers.services import Services
from broker.handlers.topic_settings import SettingsView
from broker.handlers.typed import typed_route
from broker.metadata.image import TopicImage
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.delete_records import (
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
)

KEY = 21
VERSIONS = (0, 2)

TIMEOUT_MS_MIN, TIMEOUT_MS_MAX = 100, 300_000


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, DeleteRecordsRequest, handle, on_error)


async def handle(services: Services, request: Request, body: DeleteRecordsRequest) -> DeleteRecordsResponse:
    response = DeleteRecordsResponse()
    waiting: list[asyncio.Future[None]] = []
    for asked in body.topics:
        topic = DeleteRecordsTopicResult(name=asked.name)
        response.topics.append(topic)
        for one in asked.partitions:
            result = DeleteRecordsPartitionResult(partition_index=one.partition_index, low_watermark=-1, error_code=ErrorCode.REQUEST_TIMED_OUT)
            topic.partitions.append(result)
            known = services.topic(asked.name)
            partition = services.broker.partitions.get(asked.name, one.partition_index) if known is not None else None
            if partition is None:
                result.error_code = services.not_here(asked.name, one.partition_index)[0]
            elif known is not None and known.internal:
                result.error_code = ErrorCode.INVALID_TOPIC_EXCEPTION  # the coordinators' own state
            elif known is not None and not _deletes(services, known):
                result.error_code = ErrorCode.POLICY_VIOLATION  # as in Kafka: a topic that is only compacted keeps its keys
            else:
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                waiting.append(future)
                partition.advance_log_start(one.offset, _tell(result, future))
    if waiting:
        timeout_ms = min(max(body.timeout_ms, TIMEOUT_MS_MIN), TIMEOUT_MS_MAX)
        await asyncio.wait(waiting, timeout=timeout_ms / 1000)
        for future in waiting:
            future.cancel()
    return response


def _deletes(services: Services, topic: TopicImage) -> bool:
    broker = services.broker
    (policy,) = SettingsView(broker.static_settings, broker.image.broker_configs, broker.node_id).topic(topic.configs, ["cleanup.policy"])
    return "delete" in (policy.value or "").split(",")


def _tell(result: DeleteRecordsPartitionResult, future: asyncio.Future[None]) -> Callable[[ErrorCode, int], None]:
    def done(error: ErrorCode, log_start_offset: int) -> None:
        if not future.done():  # later than the time limit: the answer has left
            result.error_code = error
            result.low_watermark = log_start_offset if error == ErrorCode.NONE else -1
            future.set_result(None)

    return done


def on_error(body: DeleteRecordsRequest, code: int, message: str) -> DeleteRecordsResponse:
    return DeleteRecordsResponse(
        topics=[
            DeleteRecordsTopicResult(
                name=topic.name,
                partitions=[
                    DeleteRecordsPartitionResult(partition_index=one.partition_index, low_watermark=-1, error_code=code) for one in topic.partitions
                ],
            )
            for topic in body.topics
        ]
    )
