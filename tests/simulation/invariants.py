"""What must hold after every event, as small named classes, and what is remembered across crashes to check it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NoReturn

from crc32c import crc32c

from raft.core.core import Role
from raft.core.message import Message, MessageType
from wal.api import AppliedState, HardState
from wal.entry import META_GROUP, Entry, GroupId

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.node import SimNode

Fact = tuple[int, int, int]
"""An entry, as far as it must never change: (term, payload crc, base offset)."""


class Broken(AssertionError):
    """An invariant does not hold. The text names it."""


class Invariant:
    """`look(node, group)` runs after every event in which something of the group moved on that node."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def look(self, node: SimNode, group: Any) -> None:
        """Raises Broken."""

    def on_rebuilt(self, node: SimNode, group_id: GroupId) -> None:
        """The replica begins anew, in the same process: what it had applied counts no more."""

    def fail(self, group: Any, text: str) -> NoReturn:
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


class ElectedByQuorum(Invariant):
    """Raft 5.2: who leads a term has votes of that term from a quorum, on their disks (or they have gone on to a later term since)."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.checked: set[tuple[GroupId, int]] = set()

    def look(self, node: SimNode, group: Any) -> None:
        core = group.core
        if core.role != Role.LEADER or (group.group_id, core.term) in self.checked:
            return
        self.checked.add((group.group_id, core.term))
        voters = []
        for other in self.cluster.nodes.values():
            found: Any = other.groups.get(group.group_id)
            dead = self.cluster.invariants.durability.dead.get((other.id, group.group_id))
            if other.up and found is not None:
                replica, state = found.core.replica, found.log.durable.hard_state
            elif dead is not None:
                replica, state = dead.replica, dead.hard_state
            else:
                continue
            if state.term > core.term or state == (core.term, core.replica):
                voters.append(replica)
        if not core.membership.is_quorum(voters):
            self.fail(group, f"node {node.id} leads term {core.term} with the votes of {voters}")


class CommittedNeverChanges(Invariant):
    """State machine safety (Raft 5.4.3): an index once committed holds the same entry everywhere, for ever."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.entries: dict[GroupId, list[Fact]] = {group: [] for group in (*cluster.topics, META_GROUP)}  # by index - 1
        self.seen: dict[tuple[int, int, GroupId], int] = {}

    def look(self, node: SimNode, group: Any) -> None:
        key = (node.id, node.incarnation, group.group_id)
        done, commit = self.seen.get(key, 0), group.core.commit_index
        if commit == done:
            return
        if commit < done:
            self.fail(group, f"commit index of node {node.id} went back from {done} to {commit}")
        known = self.entries[group.group_id]
        index = done + 1
        if index < group.log.first_index <= len(known) + 1:
            index = group.log.first_index  # trimmed here, or never seen: a snapshot of it was installed
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
                self._check(node, group, entry, known)
                index = entry.index + 1
        self.seen[key] = commit

    def on_rebuilt(self, node: SimNode, group_id: GroupId) -> None:
        self.seen.pop((node.id, node.incarnation, group_id), None)

    def _check(self, node: SimNode, group: Any, entry: Entry, known: list[Fact]) -> None:
        fact = (entry.term, entry.payload_crc, entry.base_offset)
        if entry.index <= len(known):
            if known[entry.index - 1] != fact:
                self.fail(group, f"index {entry.index} was committed as {known[entry.index - 1]}, node {node.id} has {fact}")
        elif entry.index == len(known) + 1:
            self.cluster.invariants.durability.newly_committed(group, entry)
            known.append(fact)
        else:
            self.fail(group, f"index {entry.index} is committed before {len(known) + 1}")


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
        # An old leader that does not know of its successors yet need not have what they committed.
        known = [fact for fact in self.cluster.invariants.committed.entries[group.group_id] if fact[0] < core.term]
        if group.log.last_index < len(known):
            self.fail(group, f"node {node.id} leads term {core.term} with last index {group.log.last_index}, {len(known)} are committed")
        for index in range(max(1, group.log.first_index, len(known) - 30), len(known) + 1):
            if group.log.term(index) != known[index - 1][0]:
                self.fail(group, f"node {node.id} leads term {core.term} with term {group.log.term(index)} at committed index {index}")


class HighWatermarkMonotonic(Invariant):
    """What is served never goes back in a process, and is never more than what is committed."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.marks: dict[tuple[int, int, GroupId], int] = {}

    def look(self, node: SimNode, group: Any) -> None:
        if group.group_id == META_GROUP:
            return
        key = (node.id, node.incarnation, group.group_id)
        mark = node.partitions[group.group_id].high_watermark
        if mark < self.marks.get(key, 0):
            self.fail(group, f"high watermark of node {node.id} went back from {self.marks[key]} to {mark}")
        self.marks[key] = mark
        if group.applied_index > group.core.commit_index:
            self.fail(group, f"node {node.id} applied {group.applied_index}, committed are {group.core.commit_index}")

    def on_rebuilt(self, node: SimNode, group_id: GroupId) -> None:
        self.marks.pop((node.id, node.incarnation, group_id), None)


class LeaderCommitsItsOwnTerm(Invariant):
    """Raft 5.4.2, figure 8: a leader commits by counting only entries of its own term."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.elected: dict[tuple[int, GroupId, int], int] = {}  # (node, group, term) -> commit index when it was elected

    def look(self, node: SimNode, group: Any) -> None:
        core = group.core
        if core.role == Role.LEADER:
            before = self.elected.setdefault((node.id, group.group_id, core.term), core.commit_index)
            if core.commit_index > before and group.log.term(core.commit_index) != core.term:
                self.fail(group, f"leader {node.id} of term {core.term} committed {core.commit_index} of term {group.log.term(core.commit_index)}")


class PromisesAreDurable(Invariant):
    """What a peer will rest on is fsynced when it is said: votes with their term, and acknowledged entries (Raft 5.1: persistent state)."""

    def said(self, node: SimNode, group: Any, message: Message) -> None:
        if message.reject or group.log.quarantined:
            return
        if message.type == MessageType.APPEND_RESPONSE:
            self._acknowledged(node, group, message.index)
        durable = group.log.durable.hard_state
        if message.type == MessageType.VOTE_RESPONSE and (durable.term, durable.vote) != (message.term, message.receiver):
            self.fail(group, f"node {node.id} promised its vote of term {message.term} to {message.receiver}, on disk is {durable}")
        if message.type in (MessageType.VOTE, MessageType.APPEND_RESPONSE) and durable.term < message.term:
            self.fail(group, f"node {node.id} speaks in term {message.term}, on disk is {durable}")

    def _acknowledged(self, node: SimNode, group: Any, index: int) -> None:
        # While a snapshot is installed, flushed_index stands still, but what was flushed meanwhile is on disk.
        flushed = max(group.log.flushed_index, group.log.durable.last_index if group.log.reset_pending else 0)
        if index > flushed:
            self.fail(group, f"node {node.id} acknowledged {index}, flushed is {flushed}")
        flush = node.store._flush
        waiting = [group.log.staged, *(batch.items for batch in flush.batches if batch.log is group.log)] if flush is not None else [group.log.staged]
        for items in waiting:
            for item in items:
                if type(item) is Entry and item.index <= index:
                    self.fail(group, f"node {node.id} acknowledged {index}, but entry {item!r} is not flushed yet")


class QuarantinedIsSilent(Invariant):
    """A quarantined replica neither leads nor serves."""

    def look(self, node: SimNode, group: Any) -> None:
        if group.log.quarantined and group.serving:
            self.fail(group, f"node {node.id} serves while it is quarantined: {group.log.quarantined}")


class StatesEqual(Invariant):
    """A partition's state (watermarks, producers) is a function of its log: equal bytes at an equal index, on every replica, after every restart."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.states: dict[tuple[GroupId, int], bytes] = {}

    def see(self, group: Any, state: AppliedState) -> None:
        digest = blake2b(state.data, digest_size=8).digest()
        if self.states.setdefault((group.group_id, state.index), digest) != digest:
            self.fail(group, f"the state at index {state.index} differs between replicas")


class Durable:
    """What one process believed to be fsynced of one group when it died."""

    __slots__ = ("flushed_index", "hard_state", "replica", "runs")

    def __init__(self, group: Any) -> None:
        self.replica: int = group.core.replica
        # While a snapshot is installed, the log in memory is not the one on disk: nothing is claimed.
        self.flushed_index: int = 0 if group.log.reset_pending else group.log.flushed_index
        self.runs: Sequence[tuple[int, int, int]] = tuple(group.log.term_runs())
        self.hard_state: HardState = group.log.durable.hard_state

    def term(self, index: int) -> int:
        if index > self.flushed_index:
            return -1
        at = bisect_right(self.runs, index, key=lambda run: run[1])
        return self.runs[at - 1][0] if at else 0


class CommittedIsFlushedOnQuorum(Invariant):
    """When an entry is first known to be committed, a quorum believes to have fsynced it; what a process believed is there after its crash."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.dead: dict[tuple[int, GroupId], Durable] = {}

    def newly_committed(self, group: Any, entry: Entry) -> None:
        holders = []
        for node in self.cluster.nodes.values():
            other = node.groups.get(group.group_id)
            if node.up and other is not None:
                if other.log.flushed_index >= entry.index and other.log.term(entry.index) == entry.term:
                    holders.append(other.core.replica)
            else:
                dead = self.dead.get((node.id, group.group_id))
                if dead is not None and dead.term(entry.index) == entry.term:
                    holders.append(dead.replica)
        if not group.core.membership.is_quorum(holders):
            self.fail(group, f"entry {entry.term}/{entry.index} is committed, but only on the disks of nodes {holders}")

    def on_crash(self, node: SimNode) -> None:
        for group_id, group in node.groups.items():
            self.dead[node.id, group_id] = Durable(group)

    def on_recovered(self, node: SimNode, group_log: Any) -> None:
        dead = self.dead.get((node.id, group_log.group_id))
        if group_log.quarantined and node.id != self.cluster.victim:
            raise Broken(f"DamageInvented: node {node.id} {group_log.topic} is quarantined, nothing was damaged: {group_log.quarantined}")
        for entry in group_log.memory_entries:
            if crc32c(entry.payload()) != entry.payload_crc:
                raise Broken(f"RecoveredWhole: node {node.id} {group_log.topic} recovered {entry!r} with another payload")
        if dead is None or group_log.quarantined:
            return
        index = dead.flushed_index
        if group_log.last_index < index or (index and group_log.term(index) != dead.term(index)):
            raise Broken(
                f"FlushedSurvives: node {node.id} {group_log.topic} had flushed {dead.term(index)}/{index}, after the crash it has "
                f"{group_log.term(index)}/{group_log.last_index}"
            )
        found, known = group_log.hard_state, dead.hard_state
        if found.term < known.term or (found.term == known.term and known.vote not in (0, found.vote)):
            raise Broken(f"HardStateSurvives: node {node.id} {group_log.topic} had {known} on disk, after the crash it has {found}")


class Invariants:
    """All of them, and the facts that outlive a process."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.committed = CommittedNeverChanges(cluster)
        self.durability = CommittedIsFlushedOnQuorum(cluster)
        self.states = StatesEqual(cluster)
        self.promises = PromisesAreDurable(cluster)
        self.watermarks = HighWatermarkMonotonic(cluster)
        self.all: list[Invariant] = [
            OneLeaderPerTerm(cluster),
            ElectedByQuorum(cluster),
            self.committed,
            LeaderCompleteness(cluster),
            LeaderCommitsItsOwnTerm(cluster),
            self.watermarks,
            QuarantinedIsSilent(cluster),
            *cluster.workload.invariants,
        ]
        self._marks: dict[tuple[int, GroupId], tuple[object, ...]] = {}

    def after_event(self) -> None:
        marks = self._marks
        for node in self.cluster.nodes.values():
            if not node.up:
                continue
            for group_id, group in node.groups.items():
                core = group.core
                mark = (core.term, core.role, core.commit_index, group.applied_index, group.serving, group.log.quarantined)
                if marks.get((node.id, group_id)) != mark:
                    marks[node.id, group_id] = mark
                    for invariant in self.all:
                        invariant.look(node, group)
                    self.cluster.on_moved(node, group)

    def on_crash(self, node: SimNode) -> None:
        self.durability.on_crash(node)

    def on_rebuilt(self, node: SimNode, group_id: GroupId) -> None:
        for invariant in self.all:
            invariant.on_rebuilt(node, group_id)

    def on_recovered(self, node: SimNode, group_log: Any) -> None:
        self.durability.on_recovered(node, group_log)
