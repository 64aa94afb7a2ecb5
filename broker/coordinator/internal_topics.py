"""The topics of the coordinators: made by the controller when somebody first asks for a coordinator, with Kafka's settings for them."""

from __future__ import annotations

from collections.abc import Callable

from broker.api import Broker, NewTopic
from broker.errors import ErrorCode, KafkaError

GROUPS_TOPIC = "__consumer_offsets"
TRANSACTIONS_TOPIC = "__transaction_state"
CREATE_TIMEOUT_MS = 5_000


class InternalTopics:
    """`brokers_expected`: how many brokers the cluster is meant to have at the least, so that a topic that is asked for while the first of them
    starts is not made with too few replicas for ever."""

    __slots__ = ("_broker", "_brokers_expected")

    def __init__(self, broker: Broker, brokers_expected: Callable[[], int]) -> None:
        self._broker = broker
        self._brokers_expected = brokers_expected

    async def ensure(self, name: str) -> None:
        """Return when the topic exists. Raises KafkaError (COORDINATOR_NOT_AVAILABLE: ask again)."""
        broker = self._broker
        if name in broker.image.topics:
            return
        topic = self.definition(name)
        if topic.replication_factor > len(broker.image.brokers):
            have, wanted = len(broker.image.brokers), topic.replication_factor
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE, f"{name} needs {wanted} brokers, {have} are registered")
        result = (await broker.controller.create_topics([topic], CREATE_TIMEOUT_MS, False))[0]
        if result.error not in (ErrorCode.NONE, ErrorCode.TOPIC_ALREADY_EXISTS):
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE, f"{name} could not be created: {result.message or result.error.name}")

    def definition(self, name: str) -> NewTopic:
        """How a topic of this name is made by itself: with Kafka's settings for an internal one, with the defaults for any other."""
        settings = self._broker.settings

        def number(setting: str, default: int) -> int:
            value = settings.get(setting)
            return value if isinstance(value, int) else default

        brokers = max(len(self._broker.image.brokers), self._brokers_expected())
        if name == GROUPS_TOPIC:
            partitions = number("offsets.topic.num.partitions", 50)
            factor = min(number("offsets.topic.replication.factor", 3), brokers)
            configs = {
                "cleanup.policy": "compact",
                "compression.type": "producer",
                "segment.bytes": str(number("offsets.topic.segment.bytes", 104_857_600)),
            }
        elif name == TRANSACTIONS_TOPIC:
            partitions = number("transaction.state.log.num.partitions", 50)
            factor = min(number("transaction.state.log.replication.factor", 3), brokers)
            configs = {
                "cleanup.policy": "compact",
                "compression.type": "uncompressed",
                "segment.bytes": str(number("transaction.state.log.segment.bytes", 104_857_600)),
                "min.insync.replicas": str(min(number("transaction.state.log.min.isr", 2), factor)),
                "unclean.leader.election.enable": "false",
            }
        else:
            return NewTopic(name)
        return NewTopic(name, partitions, factor, {}, configs)
