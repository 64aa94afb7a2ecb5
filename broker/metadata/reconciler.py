"""Plans how the truth (each group's own configuration and leader) moves towards the wish (`__meta`), one safe step at a time.

Pure: it is given what is known and returns steps as plain data; whoever runs the loop carries them out, at the leader of each group. A step that was
lost is planned again. Rules: a replica is a learner until it has caught up; one change in flight per group; a voter is only removed while a majority
of those that stay is in sync; leadership moves only to a replica that is alive and in sync.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from broker.metadata.image import MetadataImage, PartitionImage
from raft.core.message import node_of
from wal.entry import META_GROUP, GroupId

META_VOTERS_MAX = 5
REBALANCE_AFTER_MS = 5_000
"""How long a preferred leader must have been fit before it is given its partition back."""
REBALANCE_PAUSE_MS = 30_000
"""How long a group is left alone after a transfer was asked for."""
TRANSFERS_PER_PLAN_MAX = 4


class GroupView(NamedTuple):
    """A group as its leader sees it. `caught_up` = replica ids close enough to its end, the leader included."""

    group: GroupId
    leader: int  # broker id, -1 unknown
    voters: frozenset[int]  # replica ids
    learners: frozenset[int]
    caught_up: frozenset[int]
    changing: bool = False  # a configuration change is in flight


@dataclass(frozen=True, slots=True)
class ChangeMembers:
    """Ask `leader` to move the group's configuration to these replica ids.

    They differ from the present ones in one replica, or a replica takes the place of its own predecessor (joint consensus).
    """

    group: GroupId
    leader: int
    voters: tuple[int, ...]
    learners: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class TransferLeader:
    group: GroupId
    leader: int
    target: int  # broker id
    reason: str


Step = ChangeMembers | TransferLeader


def _change(view: GroupView, voters: Iterable[int], learners: Iterable[int], reason: str) -> ChangeMembers:
    return ChangeMembers(view.group, view.leader, tuple(sorted(voters)), tuple(sorted(learners)), reason)


def _safe_without(view: GroupView, replica: int) -> bool:
    """Whether a majority of the voters that stay is in sync, so that the group goes on at once and loses nothing."""
    rest = view.voters - {replica}
    return bool(rest) and 2 * len(rest & view.caught_up) > len(rest)


def _removal(view: GroupView, surplus: frozenset[int], heirs: frozenset[int], reason: str) -> Step | None:
    """Remove one voter of `surplus`, first those that are behind; its leader hands over to one of `heirs` before."""
    ordered = sorted(surplus, key=lambda replica: (replica in view.caught_up, node_of(replica) == view.leader, replica))
    for replica in ordered:
        if node_of(replica) == view.leader and replica in view.caught_up:
            fit = sorted(heirs & view.voters & view.caught_up)
            if fit:
                return TransferLeader(view.group, view.leader, node_of(fit[0]), f"{reason}: the leader itself is to go")
        elif _safe_without(view, replica):
            return _change(view, view.voters - {replica}, view.learners, f"{reason}: remove voter {node_of(replica)}")
    return None


def meta_voters_wanted(eligible: int) -> int:
    """Voters of `__meta` among `eligible` brokers: odd, at most five. Two brokers are both voters, so that each change is on both disks."""
    if eligible <= 2:
        return eligible
    return min(META_VOTERS_MAX, eligible - 1 + eligible % 2)


def plan_meta(image: MetadataImage, view: GroupView, alive: frozenset[int]) -> Step | None:
    """The next step for `__meta`'s own group: every registered broker follows it, up to five vote, in racks of their own if there are enough."""
    if view.changing or view.leader < 0:
        return None
    wished = frozenset(replica for broker in image.brokers if (replica := image.replica_id(broker, META_GROUP)) is not None)
    # Before the first broker is registered there is no wish yet, and nothing may be removed on the strength of an empty list.
    if not wished & view.voters:
        return None
    stale = view.learners - wished
    if stale:
        replica = min(stale)
        return _change(view, view.voters, view.learners - {replica}, f"broker {node_of(replica)} is not registered any more")
    missing = sorted(replica for replica in wished - view.voters - view.learners if node_of(replica) in alive)
    if missing:
        return _change(view, view.voters, view.learners | {missing[0]}, f"broker {node_of(missing[0])} follows the metadata")
    removal = _removal(view, view.voters - wished, wished, "broker is not registered any more") if view.voters - wished else None
    if removal is not None:
        return removal
    return _plan_meta_voters(image, view, alive)


def _plan_meta_voters(image: MetadataImage, view: GroupView, alive: frozenset[int]) -> Step | None:
    """Promote who has caught up. With three racks or more each voter has its own: one more in the same rack would fall with it."""
    fit = [replica for replica in view.learners if replica in view.caught_up and node_of(replica) in alive]
    racks = Counter(_rack(image, replica) for replica in view.voters)
    places = len(racks.keys() | {_rack(image, replica) for replica in fit})
    wanted = meta_voters_wanted(places if places >= 3 else len(view.voters) + len(fit))
    crowded = sorted(
        (replica for replica in view.voters if racks[_rack(image, replica)] > 1 and node_of(replica) != view.leader),
        key=lambda replica: (replica in view.caught_up, -replica),
    )
    if places >= 3 and crowded and len(view.voters) > wanted:
        demoted = next((replica for replica in crowded if _safe_without(view, replica)), None)
        if demoted is not None:
            return _change(view, view.voters - {demoted}, view.learners | {demoted}, f"broker {node_of(demoted)} shares its rack with another voter")
    if not fit:
        return None
    promoted = min(fit, key=lambda replica: (racks[_rack(image, replica)], replica))
    alone = racks[_rack(image, promoted)] == 0
    exchange = places >= 3 and bool(crowded) and alone and len(view.voters) == wanted
    if exchange or (len(view.voters) < wanted and (alone or places < 3)):
        return _change(view, view.voters | {promoted}, view.learners - {promoted}, f"broker {node_of(promoted)} has caught up and votes now")
    return None


def _rack(image: MetadataImage, replica: int) -> str | int:
    node = node_of(replica)
    broker = image.brokers.get(node)
    return (broker.rack if broker is not None else None) or node


def plan_partition(image: MetadataImage, partition: PartitionImage, view: GroupView, alive: frozenset[int]) -> Step | None:
    """The next step of one partition towards its wished replicas: a learner joins, catches up, is promoted, and only then an old voter goes.

    The group never has more than one voter above what is wished, so that a move costs no more than one extra copy.
    """
    if view.changing or view.leader < 0:
        return None
    by_broker = {broker: image.replica_id(broker, partition.group_id) for broker in partition.replicas}
    wished = frozenset(replica for replica in by_broker.values() if replica is not None)
    if not wished:
        return None  # all its brokers are gone: only an operator can decide
    stale = view.learners - wished
    if stale:
        replica = min(stale)
        return _change(view, view.voters, view.learners - {replica}, f"replica of broker {node_of(replica)} is not wished any more")
    # A wished broker that is not registered keeps its place among the voters: its old replica is only replaced, never just dropped.
    surplus = frozenset(replica for replica in view.voters - wished if by_broker.get(node_of(replica), 0) is not None)
    if len(view.voters) > len(partition.replicas):
        return _removal(view, surplus, wished, "reassignment") if surplus else None
    ready = sorted(view.learners & view.caught_up)
    if ready:
        promoted = ready[0]
        # Its own predecessor, whose disk is gone or damaged, goes in the same step: it would only be one more voter that is down.
        voters = frozenset(replica for replica in view.voters if node_of(replica) != node_of(promoted))
        return _change(view, voters | {promoted}, view.learners - {promoted}, f"replica of broker {node_of(promoted)} has caught up")
    if any(node_of(replica) in alive for replica in view.learners):
        return None  # one copy at a time; one whose broker is down does not hold up the others
    missing = sorted(replica for replica in wished - view.voters if node_of(replica) in alive)
    if missing:
        return _change(view, view.voters, view.learners | {missing[0]}, f"reassignment: broker {node_of(missing[0])} begins to follow")
    return None


class Reconciler:
    """Plans for the whole cluster; run on the leader of `__meta` about each second. Remembers only since when a preferred leader has been fit."""

    __slots__ = ("_fit_since_ms", "_transfer_after_ms")

    def __init__(self) -> None:
        self._fit_since_ms: dict[GroupId, int] = {}
        self._transfer_after_ms: dict[GroupId, int] = {}

    def plan(
        self,
        now_ms: int,
        image: MetadataImage,
        views: Mapping[GroupId, GroupView],
        leaders: Mapping[GroupId, tuple[int, tuple[int, ...]]],
        alive: frozenset[int],
    ) -> list[Step]:
        """`views`: groups that are known from inside (at least `__meta`); `leaders`: (leader's broker id or -1, isr). Steps are independent."""
        steps: list[Step] = []
        meta = views.get(META_GROUP)
        if meta is not None and (step := plan_meta(image, meta, alive)) is not None:
            steps.append(step)
        moving: set[GroupId] = set()
        for topic in image.topics.values():
            for partition in topic.partitions:
                view = views.get(partition.group_id)
                if view is not None and (step := plan_partition(image, partition, view, alive)) is not None:
                    steps.append(step)
                    moving.add(partition.group_id)
        return steps + self.plan_leaders(now_ms, image, leaders, alive, moving)

    def plan_leaders(
        self,
        now_ms: int,
        image: MetadataImage,
        leaders: Mapping[GroupId, tuple[int, tuple[int, ...]]],
        alive: frozenset[int],
        moving: Iterable[GroupId] = (),
    ) -> list[Step]:
        """Give partitions back to their preferred leaders, a few at a time; those first that have waited longest."""
        busy = frozenset(moving)
        fit_since_ms: dict[GroupId, int] = {}
        ready: list[tuple[int, GroupId, int, int]] = []
        for topic in image.topics.values():
            for partition in topic.partitions:
                group, preferred = partition.group_id, partition.replicas[0]
                leader, isr = leaders.get(group, (-1, ()))
                if leader in (-1, preferred) or preferred not in isr or preferred not in alive or leader not in alive:
                    continue
                since_ms = fit_since_ms[group] = self._fit_since_ms.get(group, now_ms)
                if now_ms - since_ms >= REBALANCE_AFTER_MS and now_ms >= self._transfer_after_ms.get(group, now_ms) and group not in busy:
                    ready.append((since_ms, group, leader, preferred))
        self._fit_since_ms = fit_since_ms
        self._transfer_after_ms = {group: at_ms for group, at_ms in self._transfer_after_ms.items() if at_ms > now_ms}
        ready.sort()
        for _, group, _, _ in ready[:TRANSFERS_PER_PLAN_MAX]:
            self._transfer_after_ms[group] = now_ms + REBALANCE_PAUSE_MS
        return [
            TransferLeader(group, leader, preferred, "preferred leader is back") for _, group, leader, preferred in ready[:TRANSFERS_PER_PLAN_MAX]
        ]
