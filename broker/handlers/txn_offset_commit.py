"""TxnOffsetCommit (key 28), versions 0-5: store a group's offsets as part of a transaction; they show when it commits.

v1 same · v2 leader epoch · v3 flexible, member and generation of the group (KIP-447) · v4 TRANSACTION_ABORTABLE · v5 the offsets' partition is added
to the transaction by this request (KIP-890). Answered when the offsets are committed to the log, where they wait for the transaction's end.
"""

from __future__ import annotations

from broker.coordinator.groups.offsets import CommitRequest, TopicPartition
from broker.coordinator.groups.records import StoredOffset
from broker.coordinator.internal_topics import GROUPS_TOPIC
from broker.errors import ErrorCode, KafkaError
from broker.handlers.groups import Reply, callback_route, coordinator
from broker.handlers.services import Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)

KEY = 28
VERSIONS = (0, 5)
FIRST_VERSION_ABORTABLE = 4
FIRST_VERSION_ADDS = 5

# What the transaction's coordinator says, in the words that this API's clients know: its own moves are not moves of the group's coordinator.
_WAIT = frozenset(
    {
        ErrorCode.NETWORK_EXCEPTION,
        ErrorCode.NOT_COORDINATOR,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.NOT_ENOUGH_REPLICAS,
        ErrorCode.CONCURRENT_TRANSACTIONS,
    }
)


def route(services: Services) -> Route:
    return callback_route(services, KEY, VERSIONS, TxnOffsetCommitRequest, handle, on_error)


def handle(services: Services, request: Request, body: TxnOffsetCommitRequest, reply: Reply) -> None:
    version = request.api_version
    machine = coordinator(services, body.group_id)
    partition = services.broker.partitions.get(GROUPS_TOPIC, machine.shard.index)
    if not body.transactional_id or partition is None:
        reply(on_error(body, ErrorCode.INVALID_REQUEST if partition is not None else ErrorCode.NOT_COORDINATOR, ""))
        return
    producer = (body.producer_id, body.producer_epoch)

    def committed(errors: dict[TopicPartition, ErrorCode]) -> None:
        reply(_answer(body, errors))

    def failed(error: KafkaError) -> None:
        reply(on_error(body, error.code, error.message))

    def verified(error: ErrorCode, message: str, _: object) -> None:
        if error:
            reply(on_error(body, _code(error, version), message))
            return
        commit = CommitRequest(body.group_id, body.generation_id, body.member_id, body.group_instance_id, _offsets(services, body), producer=producer)
        machine.commit(commit, committed, failed)

    partition.enter_transaction(body.transactional_id, producer, version >= FIRST_VERSION_ADDS, verified)


def _offsets(services: Services, body: TxnOffsetCommitRequest) -> dict[TopicPartition, StoredOffset]:
    image = services.broker.image
    offsets: dict[TopicPartition, StoredOffset] = {}
    for topic in body.topics:
        known = image.topics.get(topic.name)
        for one in topic.partitions:
            if known is not None and image.partition(topic.name, one.partition_index) is not None:
                offsets[topic.name, one.partition_index] = StoredOffset(
                    one.committed_offset, one.committed_leader_epoch, one.committed_metadata or "", -1, -1, known.topic_id
                )
    return offsets


def _code(error: ErrorCode, version: int) -> int:
    if error in _WAIT:
        return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    if error is ErrorCode.NOT_LEADER_OR_FOLLOWER:
        return ErrorCode.NOT_COORDINATOR
    if error is ErrorCode.TRANSACTION_ABORTABLE and version < FIRST_VERSION_ABORTABLE:
        return ErrorCode.INVALID_TXN_STATE
    return ErrorCode.INVALID_PRODUCER_EPOCH if error is ErrorCode.PRODUCER_FENCED else error


def _answer(body: TxnOffsetCommitRequest, errors: dict[TopicPartition, ErrorCode]) -> TxnOffsetCommitResponse:
    return TxnOffsetCommitResponse(
        topics=[
            TxnOffsetCommitResponseTopic(
                name=topic.name,
                partitions=[
                    TxnOffsetCommitResponsePartition(
                        partition_index=one.partition_index,
                        error_code=errors.get((topic.name, one.partition_index), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
                    )
                    for one in topic.partitions
                ],
            )
            for topic in body.topics
        ]
    )


def on_error(body: TxnOffsetCommitRequest, code: int, message: str) -> TxnOffsetCommitResponse:
    return _answer(body, {(topic.name, one.partition_index): ErrorCode(code) for topic in body.topics for one in topic.partitions})
