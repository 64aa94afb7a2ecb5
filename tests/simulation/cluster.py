"""A whole simulated cluster and one run of it: faults for a while, then healing, then the final checks. One integer decides everything."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from crc32c import crc32c

from broker.refill import GENERATION_SHIFT
from raft.core.core import Role
from raft.core.message import Message, node_of
from tests.simulation.calls import Calls
from tests.simulation.coordinating import COORDINATORS, Coordinating
from tests.simulation.faults import Faults
from tests.simulation.invariants import Broken, Invariants
from tests.simulation.node import SimNode
from tests.simulation.scheduler import SECOND_US, Scheduler
from tests.simulation.workload import REPLICATION, Replication, Workload
from tests.simulation.world import SimNetwork
from wal.entry import META_GROUP, META_TOPIC, GroupId
from wal.errors import WalError, check

HEAL_US = 30 * SECOND_US
STEP_US = 200_000
WORKLOADS: dict[str, Callable[[Any], Workload]] = {REPLICATION: Replication, COORDINATORS: Coordinating}


@dataclass
class Result:
    seed: int
    fingerprint: str
    events: int
    healed_ms: int
    counts: Counter[str]


class Cluster:
    """Owns the nodes, the clients and the facts about them."""

    def __init__(self, seed: int, workload: str = REPLICATION) -> None:
        self.seed = seed
        self.scheduler = Scheduler(seed)
        self.random: Random = self.scheduler.random
        self.counts: Counter[str] = Counter()
        nodes = self.random.choice((3, 3, 4))
        damage = self.random.random() < 0.4
        self.node_ids = list(range(1, nodes + 1))
        self.first_voters = self.node_ids[:3]
        self.workload: Workload = WORKLOADS[workload](self)
        self.topics: dict[GroupId, str] = self.workload.topics
        self.victim = self.random.choice(self.node_ids) if damage else 0  # whose files are damaged; a minority, so that nothing is lost
        self.has_meta = self.workload.has_meta and not damage  # a damaged replica of `__meta` is replaced with its broker, by hand
        self.allocated: dict[int, tuple[int, int]] = {}  # first producer id of a block -> whose it is
        self.allocated_end = 0
        self.generations: Counter[tuple[int, GroupId]] = Counter()
        self.group_names = {**self.workload.names, META_GROUP: META_TOPIC} if self.has_meta else self.workload.names
        self.wished: dict[GroupId, frozenset[int]] = {group: frozenset(self.first_voters) for group in self.group_names}
        self.network = SimNetwork(self.scheduler, self.counts)
        self.calls = Calls(self)
        self.invariants = Invariants(self)
        self.nodes: dict[int, SimNode] = {}
        for node in self.node_ids:
            self.nodes[node] = SimNode(self, node, Random(self.random.getrandbits(32)))
        self.network.nodes = self.nodes
        self.traps: list[Callable[[SimNode, Any], bool]] = []  # faults that wait for a moment; True when they have struck
        self.promise_traps: list[Callable[[SimNode], bool]] = []  # those that wait for an answer of a coordinator
        self.votes_given: defaultdict[tuple[GroupId, int], list[Message]] = defaultdict(list)  # by (group, candidate)
        self.pace_us = 20_000  # longest rest of a writer between two batches
        self.workload.open()

    def live_nodes(self) -> list[SimNode]:
        return [node for node in self.nodes.values() if node.up and not node.clock.stopped]

    def leader_of(self, group: GroupId) -> SimNode | None:
        """The newest leader that serves."""
        serving = [node for node in self.live_nodes() if node.groups[group].serving]
        return max(serving, key=lambda node: node.groups[group].core.term, default=None)

    def believed_leader(self, group: GroupId) -> int:
        """What a client would find in somebody's metadata: usually right, sometimes a leader that is deposed."""
        if self.random.random() < 0.7:
            best = self.leader_of(group)
            if best is not None:
                return best.id
        claiming = [node.id for node in self.nodes.values() if node.up and node.groups[group].core.role == Role.LEADER]
        return self.random.choice(claiming or self.node_ids)

    def replica_id(self, node: int, group: GroupId) -> int:
        """The newest replica id of a node in a group."""
        return node + (self.generations[node, group] << GENERATION_SHIFT)

    def wished_replicas(self, group: GroupId) -> frozenset[int]:
        return frozenset(self.replica_id(node, group) for node in self.wished[group])

    def on_moved(self, node: SimNode, group: Any) -> None:
        """A role, a term, a commit index moved on a node."""
        if self.traps:
            self.traps = [trap for trap in self.traps if not trap(node, group)]

    def on_promise(self, node: int) -> None:
        """A coordinator on the node answers a client."""
        if self.promise_traps:
            self.promise_traps = [trap for trap in self.promise_traps if not trap(self.nodes[node])]

    def wished_learners(self, group: GroupId) -> frozenset[int]:
        """Every node follows `__meta`."""
        return frozenset(self.node_ids) - self.wished[group] if group == META_GROUP else frozenset()

    # -- what a supervisor and a controller do ----------------------------------------------------------------------

    def on_fatal(self, node: SimNode, error: BaseException) -> None:
        if isinstance(error, Broken):
            raise error  # a checker looked on the node's own loop
        if not node.expected_fatal:
            raise Broken(f"node {node.id} stopped by itself: {type(error).__name__}: {error}") from error
        self.counts["stopped_on_fault"] += 1
        node.expected_fatal = False
        node.crash()
        self.scheduler.at(SECOND_US, lambda: self.restart(node))

    def restart(self, node: SimNode) -> None:
        if node.up:
            return
        self.counts["restart"] += 1
        node.files.faults.sync_errors = 0
        node.expected_fatal = False
        try:
            node.start()
        except (WalError, OSError) as error:
            if node.files.faults.free_bytes is None:
                raise Broken(f"node {node.id} does not start: {type(error).__name__}: {error}") from error
            self.counts["not_started_disk_full"] += 1
            node.files.crash(node.random)
            self.scheduler.at(SECOND_US, lambda: self.restart(node))

    def reconcile(self) -> None:
        """One safe step at a time from the voters that a group has to the ones that are wished."""
        self.scheduler.at(STEP_US, self.reconcile)
        for group_id_ in self.wished:
            node = self.leader_of(group_id_)
            if node is None:
                continue
            if group_id_ != META_GROUP:
                self._rebuild_damaged(group_id_, node)
            wished = self.wished_replicas(group_id_)
            group = node.groups[group_id_]
            membership = group.core.membership
            learners = self.wished_learners(group_id_)
            if membership.voters == wished and membership.learners == learners and not membership.voters_outgoing:
                continue
            missing = (wished | learners) - membership.members
            if missing:
                group.change_membership(
                    sorted(membership.voters), sorted(membership.learners | missing), lambda ok: self._changed("learner_added", ok)
                )
            else:
                group.change_membership(sorted(wished), sorted(learners), lambda ok: self._changed("voters_changed", ok))

    def _rebuild_damaged(self, group_id_: GroupId, leader: SimNode) -> None:
        """A damaged replica begins anew under a new id, once a majority works without it."""
        for node in self.live_nodes():
            group = node.groups[group_id_]
            if group.log.quarantined and node is not leader and leader.groups[group_id_].lease_valid():
                self.counts["rebuilt"] += 1
                if self.replica_id(node.id, group_id_) <= group.core.replica:
                    self.generations[node.id, group_id_] += 1
                node.rebuild(group_id_, self.replica_id(node.id, group_id_))

    def _changed(self, what: str, ok: bool) -> None:
        self.counts[what if ok else f"{what}_not"] += 1


def run_seed(seed: int, workload: str = REPLICATION, fault_seconds: float = 8.0) -> Result:
    """One whole run.

    Args:
        seed: decides everything.
        workload: what clients do, one of WORKLOADS.
        fault_seconds: simulated time with faults.

    Raises:
        Broken: an invariant does not hold; its text says which. Run the same seed again to see it again.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        return _run(Cluster(seed, workload), fault_seconds)
    finally:
        logging.disable(disabled)


def _run(cluster: Cluster, fault_seconds: float) -> Result:
    scheduler = cluster.scheduler
    scheduler.after_event = cluster.invariants.after_event
    for node in cluster.nodes.values():
        node.start()
    cluster.workload.start()
    scheduler.at(STEP_US, cluster.reconcile)
    faults = Faults(cluster)
    faults.start()
    scheduler.run_until(int(fault_seconds * SECOND_US))
    faults.heal()
    healed_ms = heal(cluster)
    check_at_rest(cluster)
    for node in cluster.nodes.values():
        cluster.counts.update({f"file_{name}": count for name, count in node.files.faults.counted.items()})
    return Result(cluster.seed, scheduler.fingerprint(), scheduler.events, healed_ms, cluster.counts)


def heal(cluster: Cluster) -> int:
    """Every client gets something done once more, then all rest, then all replicas become equal; returns how many ms that took."""
    scheduler = cluster.scheduler
    start_us = scheduler.now_us
    if cluster.victim:
        scrub(cluster.nodes[cluster.victim])
    cluster.workload.finish()
    trouble = "nothing"
    while scheduler.now_us < start_us + HEAL_US:
        scheduler.run_until(scheduler.now_us + STEP_US)
        trouble = cluster.workload.waiting() or why_not_equal(cluster)
        if not trouble:
            return (scheduler.now_us - start_us) // 1000
    raise Broken(f"NoProgress: {HEAL_US // SECOND_US} s after healing: {trouble}")


def scrub(node: SimNode) -> None:
    """Read everything from segments once through the ordinary path, so that damage that nobody has met yet is met."""

    def read(group: Any, low: int) -> None:
        if low > group.log.durable.segments.written_index:
            return
        job = group.log.read_job(low, 16 << 10)

        def done(error: BaseException | None) -> None:
            if error is None and job.entries and node.driver.is_open(group):
                read(group, job.entries[-1].index + 1)

        group.read(job, done)

    for group in node.groups.values():
        read(group, group.log.first_index)


def why_not_equal(cluster: Cluster) -> str:
    """What keeps the replicas from being at rest and equal; "" nothing."""
    for group_id_, topic in cluster.group_names.items():
        leader = cluster.leader_of(group_id_)
        if leader is None:
            return f"{topic} has no leader"
        core = leader.groups[group_id_].core
        wished = (cluster.wished_replicas(group_id_), cluster.wished_learners(group_id_))
        if (core.membership.voters, core.membership.learners) != wished or core.membership.voters_outgoing:
            return f"{topic} has members {core.membership}, wished are {sorted(cluster.wished[group_id_])}"
        for member in sorted(core.membership.members):
            group = cluster.nodes[node_of(member)].groups[group_id_]
            if group.log.quarantined:
                return f"{topic} on node {member} is quarantined: {group.log.quarantined}"
            if group.applied_index != core.log.last_index or group.log.flushed_index != core.log.last_index:
                return (
                    f"{topic} on node {member} is at {group.applied_index} applied, {group.log.flushed_index} flushed, {group.log.last_index} last; "
                    f"the leader, node {leader.id}, at {core.commit_index} committed, {core.log.last_index} last, {core.progress}"
                )
    return ""


def check_at_rest(cluster: Cluster) -> None:
    """Healed and quiet: every replica is equal, and every acknowledged record is where it was acknowledged."""
    for group_id_, name in cluster.group_names.items():
        leader = cluster.leader_of(group_id_)
        if leader is None:
            raise Broken(f"NoLeader: {name}")
        known = cluster.invariants.committed.entries[group_id_]
        for member in sorted(leader.groups[group_id_].core.membership.members):
            node = cluster.nodes[node_of(member)]
            group: Any = node.groups[group_id_]
            state = group.log.capture_state()
            check(state is not None and state.index == group.applied_index, f"{name}: nothing to capture")
            check_log(group, known)
    cluster.workload.check_final()


def check_log(group: Any, known: list[tuple[int, int, int]]) -> None:
    """Log matching (Raft 5.3) over a whole log, read from disk where it is no longer in memory."""
    index = group.log.first_index
    while index <= group.log.last_index:
        entries = group.log.memory_slice(index, 64 << 10)
        if entries is None:
            job = group.log.read_job(index, 64 << 10)
            job.run()
            entries = job.entries
        if not entries:
            raise Broken(f"LogMatching: {group.name} index {index} can not be read")
        for entry in entries:
            if entry.index != index or (entry.term, crc32c(entry.payload()), entry.base_offset) != known[index - 1]:
                raise Broken(f"LogMatching: {group.name} holds {entry!r} at index {index}, committed was {known[index - 1]}")
            index += 1
