"""Moving replicas: the wish for a partition (KIP-455), its end, and the deletion of what was moved away.

`original` and `leaving` of a partition stand in `__meta` until the leader of the partition's group reports that its own configuration is as wished;
then every broker that was left out is told, by a record of its own, to delete its replica. That replica's identity is never used again: the next one
on the same broker has a higher generation, and it is only wished once the old one is known to be deleted.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from broker.errors import ErrorCode, KafkaError
from broker.metadata import records as r
from broker.metadata.assignment import check_manual_replicas
from broker.metadata.draft import Draft, ItemResult, OperationResult
from broker.metadata.image import PartitionImage, TopicImage
from broker.metadata.topic_operations import OperationBase, TopicKey
from wal.entry import GroupId


class Reassignment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Wish `replicas` for one partition; None takes back the reassignment that is in progress."""

    name: str
    partition: int
    replicas: tuple[int, ...] | None = None


class AlterReassignments(OperationBase, frozen=True, omit_defaults=True):
    """Each partition has a result of its own. `change_factor` False refuses another number of replicas (KIP-860)."""

    items: tuple[Reassignment, ...]
    change_factor: bool = True

    def execute(self, draft: Draft) -> OperationResult:
        times = Counter((item.name, item.partition) for item in self.items)
        return OperationResult(items=tuple(self._item(item, times[item.name, item.partition], draft) for item in self.items))

    def _item(self, item: Reassignment, times: int, draft: Draft) -> ItemResult:
        try:
            if times > 1:
                raise KafkaError(ErrorCode.INVALID_REQUEST, f"The request names partition {item.name}-{item.partition} more than once.")
            topic, partition = find_partition(item.name, item.partition, draft)
            if item.replicas is not None:
                if not self.change_factor and len(item.replicas) != len(partition.original or partition.replicas):
                    text = f"The replication factor is {len(partition.original or partition.replicas)}, and the request does not allow changing it."
                    raise KafkaError(ErrorCode.INVALID_REPLICATION_FACTOR, text)
                wish(draft, topic, partition, item.replicas)
            elif partition.original:
                wish(draft, topic, partition, partition.original)
            else:
                raise KafkaError(ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, "No partition reassignment is in progress.")
        except KafkaError as error:
            return ItemResult.of(error, item.name)
        return ItemResult(name=item.name)


class AssignReplicas(OperationBase, frozen=True, omit_defaults=True):
    """Wish other replicas for one partition."""

    name: str
    partition: int
    replicas: tuple[int, ...]

    def execute(self, draft: Draft) -> OperationResult:
        topic, partition = find_partition(self.name, self.partition, draft)
        wish(draft, topic, partition, self.replicas)
        return OperationResult()


class SettleReassignment(OperationBase, frozen=True, omit_defaults=True):
    """The leader of the partition's group has `replicas` (broker ids), and nobody else, as its configuration.

    Without effect when the wish has changed meanwhile.
    """

    topic_id: bytes
    partition: int
    replicas: tuple[int, ...]

    def execute(self, draft: Draft) -> OperationResult:
        topic = draft.image.topics_by_id.get(self.topic_id)
        if topic is None or not 0 <= self.partition < len(topic.partitions):
            return OperationResult()
        partition = topic.partitions[self.partition]
        if set(partition.replicas) != set(self.replicas) or not (partition.original or partition.leaving):
            return OperationResult()
        group = partition.group_id
        removed = [(broker, replica) for broker in partition.leaving if (replica := draft.image.replica_id(broker, group)) is not None]
        draft.add(r.ReassignmentSettled(self.topic_id, self.partition))
        for broker, replica in removed:
            draft.add(r.ReplicaRemoval(group, broker, replica))
            draft.add(r.ReplicaGeneration(broker, (replica >> 32) + 1, group))
        return OperationResult()


class ConfirmRemovals(OperationBase, frozen=True, omit_defaults=True):
    """Broker `node_id` holds nothing any more of the replicas that it was told to delete."""

    node_id: int
    groups: tuple[bytes, ...]

    def execute(self, draft: Draft) -> OperationResult:
        for group in dict.fromkeys(self.groups):
            if (GroupId(group), self.node_id) in draft.image.removals:
                draft.add(r.ReplicaRemoved(group, self.node_id))
        return OperationResult()


def find_partition(name: str, number: int, draft: Draft) -> tuple[TopicImage, PartitionImage]:
    """Raises KafkaError(UNKNOWN_TOPIC_OR_PARTITION)."""
    topic = TopicKey(name).find(draft.image) if name else None
    if topic is None or not 0 <= number < len(topic.partitions):
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"Topic '{name}' has no partition {number}.")
    return topic, topic.partitions[number]


def wish(draft: Draft, topic: TopicImage, partition: PartitionImage, replicas: tuple[int, ...]) -> None:
    """Add the record for `replicas`, if they are not the wish already. Raises KafkaError."""
    check_manual_replicas(replicas, draft.image, None)
    if partition.replicas == replicas:
        return
    for broker in replicas:
        if (partition.group_id, broker) in draft.image.removals:
            text = f"Broker {broker} has not deleted its former replica of {topic.name}-{partition.partition} yet; try again when it runs and has."
            raise KafkaError(ErrorCode.REASSIGNMENT_IN_PROGRESS, text)
    before = partition.original or partition.replicas
    holders = dict.fromkeys((*partition.replicas, *partition.leaving))
    leaving = tuple(broker for broker in holders if broker not in replicas)
    original = before if set(before) != set(replicas) else ()
    draft.add(r.ReplicasAssigned(topic.topic_id, partition.partition, replicas, original, leaving))
    draft.rollback(len(draft.records))  # the load of the brokers is another one now


__all__ = [
    "AlterReassignments",
    "AssignReplicas",
    "ConfirmRemovals",
    "Reassignment",
    "SettleReassignment",
]
