"""The driver by itself: what it says, in which order, and from when on a replica serves nothing. Faults that the simulator has found."""

from __future__ import annotations

import pytest
from crc32c import crc32c

from raft.api import Lane
from raft.core.core import Role
from raft.core.message import Message, MessageType
from raft.driver import DriverSettings
from raft.liveness import TimerKind
from tests.unit.raft_driver.stage import GROUP, Stage
from wal.entry import Entry, EntryKind
from wal.errors import DamageError
from wal.settings import WalSettings

DEPOSED = Message(MessageType.VOTE, 3, 1, 9, 100, 9, transfer=True)
"""A vote request in a newer term of somebody with a longer log."""


def entry(index: int) -> Entry:
    return Entry(1, index, EntryKind.DATA, (b"x",), 1, crc32c(b"x"), index - 1, 1)


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def leader(stage: Stage) -> Stage:
    stage.lead()
    return stage


class TestLosingLeadership:
    def test_all_members_hear_that_our_beats_count_no_more(self, leader: Stage) -> None:
        """Also 3, which has never confirmed our term: it may follow us, and only its answer was lost."""
        assert GROUP in leader.driver.peers[2].agreed and GROUP not in leader.driver.peers[3].agreed
        leader.hear(3, DEPOSED)
        leader.turn()
        for peer in (2, 3):
            assert f"1->{peer} HEARTBEAT_RESPONSE term=9 reject" in leader.said(peer)
            assert leader.driver.peers[peer].agreed == {}

    def test_the_notice_comes_before_the_next_beat(self, leader: Stage) -> None:
        leader.hear(3, DEPOSED)
        leader.advance(500)
        batches = leader.batches(2)
        notice = next(n for n, batch in enumerate(batches) if any(message.type == MessageType.HEARTBEAT_RESPONSE for _, message in batch.messages))
        beat = next(n for n, batch in enumerate(batches) if batch.beat)
        assert notice <= beat

    def test_who_is_no_member_hears_nothing(self, leader: Stage) -> None:
        leader.driver.set_peers({1, 2, 3, 4})
        leader.driver.on_session_open(4, Lane.CONTROL, True, 1)
        leader.turn()
        leader.network.sent.clear()
        leader.hear(3, DEPOSED)
        leader.turn()
        assert leader.said(4) == []

    def test_who_is_not_connected_is_left_out(self, leader: Stage) -> None:
        leader.driver.on_session_lost(2, Lane.CONTROL, True, False)
        leader.hear(3, DEPOSED)
        leader.turn()
        assert leader.driver.peers[2].requests[Lane.CONTROL] == [] and leader.said(3)

    def test_what_was_said_before_goes_before_the_notice(self, leader: Stage) -> None:
        """Otherwise a follower would hear that we lead no more, then that we lead, and believe our beats again."""
        leader.core.heartbeat(2)
        leader.hear(3, DEPOSED)
        leader.turn()
        said = [line for line in leader.said(2) if "HEARTBEAT" in line]
        assert [line.split(" commit")[0] for line in said] == ["1->2 HEARTBEAT term=1", "1->2 HEARTBEAT_RESPONSE term=9 reject"]

    def test_a_change_of_role_within_the_turn_is_told_in_order_too(self, stage: Stage) -> None:
        """The core was given the newer term by something that looks at it only in the turn: a check of the quorum."""
        stage.lead()
        stage.core.heartbeat(2)
        stage.core.quorum_lost()
        stage.driver.touch(stage.group)
        stage.turn()
        said = [line.split(" commit")[0] for line in stage.said(2) if "HEARTBEAT" in line]
        assert said == ["1->2 HEARTBEAT term=1", "1->2 HEARTBEAT_RESPONSE term=1 reject"]

    def test_it_serves_nothing_from_that_moment_on(self, leader: Stage) -> None:
        """Not only from the next turn on: requests of clients may come before that."""
        leader.hear(3, DEPOSED)
        assert not leader.group.serving and not leader.machine.leads

    def test_an_answer_deposes_as_well(self, leader: Stage) -> None:
        leader.answered(2, Message(MessageType.APPEND_RESPONSE, 2, 1, 7, 1, reject=True))
        assert leader.core.role == Role.FOLLOWER and not leader.group.serving and not leader.machine.leads

    def test_timers_of_leaders_end(self, leader: Stage) -> None:
        elections = leader.driver.elections
        elections.watch_quorum(leader.group)
        assert elections.transfer(leader.group, 2) == ""
        assert all(elections.timers.is_armed(leader.group, kind) for kind in (TimerKind.CHECK_QUORUM, TimerKind.TRANSFER))
        leader.hear(3, DEPOSED)
        leader.turn()
        assert [kind for kind in TimerKind if elections.timers.is_armed(leader.group, kind)] == [TimerKind.ELECTION]


class TestDamage:
    def test_a_damaged_replica_serves_nothing_from_that_moment_on(self, leader: Stage) -> None:
        leader.driver.quarantine(leader.group, DamageError("wal_0_1.log: position 4096: checksum is wrong"))
        assert not leader.group.serving and not leader.machine.leads

    def test_a_damaged_replica_says_nothing(self, stage: Stage) -> None:
        """It may have lost what it promised, its term and its vote included."""
        stage.driver.quarantine(stage.group, DamageError("a frame is wrong"))
        stage.settle()
        stage.network.sent.clear()
        for kind in (MessageType.PRE_VOTE, MessageType.VOTE, MessageType.APPEND, MessageType.HEARTBEAT):
            stage.hear(2, Message(kind, 2, 1, 5, 10, 4))
            stage.settle()
        assert stage.said(2) == [] and stage.core.vote == 0
        stage.advance(5_000)
        assert stage.core.role == Role.FOLLOWER and [line for line in stage.said(3) if "VOTE" in line] == []

    @pytest.mark.parametrize("answers", [[MessageType.PRE_VOTE_RESPONSE], [MessageType.PRE_VOTE_RESPONSE, MessageType.VOTE_RESPONSE]])
    def test_a_candidate_whose_damage_is_found_does_not_become_leader_by_votes_on_their_way(self, stage: Stage, answers: list[MessageType]) -> None:
        """Seed 1063 of the simulator: it led, could not apply, never served, and nobody else campaigned."""
        stage.core.campaign()
        stage.driver.touch(stage.group)
        stage.turn()
        term = stage.core.term + 1
        for kind in answers[:-1]:
            stage.answered(2, Message(kind, 2, 1, term))
            stage.settle()
        stage.driver.quarantine(stage.group, DamageError("a frame is wrong"))
        stage.answered(2, Message(answers[-1], 2, 1, term))
        stage.settle()
        assert stage.core.role == Role.FOLLOWER


class TestCommit:
    def test_who_holds_an_entry_later_is_told_of_its_commit_later(self, leader: Stage) -> None:
        """The commit was told to the others when it happened; this one did not hold the entry yet, and would never hear of it again."""
        leader.acknowledge(3)
        leader.advance(500)
        leader.propose(b"a")
        leader.settle()
        leader.acknowledge(2)
        assert leader.core.commit_index == 2
        leader.advance(200)
        assert any("commit=2" in line for line in leader.said(2))
        assert not any("commit=2" in line for line in leader.said(3))
        leader.acknowledge(3)
        leader.advance(200)
        assert any("commit=2" in line for line in leader.said(3))

    def test_what_is_not_committed_is_bounded(self) -> None:
        stage = Stage(DriverSettings(max_uncommitted_bytes=250))
        stage.lead()
        for number in range(5):
            stage.propose(b"%d" % number + b"x" * 99)
            stage.settle()
        assert stage.driver.uncommitted_bytes == 300 and stage.log.last_index == 4
        assert len(stage.machine.waiting) == 2
        stage.acknowledge(2)
        stage.settle()
        assert stage.log.last_index == 5 and stage.driver.uncommitted_bytes == 100, "it goes on by itself when something is committed"
        stage.hear(3, DEPOSED)
        stage.settle()
        assert stage.driver.uncommitted_bytes == 0


class TestPromises:
    def test_a_vote_does_not_wait_for_entries_that_wait_for_room(self) -> None:
        """A flush takes all hard states, but may leave entries behind; the vote is durable with it."""
        stage = Stage(wal=WalSettings(journal_file_bytes=32 << 10, flush_entries_max=1, reserve_bytes=0, segment_piece_bytes=4096))
        stage.hear(2, Message(MessageType.APPEND, 2, 1, 1, entries=[entry(index) for index in (1, 2, 3, 4)]))
        stage.turn()
        stage.hear(3, Message(MessageType.VOTE, 3, 1, 2, 50, 1, transfer=True))
        stage.flush()  # taken before the vote was staged
        assert not any("VOTE_RESPONSE" in line for line in stage.said(3))
        stage.flush()
        assert "1->3 VOTE_RESPONSE term=2" in stage.said(3) and stage.store.has_staged()

    def test_an_acknowledgement_waits_for_the_flush_that_takes_its_last_entry(self) -> None:
        stage = Stage(wal=WalSettings(journal_file_bytes=32 << 10, flush_entries_max=2, reserve_bytes=0, segment_piece_bytes=4096))
        stage.hear(2, Message(MessageType.APPEND, 2, 1, 1, entries=[entry(index) for index in (1, 2, 3)]))
        stage.turn()
        stage.flush()
        assert stage.log.flushed_index == 2 and not any("APPEND_RESPONSE" in line for line in stage.said(2))
        stage.flush()
        assert "1->2 APPEND_RESPONSE term=1 at=0/3" in stage.said(2)


class TestBackPressure:
    def test_data_that_found_no_room_is_not_confirmed_while_the_memory_is_full(self) -> None:
        """The leader sends no more before the number of its last message comes back."""
        wal = WalSettings(journal_file_bytes=32 << 10, flush_entries_max=1, reserve_bytes=0, segment_piece_bytes=4096, memory_limit_bytes=1)
        stage = Stage(wal=wal)
        stage.hear(2, Message(MessageType.APPEND, 2, 1, 1, entries=[entry(1), entry(2)]), number=7)
        stage.turn()
        stage.flush()
        assert stage.disk.flushes and stage.store.memory_bytes > 1
        assert all(batch.beat != 7 for batch in stage.batches(2))
        stage.flush()
        assert any(batch.beat == 7 for batch in stage.batches(2))


class TestSnapshots:
    def test_what_gets_lost_on_the_way_of_a_snapshot_is_found_out_by_asking_again(self, leader: Stage) -> None:
        """The member that needs one was replicating a moment ago, so that nobody looked after it."""
        leader.acknowledge(3)
        leader.advance(500)
        leader.propose(b"a", b"b")
        leader.settle()
        leader.acknowledge(2)
        leader.log.truncate_prefix(4, 2)
        leader.settle()
        leader.answered(3, Message(MessageType.APPEND_RESPONSE, 3, 1, 1, 2, 1, reject=True, hint_index=1))
        leader.turn()
        assert leader.events.snapshots_needed == [3]
        leader.core.report_snapshot(3, True)  # it arrived, but the member's word that it is installed is lost
        leader.driver.touch(leader.group)
        leader.turn()
        leader.network.sent.clear()
        leader.advance(200)
        assert leader.said(3) != []
