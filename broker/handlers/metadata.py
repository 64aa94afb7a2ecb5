"""Metadata (key 3), versions 0-13: brokers, topics, and who leads what.

v0 an empty list means all topics · v1 null means all, rack, controller, internal · v2 cluster id · v4 automatic creation is the client's choice ·
v5 offline replicas · v7 leader epoch · v8 authorized operations · v9 flexible · v10 topic ids · v11 no cluster operations · v12 null names, by id ·
v13 top-level error. A broker that advertises no host is given the address that the client has used.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from broker.errors import ErrorCode, KafkaError
from broker.handlers.leaders_wait import wait_for_news, without_news
from broker.handlers.services import ZERO_ID, Services
from broker.handlers.topic_names import name_problem
from broker.metadata.image import TopicImage
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from broker.protocol.api_keys import APIS
from wal.entry import META_TOPIC, GroupId

KEY = 3
VERSIONS = (0, 13)

AUTO_CREATE_TIMEOUT_MS = 5_000
AUTO_CREATE_TOPICS_MAX = 100
CACHE_ENTRIES_MAX = 256
CACHE_REQUEST_BYTES_MAX = 4096

# Bits by the code of the ACL operation. Without authorization every operation that makes sense for the resource is allowed.
_TOPIC_OPERATIONS = sum(1 << operation for operation in (3, 4, 5, 6, 7, 8, 10, 11))
_CLUSTER_OPERATIONS = sum(1 << operation for operation in (5, 7, 8, 9, 10, 11, 12))


def route(services: Services) -> Route:
    return Route(KEY, APIS[KEY].name, VERSIONS, APIS[KEY].first_flexible_version, MetadataHandler(services).handle)


class MetadataHandler:
    """Answers from a cache of encoded responses.

    Invariant: everything in `_cache` was made from the image, the leader table and the controller named by `_state`; the key is all else that goes
    into an answer: version, the client's way to us, and the bytes of the request.
    """

    __slots__ = ("_cache", "_services", "_state")

    def __init__(self, services: Services) -> None:
        self._services = services
        self._state: tuple[int, int, int] = (-1, -1, -1)
        self._cache: dict[tuple[int, str, int, bytes], bytes] = {}

    def handle(self, request: Request) -> Coroutine[Any, Any, None] | None:
        broker = self._services.broker
        state = (broker.image.version, broker.leaders.version, broker.controller.controller_id)
        if state != self._state:
            self._state = state
            self._cache.clear()
        connection = request.connection
        key = (request.api_version, connection.local_host, connection.local_port, bytes(request.buffer[request.position :]))
        answer = self._cache.get(key)
        if answer is not None:
            request.reply(answer)
            return None
        body, _ = MetadataRequest.decode(request.buffer, request.position, request.api_version)
        missing = self._to_create(request.api_version, body)
        if missing:
            return self._create_and_answer(request, body, missing)
        silent = without_news(broker, self._chosen(request.api_version, body))
        if silent:
            return self._wait_and_answer(request, body, silent)
        answer = self._respond(request, body, {}).encode(request.api_version)
        if len(key[3]) <= CACHE_REQUEST_BYTES_MAX:
            if len(self._cache) >= CACHE_ENTRIES_MAX:
                self._cache.clear()
            self._cache[key] = answer
        request.reply(answer)
        return None

    def _to_create(self, version: int, body: MetadataRequest) -> list[str]:
        """Names that are asked for, valid, absent, and may be created."""
        if (
            not body.topics
            or (version >= 4 and not body.allow_auto_topic_creation)
            or not self._services.broker.settings.get("auto.create.topics.enable")
        ):
            return []
        topics = self._services.broker.image.topics
        names = {asked.name for asked in body.topics if asked.name is not None and asked.name not in topics}
        return sorted(name for name in names if not name_problem(name))[:AUTO_CREATE_TOPICS_MAX]

    def _chosen(self, version: int, body: MetadataRequest) -> Iterable[TopicImage]:
        """The topics that the answer will describe."""
        if _asks_for_all(version, body):
            return (topic for topic in self._services.broker.image.topics.values() if topic.name != META_TOPIC)
        asked = (self._services.topic(one.topic_id if one.name is None else one.name) for one in body.topics or ())
        return (topic for topic in asked if topic is not None)

    async def _wait_and_answer(self, request: Request, body: MetadataRequest, silent: Sequence[GroupId]) -> None:
        await wait_for_news(self._services.broker, silent)
        request.reply(self._respond(request, body, {}).encode(request.api_version))

    async def _create_and_answer(self, request: Request, body: MetadataRequest, names: list[str]) -> None:
        errors: dict[str, ErrorCode]
        try:
            definition = self._services.broker.coordination.internal_topics.definition  # also for whoever asks for __consumer_offsets first
            topics = [definition(name) for name in names]
            results = await self._services.broker.controller.create_topics(topics, AUTO_CREATE_TIMEOUT_MS, False)
            errors = {name: result.error for name, result in zip(names, results, strict=True)}
        except KafkaError as error:
            errors = dict.fromkeys(names, error.code)
        # Whatever the moment did not allow will be there when the client asks again; only what it asked wrongly is told as such.
        lasting = (ErrorCode.INVALID_TOPIC_EXCEPTION, ErrorCode.INVALID_REPLICATION_FACTOR, ErrorCode.INVALID_PARTITIONS, ErrorCode.POLICY_VIOLATION)
        told = {name: error if error in lasting else ErrorCode.LEADER_NOT_AVAILABLE for name, error in errors.items()}
        request.reply(self._respond(request, body, told).encode(request.api_version))

    def _respond(self, request: Request, body: MetadataRequest, errors: dict[str, ErrorCode]) -> MetadataResponse:
        services = self._services
        image = services.broker.image
        version = request.api_version
        topics: list[MetadataResponseTopic]
        topic_operations = _TOPIC_OPERATIONS if body.include_topic_authorized_operations else -(2**31)
        if _asks_for_all(version, body):
            topics = [self._describe(topic, topic_operations) for topic in image.topics.values() if topic.name != META_TOPIC]
        else:
            topics = [self._asked(asked, version, errors, topic_operations) for asked in _distinct(body.topics or ())]
        brokers = []
        for one in image.brokers.values():
            host, port = services.address(one, request)
            brokers.append(MetadataResponseBroker(node_id=one.node_id, host=host, port=port, rack=one.rack))
        controller_id = services.broker.controller.controller_id
        return MetadataResponse(
            brokers=brokers,
            cluster_id=image.cluster_id or None,
            controller_id=controller_id if controller_id in image.brokers else -1,
            topics=topics,
            cluster_authorized_operations=_CLUSTER_OPERATIONS if body.include_cluster_authorized_operations else -(2**31),
        )

    def _asked(self, asked: MetadataRequestTopic, version: int, errors: dict[str, ErrorCode], operations: int) -> MetadataResponseTopic:
        if asked.name is None:
            if version < 12:  # ids are in the request, but asking by them came later; an answer without a name can not be written
                return MetadataResponseTopic(error_code=ErrorCode.INVALID_REQUEST, name="", topic_id=asked.topic_id)
            topic = self._services.topic(asked.topic_id)
            if topic is None:
                return MetadataResponseTopic(error_code=ErrorCode.UNKNOWN_TOPIC_ID, name=None, topic_id=asked.topic_id)
            return self._describe(topic, operations)
        topic = self._services.topic(asked.name)
        if topic is not None:
            return self._describe(topic, operations)
        code = errors.get(asked.name, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        if name_problem(asked.name):
            code = ErrorCode.INVALID_TOPIC_EXCEPTION
        return MetadataResponseTopic(error_code=code, name=asked.name, topic_id=ZERO_ID)

    def _describe(self, topic: TopicImage, operations: int) -> MetadataResponseTopic:
        broker = self._services.broker
        registered = broker.image.brokers
        partitions = []
        for one in topic.partitions:
            leader_id, leader_epoch = broker.leaders.leader_of(one.group_id)
            known = leader_id in registered
            replicas = list(one.shown_replicas)
            isr: Sequence[int] = broker.leaders.isr_of(one.group_id)
            partitions.append(
                MetadataResponsePartition(
                    error_code=ErrorCode.NONE if known else ErrorCode.LEADER_NOT_AVAILABLE,
                    partition_index=one.partition,
                    leader_id=leader_id if known else -1,
                    leader_epoch=leader_epoch,
                    replica_nodes=replicas,
                    isr_nodes=list(isr) if isr else replicas,
                    offline_replicas=[node_id for node_id in replicas if node_id not in registered],
                )
            )
        return MetadataResponseTopic(
            name=topic.name, topic_id=topic.topic_id, is_internal=topic.internal, partitions=partitions, topic_authorized_operations=operations
        )


def _asks_for_all(version: int, body: MetadataRequest) -> bool:
    return body.topics is None or (version == 0 and not body.topics)


def _distinct(asked: Sequence[MetadataRequestTopic]) -> list[MetadataRequestTopic]:
    """Each topic once: the response is a map for most clients."""
    seen: dict[tuple[str | None, bytes], MetadataRequestTopic] = {}
    for one in asked:
        seen.setdefault((one.name, ZERO_ID if one.name is not None else one.topic_id), one)
    return list(seen.values())
