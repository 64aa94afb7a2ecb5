"""The classic group protocol: joining, syncing, beating, leaving, static members, and the same across a change of the coordinator."""

from __future__ import annotations

import pytest

from broker.coordinator.groups.config import GroupConfig
from broker.errors import ErrorCode
from tests.unit.coordinator.support import Groups, subscription


@pytest.fixture
def groups() -> Groups:
    return Groups()


class TestJoin:
    def test_a_new_group_waits_for_the_initial_delay(self, groups: Groups) -> None:
        first = groups.join()
        groups.advance(2_999)
        assert not first.done
        groups.advance(1)
        result = first.value
        assert (result.error, result.generation_id, result.protocol, result.protocol_type) == (ErrorCode.NONE, 1, "range", "consumer")
        assert result.leader == result.member_id and [m[0] for m in result.members] == [result.member_id]

    def test_who_comes_during_the_delay_prolongs_it_but_not_beyond_the_rebalance_time_out(self, groups: Groups) -> None:
        first = groups.join(rebalance_ms=7_000)
        for _ in range(2):
            groups.advance(2_999)
            groups.join(rebalance_ms=7_000)
            groups.advance(1)
            assert not first.done
        groups.advance(999)
        assert not first.done
        groups.advance(1)
        assert first.value.generation_id == 1 and len(first.value.members) == 3

    def test_a_first_join_is_sent_back_for_its_member_id(self, groups: Groups) -> None:
        sent_back = groups.join(known=True).value
        assert sent_back.error is ErrorCode.MEMBER_ID_REQUIRED and sent_back.member_id.startswith("c-")
        again = groups.join(member=sent_back.member_id, known=True)
        groups.advance(3_000)
        assert again.value.error is ErrorCode.NONE and again.value.member_id == sent_back.member_id

    def test_an_id_that_is_not_used_holds_up_nobody_for_ever(self, groups: Groups) -> None:
        unused = groups.join(known=True, session_ms=10_000).value.member_id
        other = groups.join()
        groups.advance(3_000)
        assert other.value.generation_id == 1
        groups.advance(7_000)
        assert groups.join(member=unused, known=True).value.error is ErrorCode.UNKNOWN_MEMBER_ID

    @pytest.mark.parametrize("session_ms", [999, 1_800_001])
    def test_session_time_outs_have_bounds(self, groups: Groups, session_ms: int) -> None:
        assert groups.join(session_ms=session_ms).value.error is ErrorCode.INVALID_SESSION_TIMEOUT

    def test_an_unknown_member_of_an_unknown_group(self, groups: Groups) -> None:
        assert groups.join(member="x").value.error is ErrorCode.UNKNOWN_MEMBER_ID
        assert groups.state() == "none"

    def test_protocols_must_have_one_in_common(self, groups: Groups) -> None:
        groups.stable_group(1, protocols=("range", "roundrobin"))
        assert groups.join(protocols=("sticky",)).value.error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        assert groups.join(type="connect").value.error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        assert groups.join(protocols=()).value.error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL

    def test_the_protocol_that_most_prefer_is_chosen(self, groups: Groups) -> None:
        joins = [groups.join(protocols=p) for p in (("a", "b", "c"), ("b", "a"), ("b", "a", "d"))]
        groups.advance(60_000)
        assert {join.value.protocol for join in joins} == {"b"}

    def test_a_group_has_at_most_so_many_members(self) -> None:
        groups = Groups(GroupConfig(members_max=2, initial_rebalance_delay_ms=0))
        groups.stable_group(2)
        assert groups.join().value.error is ErrorCode.GROUP_MAX_SIZE_REACHED
        assert groups.state() == "Stable"

    def test_members_that_do_not_come_back_are_out(self, groups: Groups) -> None:
        leader, other = groups.stable_group(2, rebalance_ms=5_000)
        third = groups.join(rebalance_ms=5_000)
        assert groups.beat(1, leader.member_id) is ErrorCode.REBALANCE_IN_PROGRESS
        again = groups.join(member=leader.member_id, rebalance_ms=5_000)
        groups.advance(4_999)
        assert not third.done
        groups.advance(1)
        assert third.value.generation_id == again.value.generation_id == 2
        assert groups.beat(1, other.member_id) is ErrorCode.UNKNOWN_MEMBER_ID

    def test_all_are_here_ends_the_rebalance_at_once(self, groups: Groups) -> None:
        leader, other = groups.stable_group(2)
        again = [groups.join(member=leader.member_id), groups.join(member=other.member_id)]
        assert [one.value.generation_id for one in again] == [2, 2]

    def test_a_follower_that_asks_again_is_told_what_it_knows(self, groups: Groups) -> None:
        _, other = groups.stable_group(2)
        assert groups.join(member=other.member_id).value.generation_id == 1
        assert groups.state() == "Stable"
        groups.join(member=other.member_id, metadata=subscription("t", "u"))
        assert groups.state() == "PreparingRebalance"


class TestSync:
    def test_the_assignment_is_stored_before_anybody_has_it(self, groups: Groups) -> None:
        join = groups.join()
        groups.advance(3_000)
        groups.auto = False
        sync = groups.sync(join.value, {join.value.member_id: b"mine"})
        assert not sync.done and groups.state() == "CompletingRebalance"
        groups.commit()
        assert sync.value.assignment == b"mine" and groups.state() == "Stable"

    def test_who_asks_while_it_is_being_stored_waits_his_turn(self, groups: Groups) -> None:
        join = groups.join()
        groups.advance(3_000)
        groups.auto = False
        groups.sync(join.value, {join.value.member_id: b"mine"})
        second = groups.join()
        assert not second.done and groups.state() == "CompletingRebalance"
        groups.commit()
        assert groups.state() == "PreparingRebalance"

    def test_errors(self, groups: Groups) -> None:
        leader, _ = groups.stable_group(2)
        assert groups.sync(leader, group="other").value.error is ErrorCode.UNKNOWN_MEMBER_ID
        assert groups.sync(leader, member="x").value.error is ErrorCode.UNKNOWN_MEMBER_ID
        assert groups.sync(leader, generation=2).value.error is ErrorCode.ILLEGAL_GENERATION
        assert groups.sync(leader, type="connect").value.error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        assert groups.sync(leader, protocol="sticky").value.error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        assert groups.sync(leader).value.assignment == leader.member_id.encode()
        groups.join()
        assert groups.sync(leader).value.error is ErrorCode.REBALANCE_IN_PROGRESS

    def test_followers_that_wait_are_told_of_the_next_rebalance(self, groups: Groups) -> None:
        joins = [groups.join(), groups.join()]
        groups.advance(6_000)
        follower = next(j.value for j in joins if j.value.leader != j.value.member_id)
        waiting = groups.sync(follower)
        assert not waiting.done
        groups.join()
        assert waiting.value.error is ErrorCode.REBALANCE_IN_PROGRESS

    def test_a_leader_that_never_syncs_loses_its_place(self, groups: Groups) -> None:
        joins = [groups.join(rebalance_ms=8_000, session_ms=60_000) for _ in range(2)]
        groups.advance(8_000)
        leader = next(j.value for j in joins if j.value.leader == j.value.member_id)
        follower = next(j.value for j in joins if j.value is not leader)
        waiting = groups.sync(follower)
        groups.advance(8_000)
        assert waiting.value.error is ErrorCode.REBALANCE_IN_PROGRESS
        assert groups.beat(1, leader.member_id) is ErrorCode.UNKNOWN_MEMBER_ID
        assert groups.join(member=follower.member_id).value.leader == follower.member_id

    def test_a_refused_write_makes_another_rebalance(self, groups: Groups) -> None:
        join = groups.join()
        groups.advance(3_000)
        groups.refuse = ErrorCode.KAFKA_STORAGE_ERROR
        sync = groups.sync(join.value, {join.value.member_id: b"mine"})
        assert sync.value.error is ErrorCode.COORDINATOR_NOT_AVAILABLE
        groups.refuse = None
        groups.advance(1)
        assert groups.state() == "PreparingRebalance"


class TestLife:
    def test_a_silent_member_is_lost(self, groups: Groups) -> None:
        leader, other = groups.stable_group(2, session_ms=10_000, rebalance_ms=5_000)
        for _ in range(2):
            groups.advance(4_999)
            assert groups.beat(1, leader.member_id) is ErrorCode.NONE
        groups.advance(5_000)
        assert groups.beat(1, leader.member_id) is ErrorCode.REBALANCE_IN_PROGRESS
        assert groups.beat(1, other.member_id) is ErrorCode.UNKNOWN_MEMBER_ID

    def test_beats_of_strangers(self, groups: Groups) -> None:
        leader = groups.stable_group(1)[0]
        assert groups.beat(1, leader.member_id, group="none") is ErrorCode.UNKNOWN_MEMBER_ID
        assert groups.beat(1, "x") is ErrorCode.UNKNOWN_MEMBER_ID
        assert groups.beat(0, leader.member_id) is ErrorCode.ILLEGAL_GENERATION

    def test_a_commit_is_a_sign_of_life(self, groups: Groups) -> None:
        leader = groups.stable_group(1, session_ms=10_000)[0]
        for offset in range(3):
            groups.advance(9_000)
            assert groups.commit_offset(offset, generation=1, member=leader.member_id) is ErrorCode.NONE

    def test_the_last_one_leaves_an_empty_group_that_is_stored(self, groups: Groups) -> None:
        leader, other = groups.stable_group(2)
        assert groups.leave(leader.member_id) is ErrorCode.NONE
        assert groups.state() == "PreparingRebalance"
        assert groups.leave(other.member_id) is ErrorCode.NONE
        groups.clock.turn()
        assert groups.state() == "Empty"
        assert groups.leave(other.member_id) is ErrorCode.UNKNOWN_MEMBER_ID
        groups.fail_over(1)
        assert groups.state() == "Empty"
        join = groups.join()
        groups.advance(3_000)
        assert join.value.generation_id == 3, "generations go on where they were"

    def test_a_timer_that_fires_while_the_lease_is_in_doubt_comes_again(self, groups: Groups) -> None:
        groups.stable_group(1, session_ms=10_000, rebalance_ms=1_000)
        groups.lease = False
        groups.advance(11_000)
        groups.lease = True
        groups.advance(2_000)
        assert groups.state() == "Empty"


class TestStaticMembers:
    def test_a_member_that_comes_back_keeps_its_assignment(self, groups: Groups) -> None:
        first = groups.stable_group(1, instance="i")[0]
        again = groups.join(instance="i").value
        assert again.error is ErrorCode.NONE and again.generation_id == 1 and again.member_id != first.member_id
        assert again.leader == again.member_id and again.skip_assignment
        assert groups.sync(again).value.assignment == first.member_id.encode()
        assert groups.beat(1, first.member_id, instance="i") is ErrorCode.FENCED_INSTANCE_ID
        assert groups.commit_offset(3, generation=1, member=first.member_id, instance="i") is ErrorCode.FENCED_INSTANCE_ID
        assert groups.beat(1, again.member_id, instance="i") is ErrorCode.NONE
        assert groups.beat(1, again.member_id, instance="j") is ErrorCode.UNKNOWN_MEMBER_ID

    def test_an_old_client_is_not_told_that_it_leads(self, groups: Groups) -> None:
        first = groups.stable_group(1, instance="i")[0]
        again = groups.join(instance="i", can_skip=False).value
        assert again.leader == first.member_id and not again.members and not again.skip_assignment

    def test_other_wishes_make_a_rebalance(self, groups: Groups) -> None:
        groups.stable_group(1, instance="i", protocols=("range",))
        again = groups.join(instance="i", protocols=("sticky",))
        assert again.value.generation_id == 2 and again.value.protocol == "sticky"

    def test_the_new_life_survives_the_coordinator(self, groups: Groups) -> None:
        first = groups.stable_group(1, instance="i")[0]
        again = groups.join(instance="i").value
        groups.fail_over(1)
        assert groups.beat(1, again.member_id, instance="i") is ErrorCode.NONE
        assert groups.sync(again).value.assignment == first.member_id.encode()

    def test_what_could_not_be_stored_is_undone(self, groups: Groups) -> None:
        first = groups.stable_group(1, instance="i")[0]
        groups.refuse = ErrorCode.KAFKA_STORAGE_ERROR
        assert groups.join(instance="i").value.error is ErrorCode.COORDINATOR_NOT_AVAILABLE
        assert groups.beat(1, first.member_id, instance="i") is ErrorCode.NONE

    def test_two_processes_with_one_instance_id(self, groups: Groups) -> None:
        one = groups.join(instance="i")
        two = groups.join(instance="i")
        assert one.value.error is ErrorCode.FENCED_INSTANCE_ID
        groups.advance(60_000)
        assert two.value.error is ErrorCode.NONE

    def test_an_absent_static_member_keeps_its_place_in_a_rebalance(self, groups: Groups) -> None:
        groups.stable_group(1, instance="i", session_ms=30_000, rebalance_ms=5_000)
        other = groups.join(rebalance_ms=5_000)
        groups.advance(5_000)
        assert len(other.value.members) == 2 and other.value.leader == other.value.member_id

    def test_an_administrator_removes_by_instance_id(self, groups: Groups) -> None:
        groups.stable_group(1, instance="i")
        assert groups.leave("", "j") is ErrorCode.UNKNOWN_MEMBER_ID
        assert groups.leave("other", "i") is ErrorCode.FENCED_INSTANCE_ID
        assert groups.leave("", "i") is ErrorCode.NONE
        assert groups.state() == "Empty"


class TestFailover:
    def test_members_go_on_without_a_rebalance(self, groups: Groups) -> None:
        leader, other = groups.stable_group(2)
        groups.fail_over(1)
        assert groups.state() == "Stable"
        for one in (leader, other):
            assert groups.beat(1, one.member_id) is ErrorCode.NONE
            assert groups.sync(one).value.assignment == one.member_id.encode()
            assert groups.commit_offset(5, generation=1, member=one.member_id) is ErrorCode.NONE

    def test_members_that_do_not_find_the_new_coordinator_are_lost(self, groups: Groups) -> None:
        leader, other = groups.stable_group(2, session_ms=10_000, rebalance_ms=5_000)
        groups.fail_over(1)
        groups.advance(9_999)
        assert groups.beat(1, leader.member_id) is ErrorCode.NONE
        groups.advance(1)
        assert groups.beat(1, leader.member_id) is ErrorCode.REBALANCE_IN_PROGRESS
        assert groups.beat(1, other.member_id) is ErrorCode.UNKNOWN_MEMBER_ID

    def test_who_waits_is_told_to_look_for_the_new_one(self, groups: Groups) -> None:
        join = groups.join()
        groups.fail_over(1)
        assert join.value.error is ErrorCode.NOT_COORDINATOR
        groups.advance(60_000)
        assert groups.state() == "none"

    @pytest.mark.parametrize("survives", [True, False])
    def test_an_assignment_on_its_way_is_the_old_or_the_new(self, groups: Groups, survives: bool) -> None:
        join = groups.join()
        groups.advance(3_000)
        groups.auto = False
        sync = groups.sync(join.value, {join.value.member_id: b"mine"})
        groups.fail_over(2, survives)
        assert sync.value.error is ErrorCode.NOT_COORDINATOR
        again = groups.sync(join.value)
        assert again.value.error is (ErrorCode.NONE if survives else ErrorCode.UNKNOWN_MEMBER_ID)

    def test_a_deposed_coordinator_answers_nothing(self, groups: Groups) -> None:
        groups.stable_group(1)
        groups.fail_over(1)
        groups.leader = 1
        old = groups.shards[0]
        assert old.refusal() is ErrorCode.NOT_COORDINATOR
        groups.lease = False
        assert groups.shards[1].refusal() is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS


class TestQuestions:
    def test_describe_tells_assignments_only_of_a_stable_group(self, groups: Groups) -> None:
        assert groups.machine.describe("g") is None
        leader = groups.stable_group(1)[0]
        found = groups.machine.describe("g")
        assert (found.protocol_type, found.protocol, found.members[0].assignment) == ("consumer", "range", leader.member_id.encode())
        assert found.members[0].client_host == "/127.0.0.1" and found.members[0].metadata == subscription("t")
        groups.join()
        found = groups.machine.describe("g")
        assert (found.state, found.protocol, found.members[0].assignment) == ("PreparingRebalance", "", b"")

    def test_list_names_groups_that_only_commit_too(self, groups: Groups) -> None:
        groups.stable_group(1)
        groups.commit_offset(1, group="simple")
        listed = {one.group_id: (one.state, one.protocol_type) for one in groups.machine.list_groups()}
        assert listed == {"g": ("Stable", "consumer"), "simple": ("Empty", "")}
