"""Offsets: who may commit, what is told, what is pending in transactions, what expires, and that all replicas agree."""

from __future__ import annotations

import struct

import pytest

from broker.coordinator.groups.config import GroupConfig
from broker.errors import ErrorCode, KafkaError
from broker.records.batch import CONTROL_BIT, TRANSACTIONAL_BIT
from broker.records.builder import build_batch
from broker.records.reader import Record
from tests.unit.coordinator.support import Answer, Groups, subscription

DAY_MS = 86_400_000


@pytest.fixture
def groups() -> Groups:
    return Groups()


def marker(producer_id: int, epoch: int, commit: bool) -> bytearray:
    key, value = struct.pack(">hh", 0, 1 if commit else 0), struct.pack(">hi", 0, 0)
    return build_batch([Record(0, 0, key, value)], producer=(producer_id, epoch, -1), attributes=TRANSACTIONAL_BIT | CONTROL_BIT)


class TestCommit:
    def test_it_is_told_only_when_it_is_committed(self, groups: Groups) -> None:
        groups.auto = False
        answer = groups.commit_later(7)
        groups.clock.turn()
        assert not answer.done and groups.fetch().offset == -1
        groups.commit()
        assert answer.value == {("t", 0): ErrorCode.NONE}
        assert groups.fetch() == (7, 7, "m", ErrorCode.NONE)

    def test_commits_do_not_wait_for_each_other_and_share_an_append(self, groups: Groups) -> None:
        groups.auto = False
        answers = [groups.commit_later(offset) for offset in range(5)]
        groups.clock.turn()
        assert len(groups.pending) == 1
        groups.commit()
        assert all(answer.done for answer in answers) and groups.fetch().offset == 4
        assert len(groups.batches) == 1

    def test_who_is_no_member_may_commit_only_to_an_empty_group(self, groups: Groups) -> None:
        assert groups.commit_offset(1) is ErrorCode.NONE
        leader = groups.stable_group(1)[0]
        assert groups.commit_offset(2) is ErrorCode.UNKNOWN_MEMBER_ID
        assert groups.commit_offset(2, generation=1, member="x") is ErrorCode.UNKNOWN_MEMBER_ID
        assert groups.commit_offset(2, generation=0, member=leader.member_id) is ErrorCode.ILLEGAL_GENERATION
        assert groups.commit_offset(2, generation=1, member=leader.member_id) is ErrorCode.NONE
        assert groups.fetch().offset == 2

    @pytest.mark.parametrize(("version", "code"), [(8, ErrorCode.ILLEGAL_GENERATION), (9, ErrorCode.GROUP_ID_NOT_FOUND)])
    def test_a_member_of_a_group_that_is_not_known(self, groups: Groups, version: int, code: ErrorCode) -> None:
        assert groups.commit_offset(1, generation=3, member="x", version=version) is code

    def test_during_a_rebalance(self, groups: Groups) -> None:
        leader = groups.stable_group(1)[0]
        joining = groups.join()
        assert groups.commit_offset(3, generation=1, member=leader.member_id) is ErrorCode.NONE, "the last word before giving up partitions"
        groups.join(member=leader.member_id)
        assert joining.value.generation_id == 2
        assert groups.commit_offset(4, generation=1, member=leader.member_id) is ErrorCode.ILLEGAL_GENERATION
        assert groups.commit_offset(4, generation=2, member=leader.member_id) is ErrorCode.REBALANCE_IN_PROGRESS

    def test_metadata_that_is_too_large(self, groups: Groups) -> None:
        assert groups.commit_offset(1, metadata="x" * 4097) is ErrorCode.OFFSET_METADATA_TOO_LARGE
        assert groups.commit_offset(1, metadata="x" * 4096) is ErrorCode.NONE

    def test_a_name_that_can_not_be_stored(self, groups: Groups) -> None:
        assert groups.commit_offset(1, group="g" * 32_768) is ErrorCode.INVALID_REQUEST

    @pytest.mark.parametrize("survives", [True, False])
    def test_leadership_is_lost_meanwhile(self, groups: Groups, survives: bool) -> None:
        assert groups.commit_offset(1) is ErrorCode.NONE
        groups.auto = False
        answer = groups.commit_later(2)
        groups.clock.turn()
        waiting = groups.commit_later(3)
        groups.fail_over(1, survives)
        assert answer.failed is ErrorCode.NOT_COORDINATOR and waiting.failed is ErrorCode.NOT_COORDINATOR
        assert groups.fetch().offset == (2 if survives else 1)

    def test_offsets_of_a_deleted_topic_are_not_told_of_its_successor(self, groups: Groups) -> None:
        groups.commit_offset(9)
        assert groups.fetch(topic_id=b"u" * 16).offset == -1
        groups.machine.forget_topic("t", b"x" * 16)
        groups.clock.turn()
        assert groups.fetch().offset == 9
        groups.machine.forget_topic("t", b"t" * 16)
        groups.clock.turn()
        assert groups.fetch().offset == -1

    @pytest.mark.parametrize("commits", [True, False])
    def test_a_deleted_topic_takes_what_is_pending_for_it(self, groups: Groups, commits: bool) -> None:
        """Otherwise who reads the successor of the same name would be told to wait for a transaction that has nothing to do with it."""
        groups.commit_offset(5, producer=(42, 0))
        groups.commit_offset(6, partition=1, producer=(42, 0))
        groups.commit_offset(7, partition=1)
        groups.commit_offset(8, topic="other", producer=(42, 0))
        groups.machine.forget_topic("t", b"t" * 16)
        groups.clock.turn()
        assert [groups.fetch(partition=number, stable=True, topic_id=b"u" * 16).error for number in (0, 1)] == [ErrorCode.NONE] * 2
        groups.inject(marker(42, 0, commits))
        assert groups.fetch().offset == groups.fetch(partition=1).offset == -1
        assert groups.machine.fetchable("g") == ({"other": [0]} if commits else {})

    def test_what_is_of_the_successor_stays(self, groups: Groups) -> None:
        """The successor's offsets came before its predecessor's deletion was seen here; one kind is pending, the other committed."""
        successor = b"u" * 16
        groups.commit_offset(5)
        groups.commit_offset(6, producer=(42, 0), topic_id=successor)
        groups.commit_offset(7, partition=1, producer=(43, 0))
        groups.commit_offset(8, partition=1, topic_id=successor)
        groups.machine.forget_topic("t", b"t" * 16)
        groups.clock.turn()
        groups.inject(marker(42, 0, True))
        groups.inject(marker(43, 0, True))
        assert [groups.fetch(partition=number, topic_id=successor).offset for number in (0, 1)] == [6, 8]


class TestTransactions:
    def test_offsets_show_when_the_transaction_is_committed(self, groups: Groups) -> None:
        groups.commit_offset(1)
        assert groups.commit_offset(5, producer=(42, 0)) is ErrorCode.NONE
        assert groups.fetch().offset == 1
        assert groups.fetch(stable=True).error is ErrorCode.UNSTABLE_OFFSET_COMMIT
        assert groups.fetch(partition=1, stable=True).error is ErrorCode.NONE
        groups.inject(marker(42, 0, True))
        assert groups.fetch(stable=True).offset == 5

    def test_an_abort_leaves_what_was(self, groups: Groups) -> None:
        groups.commit_offset(1)
        groups.commit_offset(5, producer=(42, 0))
        groups.inject(marker(42, 0, False))
        assert groups.fetch(stable=True).offset == 1

    def test_a_later_commit_is_not_overtaken_by_an_earlier_transaction(self, groups: Groups) -> None:
        groups.commit_offset(5, producer=(42, 0))
        groups.commit_offset(8)
        groups.inject(marker(42, 0, True))
        assert groups.fetch().offset == 8

    @pytest.mark.parametrize("commits", [True, False])
    def test_a_partition_with_nothing_but_a_pending_offset_is_not_named(self, groups: Groups, commits: bool) -> None:
        """Kafka's fetch of all offsets goes through what is committed; an aborted transaction never shows, at no moment."""
        groups.commit_offset(5, producer=(42, 0))
        assert groups.machine.fetchable("g") == {}
        groups.commit_offset(1, partition=1)
        groups.commit_offset(6, partition=1, producer=(42, 0))
        assert groups.machine.fetchable("g") == {"t": [1]}
        assert groups.fetch(partition=1, stable=True).error is ErrorCode.UNSTABLE_OFFSET_COMMIT
        assert groups.fetch(stable=True).error is ErrorCode.UNSTABLE_OFFSET_COMMIT, "who names it is told to wait"
        groups.inject(marker(42, 0, commits))
        assert groups.machine.fetchable("g") == {"t": [0, 1] if commits else [1]}
        assert groups.fetch() == ((5, 7, "m", ErrorCode.NONE) if commits else (-1, -1, "", ErrorCode.NONE))

    def test_pending_offsets_survive_coordinator_and_restart(self, groups: Groups) -> None:
        groups.commit_offset(5, producer=(42, 0))
        groups.restart(1)
        groups.fail_over(1)
        assert groups.fetch(stable=True).error is ErrorCode.UNSTABLE_OFFSET_COMMIT
        groups.inject(marker(42, 0, True))
        assert groups.fetch(stable=True).offset == 5
        assert len({shard.capture() for shard in groups.shards}) == 1

    def test_membership_is_checked_when_the_producer_tells_it(self, groups: Groups) -> None:
        leader = groups.stable_group(1)[0]
        assert groups.commit_offset(5, producer=(42, 0), generation=0, member=leader.member_id) is ErrorCode.ILLEGAL_GENERATION
        assert groups.commit_offset(5, producer=(42, 0), generation=1, member="x") is ErrorCode.UNKNOWN_MEMBER_ID
        assert groups.commit_offset(5, producer=(42, 0), generation=1, member=leader.member_id) is ErrorCode.NONE
        assert groups.commit_offset(6, producer=(42, 0)) is ErrorCode.NONE, "an old client does not tell who it is"


class TestDeletion:
    def delete(self, groups: Groups) -> ErrorCode:
        answer: Answer[None] = Answer()
        groups.machine.delete_group("g", answer, answer.fail)
        groups.clock.turn()
        return answer.failed or ErrorCode.NONE

    def test_delete_group(self, groups: Groups) -> None:
        assert self.delete(groups) is ErrorCode.GROUP_ID_NOT_FOUND
        leader = groups.stable_group(1)[0]
        groups.commit_offset(3, generation=1, member=leader.member_id)
        assert self.delete(groups) is ErrorCode.NON_EMPTY_GROUP
        groups.leave(leader.member_id)
        assert self.delete(groups) is ErrorCode.NONE
        assert groups.state() == "none" and groups.fetch().offset == -1
        assert not groups.machine.state.entries
        groups.fail_over(1)
        assert groups.state() == "none"

    def test_delete_group_takes_what_is_pending(self, groups: Groups) -> None:
        groups.commit_offset(3, producer=(42, 0))
        assert self.delete(groups) is ErrorCode.NONE
        groups.inject(marker(42, 0, True))
        assert groups.fetch().offset == -1 and not groups.machine.state.entries

    def test_delete_offsets(self, groups: Groups) -> None:
        def delete(*partitions: tuple[str, int]) -> object:
            answer: Answer[dict[tuple[str, int], ErrorCode]] = Answer()
            groups.machine.delete_offsets("g", partitions, answer, answer.fail)
            groups.clock.turn()
            return answer.failed or answer.value

        assert delete(("t", 0)) is ErrorCode.GROUP_ID_NOT_FOUND
        leader = groups.stable_group(1, metadata=subscription("t"))[0]
        for topic in ("t", "u"):
            groups.commit_offset(3, generation=1, member=leader.member_id, topic=topic)
        assert delete(("t", 0), ("u", 0)) == {("t", 0): ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, ("u", 0): ErrorCode.NONE}
        assert groups.machine.fetchable("g") == {"t": [0]}
        groups.leave(leader.member_id)
        assert delete(("t", 0)) == {("t", 0): ErrorCode.NONE}
        assert groups.machine.fetchable("g") == {}

    def test_offsets_of_a_group_that_is_not_of_consumers(self, groups: Groups) -> None:
        groups.stable_group(1, type="connect", metadata=b"\xff")
        answer: Answer[object] = Answer()
        groups.machine.delete_offsets("g", [("t", 0)], answer, answer.fail)
        assert answer.failed is ErrorCode.NON_EMPTY_GROUP


class TestRetention:
    @pytest.fixture
    def groups(self) -> Groups:
        return Groups(GroupConfig(retention_ms=DAY_MS, retention_check_ms=600_000))

    def test_offsets_of_an_empty_group_go_after_the_retention_time(self, groups: Groups) -> None:
        leader = groups.stable_group(1, session_ms=1_800_000)[0]
        groups.commit_offset(3, generation=1, member=leader.member_id)
        groups.leave(leader.member_id)
        groups.advance(DAY_MS - 600_000)
        assert groups.fetch().offset == 3
        groups.advance(1_200_000)
        assert groups.fetch().offset == -1 and groups.state() == "none"

    def test_offsets_in_use_stay(self, groups: Groups) -> None:
        leader = groups.stable_group(1, session_ms=1_800_000, metadata=subscription("t"))[0]
        for topic in ("t", "u"):
            groups.commit_offset(3, generation=1, member=leader.member_id, topic=topic)
        for _ in range(200):
            groups.advance(600_000)
            assert groups.beat(1, leader.member_id) is ErrorCode.NONE
        assert groups.machine.fetchable("g") == {"t": [0]}, "a topic that nobody reads any more is forgotten"

    def test_a_group_that_only_commits_counts_from_each_commit(self, groups: Groups) -> None:
        groups.commit_offset(3, partition=0)
        groups.advance(DAY_MS // 2)
        groups.commit_offset(4, partition=1)
        groups.advance(DAY_MS // 2 + 600_000)
        assert groups.machine.fetchable("g") == {"t": [1]}

    def test_a_retention_that_the_client_chose(self, groups: Groups) -> None:
        groups.commit_offset(3, expires=groups.wall_ms + 3_600_000)
        groups.fail_over(1)
        groups.advance(3_000_000)
        assert groups.fetch().offset == 3
        groups.advance(1_200_000)
        assert groups.fetch().offset == -1

    def test_what_is_pending_stays(self, groups: Groups) -> None:
        groups.commit_offset(3)
        groups.commit_offset(4, producer=(42, 0))
        groups.advance(2 * DAY_MS)
        groups.inject(marker(42, 0, True))
        assert groups.fetch().offset == 4


class TestReplicas:
    def test_snapshots_hold_everything(self, groups: Groups) -> None:
        leader, other = groups.stable_group(2, instance=None)
        groups.commit_offset(3, generation=1, member=leader.member_id)
        groups.restart(1)
        groups.restart(2)
        assert len({shard.capture() for shard in groups.shards}) == 1
        groups.fail_over(2)
        assert groups.fetch().offset == 3 and groups.beat(1, other.member_id) is ErrorCode.NONE

    def test_not_the_coordinator(self, groups: Groups) -> None:
        groups.fail_over(1)
        with pytest.raises(KafkaError) as error:
            groups.shards[0].machine.fetch("g", [("t", b"", [0])], False)  # type: ignore[attr-defined]
        assert error.value.code is ErrorCode.NOT_COORDINATOR
