"""The table of decisions at start (DESIGN.md section 6, RELIABILITY.md trap 16)."""

from __future__ import annotations

import pytest

from broker.metadata.bootstrap import (
    Answer,
    BootstrapDecision,
    ClusterInfo,
    CreateCluster,
    JoinVia,
    Refuse,
    SeedNode,
    StartExisting,
    Unreachable,
    Wait,
)
from broker.metadata.identity import Identity, new_identity

SEEDS = tuple(SeedNode(n, f"node{n}:9093") for n in (1, 2, 3))
JOINING = new_identity(1, "dir")
MEMBER = Identity(1, "member", 1, "dir", "X", 0)
CREATING = Identity(1, "creating", 1, "dir", "X", 0)
JOINED = Identity(1, "joined", 1, "dir", "X", 0)
DOWN = Unreachable("ConnectionRefused")


def none(node: int, seeds: tuple[int, ...] = ()) -> ClusterInfo:
    return ClusterInfo("", node, seeds=seeds)


def in_cluster(node: int, cluster: str = "X", leader: int = 2) -> ClusterInfo:
    return ClusterInfo(cluster, node, leader, f"node{leader}:9093")


def decide(
    node: int = 1,
    seeds: tuple[SeedNode, ...] = SEEDS,
    identity: Identity | None = JOINING,
    data: bool = False,
    answers: dict[int, Answer] | None = None,
) -> object:
    if identity is not None and identity is JOINING:
        identity = new_identity(node, "dir")
    return BootstrapDecision(node, seeds, identity, data).decide(answers or {})


def test_member_starts_without_asking_anybody() -> None:
    assert decide(identity=MEMBER, data=True) == StartExisting(MEMBER)
    assert decide(identity=MEMBER, data=True, answers={2: DOWN, 3: none(3)}) == StartExisting(MEMBER)
    assert decide(identity=MEMBER, data=True, answers={2: in_cluster(2)}) == StartExisting(MEMBER)
    assert decide(identity=MEMBER, seeds=(), data=True) == StartExisting(MEMBER)


@pytest.mark.parametrize("seeds", [(), SEEDS[:1]])
def test_alone_creates_at_once(seeds: tuple[SeedNode, ...]) -> None:
    assert decide(seeds=seeds) == CreateCluster()
    assert decide(seeds=seeds, identity=None) == CreateCluster()


def test_lowest_seed_creates_when_every_seed_says_no_cluster() -> None:
    assert decide(answers={2: none(2), 3: none(3)}) == CreateCluster()
    assert decide(answers={2: none(2, (1, 2, 3)), 3: none(3, (3, 1))}) == CreateCluster()


def test_lowest_seed_waits_for_all_others() -> None:
    assert decide() == Wait(("Seed node 2@node2:9093 unreachable", "Seed node 3@node3:9093 unreachable"))
    assert decide(answers={2: none(2), 3: DOWN}) == Wait(("Seed node 3@node3:9093 unreachable",))


def test_seeds_that_would_let_another_create_are_not_overruled() -> None:
    decision = decide(answers={2: none(2, (2, 3)), 3: none(3)})
    assert isinstance(decision, Wait) and "nodes [2] have other seed_nodes" in decision.reasons[0]


def test_wiped_lowest_seed_joins_and_never_creates_a_second_cluster() -> None:
    assert decide(answers={2: in_cluster(2), 3: in_cluster(3)}) == JoinVia("X", ("node2:9093", "node3:9093"))
    assert decide(answers={2: DOWN, 3: in_cluster(3)}) == JoinVia("X", ("node2:9093", "node3:9093"))
    assert isinstance(decide(answers={2: none(2), 3: DOWN}), Wait)


@pytest.mark.parametrize("node", [2, 7])
def test_others_only_join(node: int) -> None:
    answers: dict[int, Answer] = {n: none(n) for n in (1, 2, 3)}
    decision = decide(node=node, answers=answers)
    assert isinstance(decision, Wait) and "lowest id creates it" in decision.reasons[0]
    answers[1] = in_cluster(1, leader=1)
    assert decide(node=node, answers=answers) == JoinVia("X", ("node1:9093",))
    decision = decide(node=node, answers={1: DOWN, 2: none(2), 3: none(3)})
    assert isinstance(decision, Wait) and decision.reasons[0] == "Seed node 1@node1:9093 unreachable"


def test_seed_without_a_known_leader_is_asked_itself() -> None:
    assert decide(node=2, answers={1: ClusterInfo("X", 1)}) == JoinVia("X", ("node1:9093",))


def test_creation_goes_on_after_a_crash_under_the_same_rules() -> None:
    assert decide(identity=CREATING, data=True, answers={2: none(2), 3: none(3)}) == CreateCluster()
    assert isinstance(decide(identity=CREATING, data=True, answers={2: DOWN, 3: none(3)}), Wait)
    assert decide(identity=CREATING, data=True, seeds=()) == CreateCluster()
    assert isinstance(decide(identity=CREATING, answers={2: in_cluster(2, "Y")}), Refuse)


def test_joining_goes_on_after_a_crash() -> None:
    assert decide(identity=JOINED, data=True, answers={2: in_cluster(2)}) == JoinVia("X", ("node2:9093",))
    assert isinstance(decide(identity=JOINED, data=True, answers={2: none(2), 3: none(3)}), Wait)  # never creates
    assert isinstance(decide(identity=JOINED, seeds=(), data=True), Wait)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"node": 2, "identity": MEMBER}, "the data directory belongs to node 1, but this node's id is 2; set node_id = 1"),
        ({"identity": MEMBER, "answers": {2: in_cluster(2, "Y")}}, "node 1 belongs to cluster X, but the cluster that it reached is Y"),
        ({"identity": JOINED, "answers": {2: in_cluster(2, "Y")}}, "node 1 belongs to cluster X, but the cluster that it reached is Y"),
        ({"identity": None, "data": True}, "holds data but no identity (node.json)"),
        ({"data": True, "answers": {2: none(2), 3: none(3)}}, "holds data but no identity (node.json)"),
        ({"node": 4, "answers": {1: in_cluster(1), 2: in_cluster(2, "Y")}}, "belong to different clusters (1@node1:9093 to X, 2@node2:9093 to Y)"),
        ({"answers": {2: none(3)}}, "seed_nodes names 2@node2:9093, but the node at node2:9093 says that it is node 3"),
    ],
)
def test_refusals_say_why_and_what_to_do(arguments: dict[str, object], text: str) -> None:
    decision = decide(**arguments)  # type: ignore[arg-type]
    assert isinstance(decision, Refuse) and text in decision.text


def test_worker_of_the_seeds_machine_may_answer() -> None:
    assert decide(node=4, answers={1: in_cluster(1 + 65_536)}) == JoinVia("X", ("node2:9093", "node1:9093"))
