"""WriteTxnMarkers (key 27), versions 1-2: end a transaction on single partitions by hand, for an administrator with one that hangs (KIP-664).

v1 flexible · v2 the transaction's version (KIP-890 part 2; it changes nothing here). The cluster's own markers go another way. Every partition
answers for itself, NOT_LEADER_OR_FOLLOWER when it is led elsewhere; the marker is fenced as a coordinator's own would be.
"""

from __future__ import annotations

from broker.api import AppendResult
from broker.errors import ErrorCode
from broker.handlers.groups import Reply, callback_route
from broker.handlers.services import Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.write_txn_markers import (
    WritableTxnMarkerPartitionResult,
    WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from broker.records.control import Marker

KEY = 27
VERSIONS = (1, 2)


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, WriteTxnMarkersRequest, handle, on_error)


def handle(services: Services, request: Request, body: WriteTxnMarkersRequest, reply: Reply) -> None:
    response = on_error(body, ErrorCode.NOT_LEADER_OR_FOLLOWER, "")
    waiting = 1 + sum(len(topic.partition_indexes) for marker in body.markers for topic in marker.topics)

    def done(answer: WritableTxnMarkerPartitionResult | None, result: AppendResult) -> None:
        nonlocal waiting
        if answer is not None:
            answer.error_code = result.error
        waiting -= 1
        if not waiting:
            reply(response)

    for marker, result in zip(body.markers, response.markers, strict=True):
        end = Marker(marker.producer_id, marker.producer_epoch, marker.coordinator_epoch, marker.transaction_result)
        for topic in result.topics:
            for answer in topic.partitions:
                partition = services.broker.partitions.get(topic.name, answer.partition_index)
                if partition is None:
                    done(answer, AppendResult(services.not_here(topic.name, answer.partition_index)[0]))
                else:
                    partition.append_marker(end, lambda result, answer=answer: done(answer, result))  # type: ignore[misc]
    done(None, AppendResult(ErrorCode.NONE))


def on_error(body: WriteTxnMarkersRequest, code: int, message: str) -> WriteTxnMarkersResponse:
    return WriteTxnMarkersResponse(
        markers=[
            WritableTxnMarkerResult(
                producer_id=marker.producer_id,
                topics=[
                    WritableTxnMarkerTopicResult(
                        name=topic.name,
                        partitions=[WritableTxnMarkerPartitionResult(partition_index=index, error_code=code) for index in topic.partition_indexes],
                    )
                    for topic in marker.topics
                ],
            )
            for marker in body.markers
        ]
    )
