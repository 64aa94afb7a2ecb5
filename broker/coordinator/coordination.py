"""Everything of the coordinators on one node: handlers find them here, and partitions of internal topics their observers."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

from broker.api import Broker
from broker.coordinator.groups.config import GroupConfig
from broker.coordinator.groups.machine import GroupsMachine
from broker.coordinator.internal_topics import GROUPS_TOPIC, InternalTopics
from broker.coordinator.shards import Coordinators
from broker.metadata.image import MetadataImage
from broker.partition.observer import Observer

_Observe = Callable[[int], Observer]


def _new_member_id() -> str:
    return str(uuid4())


class Coordination:
    """`groups`: the group coordinators. Further kinds add themselves with `add`."""

    __slots__ = ("_observers", "groups", "internal_topics")

    def __init__(self, broker: Broker, brokers_expected: Callable[[], int], new_id: Callable[[], str] = _new_member_id) -> None:
        config = GroupConfig.parse(broker.settings)
        clock, wall_time_ms = broker.clock, broker.wall_time_ms
        self._observers: dict[str, _Observe] = {}
        self.internal_topics = InternalTopics(broker, brokers_expected)
        self.groups: Coordinators[GroupsMachine] = Coordinators(
            GROUPS_TOPIC,
            lambda: GroupsMachine(config, clock, wall_time_ms, new_id),
            GroupsMachine.attach,
            lambda: broker.image,
            clock,
            wall_time_ms,
        )
        self.add(GROUPS_TOPIC, self.groups.observe)

    def add(self, topic: str, observe: _Observe) -> None:
        """Replicas of `topic` that are opened from now on are observed."""
        self._observers[topic] = observe

    def observe(self, topic: str, partition: int) -> Observer | None:
        make = self._observers.get(topic)
        return make(partition) if make is not None else None

    def on_image(self, old: MetadataImage, new: MetadataImage) -> None:
        """Offsets of topics that were deleted are of no use to a topic that gets the same name."""
        if old.topics_by_id is new.topics_by_id:
            return
        for topic_id, topic in old.topics_by_id.items():
            if topic_id not in new.topics_by_id:
                for machine in self.groups.leading():
                    machine.forget_topic(topic.name, topic_id)
