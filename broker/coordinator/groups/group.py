"""A group while its coordinator leads: states, members, the choice of a protocol. What it does with requests is in `rebalance`.

    EMPTY ──join──▶ PREPARING ──all here, or time is up──▶ COMPLETING ──assignment stored──▶ STABLE
      ▲                │  ▲                                     │                              │
      └──nobody left───┘  └──────────── a member joins, leaves, changes or is lost ◀───────────┘

Only EMPTY and STABLE are stored, with the generation. A generation is used once: it grows when PREPARING ends and is stored before any member of it
has an assignment, so that no two members ever own a partition in one generation, also across coordinators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from broker.coordinator.groups.members import JoinRequest, JoinResult, Member, Protocol, SyncResult
from broker.coordinator.groups.records import StoredGroup
from broker.errors import ErrorCode, KafkaError
from wal.errors import check


class GroupState(StrEnum):
    """Kafka's names."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


_MAY_FOLLOW: dict[GroupState, frozenset[GroupState]] = {
    GroupState.EMPTY: frozenset((GroupState.PREPARING,)),
    GroupState.PREPARING: frozenset((GroupState.COMPLETING, GroupState.EMPTY)),
    GroupState.COMPLETING: frozenset((GroupState.STABLE, GroupState.PREPARING)),
    GroupState.STABLE: frozenset((GroupState.PREPARING,)),
}
GENERATION_MAX = 2**31 - 1


class Group:
    """Invariants: `leader` is a member, or None when there is none; `statics` maps each instance id to the member that has it now; members that wait
    in a join exist only in PREPARING; `unsynced` ⊆ members: who has not fetched the assignment of this generation; `delaying` only in PREPARING.

    `pending`: ids that were given out to clients that have not used them yet. `round` numbers the rebalances' timers: one of an old number is void.
    `delaying`: the group is new and waits for more members (group.initial.rebalance.delay.ms), whoever is here already.
    """

    __slots__ = (
        "delaying",
        "generation_id",
        "group_id",
        "leader",
        "members",
        "newcomers",
        "pending",
        "protocol",
        "protocol_type",
        "round",
        "state",
        "statics",
        "unsynced",
    )

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.state = GroupState.EMPTY
        self.generation_id = 0
        self.protocol_type: str | None = None
        self.protocol: str | None = None
        self.leader: str | None = None
        self.members: dict[str, Member] = {}
        self.statics: dict[str, str] = {}
        self.pending: set[str] = set()
        self.unsynced: set[str] = set()
        self.delaying = False
        self.newcomers = False  # somebody joined since the initial delay was last looked at
        self.round = 0

    @staticmethod
    def stored(group_id: str, stored: StoredGroup) -> Group:
        group = Group(group_id)
        group.generation_id = stored.generation_id
        group.protocol_type = stored.protocol_type or None
        if stored.members:
            group.state = GroupState.STABLE
            group.protocol = stored.protocol
            for one in stored.members:
                group.add(Member.stored(one, stored.protocol or ""))
            group.leader = stored.leader if stored.leader in group.members else next(iter(group.members))
        return group

    def to_store(self, assignments: Mapping[str, bytes], now_ms: int) -> StoredGroup:
        """What is written when a rebalance ends; `now_ms` is the wall clock's, for retention."""
        protocol = self.protocol if self.members else None
        members = tuple(m.to_store(protocol or "", assignments.get(m.member_id, b"")) for m in self.members.values())
        return StoredGroup(self.protocol_type or "", self.generation_id, protocol, self.leader, now_ms, members)

    def move_to(self, state: GroupState) -> None:
        check(state in _MAY_FOLLOW[self.state], f"group {self.group_id}: {self.state} can not become {state}")
        self.state = state

    # -- members --------------------------------------------------------------------------------------------------

    def add(self, member: Member) -> None:
        self.members[member.member_id] = member
        if member.instance_id is not None:
            self.statics[member.instance_id] = member.member_id
        if self.leader is None:
            self.leader = member.member_id

    def remove(self, member: Member) -> None:
        del self.members[member.member_id]
        if member.instance_id is not None and self.statics.get(member.instance_id) == member.member_id:
            del self.statics[member.instance_id]
        self.unsynced.discard(member.member_id)
        if self.leader == member.member_id:
            self.leader = next(iter(self.members), None)

    def rename(self, member: Member, member_id: str) -> None:
        """A static member has come back under a new id, which takes the place of the old one."""
        old = member.member_id
        check(member.instance_id is not None, f"group {self.group_id}: only a static member changes its id")
        self.members = {member_id if known == old else known: one for known, one in self.members.items()}
        member.member_id = member_id
        self.statics[member.instance_id or ""] = member_id
        if old in self.unsynced:
            self.unsynced.discard(old)
            self.unsynced.add(member_id)
        if self.leader == old:
            self.leader = member_id

    def check_member(self, member_id: str, instance_id: str | None) -> Member:
        """The member that a request names. Raises KafkaError: UNKNOWN_MEMBER_ID, or FENCED_INSTANCE_ID when another has taken its place."""
        if instance_id is not None:
            known = self.statics.get(instance_id)
            if known is None:
                raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
            if known != member_id:
                raise KafkaError(ErrorCode.FENCED_INSTANCE_ID)
        member = self.members.get(member_id)
        if member is None:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
        return member

    def check_generation(self, generation_id: int) -> None:
        if generation_id != self.generation_id:
            raise KafkaError(ErrorCode.ILLEGAL_GENERATION)

    def has_room(self, member_id: str, members_max: int) -> bool:
        """KIP-389. Who waits in the present rebalance counts, so that the first to come are those that stay."""
        if member_id in self.members:
            waiting = self.members[member_id].joining is not None
            return self.state is not GroupState.PREPARING or waiting or self._joined() < members_max
        if self.state is GroupState.PREPARING:
            return self._joined() < members_max
        return len(self.members) < members_max

    def _joined(self) -> int:
        return sum(1 for member in self.members.values() if member.joining is not None)

    @property
    def all_joined(self) -> bool:
        return not self.pending and all(member.joining is not None for member in self.members.values())

    def rebalance_timeout_ms(self) -> int:
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

    # -- protocols ------------------------------------------------------------------------------------------------

    def accepts(self, request: JoinRequest) -> bool:
        """Whether the request offers a strategy that every member has."""
        if not request.protocol_type or not request.protocols:
            return False
        if not self.members:
            return True
        again = request.instance_id
        others = [m for m in self.members.values() if m.member_id != request.member_id and (again is None or m.instance_id != again)]
        shared = _shared(others)
        return self.protocol_type == request.protocol_type and (shared is None or any(offered.name in shared for offered in request.protocols))

    def choose_protocol(self) -> str:
        """The strategy that most members prefer among those that all have; of equals the first by name, so that it is no accident."""
        candidates = _shared(list(self.members.values()))
        check(bool(candidates), f"group {self.group_id}: its members have no protocol in common")
        votes = Counter(member.vote(candidates or frozenset()) for member in self.members.values())
        return max(sorted(votes), key=lambda name: votes[name])

    def next_generation(self) -> None:
        """PREPARING ends."""
        self.delaying = False
        self.round += 1
        self.generation_id = self.generation_id + 1 if self.generation_id < GENERATION_MAX else 1
        if self.members:
            self.protocol = self.choose_protocol()
            self.unsynced = set(self.members)
            self.move_to(GroupState.COMPLETING)
        else:
            self.protocol = self.leader = None
            self.move_to(GroupState.EMPTY)

    # -- answers --------------------------------------------------------------------------------------------------

    def join_result(self, member: Member) -> JoinResult:
        """What a member of the present generation is told."""
        protocol = self.protocol or ""
        members = [(m.member_id, m.instance_id, m.metadata(protocol)) for m in self.members.values()] if member.member_id == self.leader else []
        return JoinResult(ErrorCode.NONE, member.member_id, self.generation_id, self.protocol_type, self.protocol, self.leader or "", members)

    def sync_result(self, member: Member) -> SyncResult:
        return SyncResult(ErrorCode.NONE, member.assignment, self.protocol_type, self.protocol)


def _shared(members: list[Member]) -> frozenset[str] | None:
    """Names that all of `members` offer; None when there are no members."""
    names: frozenset[str] | None = None
    for member in members:
        offered = frozenset(protocol.name for protocol in member.protocols)
        names = offered if names is None else names & offered
    return names


__all__ = ["GENERATION_MAX", "Group", "GroupState", "Protocol"]
