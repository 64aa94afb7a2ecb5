"""Changes to topics, as they travel to the controller and as it carries them out. `execute` runs on the leader of `__meta`, over a draft; it is pure.

A topic that can not be changed gets an error of its own and leaves the others alone, as in Kafka; the texts are those of Kafka's controller.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from broker.errors import ErrorCode, KafkaError
from broker.metadata import records as r
from broker.metadata.assignment import (
    check_manual_assignments,
    check_manual_replicas,
    check_topic_collision,
    check_topic_name,
    place,
)
from broker.metadata.draft import Draft, ItemResult, OperationResult
from broker.metadata.image import MetadataImage, TopicImage
from wal.entry import META_TOPIC_ID

TOPIC_ID_LENGTH = 16


class OperationBase(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag=lambda name: name):
    """Base of all operations."""

    def execute(self, draft: Draft) -> OperationResult:
        """Add records to `draft` and return the answer. Raises KafkaError before anything was added."""
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"{type(self).__name__} can not be carried out")


def first_voters(image: MetadataImage, replicas: tuple[int, ...]) -> tuple[int, ...]:
    """Replica ids with which a new group of these brokers starts; () when they are the broker ids themselves."""
    voters = tuple(broker + (image.brokers[broker].generation << 32) for broker in replicas)
    return () if voters == replicas else voters


class TopicSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One topic to create. `topic_id` is made by who asks, so that a repetition finds its own topic. -1 = the cluster's default."""

    name: str
    topic_id: bytes
    partitions: int = -1
    replication_factor: int = -1
    assignments: dict[int, tuple[int, ...]] = {}
    configs: dict[str, str | None] = {}


class CreateTopics(OperationBase, frozen=True, omit_defaults=True):
    topics: tuple[TopicSpec, ...]
    validate_only: bool = False

    def execute(self, draft: Draft) -> OperationResult:
        names = Counter(topic.name for topic in self.topics)
        total = sum(len(t.assignments) or (t.partitions if t.partitions > 0 else 1) for t in self.topics)
        limit = draft.policy.partitions_per_request_max
        if total > limit:
            raise KafkaError(ErrorCode.POLICY_VIOLATION, f"Excessively large number of partitions per request: {total}; at most {limit} at once.")
        return OperationResult(items=tuple(self._item(topic, names[topic.name], draft) for topic in self.topics))

    def _item(self, spec: TopicSpec, times: int, draft: Draft) -> ItemResult:
        try:
            if times > 1:
                raise KafkaError(ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
            own = draft.image.topics_by_id.get(spec.topic_id)
            if own is not None and own.name == spec.name and not self.validate_only:
                return ItemResult(name=spec.name, topic_id=spec.topic_id)
            record = self._record(spec, draft)
        except KafkaError as error:
            draft.rollback(len(draft.records))
            return ItemResult.of(error, spec.name)
        if self.validate_only:
            draft.rollback(len(draft.records))
            return ItemResult(name=spec.name, topic_id=spec.topic_id, topic=record)
        draft.add(record)
        return ItemResult(name=spec.name, topic_id=spec.topic_id)

    def _record(self, spec: TopicSpec, draft: Draft) -> r.TopicCreated:
        image = draft.image
        check_topic_name(spec.name)
        check_topic_collision(spec.name, image)
        if len(spec.topic_id) != TOPIC_ID_LENGTH or spec.topic_id in (bytes(16), META_TOPIC_ID) or _id_used(spec.topic_id, image):
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"The topic id {spec.topic_id.hex()} can not be used.")
        configs = draft.policy.validate_topic_configs(spec.configs)
        replicas = self._replicas(spec, draft)
        partitions = tuple(r.PartitionSpec(chosen, first_voters(image, chosen)) for chosen in replicas)
        return r.TopicCreated(spec.name, spec.topic_id, partitions, configs)

    def _replicas(self, spec: TopicSpec, draft: Draft) -> list[tuple[int, ...]]:
        if spec.assignments:
            for value, text in ((spec.replication_factor, "replication factor"), (spec.partitions, "numPartitions")):
                if value != -1:
                    raise KafkaError(ErrorCode.INVALID_REQUEST, f"A manual partition assignment was specified, but {text} was not set to -1.")
            manual = check_manual_assignments(spec.assignments, draft.image)
            for replicas in manual:
                draft.load.add(replicas)
            return manual
        if spec.replication_factor < -1 or spec.replication_factor == 0:
            raise KafkaError(ErrorCode.INVALID_REPLICATION_FACTOR, "Replication factor must be larger than 0, or -1 to use the default value.")
        if spec.partitions < -1 or spec.partitions == 0:
            raise KafkaError(ErrorCode.INVALID_PARTITIONS, "Number of partitions was set to an invalid non-positive value.")
        partitions = spec.partitions if spec.partitions > 0 else draft.policy.default_partitions
        factor = spec.replication_factor if spec.replication_factor > 0 else draft.policy.default_replication_factor
        return place(draft.image.brokers, draft.load, spec.topic_id, (), partitions, factor, draft.unavailable())


def _id_used(topic_id: bytes, image: MetadataImage) -> bool:
    return topic_id in image.topics_by_id or topic_id in image.deleting


class TopicKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """A topic by name, or by id when the name is empty."""

    name: str = ""
    topic_id: bytes = b""

    def find(self, image: MetadataImage) -> TopicImage:
        """Raises KafkaError with the code that Kafka has for this kind of key."""
        if self.name:
            found = image.topics.get(self.name)
            if found is None:
                raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "This server does not host this topic-partition.")
            return found
        found = image.topics_by_id.get(self.topic_id)
        if found is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_ID, "This server does not host this topic ID.")
        return found


class DeleteTopics(OperationBase, frozen=True, omit_defaults=True):
    topics: tuple[TopicKey, ...]

    def execute(self, draft: Draft) -> OperationResult:
        return OperationResult(items=tuple(self._item(key, draft) for key in self.topics))

    def _item(self, key: TopicKey, draft: Draft) -> ItemResult:
        try:
            topic = key.find(draft.image)
        except KafkaError as error:
            return ItemResult.of(error, key.name, key.topic_id)
        # Every registered broker is asked, not only the wished replicas: one that a reassignment moved away may still hold data.
        pending = sorted(draft.image.brokers)
        draft.add(r.TopicDeleted(topic.topic_id, topic.name, len(topic.partitions), tuple(pending)))
        draft.rollback(len(draft.records))
        return ItemResult(name=topic.name, topic_id=topic.topic_id)


class ConfirmDeletion(OperationBase, frozen=True, omit_defaults=True):
    """Broker `node_id` holds no data of these topics any more."""

    node_id: int
    topic_ids: tuple[bytes, ...]

    def execute(self, draft: Draft) -> OperationResult:
        for topic_id in dict.fromkeys(self.topic_ids):
            deletion = draft.image.deleting.get(topic_id)
            if deletion is not None and self.node_id in deletion.pending:
                draft.add(r.DeletionConfirmed(topic_id, self.node_id))
        return OperationResult()


class PartitionsSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A topic that shall have `count` partitions; `assignments` = replicas of the new ones, or None."""

    name: str
    count: int
    assignments: tuple[tuple[int, ...], ...] | None = None


class CreatePartitions(OperationBase, frozen=True, omit_defaults=True):
    topics: tuple[PartitionsSpec, ...]
    validate_only: bool = False

    def execute(self, draft: Draft) -> OperationResult:
        names = Counter(topic.name for topic in self.topics)
        return OperationResult(items=tuple(self._item(topic, names[topic.name], draft) for topic in self.topics))

    def _item(self, spec: PartitionsSpec, times: int, draft: Draft) -> ItemResult:
        try:
            if times > 1:
                raise KafkaError(ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
            topic = TopicKey(spec.name).find(draft.image)
            replicas = self._replicas(spec, topic, draft)
        except KafkaError as error:
            draft.rollback(len(draft.records))
            return ItemResult.of(error, spec.name)
        if self.validate_only:
            draft.rollback(len(draft.records))
        else:
            image = draft.image
            draft.add(r.PartitionsAdded(topic.topic_id, tuple(r.PartitionSpec(chosen, first_voters(image, chosen)) for chosen in replicas)))
        return ItemResult(name=topic.name, topic_id=topic.topic_id)

    def _replicas(self, spec: PartitionsSpec, topic: TopicImage, draft: Draft) -> list[tuple[int, ...]]:
        if topic.internal:
            text = f"The partitions of {topic.name} decide who coordinates a group or a transactional id; their number stays."
            raise KafkaError(ErrorCode.INVALID_PARTITIONS, text)
        current = len(topic.partitions)
        added = spec.count - current
        if added == 0:
            raise KafkaError(ErrorCode.INVALID_PARTITIONS, f"Topic already has {current} partition(s).")
        if added < 0:
            text = f"The topic {topic.name} currently has {current} partition(s); {spec.count} would not be an increase."
            raise KafkaError(ErrorCode.INVALID_PARTITIONS, text)
        limit = draft.policy.partitions_per_request_max
        if added > limit:
            raise KafkaError(ErrorCode.INVALID_PARTITIONS, f"Attempted to add {added} partitions; add at most {limit} at once.")
        factor = len(topic.partitions[0].replicas)
        if spec.assignments is None:
            existing = [partition.replicas for partition in topic.partitions]
            return place(draft.image.brokers, draft.load, topic.topic_id, existing, added, factor, draft.unavailable())
        if len(spec.assignments) != added:
            text = f"Attempted to add {added} additional partition(s), but only {len(spec.assignments)} assignment(s) were specified."
            raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, text)
        for replicas in spec.assignments:
            check_manual_replicas(replicas, draft.image, factor)
        for replicas in spec.assignments:
            draft.load.add(replicas)
        return list(spec.assignments)


__all__ = [
    "ConfirmDeletion",
    "CreatePartitions",
    "CreateTopics",
    "DeleteTopics",
    "OperationBase",
    "PartitionsSpec",
    "TopicKey",
    "TopicSpec",
]
