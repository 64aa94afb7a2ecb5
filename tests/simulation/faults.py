"""What goes wrong. Each kind is drawn by the seed and counted.

A majority may be down at any time, because nothing acknowledged may be lost even then. Files are damaged on one node of a run only: that a majority
keeps its files is what everything rests on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from broker.coordinator.transactions.state import DECIDED
from raft.core.core import Role
from raft.core.message import node_of
from tests.simulation.scheduler import SECOND_US
from wal.entry import GroupId

if TYPE_CHECKING:
    from random import Random

    from tests.simulation.cluster import Cluster
    from tests.simulation.node import SimNode
    from tests.simulation.world import Session


class Faults:
    """Draws one fault after the other until `heal`. `kinds` by name, with their weights."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.random: Random = cluster.random
        self.active = True
        kinds: dict[Callable[[], None], int] = {
            self.crash_one: 2,
            self.crash_leader: 2,
            self.crash_voter: 2,
            self.crash_new_leader: 2,
            self.old_votes: 2,
            self.crash_majority: 1,
            self.crash_all: 1,
            self.power_loss_keeps_nothing: 1,
            self.stop_process: 2,
            self.cut_one_way: 2,
            self.isolate: 2,
            self.isolate_leader: 2,
            self.reset_sessions: 1,
            self.delay: 1,
            self.slow_answers: 2,
            self.loss: 1,
            self.duplication: 2,
            self.slow_disk: 1,
            self.fsync_error: 1,
            self.disk_full: 1,
            self.transfer: 2,
            self.load: 1,
        }
        if len(cluster.node_ids) > len(cluster.first_voters):
            kinds[self.move_replica] = 4
        if cluster.victim:
            kinds[self.flip_bits] = 4
        if cluster.workload.coordinators:
            kinds |= {
                self.crash_coordinator: 3,
                self.crash_after_decision: 4,
                self.crash_after_answer: 3,
                self.isolate_coordinator: 3,
                self.transfer_coordinator: 2,
            }
        self.kinds = [kind for kind, weight in kinds.items() for _ in range(weight)]

    def start(self) -> None:
        self.cluster.scheduler.at(self.random.randrange(100_000, SECOND_US), self._next)

    def _next(self) -> None:
        if not self.active:
            return
        kind = self.random.choice(self.kinds)
        name = getattr(kind, "__name__", "")
        self.cluster.counts[f"fault_{name}"] += 1
        self.cluster.scheduler.trace(name)
        kind()
        self.cluster.scheduler.at(self.random.randrange(*self.cluster.workload.fault_rest_us), self._next)

    def _later(self, low_us: int, high_us: int, callback: Callable[[], None]) -> None:
        self.cluster.scheduler.at(self.random.randrange(low_us, high_us), callback)

    def _any(self) -> SimNode:
        return self.cluster.nodes[self.random.choice(self.cluster.node_ids)]

    # -- processes ------------------------------------------------------------------------------------------------

    def _crash(self, node: SimNode, nothing_kept: bool = False, down_us: int = 3 * SECOND_US) -> None:
        if node.up:
            node.crash("none" if nothing_kept else "random")
            self._later(10_000, down_us, lambda: self.cluster.restart(node))

    def crash_one(self) -> None:
        self._crash(self._any())

    def crash_leader(self) -> None:
        self._crash_leader_of(self.random.choice(list(self.cluster.topics)))

    def _crash_leader_of(self, group: GroupId) -> None:
        for node in self.cluster.live_nodes():
            if node.groups[group].serving:
                self._crash(node)
                return

    def crash_voter(self) -> None:
        """At the next election one of the voters loses its power, and everything not fsynced, while it votes; it is back before the term is over."""

        def trap(node: SimNode, group: Any) -> bool:
            if group.core.role != Role.CANDIDATE or not self.active:
                return not self.active
            others = [other for other in self.cluster.live_nodes() if other is not node]
            for other in others[: self.random.choice((1, 1, 2))]:
                self._later(50, 4000, lambda other=other: self._crash(other, True, 20_000))  # type: ignore[misc]
            return True

        self.cluster.traps.append(trap)

    def crash_new_leader(self) -> None:
        """The next few leaders die before, or just after, their first entries are committed."""
        left = self.random.choice((1, 2, 4))

        def trap(node: SimNode, group: Any) -> bool:
            nonlocal left
            if group.core.role == Role.LEADER and not group.serving and self.active:
                left -= 1
                self._later(50, 8000, lambda: self._crash(node, False, 400_000))
            return left <= 0 or not self.active

        self.cluster.traps.append(trap)

    def old_votes(self) -> None:
        """In the middle of the next elections, votes of earlier ones turn up."""
        left = 4

        def trap(node: SimNode, group: Any) -> bool:
            nonlocal left
            if group.core.role == Role.CANDIDATE and self.active:
                left -= 1
                for vote in self.cluster.votes_given[group.group_id, group.core.replica]:
                    if vote.term < group.core.term:
                        sender = self.cluster.nodes[node_of(vote.sender)]
                        self.cluster.network.deliver_again(sender, node, group.group_id, vote)
            return left <= 0 or not self.active

        self.cluster.traps.append(trap)

    def crash_majority(self) -> None:
        for node in self.random.sample(self.cluster.node_ids, len(self.cluster.node_ids) // 2 + 1):
            self._crash(self.cluster.nodes[node])

    def crash_all(self) -> None:
        for node in self.cluster.nodes.values():
            self._crash(node)

    def power_loss_keeps_nothing(self) -> None:
        """Everything that was not fsynced is gone, on every node: what was acknowledged must not rest on a cache."""
        for node in self.cluster.nodes.values():
            self._crash(node, nothing_kept=True)

    def stop_process(self) -> None:
        node = self._any()
        if node.up and not node.clock.stopped:
            clock = node.clock
            clock.stopped = True
            self._later(50_000, 4 * SECOND_US, clock.resume)

    # -- network --------------------------------------------------------------------------------------------------

    def cut_one_way(self) -> None:
        one, other = self.random.sample(self.cluster.node_ids, 2)
        self._cut([(one, other)])

    def isolate(self) -> None:
        self._isolate(self.random.choice(self.cluster.node_ids))

    def isolate_leader(self) -> None:
        """Its last entries reach nobody, and are truncated when it comes back."""
        leader = self.cluster.leader_of(self.random.choice(list(self.cluster.topics)))
        if leader is not None:
            self._isolate(leader.id)

    def _isolate(self, alone: int) -> None:
        others = [other for other in self.cluster.node_ids if other != alone]
        self._cut([(alone, other) for other in others] + [(other, alone) for other in others])

    def _cut(self, pairs: list[tuple[int, int]]) -> None:
        cuts = self.cluster.network.cuts
        cuts.update(pairs)
        self._later(100_000, 5 * SECOND_US, lambda: cuts.subtract(pairs) if self.active else None)

    def reset_sessions(self) -> None:
        sessions: list[Session] = list(self.cluster.network.sessions.values())
        for session in sessions:
            if self.random.random() < 0.5:
                self.cluster.network.close(session, "reset")

    def delay(self) -> None:
        self.cluster.network.delay_us = self.random.choice(((100, 1500), (1000, 30_000), (10_000, 300_000)))
        self._later(100_000, 3 * SECOND_US, lambda: setattr(self.cluster.network, "delay_us", (100, 1500)))

    def slow_answers(self) -> None:
        """Answers take longer than an election: votes of an earlier term arrive in a later one, and beats are answered when a lease has run out."""
        network = self.cluster.network
        network.answer_delay_us = self.random.choice((300_000, 1_200_000))
        self._later(SECOND_US, 4 * SECOND_US, lambda: setattr(network, "answer_delay_us", 0))

    def loss(self) -> None:
        self.cluster.network.loss = self.random.choice((0.0, 0.01, 0.1))

    def duplication(self) -> None:
        self.cluster.network.duplication = self.random.choice((0.0, 0.1, 0.5))

    # -- disk -----------------------------------------------------------------------------------------------------

    def slow_disk(self) -> None:
        node = self._any()
        node.disk.slow_us = self.random.choice((50_000, 400_000))
        self._later(100_000, 3 * SECOND_US, lambda: setattr(node.disk, "slow_us", 0))

    def fsync_error(self) -> None:
        node = self._any()
        if node.up:
            node.expected_fatal = True
            node.files.faults.sync_errors = 1

    def disk_full(self) -> None:
        files = self._any().files
        files.faults.free_bytes = self.random.randrange(0, 16 << 10)
        self._later(100_000, 2 * SECOND_US, lambda: setattr(files.faults, "free_bytes", None))

    def flip_bits(self) -> None:
        """A few bits of a segment, or of a journal file that is no longer written: behind it flushes are proven to follow, so that it is damage."""
        node = self.cluster.nodes[self.cluster.victim]
        journal = node.store._journal
        if node.store._flushed_generation != journal.generation:
            return  # nothing is known to follow the last full file
        current = journal.current.path
        paths = [path for path in node.files.paths() if path.startswith(("data/wal/", "data/journal/")) and path != current]
        if not paths:
            return
        path = self.random.choice(paths)
        for _ in range(self.random.choice((1, 1, 8))):
            node.files.flip_bit(path, self.random.randrange(max(1, node.files.size(path))), self.random.randrange(8))
        if self.random.random() < 0.5:
            self._crash(node)

    # -- the cluster's own moves ------------------------------------------------------------------------------------

    def transfer(self) -> None:
        for node in self.cluster.live_nodes():
            for group in node.groups.values():
                if group.serving and self.random.random() < 0.5:
                    group.transfer_leadership(self.random.choice(self.cluster.node_ids))

    def load(self) -> None:
        self.cluster.pace_us = self.random.choice((2_000, 20_000, 200_000))

    def move_replica(self) -> None:
        """Another set of voters is wished for one group; `Cluster.reconcile` goes there step by step."""
        group = self.random.choice(list(self.cluster.topics))
        count = self.random.choice((3, 4) if self.cluster.victim else (2, 3, 3, 4))
        self.cluster.wished[group] = frozenset(self.random.sample(self.cluster.node_ids, count))

    # -- coordinators ---------------------------------------------------------------------------------------------

    def _coordinator(self) -> GroupId:
        """A partition whose leader coordinates something."""
        return self.random.choice(self.cluster.workload.coordinators)

    def crash_coordinator(self) -> None:
        self._crash_leader_of(self._coordinator())

    def crash_after_decision(self) -> None:
        """When the next transactions are decided, their coordinator, or a leader of their partitions, dies while that is carried out."""
        left = self.random.choice((1, 2, 3))

        def trap(node: SimNode, group: Any) -> bool:
            nonlocal left
            machine = node.hosted.transaction_machine(group.group_id)
            if self.active and machine is not None and machine.shard.leading and any(t.state in DECIDED for t in machine.transactions.values()):
                left -= 1
                places = [place for t in machine.transactions.values() if t.state in DECIDED for place in sorted(t.partitions)]
                victim = node
                if places and self.random.random() < 0.5:
                    victim = self.cluster.leader_of(self.cluster.workload.groups[self.random.choice(places)]) or node
                self._later(20, 4000, lambda: self._crash(victim, self.random.random() < 0.5, 400_000))
            return left <= 0 or not self.active

        self.cluster.traps.append(trap)

    def crash_after_answer(self) -> None:
        """Nodes lose their power, and everything not fsynced, just after their coordinators have given an answer."""
        left = self.random.choice((1, 2, 4))

        def trap(node: SimNode) -> bool:
            nonlocal left
            if self.active:
                left -= 1
                self._later(1, 300, lambda: self._crash(node, True, 400_000))
            return left <= 0 or not self.active

        self.cluster.promise_traps.append(trap)

    def isolate_coordinator(self) -> None:
        leader = self.cluster.leader_of(self._coordinator())
        if leader is not None:
            self._isolate(leader.id)

    def transfer_coordinator(self) -> None:
        group = self._coordinator()
        leader = self.cluster.leader_of(group)
        if leader is not None:
            leader.groups[group].transfer_leadership(self.random.choice(self.cluster.node_ids))

    # -- the end --------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        self.active = False
        cluster = self.cluster
        network = cluster.network
        network.cuts.clear()
        network.loss = network.duplication = 0.0
        network.delay_us = (100, 1500)
        network.answer_delay_us = 0
        cluster.pace_us = 20_000
        for node in cluster.nodes.values():
            node.files.faults.sync_errors = 0
            node.files.faults.free_bytes = None
            node.expected_fatal = False
            node.disk.slow_us = 0
            if node.clock.stopped:
                node.clock.resume()
            cluster.restart(node)
