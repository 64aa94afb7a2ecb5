"""The metadata image: an immutable view of what `__meta` has decided. Readers keep a reference; a change makes a new image that shares what did not change."""

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


@dataclass(frozen=True, slots=True)
class PartitionImage:
    """The wish of `__meta` for one partition. `replicas[0]` is the preferred leader. Who leads and who is in sync is not here but in the group itself."""

    partition: int
    group_id: GroupId
    replicas: tuple[int, ...]  # broker ids
    first_voters: tuple[int, ...]  # replica ids with which the group is created


@dataclass(frozen=True, slots=True)
class TopicImage:
    name: str
    topic_id: bytes  # 16 bytes
    partitions: tuple[PartitionImage, ...]
    configs: Mapping[str, str] = field(default_factory=dict)
    internal: bool = False


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

    def partition(self, topic: str, partition: int) -> PartitionImage | None:
        found = self.topics.get(topic)
        return found.partitions[partition] if found is not None and 0 <= partition < len(found.partitions) else None


__all__ = ["BrokerImage", "MetadataImage", "PartitionImage", "TopicImage", "group_id"]
