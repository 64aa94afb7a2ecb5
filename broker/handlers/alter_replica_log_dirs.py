"""AlterReplicaLogDirs (key 34), versions 1-2: move replicas between the directories of this broker, which has one.

v2 flexible. To that directory a replica is "moved" without doing anything; any other path is LOG_DIR_NOT_FOUND.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from broker.errors import ErrorCode
from broker.handlers.services import Services
from broker.handlers.topic_names import name_problem
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.alter_replica_log_dirs import (
    AlterReplicaLogDirPartitionResult,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse,
    AlterReplicaLogDirTopicResult,
)

KEY = 34
VERSIONS = (1, 2)


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, AlterReplicaLogDirsRequest, handle, on_error)


def handle(services: Services, request: Request, body: AlterReplicaLogDirsRequest) -> AlterReplicaLogDirsResponse:
    own = os.path.abspath(services.broker.administration.log_dir)
    return _answer(body, lambda path, topic, partition: _outcome(services, os.path.isabs(path) and os.path.abspath(path) == own, topic, partition))


def _outcome(services: Services, known_path: bool, topic: str, partition: int) -> int:
    if name_problem(topic):
        return ErrorCode.INVALID_TOPIC_EXCEPTION
    if not known_path:
        return ErrorCode.LOG_DIR_NOT_FOUND
    found = services.topic(topic)
    if found is None or not 0 <= partition < len(found.partitions):
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return ErrorCode.NONE if services.broker.partitions.get(topic, partition) is not None else ErrorCode.REPLICA_NOT_AVAILABLE


def on_error(body: AlterReplicaLogDirsRequest, code: int, message: str) -> AlterReplicaLogDirsResponse:
    return _answer(body, lambda path, topic, partition: code)


def _answer(body: AlterReplicaLogDirsRequest, outcome: Callable[[str, str, int], int]) -> AlterReplicaLogDirsResponse:
    topics: dict[str, AlterReplicaLogDirTopicResult] = {}
    for directory in body.dirs:
        for asked in directory.topics:
            topic = topics.setdefault(asked.name, AlterReplicaLogDirTopicResult(topic_name=asked.name))
            topic.partitions += [
                AlterReplicaLogDirPartitionResult(partition_index=one, error_code=outcome(directory.path, asked.name, one))
                for one in asked.partitions
            ]
    return AlterReplicaLogDirsResponse(results=list(topics.values()))
