"""What must hold after every event, as small named classes, and what is remembered across crashes to check it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raft.core.core import Role
from wal.entry import GroupId

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.node import SimNode


class Broken(AssertionError):
    """An invariant does not hold. The text names it."""


class Invariant:
    """`look(node, group)` runs after every event for groups in which something moved."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def look(self, node: SimNode, group: Any) -> None:
        raise NotImplementedError

    def fail(self, group: Any, text: str) -> None:
        raise Broken(f"{type(self).__name__}: {group.name}: {text}")


class OneLeaderPerTerm(Invariant):
    """Raft 5.2, election safety."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.leaders: dict[tuple[GroupId, int], int] = {}

    def look(self, node: SimNode, group: Any) -> None:
        if group.core.role == Role.LEADER:
            found = self.leaders.setdefault((group.group_id, group.core.term), node.id)
            if found != node.id:
                self.fail(group, f"nodes {found} and {node.id} both lead term {group.core.term}")


class CommittedNeverChanges(Invariant):
    """State machine safety (Raft 5.4.3): an index once committed holds the same entry everywhere, for ever."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.entries: dict[GroupId, list[tuple[int, int, int]]] = {}  # by index - 1: (term, payload crc, base offset)
        self.seen: dict[tuple[int, int, GroupId], int] = {}

    def look(self, node: SimNode, group: Any) -> None:
        key = (node.id, node.incarnation, group.group_id)
        done, commit = self.seen.get(key, 0), group.core.commit_index
        if commit < done:
            self.fail(group, f"commit index of node {node.id} went back from {done} to {commit}")
        known = self.entries.setdefault(group.group_id, [])
        index = done + 1
        while index <= commit:
            entries = group.log.memory_slice(index, 1 << 30)
            if not entries:
                if group.log.term(index) != (known[index - 1][0] if index <= len(known) else None):
                    self.fail(group, f"node {node.id} has another term at committed index {index}")
                index += 1
                continue
            for entry in entries:
                if entry.index > commit:
                    break
                fact = (entry.term, entry.payload_crc, entry.base_offset)
                if entry.index <= len(known):
                    if known[entry.index - 1] != fact:
                        self.fail(group, f"index {entry.index} was committed as {known[entry.index - 1]}, node {node.id} has {fact}")
                elif entry.index == len(known) + 1:
                    self.cluster.invariants.newly_committed(group, entry)
                    known.append(fact)
                else:
                    self.fail(group, f"index {entry.index} committed before {len(known) + 1}")
                index = entry.index + 1
        self.seen[key] = commit


class LeaderCompleteness(Invariant):
    """Raft 5.4: who leads has every committed entry."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.checked: set[tuple[GroupId, int]] = set()

    def look(self, node: SimNode, group: Any) -> None:
        core = group.core
        if core.role != Role.LEADER or (group.group_id, core.term) in self.checked:
            return
        self.checked.add((group.group_id, core.term))
        known = self.cluster.invariants.committed.entries.get(group.group_id, [])
        if group.log.last_index < len(known):
            self.fail(group, f"node {node.id} leads term {core.term} with last index {group.log.last_index}, {len(known)} are committed")
        for index in range(max(1, len(known) - 20), len(known) + 1):
            if group.log.term(index) != known[index - 1][0]:
                self.fail(group, f"node {node.id} leads term {core.term} with another entry at committed index {index}")


class HighWatermarkMonotonic(Invariant):
    """What is served never goes back, and is never more than what is applied."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.marks: dict[tuple[int, int, GroupId], int] = {}

    def look(self, node: SimNode, group: Any) -> None:
        key = (node.id, node.incarnation, group.group_id)
        mark = node.partitions[group.group_id].high_watermark
        if mark < self.marks.get(key, 0):
            self.fail(group, f"high watermark of node {node.id} went back from {self.marks[key]} to {mark}")
        self.marks[key] = mark


class LogMatching(Invariant):
    """Raft 5.3: same index and term, same entry. Looked at when the cluster is at rest, over whole logs."""

    def look(self, node: SimNode, group: Any) -> None:
        pass

    def at_rest(self) -> None:
        for group_id in self.cluster.topics:
            seen: dict[tuple[int, int], int] = {}
            for node in self.cluster.live_nodes():
                group = node.groups[group_id]
                entries = group.log.memory_slice(max(group.log.first_index, group.log.last_index - 200), 1 << 30) or []
                for entry in entries:
                    crc = seen.setdefault((entry.index, entry.term), entry.payload_crc)
                    if crc != entry.payload_crc:
                        self.fail(group, f"{entry.term}/{entry.index} differs between nodes")


class Invariants:
    """All of them, and the facts that outlive a process."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.committed = CommittedNeverChanges(cluster)
        self.log_matching = LogMatching(cluster)
        self.all: list[Invariant] = [
            OneLeaderPerTerm(cluster),
            self.committed,
            LeaderCompleteness(cluster),
            HighWatermarkMonotonic(cluster),
            self.log_matching,
        ]
        # (node, group) -> what its last process believed to be on disk: [(index, term)], hard state
        self.flushed: dict[tuple[int, GroupId], tuple[int, int, int]] = {}
        self._marks: dict[tuple[int, GroupId], tuple[int, int, int, int]] = {}
        self._hooks: list[Callable[[], None]] = []

    def after_event(self) -> None:
        for node in self.cluster.nodes.values():
            if not node.up:
                continue
            for group_id, group in node.groups.items():
                core = group.core
                mark = (core.term, core.role, core.commit_index, node.partitions[group_id].high_watermark)
                if self._marks.get((node.id, group_id)) != mark:
                    self._marks[node.id, group_id] = mark
                    for invariant in self.all:
                        invariant.look(node, group)

    def newly_committed(self, group: Any, entry: Any) -> None:
        """Durability: the moment an entry is first known to be committed, a majority must hold it on disk."""
        holders = 0
        for node in self.cluster.nodes.values():
            other = node.groups.get(group.group_id)
            if node.up and other is not None:
                if other.log.flushed_index >= entry.index and other.log.term(entry.index) == entry.term:
                    holders += 1
            elif self.flushed.get((node.id, group.group_id), (0, 0, 0))[0] >= entry.index:
                holders += 1
        if holders <= len(self.cluster.nodes) // 2:
            raise Broken(f"CommittedIsFlushedOnMajority: {group.name} index {entry.index} term {entry.term} is on {holders} disks")

    def on_crash(self, node: SimNode) -> None:
        for group_id, group in node.groups.items():
            index = group.log.flushed_index
            self.flushed[node.id, group_id] = (index, group.log.term(index) or 0, self.cluster.durable_term(node, group_id))

    def on_recovered(self, node: SimNode, group_log: Any) -> None:
        """What a process believed to be flushed is there after its crash, and the term did not go back."""
        index, term, hard_term = self.flushed.get((node.id, group_log.group_id), (0, 0, 0))
        if group_log.quarantined:
            return
        if group_log.last_index < index or (index and group_log.term(index) != term):
            raise Broken(
                f"FlushedSurvives: node {node.id} {group_log.topic} had flushed {term}/{index}, after the crash it has "
                f"{group_log.term(index)}/{group_log.last_index}"
            )
        if group_log.hard_state.term < hard_term:
            raise Broken(
                f"HardStateSurvives: node {node.id} {group_log.topic} was in term {hard_term}, after the crash in {group_log.hard_state.term}"
            )
