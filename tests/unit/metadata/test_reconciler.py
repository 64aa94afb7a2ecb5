"""Each case of the plan: `__meta`'s members, a partition's members, preferred leaders."""

from __future__ import annotations

from broker.metadata.image import MetadataImage
from broker.metadata.reconciler import (
    REBALANCE_AFTER_MS,
    REBALANCE_PAUSE_MS,
    TRANSFERS_PER_PLAN_MAX,
    ChangeMembers,
    GroupView,
    Reconciler,
    Step,
    TransferLeader,
    meta_voters_wanted,
    plan_meta,
    plan_partition,
)
from broker.metadata.records import BrokerRegistered, PartitionSpec, ReplicasAssigned, TopicCreated
from tests.unit.metadata.support import brokers, image_of, topic_id
from wal.entry import META_GROUP, GroupId, group_id

ALL = frozenset(range(1, 10))


def view(
    voters: set[int],
    learners: set[int] = frozenset(),
    behind: set[int] = frozenset(),
    leader: int = 1,
    group: GroupId = META_GROUP,  # type: ignore[assignment]
) -> GroupView:
    return GroupView(group, leader, frozenset(voters), frozenset(learners), (frozenset(voters) | frozenset(learners)) - frozenset(behind))


def cluster(count: int, racks: list[str | None] | None = None) -> MetadataImage:
    return image_of(*brokers(count, racks or ()))


def members(step: Step | None) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    if step is None:
        return None
    assert isinstance(step, ChangeMembers), step
    return step.voters, step.learners


def test_meta_voters_wanted() -> None:
    assert [meta_voters_wanted(n) for n in range(9)] == [0, 1, 2, 3, 3, 5, 5, 5, 5]


def test_registered_brokers_follow_one_by_one_when_they_are_alive() -> None:
    image = cluster(3)
    assert members(plan_meta(image, view({1}), ALL)) == ((1,), (2,))
    assert members(plan_meta(image, view({1}), frozenset({1, 3}))) == ((1,), (3,))
    assert plan_meta(image, view({1})._replace(changing=True), ALL) is None
    assert plan_meta(image, view({1}, leader=-1), ALL) is None
    assert plan_meta(MetadataImage(), view({1}), ALL) is None


def test_learners_are_promoted_when_they_have_caught_up_up_to_five() -> None:
    assert members(plan_meta(cluster(2), view({1}, {2}), ALL)) == ((1, 2), ())
    assert plan_meta(cluster(2), view({1}, {2}, behind={2}), ALL) is None
    assert plan_meta(cluster(2), view({1}, {2}), frozenset({1})) is None
    assert members(plan_meta(cluster(3), view({1, 2}, {3}), ALL)) == ((1, 2, 3), ())
    assert plan_meta(cluster(4), view({1, 2, 3}, {4}), ALL) is None  # four voters survive no more than three
    assert members(plan_meta(cluster(5), view({1, 2, 3}, {4, 5}), ALL)) == ((1, 2, 3, 4), (5,))
    assert members(plan_meta(cluster(5), view({1, 2, 3, 4}, {5}), ALL)) == ((1, 2, 3, 4, 5), ())
    assert plan_meta(cluster(7), view({1, 2, 3, 4, 5}, {6, 7}), ALL) is None


def test_meta_grows_from_one_to_five_and_rests() -> None:
    image, current = cluster(6), view({1})
    steps = 0
    while (step := plan_meta(image, current, ALL)) is not None:
        assert isinstance(step, ChangeMembers)
        assert len(current.voters ^ set(step.voters)) <= 1
        current = view(set(step.voters), set(step.learners))
        steps += 1
        assert steps < 20
    assert len(current.voters) == 5 and len(current.learners) == 1


def test_meta_voters_have_racks_of_their_own_while_there_are_enough() -> None:
    image = cluster(5, ["a", "a", "a", "b", "c"])
    assert members(plan_meta(image, view({1}, {2, 3, 4, 5}), ALL)) == ((1, 4), (2, 3, 5))
    assert members(plan_meta(image, view({1, 4}, {2, 3, 5}), ALL)) == ((1, 4, 5), (2, 3))
    assert plan_meta(image, view({1, 4, 5}, {2, 3}), ALL) is None
    # The racks b and c came late: two voters share a. One of another rack is promoted first, then one of a steps back.
    late = view({1, 2, 4}, {3, 5})
    grown = plan_meta(image, late, ALL)
    assert members(grown) == ((1, 2, 4, 5), (3,))
    assert members(plan_meta(image, view({1, 2, 4, 5}, {3}), ALL)) == ((1, 4, 5), (2, 3))
    one_machine = cluster(3, ["a", "a", "a"])
    assert members(plan_meta(one_machine, view({1, 2}, {3}), ALL)) == ((1, 2, 3), ())


def test_unregistered_broker_leaves_meta() -> None:
    image = image_of(*brokers(3)[:2])
    assert members(plan_meta(image, view({1, 2}, {3}), ALL)) == ((1, 2), ())
    assert members(plan_meta(image, view({1, 2, 3}, behind={3}), ALL)) == ((1, 2), ())
    assert plan_meta(image, view({1, 2, 3}, behind={2, 3}), ALL) is None  # no majority of the rest is in sync
    step = plan_meta(image, view({1, 2, 3}, leader=3), ALL)
    assert step == TransferLeader(META_GROUP, 3, 1, "broker is not registered any more: the leader itself is to go")


def test_broker_that_lost_its_disk_comes_back_under_a_new_replica_id() -> None:
    new = 3 + (1 << 32)
    image = image_of(*brokers(2), BrokerRegistered(3, "h", 1, "r", directory_id="new", generation=1))
    assert members(plan_meta(image, view({1, 2, 3}, behind={3}), ALL)) == ((1, 2, 3), (new,))
    assert members(plan_meta(image, view({1, 2, 3}, {new}, behind={3}), ALL)) == ((1, 2), (new,))
    assert members(plan_meta(image, view({1, 2}, {new}), ALL)) == ((1, 2, new), ())


G = group_id(topic_id(1), 0)


def topic(replicas: tuple[int, ...], wish: tuple[int, ...] | None = None, count: int = 6) -> MetadataImage:
    created = TopicCreated("t", topic_id(1), (PartitionSpec(replicas),))
    wished = [ReplicasAssigned(topic_id(1), 0, wish)] if wish else []
    return image_of(*brokers(count), created, *wished)


def plan(image: MetadataImage, current: GroupView, alive: frozenset[int] = ALL) -> Step | None:
    return plan_partition(image, image.topics["t"].partitions[0], current._replace(group=G), alive)


def test_partition_at_rest() -> None:
    assert plan(topic((1, 2, 3)), view({1, 2, 3})) is None
    assert plan(topic((1, 2, 3)), view({1, 2, 3}, behind={2})) is None
    assert plan(topic((1, 2, 3), (4, 5, 6)), view({1, 2, 3}, leader=-1)) is None
    assert plan(topic((1, 2, 3), (4, 5, 6)), view({1, 2, 3})._replace(changing=True)) is None


def test_reassignment_one_safe_step_at_a_time() -> None:
    image = topic((1, 2, 3), (4, 5, 6))
    assert members(plan(image, view({1, 2, 3}))) == ((1, 2, 3), (4,))
    assert plan(image, view({1, 2, 3}, {4}, behind={4})) is None
    assert members(plan(image, view({1, 2, 3}, {4}))) == ((1, 2, 3, 4), ())
    assert members(plan(image, view({1, 2, 3, 4}))) == ((1, 3, 4), ())  # the leader goes last
    assert members(plan(image, view({1, 2, 3, 4}, behind={2}))) == ((1, 3, 4), ())  # one that is behind goes first
    assert plan(image, view({1, 4, 5, 6})) == TransferLeader(G, 1, 4, "reassignment: the leader itself is to go")
    assert members(plan(image, view({1, 4, 5, 6}, leader=4))) == ((4, 5, 6), ())


def test_reassignment_ends_and_never_goes_below_the_wish() -> None:
    for wish in ((4, 5, 6), (3, 1, 2), (2,), (1, 2, 3, 4, 5), (5, 1)):
        image, current = topic((1, 2, 3), wish), view({1, 2, 3})
        for _ in range(40):
            step = plan(image, current)
            if step is None:
                break
            if isinstance(step, TransferLeader):
                assert step.target in current.voters
                current = current._replace(leader=step.target)
                continue
            assert len(current.voters ^ set(step.voters)) <= 1
            assert len(step.voters) >= min(len(wish), 3)
            current = view(set(step.voters), set(step.learners), leader=current.leader)
        assert current.voters == set(wish) and not current.learners


def test_voter_is_not_removed_unless_a_majority_of_the_rest_is_in_sync() -> None:
    image = topic((1, 2, 3), (1, 2, 4))
    assert plan(image, view({1, 2, 3, 4}, behind={2, 4})) is None
    assert members(plan(image, view({1, 2, 3, 4}, behind={4}))) == ((1, 2, 4), ())


def test_wish_that_changed_meanwhile() -> None:
    assert members(plan(topic((1, 2, 3), (1, 2, 5)), view({1, 2, 3}, {4}))) == ((1, 2, 3), ())


def test_dead_brokers_do_not_hold_up_a_move() -> None:
    image = topic((1, 2, 3), (4, 5, 6))
    alive = frozenset({1, 2, 3, 5, 6})
    assert members(plan(image, view({1, 2, 3}), alive)) == ((1, 2, 3), (5,))
    assert members(plan(image, view({1, 2, 3}, {4}, behind={4}), alive)) == ((1, 2, 3), (4, 5))


def test_unregistered_broker_keeps_its_place_until_somebody_takes_it() -> None:
    image = image_of(*brokers(2), TopicCreated("t", topic_id(1), (PartitionSpec((1, 2, 3)),)))
    assert plan(image, view({1, 2, 3}, behind={3})) is None
    new = 3 + (1 << 32)
    image = image_of(
        *brokers(2), BrokerRegistered(3, "h", 1, "r", directory_id="n", generation=1), TopicCreated("t", topic_id(1), (PartitionSpec((1, 2, 3)),))
    )
    assert members(plan(image, view({1, 2, 3}, behind={3}))) == ((1, 2, 3), (new,))
    assert members(plan(image, view({1, 2, 3}, {new}, behind={3}))) == ((1, 2, new), ())  # in the place of its predecessor, in one step
    assert members(plan(image, view({1, 2, 3, new}, behind={3}))) == ((1, 2, new), ())
    image = image_of(TopicCreated("t", topic_id(1), (PartitionSpec((1, 2, 3)),)))
    assert plan(image, view({1, 2, 3})) is None  # nobody of the wish is left


def spread(count: int) -> MetadataImage:
    return image_of(*brokers(3), TopicCreated("t", topic_id(1), tuple(PartitionSpec((2, 1, 3)) for _ in range(count))))


def leads(count: int, leader: int, isr: tuple[int, ...]) -> dict[GroupId, tuple[int, tuple[int, ...]]]:
    return {group_id(topic_id(1), number): (leader, isr) for number in range(count)}


def test_preferred_leader_gets_its_partition_back_after_a_while_and_is_not_asked_again_at_once() -> None:
    reconciler, image = Reconciler(), spread(1)
    state = leads(1, 1, (1, 2, 3))
    assert reconciler.plan_leaders(0, image, state, ALL) == []
    assert reconciler.plan_leaders(REBALANCE_AFTER_MS - 1, image, state, ALL) == []
    (step,) = reconciler.plan_leaders(REBALANCE_AFTER_MS, image, state, ALL)
    assert step == TransferLeader(G, 1, 2, "preferred leader is back")
    assert reconciler.plan_leaders(REBALANCE_AFTER_MS + 1, image, state, ALL) == []
    assert reconciler.plan_leaders(REBALANCE_AFTER_MS + REBALANCE_PAUSE_MS, image, state, ALL) == [step]


def test_preferred_leader_must_stay_fit_all_the_while() -> None:
    reconciler, image = Reconciler(), spread(1)
    reconciler.plan_leaders(0, image, leads(1, 1, (1, 2)), ALL)
    reconciler.plan_leaders(3_000, image, leads(1, 1, (1,)), ALL)  # fell out of the isr
    assert reconciler.plan_leaders(6_000, image, leads(1, 1, (1, 2)), ALL) == []
    assert len(reconciler.plan_leaders(6_000 + REBALANCE_AFTER_MS, image, leads(1, 1, (1, 2)), ALL)) == 1


def test_leadership_stays_where_it_must() -> None:
    for state, alive in (
        (leads(1, 2, (1, 2)), ALL),
        (leads(1, -1, (1, 2)), ALL),
        (leads(1, 1, (1, 3)), ALL),
        (leads(1, 1, (1, 2)), frozenset({1, 3})),
        ({}, ALL),
    ):
        reconciler = Reconciler()
        for now_ms in (0, 100_000):
            assert reconciler.plan_leaders(now_ms, spread(1), state, alive) == []


def test_few_at_a_time() -> None:
    reconciler, image, state = Reconciler(), spread(10), leads(10, 1, (1, 2, 3))
    asked: set[GroupId] = set()
    for now_ms in (0, REBALANCE_AFTER_MS, REBALANCE_AFTER_MS + 1, REBALANCE_AFTER_MS + 2):
        steps = reconciler.plan_leaders(now_ms, image, state, ALL)
        assert len(steps) <= TRANSFERS_PER_PLAN_MAX
        assert not asked & {step.group for step in steps}
        asked |= {step.group for step in steps}
    assert len(asked) == 10


def test_whole_plan_leaves_leaders_of_moving_partitions_alone() -> None:
    image = topic((2, 1, 3), (2, 3, 4))
    reconciler = Reconciler()
    views = {META_GROUP: view({1}), G: view({1, 2, 3}, group=G)}
    reconciler.plan(0, image, views, leads(1, 1, (1, 2, 3)), ALL)
    steps = reconciler.plan(REBALANCE_AFTER_MS, image, views, leads(1, 1, (1, 2, 3)), ALL)
    assert [type(step) for step in steps] == [ChangeMembers, ChangeMembers] and {step.group for step in steps} == {META_GROUP, G}
