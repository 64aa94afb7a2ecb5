"""ElectLeaders (key 43), versions 0-2: give partitions back to their preferred leaders. Any broker takes it and asks the present leader.

v1 kind of election (KIP-460) · v2 flexible. Null partitions mean all; of those, the ones that need no election are left out of the answer. An unclean
election is refused: Raft never elects a replica that lacks acknowledged records, and a group without a majority can not elect at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from broker.errors import ErrorCode, KafkaError
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.metadata.controller import sleep
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.elect_leaders import (
    ElectLeadersRequest,
    ElectLeadersResponse,
    PartitionResult,
    ReplicaElectionResult,
)
from wal.entry import META_TOPIC

KEY = 43
VERSIONS = (0, 2)

_PREFERRED, _UNCLEAN = 0, 1
_POLL_MS = 20
_REPEAT_MS = 1_000
_TIMEOUT_MS_MIN, _TIMEOUT_MS_MAX = 100, 300_000
_UNCLEAN_TEXT = (
    "No leader is elected uncleanly: that would lose acknowledged records. "
    "Start the replicas that are down; a majority of them elects a leader by itself."
)


class _Outcome(NamedTuple):
    code: int = ErrorCode.NONE
    message: str | None = None


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, ElectLeadersRequest, handle, on_error, error_body)


async def handle(services: Services, request: Request, body: ElectLeadersRequest) -> ElectLeadersResponse:
    if body.election_type not in (_PREFERRED, _UNCLEAN):
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unknown kind of election {body.election_type}; known are 0 (preferred) and 1 (unclean).")
    asked = list(dict.fromkeys(_asked(services, body)))
    timeout_ms = min(max(body.timeout_ms, _TIMEOUT_MS_MIN), _TIMEOUT_MS_MAX)
    elect = _refuse_unclean if body.election_type == _UNCLEAN else _elect
    outcomes = await asyncio.gather(*(elect(services, topic, partition, timeout_ms) for topic, partition in asked))
    topics: dict[str, ReplicaElectionResult] = {}
    for (name, partition), outcome in zip(asked, outcomes, strict=True):
        if body.topic_partitions is None and outcome.code == ErrorCode.ELECTION_NOT_NEEDED:
            continue
        topic = topics.setdefault(name, ReplicaElectionResult(topic=name))
        topic.partition_result.append(PartitionResult(partition_id=partition, error_code=outcome.code, error_message=outcome.message))
    return ElectLeadersResponse(replica_election_results=list(topics.values()))


def on_error(body: ElectLeadersRequest, code: int, message: str) -> ElectLeadersResponse:
    return ElectLeadersResponse(error_code=code)


def error_body(version: int, code: int) -> bytes:
    return ElectLeadersResponse(error_code=code).encode(version)


def _asked(services: Services, body: ElectLeadersRequest) -> Iterable[tuple[str, int]]:
    if body.topic_partitions is not None:
        return ((topic.topic, partition) for topic in body.topic_partitions for partition in topic.partitions)
    topics = services.broker.image.topics.values()
    return ((topic.name, one.partition) for topic in topics if topic.name != META_TOPIC for one in topic.partitions)


async def _refuse_unclean(services: Services, name: str, partition: int, timeout_ms: int) -> _Outcome:
    topic = services.topic(name)
    if topic is None or not 0 <= partition < len(topic.partitions):
        return _Outcome(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "There is no such partition.")
    if services.broker.leaders.leader_of(topic.partitions[partition].group_id)[0] >= 0:
        return _Outcome(ErrorCode.ELECTION_NOT_NEEDED, "The partition has a leader.")
    return _Outcome(ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE, _UNCLEAN_TEXT)


async def _elect(services: Services, name: str, number: int, timeout_ms: int) -> _Outcome:
    topic = services.topic(name)
    if topic is None or not 0 <= number < len(topic.partitions):
        return _Outcome(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "There is no such partition.")
    broker = services.broker
    partition = topic.partitions[number]
    group, preferred = partition.group_id, partition.replicas[0]
    if broker.leaders.leader_of(group)[0] == preferred:
        return _Outcome(ErrorCode.ELECTION_NOT_NEEDED, "The preferred replica leads already.")
    isr = broker.leaders.isr_of(group)
    if preferred not in broker.administration.alive() or (isr and preferred not in isr):
        text = f"The preferred leader, broker {preferred}, does not run or is not in sync yet."
        return _Outcome(ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE, text)
    clock = broker.clock
    start_ms = clock.now_ms()
    repeat_ms = start_ms
    while (now_ms := clock.now_ms()) < start_ms + timeout_ms:
        leader, _ = broker.leaders.leader_of(group)
        if leader == preferred:
            return _Outcome()
        if leader >= 0 and now_ms >= repeat_ms:
            repeat_ms = now_ms + _REPEAT_MS
            broker.administration.transfer_leader(group, leader, preferred)
        await sleep(clock, _POLL_MS)
    return _Outcome(ErrorCode.REQUEST_TIMED_OUT, f"Broker {preferred} has not become leader in {timeout_ms} ms; it may yet.")
