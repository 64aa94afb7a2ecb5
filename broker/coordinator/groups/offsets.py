"""Committed offsets: who may commit, what is written, what is answered, what expires. Everything here reads the replicated state and returns records.

Transactions: `commit` with a producer writes offsets that are pending until the producer's marker is replayed (`GroupsState.replay_marker`); `fetch`
with `require_stable` names partitions that have any (KIP-447).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from broker.coordinator.groups.config import GroupConfig
from broker.coordinator.groups.group import Group, GroupState
from broker.coordinator.groups.records import OffsetKey, StoredOffset, group_tombstone, offset_record, offset_tombstone
from broker.coordinator.groups.state import GroupEntry, GroupsState
from broker.coordinator.groups.subscription import CONSUMER_PROTOCOL_TYPE, subscribed_topics
from broker.coordinator.runtime import NO_PRODUCER, Outcome, Write
from broker.errors import ErrorCode, KafkaError

FIRST_VERSION_GROUP_ID_NOT_FOUND = 9
TopicPartition = tuple[str, int]


class CommitRequest(NamedTuple):
    """`offsets`: (topic, partition) -> what shall be stored. `version` of OffsetCommit decides between codes; `producer` makes it transactional."""

    group_id: str
    generation_id: int
    member_id: str
    instance_id: str | None
    offsets: Mapping[TopicPartition, StoredOffset]
    version: int = FIRST_VERSION_GROUP_ID_NOT_FOUND
    producer: tuple[int, int] = NO_PRODUCER

    @property
    def transactional(self) -> bool:
        return self.producer != NO_PRODUCER


class FetchedOffset(NamedTuple):
    """`offset` -1: none is committed, or `error` says why it is not told."""

    offset: int = -1
    leader_epoch: int = -1
    metadata: str = ""
    error: ErrorCode = ErrorCode.NONE


NOTHING = FetchedOffset()
UNSTABLE = FetchedOffset(error=ErrorCode.UNSTABLE_OFFSET_COMMIT)


class OffsetManager:
    """`find` gives a group as its coordinator sees it now, None for one that is not known."""

    __slots__ = ("_config", "_find", "_state")

    def __init__(self, config: GroupConfig, state: GroupsState, find: Callable[[str], Group | None]) -> None:
        self._config = config
        self._state = state
        self._find = find

    # -- commit ---------------------------------------------------------------------------------------------------

    def commit(self, request: CommitRequest, now_ms: int) -> Outcome[dict[TopicPartition, ErrorCode]]:
        """Errors by partition once the others are stored; raises KafkaError when nobody's are. Shared: it reads who is a member, and writes offsets.

        `now_ms` is the wall clock's; offsets without a commit timestamp of their own get it.
        """
        self._check(request)
        errors: dict[TopicPartition, ErrorCode] = {}
        records: list[Write] = []
        for (topic, partition), value in request.offsets.items():
            if len(value.metadata.encode()) > self._config.metadata_bytes_max:
                errors[topic, partition] = ErrorCode.OFFSET_METADATA_TOO_LARGE
                continue
            errors[topic, partition] = ErrorCode.NONE
            if value.commit_timestamp_ms < 0:
                value = value._replace(commit_timestamp_ms=now_ms)
            records.append(offset_record(OffsetKey(request.group_id, topic, partition), value))
        return Outcome(errors, records, request.producer)

    def _check(self, request: CommitRequest) -> None:
        group = self._find(request.group_id)
        generation_id, member_id, instance_id = request.generation_id, request.member_id, request.instance_id
        if group is None:
            if generation_id < 0 or request.group_id in self._state.entries:
                group = Group(request.group_id)  # a group that only commits
            elif request.version >= FIRST_VERSION_GROUP_ID_NOT_FOUND and not request.transactional:
                raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND)
            else:
                raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
        if generation_id < 0 and group.state is GroupState.EMPTY:
            return
        if generation_id >= 0 or member_id or instance_id is not None:
            group.check_member(member_id, instance_id)
            group.check_generation(generation_id)
        elif not request.transactional:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)  # somebody without a membership while the group has members
        if not request.transactional and group.state is GroupState.COMPLETING:
            raise KafkaError(ErrorCode.REBALANCE_IN_PROGRESS)

    # -- fetch ----------------------------------------------------------------------------------------------------

    def fetch(self, group_id: str, wanted: Sequence[tuple[str, bytes, Sequence[int]]], require_stable: bool) -> list[list[FetchedOffset]]:
        """For each (topic, its present id, partitions) the offsets in the same order."""
        entry = self._state.entries.get(group_id)
        if entry is None:
            return [[NOTHING] * len(partitions) for _, _, partitions in wanted]
        return [[_told(entry, topic, topic_id, number, require_stable) for number in partitions] for topic, topic_id, partitions in wanted]

    def committed_partitions(self, group_id: str) -> dict[str, list[int]]:
        """What a fetch of all offsets tells, by topic. As in Kafka, no partition that has nothing but pending offsets: nothing of a transaction shows
        before it commits, and of one that aborts never."""
        entry = self._state.entries.get(group_id)
        if entry is None:
            return {}
        return {topic: sorted(partitions) for topic, partitions in entry.offsets.items()}

    # -- deletion -------------------------------------------------------------------------------------------------

    def delete_group(self, group_id: str) -> Outcome[None]:
        """Raises KafkaError: GROUP_ID_NOT_FOUND, NON_EMPTY_GROUP. Not shared."""
        group, entry = self._find(group_id), self._state.entries.get(group_id)
        if group is None and entry is None:
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND)
        if group is not None and group.state is not GroupState.EMPTY:
            raise KafkaError(ErrorCode.NON_EMPTY_GROUP)
        # What is pending goes too: its transaction must not bring back a group that is deleted.
        gone = entry.all_partitions() if entry is not None else ()
        records = [offset_tombstone(OffsetKey(group_id, topic, partition)) for topic, partition in gone]
        if entry is not None and entry.group is not None:
            records.append(group_tombstone(group_id))
        return Outcome(None, records)

    def delete_offsets(self, group_id: str, partitions: Sequence[TopicPartition]) -> Outcome[dict[TopicPartition, ErrorCode]]:
        """OffsetDelete. Raises KafkaError: GROUP_ID_NOT_FOUND, NON_EMPTY_GROUP. Not shared."""
        group, entry = self._find(group_id), self._state.entries.get(group_id)
        if group is None and entry is None:
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND)
        subscribed: frozenset[str] = frozenset()
        if group is not None and group.state is not GroupState.EMPTY:
            if group.protocol_type != CONSUMER_PROTOCOL_TYPE:
                raise KafkaError(ErrorCode.NON_EMPTY_GROUP)
            topics = group_topics(group)
            if topics is None:
                raise KafkaError(ErrorCode.NON_EMPTY_GROUP)  # what it reads can not be told
            subscribed = topics
        errors: dict[TopicPartition, ErrorCode] = {}
        records: list[Write] = []
        for topic, partition in partitions:
            errors[topic, partition] = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC if topic in subscribed else ErrorCode.NONE
            if topic not in subscribed and entry is not None and (entry.offset(topic, partition) or entry.is_pending(topic, partition)):
                records.append(offset_tombstone(OffsetKey(group_id, topic, partition)))
        return Outcome(errors, records)

    def forget_topic(self, group_id: str, topic: str, topic_id: bytes) -> Outcome[None]:
        """The topic was deleted: offsets of this very topic go, also those of transactions that are not decided. Not shared.

        A deletion takes all that is stored for a partition, so that one with anything of a successor of the same name is left as it is: what is of
        the deleted topic is not told there, and can not overtake what was stored later.
        """
        entry = self._state.entries.get(group_id)
        if entry is None:
            return Outcome(None)
        stored = sorted(entry.values_of(topic).items())
        gone = [number for number, values in stored if all(value.topic_id in (b"", topic_id) for value in values)]
        return Outcome(None, [offset_tombstone(OffsetKey(group_id, topic, number)) for number in gone])

    def expire(self, group_id: str, now_ms: int) -> Outcome[None]:
        """Delete offsets that nobody has needed for the retention time, and then the group that has none left. `now_ms` is the wall clock's, as the
        timestamps are: they must mean the same to the next coordinator. Not shared."""
        entry = self._state.entries.get(group_id)
        if entry is None:
            return Outcome(None)
        group = self._find(group_id)
        since = _unused_since(group, entry)
        records: list[Write] = []
        if since is not None:
            for topic, partition, value in entry.all_offsets():
                if not entry.is_pending(topic, partition) and _expired(value, since(topic, value), now_ms, self._config.retention_ms):
                    records.append(offset_tombstone(OffsetKey(group_id, topic, partition)))
        all_gone = len(records) == sum(len(partitions) for partitions in entry.offsets.values())
        idle = group is None or (group.state is GroupState.EMPTY and not group.pending)
        if entry.group is not None and idle and all_gone and not entry.pending:
            records.append(group_tombstone(group_id))
        return Outcome(None, records)


def _told(entry: GroupEntry, topic: str, topic_id: bytes, partition: int, require_stable: bool) -> FetchedOffset:
    if require_stable and entry.pending and entry.is_pending(topic, partition):
        return UNSTABLE
    value = entry.offset(topic, partition)
    if value is None or (value.topic_id and topic_id and value.topic_id != topic_id):
        return NOTHING  # also an offset in a topic of the same name that was deleted
    return FetchedOffset(value.offset, value.leader_epoch, value.metadata)


def group_topics(group: Group) -> frozenset[str] | None:
    """Topics that a group of consumers is subscribed to; None when one of them can not be understood."""
    topics: set[str] = set()
    for member in group.members.values():
        for protocol in member.protocols:
            found = subscribed_topics(protocol.metadata)
            if found is None:
                return None
            topics |= found
    return frozenset(topics)


def _unused_since(group: Group | None, entry: GroupEntry) -> Callable[[str, StoredOffset], int] | None:
    """From when the retention of an offset counts, in ms; -1 for never. None: no offset of this group expires now."""
    stored = entry.group
    if group is None or stored is None or not stored.protocol_type:
        return lambda topic, value: value.commit_timestamp_ms
    if group.state is GroupState.EMPTY:
        return lambda topic, value: max(stored.state_timestamp_ms, value.commit_timestamp_ms)
    if group.state is GroupState.STABLE and group.protocol_type == CONSUMER_PROTOCOL_TYPE:
        topics = group_topics(group)
        if topics is not None:
            return lambda topic, value: -1 if topic in topics else value.commit_timestamp_ms
    return None


def _expired(value: StoredOffset, since_ms: int, now_ms: int, retention_ms: int) -> bool:
    if since_ms < 0:
        return False
    if value.expire_timestamp_ms >= 0:
        return now_ms >= value.expire_timestamp_ms
    return now_ms - since_ms >= retention_ms
