"""DescribeQuorum (key 55), versions 0-2: leader, voters and learners of the metadata's group, under Kafka's name for it or ours.

v1 times of fetch and of being caught up (KIP-836) · v2 directory ids, addresses, error texts (KIP-853). Positions are those of the replicated
log: entries, not records. Any broker answers; it asks the leader.
"""

from __future__ import annotations

from broker.api import QuorumMember, QuorumStatus
from broker.errors import ErrorCode, KafkaError
from broker.handlers.services import ZERO_ID, Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.describe_quorum import (
    DescribeQuorumRequest,
    DescribeQuorumResponse,
    DescribeQuorumResponsePartitionData,
    DescribeQuorumResponseTopicData,
    Listener,
    Node,
    ReplicaState,
)
from wal.entry import META_TOPIC

KEY = 55
VERSIONS = (0, 2)

_NAMES = ("__cluster_metadata", META_TOPIC)
_LISTENER = "RAFT"


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, DescribeQuorumRequest, handle, on_error, error_body)


async def handle(services: Services, request: Request, body: DescribeQuorumRequest) -> DescribeQuorumResponse:
    asks_for_meta = any(topic.topic_name in _NAMES for topic in body.topics)
    status: QuorumStatus | None = None
    failure = KafkaError(
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "Only the metadata has a quorum of this kind: ask for __cluster_metadata, partition 0."
    )
    if asks_for_meta:
        try:
            status = await services.broker.administration.quorum()
        except KafkaError as error:
            if error.code != ErrorCode.LEADER_NOT_AVAILABLE:
                raise
            failure = error
    response = DescribeQuorumResponse(error_message=None)
    for topic in body.topics:
        told = DescribeQuorumResponseTopicData(topic_name=topic.topic_name)
        response.topics.append(told)
        for one in topic.partitions:
            if status is not None and topic.topic_name in _NAMES and one.partition_index == 0:
                told.partitions.append(_describe(status))
            else:
                unknown = one.partition_index != 0 or topic.topic_name not in _NAMES
                code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if unknown else failure.code
                told.partitions.append(
                    DescribeQuorumResponsePartitionData(partition_index=one.partition_index, error_code=code, error_message=failure.message)
                )
    if status is not None:
        response.nodes = _nodes(services, status)
    return response


def _describe(status: QuorumStatus) -> DescribeQuorumResponsePartitionData:
    return DescribeQuorumResponsePartitionData(
        partition_index=0,
        error_message=None,
        leader_id=status.leader_id,
        leader_epoch=status.term,
        high_watermark=status.commit_end,
        current_voters=[_state(member) for member in status.voters],
        observers=[_state(member) for member in status.learners],
    )


def _state(member: QuorumMember) -> ReplicaState:
    return ReplicaState(
        replica_id=member.node_id,
        replica_directory_id=_directory_id(member.directory_id),
        log_end_offset=member.end_index,
        last_fetch_timestamp=member.contact_ms,
        last_caught_up_timestamp=member.caught_up_ms,
    )


def _directory_id(text: str) -> bytes:
    try:
        directory = bytes.fromhex(text)
    except ValueError:
        return ZERO_ID
    return directory if len(directory) == len(ZERO_ID) else ZERO_ID


def _nodes(services: Services, status: QuorumStatus) -> list[Node]:
    nodes = []
    for member in (*status.voters, *status.learners):
        broker = services.broker.image.brokers.get(member.node_id)
        host, _, port = (broker.raft_address if broker is not None else "").rpartition(":")
        listeners = [Listener(name=_LISTENER, host=host, port=int(port))] if host and port.isdigit() else []
        nodes.append(Node(node_id=member.node_id, listeners=listeners))
    return nodes


def on_error(body: DescribeQuorumRequest, code: int, message: str) -> DescribeQuorumResponse:
    return DescribeQuorumResponse(error_code=code, error_message=message or None)


def error_body(version: int, code: int) -> bytes:
    return DescribeQuorumResponse(error_code=code).encode(version)
