"""Applies records to an image. The only code that changes metadata; pure, so that the same records give the same image on every node.

Use: `ImageBuilder(image)`, `apply(record)` for each, then `image(version)`. Mappings are copied when first changed; what did not change is shared.
Invariant: a record in a committed entry can always be applied; one that can not is a fault of ours and raises InvariantError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from broker.metadata import records as r
from broker.metadata.image import BrokerImage, DeletionImage, MetadataImage, PartitionImage, TopicImage
from wal.entry import GroupId, group_id
from wal.errors import check

INTERNAL_TOPICS = frozenset({"__consumer_offsets", "__transaction_state"})
RESOURCE_TOPIC = 2
RESOURCE_BROKER = 4
DEFAULT_BROKER = -1  # key of broker_configs for the default of all brokers

REMEMBERED_ANSWERS_MAX = 2_048
"""How many operations are recognised when repeated. A repetition comes within seconds, behind at most a few full queues of operations."""

_FIELDS = tuple(field.name for field in fields(MetadataImage) if field.name != "version")


def partition_images(topic_id: bytes, first: int, specs: tuple[r.PartitionSpec, ...]) -> tuple[PartitionImage, ...]:
    """The partitions `first`, `first` + 1, … of a topic."""
    return tuple(
        PartitionImage(number, group_id(topic_id, number), spec.replicas, spec.first_voters or spec.replicas)
        for number, spec in enumerate(specs, first)
    )


def topic_image(record: r.TopicCreated) -> TopicImage:
    return TopicImage(
        record.name, record.topic_id, partition_images(record.topic_id, 0, record.partitions), dict(record.configs), record.name in INTERNAL_TOPICS
    )


class ImageBuilder:
    """See the module. `_state` holds the image's fields by name, `_owned` the names of those mappings that are ours to change."""

    __slots__ = ("_owned", "_state")

    def __init__(self, image: MetadataImage) -> None:
        self._state: dict[str, Any] = {name: getattr(image, name) for name in _FIELDS}
        self._owned: set[str] = set()

    def image(self, version: int) -> MetadataImage:
        """An immutable image of the state; later changes copy again."""
        self._owned.clear()
        return self.view(version)

    def view(self, version: int) -> MetadataImage:
        """A cheap image that is only valid until the next `apply`."""
        return MetadataImage(version=version, **self._state)

    def apply(self, record: r.Record) -> None:
        _APPLY[type(record)](self, record)

    def _own(self, name: str) -> dict[Any, Any]:
        """The mapping `name`, ours to change."""
        mapping: dict[Any, Any] = self._state[name]
        if name not in self._owned:
            mapping = self._state[name] = dict(mapping)
            self._owned.add(name)
        return mapping

    def _topic(self, topic_id: bytes, record: r.Record) -> TopicImage:
        topic: TopicImage | None = self._state["topics_by_id"].get(topic_id)
        check(topic is not None, f"record of __meta for a topic that does not exist: {record}")
        return topic  # type: ignore[return-value]

    def _put_topic(self, topic: TopicImage) -> None:
        self._own("topics")[topic.name] = topic
        self._own("topics_by_id")[topic.topic_id] = topic

    def _cluster_created(self, record: r.ClusterCreated) -> None:
        check(self._state["cluster_id"] in ("", record.cluster_id), f"a second cluster id: {record.cluster_id}, has {self._state['cluster_id']}")
        self._state["cluster_id"] = record.cluster_id

    def _broker_registered(self, record: r.BrokerRegistered) -> None:
        self._own("brokers")[record.node_id] = BrokerImage(
            record.node_id,
            record.host,
            record.port,
            record.raft_address,
            record.admin_port,
            record.rack,
            record.incarnation,
            record.directory_id,
            record.generation,
        )
        generations = self._own("generations")
        generations[record.node_id] = max(record.generation, generations.get(record.node_id, 0))

    def _broker_unregistered(self, record: r.BrokerUnregistered) -> None:
        """A removed broker can not confirm deletions any more, and its directory is never accepted again, so nobody waits for it."""
        self._own("brokers").pop(record.node_id, None)
        for deletion in list(self._state["deleting"].values()):
            self._confirm(deletion, record.node_id)
        self._forget_removals(lambda _, node_id: node_id == record.node_id)

    def _topic_created(self, record: r.TopicCreated) -> None:
        known = record.name in self._state["topics"] or record.topic_id in self._state["topics_by_id"]
        check(not known, f"topic {record.name} created twice")
        self._put_topic(topic_image(record))

    def _partitions_added(self, record: r.PartitionsAdded) -> None:
        topic = self._topic(record.topic_id, record)
        added = partition_images(topic.topic_id, len(topic.partitions), record.partitions)
        self._put_topic(replace(topic, partitions=topic.partitions + added))

    def _topic_deleted(self, record: r.TopicDeleted) -> None:
        topic: TopicImage | None = self._state["topics_by_id"].get(record.topic_id)
        if topic is not None:
            del self._own("topics_by_id")[topic.topic_id]
            del self._own("topics")[topic.name]
        self._forget_removals(lambda group, _: group[:16] == record.topic_id)  # the deletion of the topic takes them along
        if record.pending:
            self._own("deleting")[record.topic_id] = DeletionImage(record.name, record.topic_id, record.partition_count, frozenset(record.pending))
        else:
            self._forget_groups(record.topic_id)

    def _deletion_confirmed(self, record: r.DeletionConfirmed) -> None:
        deletion = self._state["deleting"].get(record.topic_id)
        if deletion is not None:
            self._confirm(deletion, record.node_id)

    def _confirm(self, deletion: DeletionImage, node_id: int) -> None:
        if node_id not in deletion.pending:
            return
        pending = deletion.pending - {node_id}
        if pending:
            self._own("deleting")[deletion.topic_id] = replace(deletion, pending=pending)
        else:
            del self._own("deleting")[deletion.topic_id]
            self._forget_groups(deletion.topic_id)

    def _forget_groups(self, topic_id: bytes) -> None:
        """A deleted group's generations are of no use: its id never comes back."""
        stale = [key for key in self._state["replica_generations"] if key[0][:16] == topic_id]
        if stale:
            mapping = self._own("replica_generations")
            for key in stale:
                del mapping[key]

    def _config_changed(self, record: r.ConfigChanged) -> None:
        if record.resource_type == RESOURCE_TOPIC:
            topic = self._state["topics"].get(record.name)
            check(topic is not None, f"record of __meta for a topic that does not exist: {record}")
            self._put_topic(replace(topic, configs=_changed(topic.configs, record.key, record.value)))
            return
        check(record.resource_type == RESOURCE_BROKER, f"record of __meta with an unknown resource type: {record}")
        broker = int(record.name) if record.name else DEFAULT_BROKER
        mapping = self._own("broker_configs")
        configs = _changed(mapping.get(broker, {}), record.key, record.value)
        if configs:
            mapping[broker] = configs
        else:
            mapping.pop(broker, None)

    def _producer_id_block(self, record: r.ProducerIdBlock) -> None:
        check(record.next >= self._state["next_producer_id"], f"producer ids went back: {record.next} < {self._state['next_producer_id']}")
        self._state["next_producer_id"] = record.next

    def _replicas_assigned(self, record: r.ReplicasAssigned) -> None:
        topic = self._topic(record.topic_id, record)
        check(0 <= record.partition < len(topic.partitions), f"record of __meta for a partition that does not exist: {record}")
        self._put_partition(
            topic, replace(topic.partitions[record.partition], replicas=record.replicas, original=record.original, leaving=record.leaving)
        )

    def _put_partition(self, topic: TopicImage, partition: PartitionImage) -> None:
        partitions = list(topic.partitions)
        partitions[partition.partition] = partition
        self._put_topic(replace(topic, partitions=tuple(partitions)))

    def _reassignment_settled(self, record: r.ReassignmentSettled) -> None:
        topic = self._topic(record.topic_id, record)
        check(0 <= record.partition < len(topic.partitions), f"record of __meta for a partition that does not exist: {record}")
        self._put_partition(topic, replace(topic.partitions[record.partition], original=(), leaving=()))

    def _replica_removal(self, record: r.ReplicaRemoval) -> None:
        self._own("removals")[GroupId(record.group), record.node_id] = record.replica

    def _replica_removed(self, record: r.ReplicaRemoved) -> None:
        self._forget_removals(lambda group, node_id: group == record.group and node_id == record.node_id)

    def _forget_removals(self, gone: Callable[[GroupId, int], bool]) -> None:
        stale = [key for key in self._state["removals"] if gone(*key)]
        if stale:
            mapping = self._own("removals")
            for key in stale:
                del mapping[key]

    def _replica_generation(self, record: r.ReplicaGeneration) -> None:
        if record.group:
            self._own("replica_generations")[GroupId(record.group), record.node_id] = record.generation
        else:
            self._own("generations")[record.node_id] = record.generation

    def _operation_applied(self, record: r.OperationApplied) -> None:
        answers = self._own("answers")
        answers[record.request_id] = record.result
        while len(answers) > REMEMBERED_ANSWERS_MAX:
            del answers[next(iter(answers))]


def _changed(configs: Mapping[str, str], key: str, value: str | None) -> dict[str, str]:
    changed = dict(configs)
    if value is None:
        changed.pop(key, None)
    else:
        changed[key] = value
    return changed


_APPLY: dict[type, Callable[[ImageBuilder, Any], None]] = {
    r.ClusterCreated: ImageBuilder._cluster_created,
    r.BrokerRegistered: ImageBuilder._broker_registered,
    r.BrokerUnregistered: ImageBuilder._broker_unregistered,
    r.TopicCreated: ImageBuilder._topic_created,
    r.PartitionsAdded: ImageBuilder._partitions_added,
    r.TopicDeleted: ImageBuilder._topic_deleted,
    r.DeletionConfirmed: ImageBuilder._deletion_confirmed,
    r.ConfigChanged: ImageBuilder._config_changed,
    r.ProducerIdBlock: ImageBuilder._producer_id_block,
    r.ReplicasAssigned: ImageBuilder._replicas_assigned,
    r.ReassignmentSettled: ImageBuilder._reassignment_settled,
    r.ReplicaRemoval: ImageBuilder._replica_removal,
    r.ReplicaRemoved: ImageBuilder._replica_removed,
    r.ReplicaGeneration: ImageBuilder._replica_generation,
    r.OperationApplied: ImageBuilder._operation_applied,
}


def image_records(image: MetadataImage) -> Iterator[r.Record]:
    """Records that, applied to an empty image, give `image` (but for its version). A snapshot is made of them."""
    if image.cluster_id:
        yield r.ClusterCreated(image.cluster_id)
    for broker in image.brokers.values():
        yield r.BrokerRegistered(
            broker.node_id,
            broker.host,
            broker.port,
            broker.raft_address,
            broker.admin_port,
            broker.rack,
            broker.incarnation,
            broker.directory_id,
            broker.generation,
        )
    for node_id, generation in image.generations.items():
        yield r.ReplicaGeneration(node_id, generation)
    for (group, node_id), generation in image.replica_generations.items():
        yield r.ReplicaGeneration(node_id, generation, group)
    for topic in image.topics.values():
        specs = tuple(r.PartitionSpec(p.replicas, () if p.first_voters == p.replicas else p.first_voters) for p in topic.partitions)
        yield r.TopicCreated(topic.name, topic.topic_id, specs, dict(topic.configs))
        for p in topic.partitions:
            if p.original or p.leaving:
                yield r.ReplicasAssigned(topic.topic_id, p.partition, p.replicas, p.original, p.leaving)
    for (group, node_id), replica in image.removals.items():
        yield r.ReplicaRemoval(group, node_id, replica)
    for deletion in image.deleting.values():
        yield r.TopicDeleted(deletion.topic_id, deletion.name, deletion.partition_count, tuple(sorted(deletion.pending)))
    for node_id, configs in image.broker_configs.items():
        for key, value in configs.items():
            yield r.ConfigChanged(RESOURCE_BROKER, "" if node_id == DEFAULT_BROKER else str(node_id), key, value)
    if image.next_producer_id:
        yield r.ProducerIdBlock(image.next_producer_id)
    for request_id, result in image.answers.items():
        yield r.OperationApplied(request_id, result)
