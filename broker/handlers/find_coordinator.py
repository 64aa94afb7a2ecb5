"""FindCoordinator (key 10), versions 0-6: which broker leads the partition that coordinates a group or a transactional id.

v1 key type, error message · v3 flexible · v4 many keys (KIP-699) · v5 TRANSACTION_ABORTABLE · v6 share groups (KIP-932, not served: INVALID_REQUEST).
The first who asks makes the internal topic. While nobody leads the partition the answer is COORDINATOR_NOT_AVAILABLE, and clients ask again.
"""

from __future__ import annotations

from broker.coordinator.internal_topics import GROUPS_TOPIC, TRANSACTIONS_TOPIC
from broker.coordinator.shards import partition_for
from broker.errors import ErrorCode, KafkaError
from broker.handlers.services import Services
from broker.handlers.typed import typed_route
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.protocol._generated.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse

KEY = 10
VERSIONS = (0, 6)
TOPICS = {0: GROUPS_TOPIC, 1: TRANSACTIONS_TOPIC}
FIRST_VERSION_MANY_KEYS = 4


def route(services: Services) -> Route:
    return typed_route(services, KEY, VERSIONS, FindCoordinatorRequest, handle, on_error)


async def handle(services: Services, request: Request, body: FindCoordinatorRequest) -> FindCoordinatorResponse:
    many = request.api_version >= FIRST_VERSION_MANY_KEYS
    topic = TOPICS.get(body.key_type)
    if topic is None:
        return on_error(body, ErrorCode.INVALID_REQUEST, f"coordinators of key type {body.key_type} are not served")
    try:
        await services.broker.coordination.internal_topics.ensure(topic)
    except KafkaError as error:
        code = ErrorCode.COORDINATOR_NOT_AVAILABLE if error.code is ErrorCode.REQUEST_TIMED_OUT else error.code
        return on_error(body, code, error.message)
    found = [_find(services, request, topic, key) for key in (body.coordinator_keys if many else [body.key])]
    return FindCoordinatorResponse(coordinators=found) if many else _single(found[0])


def _find(services: Services, request: Request, topic: str, key: str) -> Coordinator:
    broker = services.broker
    if not key and topic == GROUPS_TOPIC:
        return _missing(key, ErrorCode.INVALID_GROUP_ID, "The group id is empty.")
    image = broker.image.topics.get(topic)
    if image is None or not image.partitions:
        return _missing(key, ErrorCode.COORDINATOR_NOT_AVAILABLE, "The coordinator is not available.")
    leader_id, _ = broker.leaders.leader_of(image.partitions[partition_for(key, len(image.partitions))].group_id)
    leader = broker.image.brokers.get(leader_id)
    if leader is None:
        return _missing(key, ErrorCode.COORDINATOR_NOT_AVAILABLE, "The coordinator is not available.")
    host, port = services.address(leader, request)
    return Coordinator(key=key, node_id=leader_id, host=host, port=port, error_message=None)


def _missing(key: str, code: int, message: str) -> Coordinator:
    return Coordinator(key=key, node_id=-1, host="", port=-1, error_code=code, error_message=message)


def _single(found: Coordinator) -> FindCoordinatorResponse:
    message = found.error_message
    return FindCoordinatorResponse(error_code=found.error_code, error_message=message, node_id=found.node_id, host=found.host, port=found.port)


def on_error(body: FindCoordinatorRequest, code: int, message: str) -> FindCoordinatorResponse:
    answer = _single(_missing(body.key, code, message))
    answer.coordinators = [_missing(key, code, message) for key in body.coordinator_keys]
    return answer
