"""The coordinators of this node: which partition of an internal topic coordinates a key, and the shard of each that is here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, cast

from broker.coordinator.runtime import Machine, Shard, WallTime
from broker.errors import ErrorCode, KafkaError
from broker.metadata.image import MetadataImage
from raft.api import Clock

M = TypeVar("M", bound=Machine)


def java_hash(text: str) -> int:
    """`String.hashCode` of Java: over UTF-16 units, in 32 signed bits."""
    data = text.encode("utf-16-be", "surrogatepass")
    value = 0
    for position in range(0, len(data), 2):
        value = (31 * value + int.from_bytes(data[position : position + 2], "big")) & 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def partition_for(key: str, partitions: int) -> int:
    """Kafka's choice: |hash| mod partitions, where the one number without an absolute value counts as 0."""
    value = java_hash(key)
    return (0 if value == -(1 << 31) else abs(value)) % partitions


class Coordinators(Generic[M]):
    """All coordinators of one kind on this node. Invariant: one shard for each replica of the topic that was opened here, in its partition's life."""

    __slots__ = ("_attach", "_clock", "_image", "_make", "_shards", "_wall_time_ms", "topic")

    def __init__(
        self,
        topic: str,
        make: Callable[[], M],
        attach: Callable[[M, Shard], None],
        image: Callable[[], MetadataImage],
        clock: Clock,
        wall_time_ms: WallTime,
    ) -> None:
        """`make` a machine for a new shard, then `attach` it: the machine learns where to submit what its timers bring about."""
        self.topic = topic
        self._make = make
        self._attach = attach
        self._image = image
        self._clock = clock
        self._wall_time_ms = wall_time_ms
        self._shards: dict[int, Shard] = {}

    def observe(self, partition: int) -> Shard:
        """A replica of the topic is opened: its observer. One of a topic that was deleted before is replaced."""
        machine = self._make()
        shard = self._shards[partition] = Shard(partition, machine, self._clock, self._wall_time_ms)
        self._attach(machine, shard)
        return shard

    def partition_of(self, key: str) -> int | None:
        """None while the topic does not exist."""
        topic = self._image().topics.get(self.topic)
        return partition_for(key, len(topic.partitions)) if topic is not None and topic.partitions else None

    def machine(self, key: str) -> M:
        """The coordinator of `key`, when it is here. Raises KafkaError: COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS."""
        partition = self.partition_of(key)
        if partition is None:
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        shard = self._shards.get(partition)
        if shard is None:
            raise KafkaError(ErrorCode.NOT_COORDINATOR)
        error = shard.refusal()
        if error is not ErrorCode.NONE:
            raise KafkaError(error)
        return cast(M, shard.machine)

    def leading(self) -> list[M]:
        """All coordinators whose partitions this node leads; each still says itself whether it may answer."""
        return [cast(M, shard.machine) for shard in self._shards.values() if shard.leading]
