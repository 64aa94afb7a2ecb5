"""The group coordinator of one partition of `__consumer_offsets`: replicated state, what only the leader knows, and the operations on both.

Fulfils `coordinator.runtime.Machine`. Owns no rule of its own: joining and leaving are in `rebalance`, offsets in `offsets`, what was written in
`state`. Every operation of a group goes through the shard, ordered by group; answers come by callback. No asyncio; time only through the clock given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from broker.coordinator.groups.config import GroupConfig
from broker.coordinator.groups.group import Group, GroupState
from broker.coordinator.groups.members import JoinDone, JoinRequest, JoinResult, SyncDone, SyncResult
from broker.coordinator.groups.offsets import CommitRequest, FetchedOffset, OffsetManager, TopicPartition
from broker.coordinator.groups.rebalance import Action, Rebalancer, Step, SyncRequest, World
from broker.coordinator.groups.records import StoredGroup
from broker.coordinator.groups.state import GroupsState
from broker.coordinator.runtime import Applied, Outcome, Shard
from broker.errors import ErrorCode, KafkaError
from raft.api import Clock
from wal.errors import InvariantError, check

TIMER_RETRY_MS = 200
"""A timer that fires while the lease is in doubt comes again."""

Failed = Callable[[KafkaError], None]


class GroupListing(NamedTuple):
    group_id: str
    protocol_type: str
    state: str


class MemberDescription(NamedTuple):
    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


class GroupDescription(NamedTuple):
    state: str
    protocol_type: str
    protocol: str
    members: Sequence[MemberDescription]


class GroupsMachine:
    """One per partition of `__consumer_offsets` on this node, leading or not. Invariant: `rebalancer.groups` is empty while not leading."""

    __slots__ = ("_clock", "_config", "_reign", "_shard", "_wall_time_ms", "offsets", "rebalancer", "state")

    def __init__(self, config: GroupConfig, clock: Clock, wall_time_ms: Callable[[], int], new_id: Callable[[], str]) -> None:
        self._config = config
        self._clock = clock
        self._wall_time_ms = wall_time_ms
        self._shard: Shard | None = None
        self._reign = 0  # odd while leading; timers of an earlier one are void
        self.state = GroupsState()
        self.rebalancer = Rebalancer(config, World(clock, wall_time_ms, new_id, self._later), self._stored)
        self.offsets = OffsetManager(config, self.state, self.rebalancer.find)

    # -- coordinator.runtime.Machine ------------------------------------------------------------------------------

    def attach(self, shard: Shard) -> None:
        self._shard = shard

    def replay(self, record: Applied) -> None:
        self.state.replay(record)

    def replay_marker(self, producer_id: int, producer_epoch: int, committed: bool) -> None:
        self.state.replay_marker(producer_id, committed)

    def capture(self) -> bytes:
        return self.state.capture()

    def restore(self, data: bytes) -> None:
        check(self._reign % 2 == 0, "a leading coordinator was given another state")
        self.state.restore(data)

    def lead(self, term: int) -> None:
        self._reign += 1
        for group_id, entry in self.state.entries.items():
            if entry.group is not None:
                self.rebalancer.take_over(group_id, entry.group)
        self._sweep_later()

    def depose(self) -> None:
        self._reign += 1
        self.rebalancer.abandon()

    def _stored(self, group_id: str) -> StoredGroup | None:
        entry = self.state.entries.get(group_id)
        return entry.group if entry is not None else None

    # -- operations -----------------------------------------------------------------------------------------------

    @property
    def shard(self) -> Shard:
        if self._shard is None:
            raise InvariantError("a coordinator is asked before it is attached")
        return self._shard

    def _take(self, group_id: str, action: Action, refused: Failed) -> None:
        """Run an operation that changes who belongs to the group. `refused` only when it was not begun; later ends are the step's."""
        begun: list[Step] = []

        def run() -> Outcome[None]:
            step = action()
            if step is None:
                return Outcome(None)
            begun.append(step)
            return Outcome(None, step.records, exclusive=True)

        def done(_: None) -> None:
            if begun:
                begun[0].applied()

        def failed(error: KafkaError) -> None:
            if begun:
                begun[0].lost(error)
            else:
                refused(error)

        self.shard.submit(group_id, run, done, failed, shared=True)

    def _later(self, delay_ms: int, group_id: str, action: Action) -> None:
        reign = self._reign

        def again(_: KafkaError) -> None:
            if self._reign == reign:
                self._clock.call_later(TIMER_RETRY_MS, fire)

        def fire() -> None:
            if self._reign == reign:
                self._take(group_id, action, again)

        self._clock.call_later(delay_ms, fire)

    def join(self, request: JoinRequest, done: JoinDone) -> None:
        self._take(request.group_id, lambda: self.rebalancer.join(request, done), lambda error: done(JoinResult(error.code, request.member_id)))

    def sync(self, request: SyncRequest, done: SyncDone) -> None:
        self._take(request.group_id, lambda: self.rebalancer.sync(request, done), lambda error: done(SyncResult(error.code)))

    def heartbeat(self, group_id: str, generation_id: int, member_id: str, instance_id: str | None, done: Callable[[ErrorCode], None]) -> None:
        self.shard.submit(
            group_id,
            lambda: Outcome(self.rebalancer.heartbeat(group_id, generation_id, member_id, instance_id)),
            done,
            lambda error: done(error.code),
            shared=True,
        )

    def leave(self, group_id: str, identities: Sequence[tuple[str, str | None]], done: Callable[[Sequence[ErrorCode]], None], failed: Failed) -> None:
        """`done` gets one error for each identity. It does not wait for what the departure brings about."""

        def action() -> Step | None:
            errors, step = self.rebalancer.leave(group_id, identities)
            done(errors)
            return step

        self._take(group_id, action, failed)

    def commit(self, request: CommitRequest, done: Callable[[dict[TopicPartition, ErrorCode]], None], failed: Failed) -> None:
        """Also a sign of life of the member that commits."""

        def run() -> Outcome[dict[TopicPartition, ErrorCode]]:
            outcome = self.offsets.commit(request, self._wall_time_ms())
            if request.member_id and not request.transactional:
                self.rebalancer.seen(request.group_id, request.member_id)
            return outcome

        self.shard.submit(request.group_id, run, done, failed, shared=True)

    def fetch(self, group_id: str, wanted: Sequence[tuple[str, bytes, Sequence[int]]], require_stable: bool) -> list[list[FetchedOffset]]:
        """Answered at once from what is applied. Raises KafkaError when we may not answer."""
        self._check_serving()
        return self.offsets.fetch(group_id, wanted, require_stable)

    def fetchable(self, group_id: str) -> dict[str, list[int]]:
        """Partitions with committed offsets, by topic. Raises KafkaError when we may not answer."""
        self._check_serving()
        return self.offsets.committed_partitions(group_id)

    def delete_group(self, group_id: str, done: Callable[[None], None], failed: Failed) -> None:
        def deleted(response: None) -> None:
            self.rebalancer.groups.pop(group_id, None)
            done(response)

        self.shard.submit(group_id, lambda: self.offsets.delete_group(group_id), deleted, failed)

    def delete_offsets(
        self, group_id: str, partitions: Sequence[TopicPartition], done: Callable[[dict[TopicPartition, ErrorCode]], None], failed: Failed
    ) -> None:
        self.shard.submit(group_id, lambda: self.offsets.delete_offsets(group_id, partitions), done, failed)

    def forget_topic(self, topic: str, topic_id: bytes) -> None:
        """The topic was deleted. What is missed here, because leadership is about to change, is never told: offsets know the id of their topic."""
        for group_id, entry in list(self.state.entries.items()):
            if entry.values_of(topic):
                self._write_quietly(group_id, lambda group_id=group_id: self.offsets.forget_topic(group_id, topic, topic_id))  # type: ignore[misc]

    # -- questions ------------------------------------------------------------------------------------------------

    def _check_serving(self) -> None:
        error = self.shard.refusal()
        if error is not ErrorCode.NONE:
            raise KafkaError(error)

    def list_groups(self) -> list[GroupListing]:
        """Raises KafkaError when we may not answer."""
        self._check_serving()
        known = dict.fromkeys([*self.state.entries, *self.rebalancer.groups])
        found = []
        for group_id in known:
            group = self.rebalancer.find(group_id)
            state = group.state if group is not None else GroupState.EMPTY
            found.append(GroupListing(group_id, (group.protocol_type or "") if group is not None else "", state.value))
        return found

    def describe(self, group_id: str) -> GroupDescription | None:
        """None when there is no such group. Raises KafkaError when we may not answer."""
        self._check_serving()
        group = self.rebalancer.find(group_id)
        if group is None:
            return GroupDescription(GroupState.EMPTY.value, "", "", ()) if group_id in self.state.entries else None
        stable = group.state is GroupState.STABLE
        protocol = group.protocol if stable and group.protocol is not None else ""
        members = [
            MemberDescription(
                m.member_id, m.instance_id, m.client_id, m.client_host, m.metadata(protocol) if stable else b"", m.assignment if stable else b""
            )
            for m in group.members.values()
        ]
        return GroupDescription(group.state.value, group.protocol_type or "", protocol, members)

    # -- retention ------------------------------------------------------------------------------------------------

    def _sweep_later(self) -> None:
        reign = self._reign
        self._clock.call_later(self._config.retention_check_ms, lambda: self._sweep() if self._reign == reign else None)

    def _sweep(self) -> None:
        for group_id in list(self.state.entries):
            self._write_quietly(group_id, lambda group_id=group_id: self.offsets.expire(group_id, self._wall_time_ms()))  # type: ignore[misc]
        self._sweep_later()

    def _write_quietly(self, group_id: str, run: Callable[[], Outcome[None]]) -> None:
        """Nobody waits for it, and what fails comes again or is harmless."""
        self.shard.submit(group_id, run, lambda _: None, lambda _: None)


__all__ = ["Group", "GroupDescription", "GroupListing", "GroupsMachine", "MemberDescription"]
