"""A whole simulated cluster and one run of it: faults for a while, then healing, then the final checks. One integer decides everything."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.simulation.invariants import Broken, Invariants
from tests.simulation.node import SimNode
from tests.simulation.scheduler import Scheduler
from tests.simulation.workload import History, Reader, Writer, decode_values
from tests.simulation.world import SimNetwork
from wal.entry import GroupId, group_id

SECOND_US = 1_000_000
HEAL_US = 30 * SECOND_US
WRITERS = 2


@dataclass
class Result:
    seed: int
    fingerprint: str
    events: int
    counts: Counter[str]


class Cluster:
    """Owns the nodes, the clients and the facts about them."""

    def __init__(self, seed: int, nodes: int = 3, groups: int = 2) -> None:
        self.seed = seed
        self.scheduler = Scheduler(seed)
        self.random: Random = self.scheduler.random
        self.counts: Counter[str] = Counter()
        self.node_ids = list(range(1, nodes + 1))
        self.topics: dict[GroupId, str] = {group_id(bytes(15) + bytes([16 + n]), 0): f"topic-{n}" for n in range(groups)}
        self.histories = {group: History(topic) for group, topic in self.topics.items()}
        self.network = SimNetwork(self.scheduler, self.counts)
        self.invariants = Invariants(self)
        self.nodes: dict[int, SimNode] = {}
        for node in self.node_ids:
            self.nodes[node] = SimNode(self, node, Random(self.random.getrandbits(32)))
        self.network.nodes = self.nodes
        self.writers = [Writer(self, group, 10 * index + n) for index, group in enumerate(self.topics) for n in range(WRITERS)]
        self.readers = [Reader(self, group) for group in self.topics]

    def live_nodes(self) -> list[SimNode]:
        return [node for node in self.nodes.values() if node.up and not node.clock.stopped]

    def durable_term(self, node: SimNode, group: GroupId) -> int:
        """The term that certainly was on disk: an entry of it is flushed."""
        log = node.groups[group].log
        return log.term(log.flushed_index) or 0

    def believed_leader(self, group: GroupId) -> int:
        """What a client would find in somebody's metadata: usually right."""
        if self.random.random() < 0.8:
            best = max(
                (n for n in self.live_nodes() if n.groups[group].core.role.name == "LEADER"), key=lambda n: n.groups[group].core.term, default=None
            )
            if best is not None:
                return best.id
        return self.random.choice(self.node_ids)

    def on_fatal(self, node: SimNode, error: BaseException) -> None:
        if not node.expected_fatal:
            raise Broken(f"node {node.id} stopped by itself: {type(error).__name__}: {error}") from error
        self.counts["stopped_on_fault"] += 1
        node.expected_fatal = False
        node.crash(torn=False)
        self.scheduler.at(SECOND_US, lambda: self.restart(node))

    def restart(self, node: SimNode) -> None:
        if not node.up:
            self.counts["restart"] += 1
            node.files.heal()
            node.expected_fatal = False
            node.start()


class Faults:
    """Draws faults. Each kind is counted; a majority may be down at any time, because nothing acknowledged may be lost even then."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.random = cluster.random
        self.active = True
        self.kinds: list[Callable[[], None]] = [
            self.crash_one,
            self.crash_one,
            self.crash_leader,
            self.crash_majority,
            self.crash_all,
            self.stop_process,
            self.cut_one_way,
            self.isolate,
            self.reset_sessions,
            self.delay,
            self.loss,
            self.duplication,
            self.slow_disk,
            self.fsync_error,
            self.disk_full,
            self.transfer,
        ]

    def start(self) -> None:
        self.cluster.scheduler.at(self.random.randrange(100_000, SECOND_US), self._next)

    def _next(self) -> None:
        if not self.active:
            return
        kind = self.random.choice(self.kinds)
        self.cluster.counts[f"fault_{kind.__name__}"] += 1
        self.cluster.scheduler.trace(kind.__name__)
        kind()
        self.cluster.scheduler.at(self.random.randrange(50_000, 2 * SECOND_US), self._next)

    def _later(self, low_us: int, high_us: int, callback: Callable[[], None]) -> None:
        self.cluster.scheduler.at(self.random.randrange(low_us, high_us), callback)

    def _crash(self, node: SimNode) -> None:
        if node.up:
            node.crash()
            self._later(10_000, 3 * SECOND_US, lambda: self.cluster.restart(node))

    def crash_one(self) -> None:
        self._crash(self.cluster.nodes[self.random.choice(self.cluster.node_ids)])

    def crash_leader(self) -> None:
        group = self.random.choice(list(self.cluster.topics))
        for node in self.cluster.live_nodes():
            if node.groups[group].serving:
                self._crash(node)
                return

    def crash_majority(self) -> None:
        for node in self.random.sample(self.cluster.node_ids, len(self.cluster.node_ids) // 2 + 1):
            self._crash(self.cluster.nodes[node])

    def crash_all(self) -> None:
        for node in self.cluster.nodes.values():
            self._crash(node)

    def stop_process(self) -> None:
        node = self.cluster.nodes[self.random.choice(self.cluster.node_ids)]
        if node.up and not node.clock.stopped:
            clock = node.clock
            clock.stopped = True
            self._later(50_000, 4 * SECOND_US, clock.resume)

    def cut_one_way(self) -> None:
        one, other = self.random.sample(self.cluster.node_ids, 2)
        self._cut({(one, other)})

    def isolate(self) -> None:
        alone = self.random.choice(self.cluster.node_ids)
        self._cut({pair for other in self.cluster.node_ids if other != alone for pair in ((alone, other), (other, alone))})

    def _cut(self, pairs: set[tuple[int, int]]) -> None:
        cuts = self.cluster.network.cuts
        cuts |= pairs
        self._later(100_000, 5 * SECOND_US, lambda: cuts.difference_update(pairs))

    def reset_sessions(self) -> None:
        for session in list(self.cluster.network.sessions.values()):
            if self.random.random() < 0.5:
                self.cluster.network.close(session, "reset")

    def delay(self) -> None:
        self.cluster.network.delay_us = self.random.choice(((100, 1500), (1000, 30_000), (10_000, 300_000)))

    def loss(self) -> None:
        self.cluster.network.loss = self.random.choice((0.0, 0.01, 0.1))

    def duplication(self) -> None:
        self.cluster.network.duplication = self.random.choice((0.0, 0.05, 0.3))

    def slow_disk(self) -> None:
        node = self.cluster.nodes[self.random.choice(self.cluster.node_ids)]
        node.disk.slow_us = self.random.choice((0, 50_000, 400_000))

    def fsync_error(self) -> None:
        node = self.cluster.nodes[self.random.choice(self.cluster.node_ids)]
        if node.up:
            node.expected_fatal = True
            node.files.fail_fsync_after(self.random.randrange(0, 4))

    def disk_full(self) -> None:
        node = self.cluster.nodes[self.random.choice(self.cluster.node_ids)]
        files = node.files
        files.limit_free_bytes(self.random.randrange(0, 4096))
        self._later(100_000, 2 * SECOND_US, lambda: files.limit_free_bytes(None))

    def transfer(self) -> None:
        for node in self.cluster.live_nodes():
            for group in node.groups.values():
                if group.serving and self.random.random() < 0.5:
                    group.transfer_leadership(self.random.choice(self.cluster.node_ids))

    def heal(self) -> None:
        self.active = False
        network = self.cluster.network
        network.cuts.clear()
        network.loss = network.duplication = 0.0
        network.delay_us = (100, 1500)
        for node in self.cluster.nodes.values():
            node.files.heal()
            node.expected_fatal = False
            node.disk.slow_us = 0
            if node.clock.stopped:
                node.clock.resume()
            self.cluster.restart(node)


def run_seed(seed: int, fault_seconds: float = 12.0, nodes: int = 3, groups: int = 2) -> Result:
    """One whole run.

    Args:
        seed: decides everything.
        fault_seconds: simulated time with faults.

    Raises:
        Broken: an invariant does not hold; its text says which. Run the same seed again to see it again.
    """
    logging.disable(logging.CRITICAL)
    cluster = Cluster(seed, nodes, groups)
    scheduler = cluster.scheduler
    scheduler.after_event = cluster.invariants.after_event
    for node in cluster.nodes.values():
        node.start()
    for writer in cluster.writers:
        scheduler.at(cluster.random.randrange(SECOND_US), writer.next_batch)
    for reader in cluster.readers:
        scheduler.at(2 * SECOND_US, reader.poll)
    faults = Faults(cluster)
    faults.start()
    scheduler.run_until(int(fault_seconds * SECOND_US))
    faults.heal()
    healed_at = cluster.counts["acknowledged"]
    for writer in cluster.writers:
        scheduler.at(HEAL_US // 2, lambda w=writer: setattr(w, "stopped", True))  # type: ignore[misc]
    scheduler.run_until(scheduler.now_us + HEAL_US)
    if cluster.counts["acknowledged"] <= healed_at:
        raise Broken(f"NoProgress: nothing was acknowledged within {HEAL_US // SECOND_US} s after healing")
    check_at_rest(cluster)
    for counter in (node.files.counts for node in cluster.nodes.values()):
        cluster.counts.update({f"file_{name}": count for name, count in counter.items()})
    return Result(seed, scheduler.fingerprint(), scheduler.events, cluster.counts)


def check_at_rest(cluster: Cluster) -> None:
    """Healed and quiet: every replica is equal, and every acknowledged record is where it was acknowledged."""
    cluster.invariants.log_matching.at_rest()
    for group_id_, history in cluster.histories.items():
        leaders = [node for node in cluster.live_nodes() if node.groups[group_id_].serving]
        if len(leaders) != 1:
            raise Broken(f"NoLeader: {history.name} has {len(leaders)} serving leaders after healing")
        leader = leaders[0]
        states = set()
        for node in cluster.nodes.values():
            group = node.groups[group_id_]
            if group.log.quarantined:
                continue
            if group.commit_index != leader.groups[group_id_].commit_index:
                raise Broken(
                    f"NotEqual: {history.name} commit {group.commit_index} on node {node.id}, {leader.groups[group_id_].commit_index} on the leader"
                )
            captured = node.partitions[group_id_].capture()
            states.add(captured)
        if len(states) > 1:
            raise Broken(f"ProducerStateEqual: {history.name}: the replicas' states differ")
        history.check_final(read_all(cluster, leader, group_id_))


def read_all(cluster: Cluster, leader: SimNode, group: GroupId) -> list[bytes]:
    """The whole partition from offset 0, through the ordinary read path."""
    partition = leader.partitions[group]
    values: list[bytes] = []
    while len(values) < partition.high_watermark:
        answers: list[Any] = []
        partition.read(len(values), 1 << 20, -1, False, True, answers.append)
        for _ in range(1000):
            if answers:
                break
            cluster.scheduler.run_until(cluster.scheduler.now_us + 1000)
        if not answers or answers[0].error:
            raise Broken(f"Unreadable: {partition.topic} offset {len(values)}: {answers and answers[0].error}")
        before = len(values)
        for offset, value in decode_values(answers[0].chunks):
            if offset == len(values):
                values.append(value)
        if len(values) == before:
            raise Broken(f"Unreadable: {partition.topic} offset {before} gives nothing below the high watermark {partition.high_watermark}")
    return values
