"""Where replicas go, and what a topic may be called. Pure functions of the image; the error texts are the ones Kafka's controller gives.

Placement is greedy: leaders go to the broker that leads fewest partitions of the topic, then of the cluster; followers to racks that the partition
does not use yet, then to the broker that follows fewest partitions of the topic, then holds fewest replicas. Ties go round from a start derived from
the topic's id, so that many small topics do not all begin at the same broker. A broker without a rack is a rack of its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from broker.errors import ErrorCode, KafkaError
from broker.metadata.image import BrokerImage, MetadataImage
from wal.entry import META_TOPIC

TOPIC_NAME_LENGTH_MAX = 249
_LEGAL_NAME = re.compile(r"[a-zA-Z0-9._-]+")


def check_topic_name(name: str) -> None:
    """Raise KafkaError(INVALID_TOPIC_EXCEPTION) unless `name` is one that Kafka allows and is not reserved."""
    if not name:
        reason = "the empty string is not allowed"
    elif name in (".", ".."):
        reason = f"'{name}' is not allowed"
    elif len(name) > TOPIC_NAME_LENGTH_MAX:
        reason = f"the length of '{name}' is longer than the max allowed length {TOPIC_NAME_LENGTH_MAX}"
    elif _LEGAL_NAME.fullmatch(name) is None:
        reason = f"'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    elif name == META_TOPIC:
        reason = f"'{name}' is reserved for the metadata of the cluster"
    else:
        return
    raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {reason}")


def check_topic_collision(name: str, image: MetadataImage) -> None:
    """Raise TOPIC_ALREADY_EXISTS, or INVALID_TOPIC_EXCEPTION when only '.' and '_' tell it from an existing one (their metrics would collide)."""
    if name in image.topics:
        raise KafkaError(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
    if "." not in name and "_" not in name:
        return
    folded = name.replace(".", "_")
    for existing in image.topics:
        if len(existing) == len(name) and existing.replace(".", "_") == folded:
            raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic '{name}' collides with existing topic: {existing}")


class BrokerLoad:
    """How many replicas and preferred leaders each broker has been given."""

    __slots__ = ("leaders", "replicas")

    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}
        self.replicas: dict[int, int] = {}

    @classmethod
    def of(cls, assignments: Iterable[Sequence[int]]) -> BrokerLoad:
        load = cls()
        for replicas in assignments:
            load.add(replicas)
        return load

    @classmethod
    def of_image(cls, image: MetadataImage) -> BrokerLoad:
        return cls.of(partition.replicas for topic in image.topics.values() for partition in topic.partitions)

    def followers(self, broker: int) -> int:
        """Counted apart: a broker whose turn to lead is yet to come must not be filled up with followers meanwhile."""
        return self.replicas.get(broker, 0) - self.leaders.get(broker, 0)

    def add(self, replicas: Sequence[int]) -> None:
        self.leaders[replicas[0]] = self.leaders.get(replicas[0], 0) + 1
        for broker in replicas:
            self.replicas[broker] = self.replicas.get(broker, 0) + 1


def check_replication_factor(replication_factor: int, broker_count: int) -> None:
    if replication_factor > broker_count:
        raise KafkaError(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            f"Unable to replicate the partition {replication_factor} time(s): The target replication factor of {replication_factor} "
            f"cannot be reached because only {broker_count} broker(s) are registered.",
        )


def place(
    brokers: Mapping[int, BrokerImage],
    load: BrokerLoad,
    topic_id: bytes,
    existing: Sequence[Sequence[int]],
    count: int,
    replication_factor: int,
    unavailable: Collection[int] = (),
) -> list[tuple[int, ...]]:
    """Replicas of `count` new partitions of a topic that has `existing` ones; the first of each is the preferred leader.

    `load` is the cluster's and is updated. `unavailable` brokers are taken as a leader only if there is no other, as a follower only if nothing else
    differs in rack. Raises KafkaError(INVALID_REPLICATION_FACTOR).
    """
    check_replication_factor(replication_factor, len(brokers))
    ids = sorted(brokers)
    size = len(ids)
    start = int.from_bytes(topic_id[-8:], "big") % size
    racks = {broker: brokers[broker].rack or broker for broker in ids}
    topic = BrokerLoad.of(existing)
    placed: list[tuple[int, ...]] = []
    for number in range(len(existing), len(existing) + count):
        turn = start + number + number // size  # a broker's followers differ from lap to lap, so that its load spreads when it fails
        leader = min(
            range(size),
            key=lambda i: (
                ids[i] in unavailable,
                topic.leaders.get(ids[i], 0),
                topic.replicas.get(ids[i], 0),
                load.leaders.get(ids[i], 0),
                load.replicas.get(ids[i], 0),
                (i - turn) % size,
            ),
        )
        chosen = [ids[leader]]
        used = {racks[ids[leader]]: 1}
        for _ in range(replication_factor - 1):
            follower = min(
                (i for i in range(size) if ids[i] not in chosen),
                key=lambda i: (
                    used.get(racks[ids[i]], 0),
                    ids[i] in unavailable,
                    topic.followers(ids[i]),
                    topic.replicas.get(ids[i], 0),
                    load.replicas.get(ids[i], 0),
                    (i - turn) % size,
                ),
            )
            chosen.append(ids[follower])
            used[racks[ids[follower]]] = used.get(racks[ids[follower]], 0) + 1
        topic.add(chosen)
        load.add(chosen)
        placed.append(tuple(chosen))
    return placed


def check_manual_replicas(replicas: Sequence[int], image: MetadataImage, replication_factor: int | None) -> None:
    """Raise KafkaError(INVALID_REPLICA_ASSIGNMENT) unless `replicas` are distinct registered brokers, as many as for the partitions before it."""
    reason = ""
    if not replicas:
        reason = "an empty replica list."
    for position, broker in enumerate(replicas):
        if broker in replicas[:position]:
            reason = f"the broker {broker} more than once."
        elif broker not in image.brokers:
            reason = f"broker {broker}, but no such broker is registered."
        if reason:
            break
    if not reason and replication_factor is not None and len(replicas) != replication_factor:
        reason = (
            f"a partition with {len(replicas)} replica(s), but this is not consistent with previous partitions, "
            f"which have {replication_factor} replica(s)."
        )
    if reason:
        raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"The manual partition assignment includes {reason}")


def check_manual_assignments(assignments: Mapping[int, Sequence[int]], image: MetadataImage) -> list[tuple[int, ...]]:
    """The replicas of partitions 0…n-1 as given by hand. Raises KafkaError(INVALID_REPLICA_ASSIGNMENT)."""
    replication_factor: int | None = None
    for replicas in assignments.values():
        check_manual_replicas(replicas, image, replication_factor)
        replication_factor = len(replicas)
    if sorted(assignments) != list(range(len(assignments))):
        raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, "partitions should be a consecutive 0-based integer sequence")
    return [tuple(assignments[number]) for number in range(len(assignments))]
