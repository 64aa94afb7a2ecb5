"""What the handlers of transactions share: error codes of older versions, topics in requests and answers."""

from __future__ import annotations

from collections.abc import Iterable

from broker.coordinator.internal_topics import TRANSACTIONS_TOPIC
from broker.coordinator.transactions.state import TopicPartition
from broker.errors import ErrorCode
from broker.handlers.services import Services


def fenced_code(error: int, version: int, first_version_fenced: int = 2) -> int:
    """PRODUCER_FENCED came later than the APIs: older versions know INVALID_PRODUCER_EPOCH (KIP-588)."""
    return ErrorCode.INVALID_PRODUCER_EPOCH if error == ErrorCode.PRODUCER_FENCED and version < first_version_fenced else error


def partition_errors(services: Services, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, ErrorCode]:
    """Which partitions can not become part of a transaction: they do not exist, or are where transactions themselves are kept. Empty when all can."""
    image = services.broker.image
    found: dict[TopicPartition, ErrorCode] = {}
    for topic, partition in partitions:
        if image.partition(topic, partition) is None:
            found[topic, partition] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        elif topic == TRANSACTIONS_TOPIC:
            found[topic, partition] = ErrorCode.INVALID_TOPIC_EXCEPTION
    return found
