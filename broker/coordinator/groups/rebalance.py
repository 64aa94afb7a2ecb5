"""Joining, syncing, beating, leaving: what moves a group from one generation to the next (classic protocol, KIP-345 static members, KIP-394 ids).

Every method runs as one operation of its group, never beside another and never while the group's record is on its way. It changes what only the
leader knows, answers whom it can, and returns a Step when something must be written first. Timers come back as operations too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from broker.coordinator.groups.config import GroupConfig
from broker.coordinator.groups.group import Group, GroupState
from broker.coordinator.groups.members import JoinDone, JoinRequest, JoinResult, Member, SyncDone, SyncResult
from broker.coordinator.groups.records import StoredGroup, group_record
from broker.coordinator.runtime import Write
from broker.errors import ErrorCode, KafkaError
from raft.api import Clock

NEW_MEMBER_TIMEOUT_MS = 300_000
"""How long a member that has never been in a generation may wait in its first join without being taken for lost."""
PENDING_MEMBERS_MAX = 10_000


class Step(NamedTuple):
    """Records to write; `applied` when they are, `lost` when they were not written, or nobody knows."""

    records: Sequence[Write]
    applied: Callable[[], None]
    lost: Callable[[KafkaError], None]


Action = Callable[[], Step | None]


class World(NamedTuple):
    """`wall_time_ms` goes into records, for retention; `new_id` is unlike any before; `later(delay_ms, group id, action)` runs an operation after a
    while, unless leadership is lost before."""

    clock: Clock
    wall_time_ms: Callable[[], int]
    new_id: Callable[[], str]
    later: Callable[[int, str, Action], None]


class SyncRequest(NamedTuple):
    """`protocol_type` and `protocol` None: the version does not tell them (before v5)."""

    group_id: str
    generation_id: int
    member_id: str
    instance_id: str | None
    protocol_type: str | None
    protocol: str | None
    assignments: Mapping[str, bytes]


class Rebalancer:
    """Groups that are led here and have, or await, members. Invariant: a group in `groups` without members has pending ids, or its record is on its
    way."""

    __slots__ = ("_config", "_stored", "_world", "groups")

    def __init__(self, config: GroupConfig, world: World, stored: Callable[[str], StoredGroup | None]) -> None:
        self._config = config
        self._world = world
        self._stored = stored
        self.groups: dict[str, Group] = {}

    # -- the time as coordinator ----------------------------------------------------------------------------------

    def take_over(self, group_id: str, stored: StoredGroup) -> None:
        """A new leader: the members are believed to be alive until their session says otherwise."""
        if stored.members:
            group = self.groups[group_id] = Group.stored(group_id, stored)
            for member in group.members.values():
                self._beat(group, member)

    def abandon(self) -> None:
        """Leadership is lost."""
        groups, self.groups = self.groups, {}
        for group in groups.values():
            for member in group.members.values():
                member.give_up(ErrorCode.NOT_COORDINATOR)

    def find(self, group_id: str) -> Group | None:
        """The group as it is now; one that has no members is made of its record and not kept."""
        group = self.groups.get(group_id)
        if group is None and (stored := self._stored(group_id)) is not None:
            group = Group.stored(group_id, stored)
        return group

    def _known(self, group_id: str) -> Group:
        group = self.find(group_id)
        if group is None:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
        return group

    # -- join -----------------------------------------------------------------------------------------------------

    def join(self, request: JoinRequest, done: JoinDone) -> Step | None:
        """Raises KafkaError when the member is refused at once; else `done` is called when the rebalance ends, or before."""
        config = self._config
        if not config.session_timeout_ms_min <= request.session_timeout_ms <= config.session_timeout_ms_max:
            raise KafkaError(ErrorCode.INVALID_SESSION_TIMEOUT)
        group = self.find(request.group_id)
        if group is None:
            if request.member_id:
                raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
            group = Group(request.group_id)
        if not group.has_room(request.member_id, config.members_max):
            return self._turn_away(group, request, done)
        if not group.accepts(request):
            raise KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        if not request.member_id:
            return self._join_first(group, request, done)
        return self._join_again(group, request, done)

    def _turn_away(self, group: Group, request: JoinRequest, done: JoinDone) -> Step | None:
        done(JoinResult(ErrorCode.GROUP_MAX_SIZE_REACHED, request.member_id))
        member = group.members.get(request.member_id)
        if member is None:
            return None
        self._remove(group, member, ErrorCode.UNKNOWN_MEMBER_ID)
        return self._go_on(group)

    def _join_first(self, group: Group, request: JoinRequest, done: JoinDone) -> Step | None:
        member_id = f"{request.instance_id or request.client_id}-{self._world.new_id()}"
        if request.instance_id is not None:
            known = group.statics.get(request.instance_id)
            if known is not None:
                return self._replace_static(group, group.members[known], member_id, request, done)
            return self._add(group, member_id, request, done)
        if not request.known_id_required:
            return self._add(group, member_id, request, done)
        if len(group.pending) >= PENDING_MEMBERS_MAX:
            raise KafkaError(ErrorCode.GROUP_MAX_SIZE_REACHED)
        self.groups[group.group_id] = group
        group.pending.add(member_id)
        self._world.later(request.session_timeout_ms, group.group_id, lambda: self._forget_pending(group, member_id))
        done(JoinResult(ErrorCode.MEMBER_ID_REQUIRED, member_id))
        return None

    def _forget_pending(self, group: Group, member_id: str) -> Step | None:
        if member_id not in group.pending:
            return None
        group.pending.discard(member_id)
        return self._after_departure(group, False)

    def _join_again(self, group: Group, request: JoinRequest, done: JoinDone) -> Step | None:
        if request.member_id in group.pending:
            if request.instance_id is not None:
                raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
            group.pending.discard(request.member_id)
            return self._add(group, request.member_id, request, done)
        member = group.check_member(request.member_id, request.instance_id)
        same = member.protocols == tuple(request.protocols)
        if (group.state is GroupState.COMPLETING and same) or (group.state is GroupState.STABLE and same and member.member_id != group.leader):
            self._beat(group, member)  # it has lost the answer to its join, or was in doubt: nothing has changed for it
            done(group.join_result(member))
            return None
        if group.state is GroupState.EMPTY:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
        return self._rejoin(group, member, request, done)

    def _rejoin(self, group: Group, member: Member, request: JoinRequest, done: JoinDone) -> Step | None:
        member.update(request)
        member.answer_join(JoinResult(ErrorCode.REBALANCE_IN_PROGRESS, member.member_id))  # an earlier request whose client has gone on
        step = self._prepare(group) if group.state is not GroupState.PREPARING else None
        member.joining = done
        self._beat(group, member)
        return step or self._maybe_complete(group)

    def _add(self, group: Group, member_id: str, request: JoinRequest, done: JoinDone) -> Step | None:
        if not group.members:
            group.protocol_type = request.protocol_type
        member = Member(member_id, request)
        member.fresh = True
        member.joining = done
        self.groups[group.group_id] = group
        group.add(member)
        group.newcomers = True
        self._beat(group, member)
        return self._go_on(group)

    def _replace_static(self, group: Group, member: Member, member_id: str, request: JoinRequest, done: JoinDone) -> Step | None:
        """KIP-345: the same instance with a new life. In a stable group it takes over the assignment, unless that changes the group's protocol."""
        old_leader = group.leader
        member.give_up(ErrorCode.FENCED_INSTANCE_ID)
        before = (member.member_id, member.protocols, member.session_timeout_ms, member.rebalance_timeout_ms, member.client_id, member.client_host)
        group.rename(member, member_id)
        member.update(request)
        self._beat(group, member)
        if group.state is not GroupState.STABLE:
            return self._rejoin(group, member, request, done)
        if group.choose_protocol() != group.protocol:
            return self._rejoin(group, member, request, done)

        def applied() -> None:
            result = group.join_result(member)
            if result.leader != member_id or request.can_skip:
                done(result._replace(skip_assignment=result.leader == member_id))
            else:
                # A client that can not skip the assignment is told of the leader of before, which is nobody now: it must not assign anew.
                done(result._replace(leader=old_leader or "", members=()))

        def lost(error: KafkaError) -> None:
            if self.groups.get(group.group_id) is group:
                group.rename(member, before[0])
                member.protocols, member.session_timeout_ms, member.rebalance_timeout_ms, member.client_id, member.client_host = before[1:]
            done(JoinResult(error.code, request.member_id))

        return Step((group_record(group.group_id, self._present(group)),), applied, lost)

    def _present(self, group: Group) -> StoredGroup:
        return group.to_store({m.member_id: m.assignment for m in group.members.values()}, self._world.wall_time_ms())

    # -- rebalance ------------------------------------------------------------------------------------------------

    def _go_on(self, group: Group) -> Step | None:
        """Who belongs to the group has changed."""
        return self._maybe_complete(group) if group.state is GroupState.PREPARING else self._prepare(group)

    def _prepare(self, group: Group) -> Step | None:
        """A rebalance begins: members learn of it by their beats, and have the longest of their rebalance time-outs to join."""
        new = group.state is GroupState.EMPTY
        if group.state is GroupState.COMPLETING:
            for member in group.members.values():
                member.assignment = b""
                member.answer_sync(SyncResult(ErrorCode.REBALANCE_IN_PROGRESS))
        group.unsynced.clear()
        group.move_to(GroupState.PREPARING)
        group.round += 1
        group.newcomers = False
        timeout_ms = group.rebalance_timeout_ms()
        if new:
            group.delaying = True
            delay_ms = min(self._config.initial_rebalance_delay_ms, timeout_ms)
            self._delay(group, group.round, delay_ms, timeout_ms - delay_ms)
            return None
        self._limit(group, timeout_ms)
        return self._maybe_complete(group)

    def _limit(self, group: Group, timeout_ms: int) -> None:
        number = group.round
        self._world.later(timeout_ms, group.group_id, lambda: self._complete(group) if group.round == number else None)

    def _delay(self, group: Group, number: int, delay_ms: int, left_ms: int) -> None:
        """A new group waits once more each time somebody has come, as long as there is time."""

        def over() -> Step | None:
            if group.round != number:
                return None
            if group.newcomers and left_ms > 0:
                group.newcomers = False
                again_ms = min(self._config.initial_rebalance_delay_ms, left_ms)
                self._delay(group, number, again_ms, left_ms - again_ms)
                return None
            return self._complete(group)

        self._world.later(delay_ms, group.group_id, over)

    def _maybe_complete(self, group: Group) -> Step | None:
        ready = group.state is GroupState.PREPARING and group.all_joined and not (group.delaying and group.members)
        return self._complete(group) if ready else None

    def _complete(self, group: Group) -> Step | None:
        """The join phase ends: dynamic members that are not here are out, static ones keep their place."""
        for member in [m for m in group.members.values() if m.joining is None and m.instance_id is None]:
            group.remove(member)
        here = [member_id for member_id, member in group.members.items() if member.joining is not None]
        if group.members and not here:
            self._limit(group, group.rebalance_timeout_ms())  # only absent static members: their sessions decide
            return None
        if here and group.leader not in here:
            group.leader = here[0]
        group.next_generation()
        if not group.members:
            return self._store_empty(group)
        for member in group.members.values():
            member.fresh = False
            self._beat(group, member)
            member.answer_join(group.join_result(member))
        number = group.round
        self._world.later(group.rebalance_timeout_ms(), group.group_id, lambda: self._expire_syncs(group) if group.round == number else None)
        return None

    def _store_empty(self, group: Group) -> Step:
        def settled(_: KafkaError | None = None) -> None:
            """Stored or not, the group is empty; a new coordinator that finds the old record sees the sessions of its members end again."""
            if self.groups.get(group.group_id) is group and not group.members and not group.pending:
                del self.groups[group.group_id]

        return Step((group_record(group.group_id, group.to_store({}, self._world.wall_time_ms())),), settled, settled)

    def _expire_syncs(self, group: Group) -> Step | None:
        """Members that never fetched their assignment are out."""
        if not group.unsynced:
            return None
        for member_id in list(group.unsynced):
            self._remove(group, group.members[member_id], ErrorCode.UNKNOWN_MEMBER_ID)
        return self._go_on(group)

    # -- sync -----------------------------------------------------------------------------------------------------

    def sync(self, request: SyncRequest, done: SyncDone) -> Step | None:
        """Raises KafkaError when refused at once; else `done` when the assignment of this generation is stored, or the generation is over."""
        group = self._known(request.group_id)
        member = group.check_member(request.member_id, request.instance_id)
        group.check_generation(request.generation_id)
        if request.protocol_type is not None and request.protocol_type != group.protocol_type:
            raise KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        if request.protocol is not None and request.protocol != group.protocol:
            raise KafkaError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        if group.state is GroupState.EMPTY:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
        if group.state is GroupState.PREPARING:
            raise KafkaError(ErrorCode.REBALANCE_IN_PROGRESS)
        group.unsynced.discard(member.member_id)
        self._beat(group, member)
        if group.state is GroupState.STABLE:
            done(group.sync_result(member))
            return None
        member.answer_sync(SyncResult(ErrorCode.REBALANCE_IN_PROGRESS))  # an earlier request whose client has gone on
        member.syncing = done
        return self._store_assignment(group, request.assignments) if member.member_id == group.leader else None

    def _store_assignment(self, group: Group, assignments: Mapping[str, bytes]) -> Step:
        given = {member_id: assignments.get(member_id, b"") for member_id in group.members}

        def applied() -> None:
            group.move_to(GroupState.STABLE)
            for member in group.members.values():
                member.assignment = given[member.member_id]
                if member.syncing is not None:
                    self._beat(group, member)
                    member.answer_sync(group.sync_result(member))

        def lost(error: KafkaError) -> None:
            if self.groups.get(group.group_id) is not group:
                return  # not the coordinator any more: everybody is answered
            for member in group.members.values():
                member.answer_sync(SyncResult(error.code))
            self._world.later(0, group.group_id, lambda: self._prepare(group) if group.state is GroupState.COMPLETING else None)

        return Step((group_record(group.group_id, group.to_store(given, self._world.wall_time_ms())),), applied, lost)

    # -- signs of life --------------------------------------------------------------------------------------------

    def heartbeat(self, group_id: str, generation_id: int, member_id: str, instance_id: str | None) -> ErrorCode:
        """NONE or REBALANCE_IN_PROGRESS. Raises KafkaError when the member is none."""
        group = self._known(group_id)
        member = group.check_member(member_id, instance_id)
        group.check_generation(generation_id)
        self._beat(group, member)
        return ErrorCode.REBALANCE_IN_PROGRESS if group.state is GroupState.PREPARING else ErrorCode.NONE

    def seen(self, group_id: str, member_id: str) -> None:
        """A member has committed offsets, which is as good as a heartbeat."""
        group = self.groups.get(group_id)
        member = group.members.get(member_id) if group is not None else None
        if group is not None and member is not None:
            self._beat(group, member)

    def _beat(self, group: Group, member: Member) -> None:
        timeout_ms = max(member.session_timeout_ms, NEW_MEMBER_TIMEOUT_MS) if member.fresh else member.session_timeout_ms
        member.expires_ms = self._world.clock.now_ms() + timeout_ms
        if not member.watched:
            member.watched = True
            self._watch(group, member, member.session_timeout_ms)

    def _watch(self, group: Group, member: Member, delay_ms: int) -> None:
        """One timer for each member, which looks again when the session was prolonged meanwhile."""

        def look() -> Step | None:
            if group.members.get(member.member_id) is not member:
                return None
            left_ms = member.expires_ms - self._world.clock.now_ms()
            if left_ms > 0 or (member.waiting and not member.fresh):
                self._watch(group, member, min(left_ms, member.session_timeout_ms) if left_ms > 0 else member.session_timeout_ms)
                return None
            self._remove(group, member, ErrorCode.UNKNOWN_MEMBER_ID)
            return self._after_departure(group, True)

        self._world.later(delay_ms, group.group_id, look)

    # -- leave ----------------------------------------------------------------------------------------------------

    def leave(self, group_id: str, identities: Sequence[tuple[str, str | None]]) -> tuple[list[ErrorCode], Step | None]:
        """(member id, instance id) of each who leaves; an empty member id with an instance id is an administrator's removal (KIP-345)."""
        group = self.find(group_id)
        if group is None:
            return [ErrorCode.UNKNOWN_MEMBER_ID] * len(identities), None
        errors: list[ErrorCode] = []
        departed = member_left = False
        for member_id, instance_id in identities:
            if instance_id is None and member_id in group.pending:
                group.pending.discard(member_id)
            else:
                try:
                    member = group.check_member(member_id or group.statics.get(instance_id or "", ""), instance_id)
                except KafkaError as error:
                    errors.append(error.code)
                    continue
                self._remove(group, member, ErrorCode.UNKNOWN_MEMBER_ID)
                member_left = True
            errors.append(ErrorCode.NONE)
            departed = True
        return errors, self._after_departure(group, member_left) if departed else None

    def _remove(self, group: Group, member: Member, told: ErrorCode) -> None:
        member.give_up(told)
        group.remove(member)

    def _after_departure(self, group: Group, member_left: bool) -> Step | None:
        """A member, or an id that was never used, is gone; only the former changes what the others have."""
        if group.state is GroupState.PREPARING:
            return self._maybe_complete(group)
        if group.state is not GroupState.EMPTY:
            return self._prepare(group) if member_left else None
        if not group.pending:
            self.groups.pop(group.group_id, None)
        return None
