"""The metadata image: an immutable view of what `__meta` has decided.

Readers keep a reference; a change makes a new image that shares what did not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wal.entry import GroupId, group_id


@dataclass(frozen=True, slots=True)
class BrokerImage:
    """A registered broker. `host` "" = not advertised: clients get the address that they used."""

    node_id: int
    host: str
    port: int
    raft_address: str  # "host:port" that peers dial
    admin_port: int = 0
    rack: str | None = None
    incarnation: int = 0
    directory_id: str = ""  # of its data directory: another one under the same node id is a lost disk
    generation: int = 0  # upper half of its replica ids


@dataclass(frozen=True, slots=True)
class PartitionImage:
    """The wish of `__meta` for one partition. `replicas[0]` is the preferred leader. Who leads and who is in sync is in the group itself."""

    partition: int
    group_id: GroupId
    replicas: tuple[int, ...]  # broker ids
    first_voters: tuple[int, ...]  # replica ids with which the group is created
    original: tuple[int, ...] = ()  # the replicas before the reassignment that is in progress; () when none is
    leaving: tuple[int, ...] = ()  # brokers that may hold a replica and shall not any more; emptied when the group's configuration is as wished

    @property
    def adding(self) -> tuple[int, ...]:
        """Brokers that a reassignment brings in."""
        return tuple(broker for broker in self.replicas if broker not in self.original) if self.original else ()

    @property
    def removing(self) -> tuple[int, ...]:
        """Brokers that a reassignment takes away."""
        return tuple(broker for broker in self.original if broker not in self.replicas)

    @property
    def shown_replicas(self) -> tuple[int, ...]:
        """What clients are told: while a reassignment is in progress, those that are to go belong to it still, behind the others (KIP-455)."""
        return self.replicas + self.removing


@dataclass(frozen=True, slots=True)
class TopicImage:
    name: str
    topic_id: bytes  # 16 bytes
    partitions: tuple[PartitionImage, ...]
    configs: Mapping[str, str] = field(default_factory=dict)
    internal: bool = False


@dataclass(frozen=True, slots=True)
class DeletionImage:
    """A topic that is gone while `pending` brokers have yet to confirm that they hold no data of it."""

    name: str
    topic_id: bytes
    partition_count: int
    pending: frozenset[int]  # broker ids


@dataclass(frozen=True, slots=True)
class MetadataImage:
    """`version` = raft index of the last applied entry that changed it."""

    version: int = 0
    cluster_id: str = ""
    brokers: Mapping[int, BrokerImage] = field(default_factory=dict)
    topics: Mapping[str, TopicImage] = field(default_factory=dict)
    topics_by_id: Mapping[bytes, TopicImage] = field(default_factory=dict)
    broker_configs: Mapping[int, Mapping[str, str]] = field(default_factory=dict)  # -1 = default of all brokers
    next_producer_id: int = 0
    deleting: Mapping[bytes, DeletionImage] = field(default_factory=dict)  # by topic id
    generations: Mapping[int, int] = field(default_factory=dict)  # highest generation that a broker id ever had; outlives the broker
    replica_generations: Mapping[tuple[GroupId, int], int] = field(default_factory=dict)  # (group, broker id): newer than the broker's own
    answers: Mapping[bytes, bytes] = field(default_factory=dict)  # request id -> encoded result of the latest operations, oldest first
    removals: Mapping[tuple[GroupId, int], int] = field(default_factory=dict)  # (group, broker id): replica id that it deletes and then confirms

    def partition(self, topic: str, partition: int) -> PartitionImage | None:
        found = self.topics.get(topic)
        return found.partitions[partition] if found is not None and 0 <= partition < len(found.partitions) else None

    def replica_id(self, node_id: int, group: GroupId) -> int | None:
        """The replica id under which broker `node_id` belongs to `group` now; None when it is not registered."""
        broker = self.brokers.get(node_id)
        if broker is None:
            return None
        return node_id + (max(broker.generation, self.replica_generations.get((group, node_id), 0)) << 32)


__all__ = ["BrokerImage", "DeletionImage", "MetadataImage", "PartitionImage", "TopicImage", "group_id"]
