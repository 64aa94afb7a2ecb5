"""Random schedules over three and five replicas: drops, duplicates, reordering, slow flushes, crashes, trimming, membership changes and transfers.

Every move is followed by the invariants of `tests.unit.raft_core.cluster`. At the end the cluster is healed and must make progress.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raft.core.core import Role
from tests.unit.raft_core.cluster import Broken, Cluster

Move = tuple[int, int, int]


class Schedule:
    """Turns triples of integers into moves. Every triple is some move, so that failures shrink well."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ids = sorted(cluster.replicas)
        self.counts: Counter[str] = Counter()
        self.value = 0
        weights: list[tuple[int, Callable[[int, int], None]]] = [
            (30, self.deliver),
            (16, self.flush),
            (6, self.begin_flush),
            (6, self.end_flush),
            (10, self.propose),
            (3, self.campaign),
            (2, self.drop),
            (3, self.duplicate),
            (2, self.restart),
            (1, self.cut),
            (6, self.heal),
            (3, self.change_members),
            (2, self.transfer),
            (2, self.session_reset),
            (4, self.timers),
            (2, self.trim),
            (2, self.evict),
            (3, self.read),
            (3, self.snapshot),
            (1, self.quorum_lost),
        ]
        self.table = [action for weight, action in weights for _ in range(weight)]

    def run(self, moves: list[Move]) -> None:
        for kind, a, b in moves:
            action = self.table[kind % len(self.table)]
            action(a, b)
            self.counts[action.__name__] += 1

    def pick(self, number: int) -> int:
        return self.ids[number % len(self.ids)]

    def leading(self, number: int) -> int:
        leaders = [replica for replica in self.ids if self.cluster.core(replica).role == Role.LEADER]
        return leaders[number % len(leaders)] if leaders else self.pick(number)

    def deliver(self, a: int, b: int) -> None:
        """Mostly in order, sometimes not; the opinion about the leader is arbitrary."""
        for _ in range(b % 6 + 1):
            network = self.cluster.network
            if network:
                message = network.pop(a % min(len(network), 1 if b % 4 else 8))
                if (message.sender, message.receiver) not in self.cluster.blocked:
                    self.cluster.deliver(message, leader_alive=b % 3 == 0)

    def flush(self, a: int, b: int) -> None:
        self.cluster.flush(self.pick(a))

    def begin_flush(self, a: int, b: int) -> None:
        self.cluster.begin_flush(self.pick(a))

    def end_flush(self, a: int, b: int) -> None:
        self.cluster.end_flush(self.pick(a))

    def propose(self, a: int, b: int) -> None:
        for _ in range(b % 3 + 1):
            self.value += 1
            self.cluster.propose(self.leading(a), b"v%d" % self.value + b"x" * (b % 40))

    def campaign(self, a: int, b: int) -> None:
        self.cluster.campaign(self.pick(a), transfer=b % 8 == 0)

    def drop(self, a: int, b: int) -> None:
        if self.cluster.network:
            self.cluster.network.pop(a % len(self.cluster.network))

    def duplicate(self, a: int, b: int) -> None:
        if self.cluster.network:
            self.cluster.network.append(self.cluster.network[a % len(self.cluster.network)])

    def restart(self, a: int, b: int) -> None:
        self.cluster.restart(self.pick(a))

    def cut(self, a: int, b: int) -> None:
        side = [replica for position, replica in enumerate(self.ids) if a >> position & 1]
        self.cluster.partition(side, [replica for replica in self.ids if replica not in side])

    def heal(self, a: int, b: int) -> None:
        self.cluster.heal()

    def change_members(self, a: int, b: int) -> None:
        voters = [replica for position, replica in enumerate(self.ids) if a >> position & 1]
        learners = [replica for position, replica in enumerate(self.ids) if b >> position & 1 and replica not in voters]
        self.cluster.do(self.leading(a), lambda core: core.propose_configuration(voters, learners))

    def transfer(self, a: int, b: int) -> None:
        action = (lambda core: core.abort_transfer()) if b % 3 == 0 else (lambda core: core.transfer_leadership(self.pick(b)))
        self.cluster.do(self.leading(a), action)

    def session_reset(self, a: int, b: int) -> None:
        action = (lambda core: core.peer_unreachable(self.pick(b))) if b % 4 == 0 else (lambda core: core.peer_reset(self.pick(b)))
        self.cluster.do(self.leading(a), action)

    def timers(self, a: int, b: int) -> None:
        self.cluster.do(self.leading(a), lambda core: core.retry_unsettled() if b % 2 else core.broadcast_commit())

    def trim(self, a: int, b: int) -> None:
        replica = self.pick(a)
        self.cluster.trim(replica, self.cluster.log(replica).first_index + b % 8)

    def evict(self, a: int, b: int) -> None:
        log = self.cluster.log(self.pick(a))
        log.memory_first = max(log.memory_first, log.committed_index + 1 - b % 3)

    def read(self, a: int, b: int) -> None:
        self.cluster.serve_read(self.pick(a), ok=b % 5 != 0)

    def snapshot(self, a: int, b: int) -> None:
        self.cluster.serve_snapshot(ok=b % 4 != 0)

    def quorum_lost(self, a: int, b: int) -> None:
        self.cluster.do(self.leading(a), lambda core: core.quorum_lost())


def make_progress(cluster: Cluster) -> None:
    """Heal, let timers fire, and demand that a new entry commits on every member."""
    cluster.heal()
    cluster.network.clear()
    for attempt in range(40):
        candidates = sorted(cluster.replicas)
        cluster.campaign(candidates[attempt % len(candidates)])
        cluster.stabilize()
        leader = cluster.leader()
        if leader is None or leader.commit_index < leader.term_start_index:
            # Someone leads an old term, or waits for replicas that forgot it: sessions are new now.
            for replica in candidates:
                cluster.do(replica, lambda core: [core.peer_reset(peer) for peer in list(core.progress)])
            cluster.stabilize()
            leader = cluster.leader()
        if leader is None:
            continue
        replica = leader.replica
        for _ in range(70):
            cluster.do(replica, lambda core: core.retry_unsettled())
            cluster.stabilize()
        for peer in list(leader.progress):
            cluster.do(replica, lambda core, peer=peer: core.report_snapshot(peer, False))
            cluster.do(replica, lambda core, peer=peer: core.peer_reset(peer))
        cluster.do(replica, lambda core: core.abort_transfer())
        if leader.role == Role.LEADER and cluster.propose(replica, b"last"):
            wanted = leader.log.last_index
            cluster.stabilize()
            cluster.do(replica, lambda core: core.broadcast_commit())
            cluster.stabilize()
            if leader.role == Role.LEADER and leader.commit_index >= wanted:
                lagging = [peer for peer in leader.progress if cluster.core(peer).commit_index < wanted]
                if lagging:
                    raise Broken(f"replicas {lagging} do not learn what is committed: {leader.progress}")
                return
    raise Broken(
        f"no progress after the cluster was healed: {[(r.id, r.core.role.name, r.core.term, r.core.progress) for r in cluster.replicas.values()]}"
    )


def random_moves(seed: int, count: int) -> list[Move]:
    source = random.Random(seed)
    return [(source.randrange(1 << 16), source.randrange(1 << 16), source.randrange(1 << 16)) for _ in range(count)]


MOVES = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255), st.integers(0, 255)), min_size=20, max_size=150)
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@SETTINGS
@given(MOVES)
def test_three_replicas_keep_every_invariant(moves: list[Move]) -> None:
    cluster = Cluster((1, 2, 3))
    Schedule(cluster).run(moves)
    make_progress(cluster)


@SETTINGS
@given(MOVES)
def test_five_replicas_with_changing_members_keep_every_invariant(moves: list[Move]) -> None:
    cluster = Cluster((1, 2, 3), learners=(4,), others=(5,))
    Schedule(cluster).run(moves)
    make_progress(cluster)


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_long_schedules_with_every_kind_of_move(first: int) -> None:
    """A failure names its seed: `random_moves(seed, 700)` reproduces it."""
    counts: Counter[str] = Counter()
    terms = commits = snapshots = 0
    for seed in range(first, first + 10):
        cluster = Cluster((1, 2, 3), learners=(4,), others=(5,)) if seed % 2 else Cluster((1, 2, 3, 4, 5) if seed % 4 else (1, 2, 3))
        schedule = Schedule(cluster)
        try:
            schedule.run(random_moves(seed, 700))
            make_progress(cluster)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        counts += schedule.counts
        terms += len(cluster.leaders)
        commits += len(cluster.committed)
        snapshots += sum(replica.log.first_index > 1 for replica in cluster.replicas.values())
    assert set(counts) == {action.__name__ for action in Schedule(Cluster((1,))).table}
    assert terms > 20, "leaders changed"
    assert commits > 100, "entries were committed"
    assert snapshots > 0, "logs were trimmed"
