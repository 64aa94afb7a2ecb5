"""One test per trap that has cost a known system acknowledged data or hours of downtime (numbers of the reliability page)."""

from __future__ import annotations

import pytest

from raft.core.core import RaftCore, Role
from raft.core.membership import encode, simple
from raft.core.memory_log import MemoryLog
from raft.core.message import Message, MessageType
from raft.core.progress import ProgressState
from tests.unit.raft_core.cluster import LIMITS, Cluster, elected
from tests.unit.raft_core.test_paper import append, entries, follower, said
from wal.errors import InvariantError


def test_trap_1_a_vote_is_promised_only_when_durable() -> None:
    core = follower([])
    core.step(Message(MessageType.VOTE, 2, 1, 1), False)
    assert not core.messages
    assert [message.type for message in core.messages_after_flush if message.receiver == 2] == [MessageType.VOTE_RESPONSE]
    assert core.log.hard_state == (1, 2)


def test_trap_1_a_candidate_asks_and_counts_itself_only_when_its_vote_is_durable() -> None:
    cluster = Cluster((1,))
    cluster.campaign(1)
    core = cluster.core(1)
    assert (core.role, core.messages) == (Role.CANDIDATE, [])
    cluster.do(1, lambda core: core.on_flushed())
    assert core.role == Role.CANDIDATE, "a flush that was taken before the vote was staged proves nothing"
    cluster.flush(1)
    assert core.role == Role.LEADER


def test_trap_1_a_flush_of_an_earlier_state_does_not_prove_the_vote() -> None:
    """The flush in flight was taken before we campaigned."""
    cluster = Cluster((1,))
    cluster.log(1).save_hard_state(0, 0)
    cluster.begin_flush(1)
    cluster.campaign(1)
    cluster.end_flush(1)
    assert cluster.core(1).role == Role.CANDIDATE
    cluster.flush(1)
    assert cluster.core(1).role == Role.LEADER


def test_trap_1_a_new_term_is_durable_before_any_answer_in_it() -> None:
    core = follower([1], term=1)
    core.step(append(5, 9, 5, []), False)
    core.step(Message(MessageType.HEARTBEAT, 2, 1, 5), False)
    assert not core.messages
    assert {message.type for message in said(core)} == {MessageType.APPEND_RESPONSE, MessageType.HEARTBEAT_RESPONSE}
    core.step(Message(MessageType.HEARTBEAT, 2, 1, 5), False)
    assert len(core.messages) == 1, "durable now: no need to wait"


def test_trap_1_terms_never_go_down() -> None:
    core = follower([3], term=3)
    with pytest.raises(InvariantError, match="can not follow"):
        core.save_hard_state(2, 0)
    core.save_hard_state(4, 2)
    with pytest.raises(InvariantError, match="can not follow"):
        core.save_hard_state(4, 3)


def test_trap_1_a_log_newer_than_its_hard_state_is_not_opened() -> None:
    log = MemoryLog(encode(simple((1, 2, 3))))
    log.append(entries(5))
    with pytest.raises(InvariantError, match="vote is lost"):
        RaftCore(1, log, LIMITS)


def test_trap_2_a_voter_is_counted_once() -> None:
    core = follower([], voters=(1, 2, 3, 4, 5))
    core.campaign(transfer=True)
    said(core)
    for _ in range(3):
        core.step(Message(MessageType.VOTE_RESPONSE, 2, 1, 1), False)
    assert core.role == Role.CANDIDATE


def test_trap_2_a_vote_of_an_older_round_does_not_count() -> None:
    core = follower([])
    core.campaign(transfer=True)
    said(core)
    core.campaign(transfer=True)
    said(core)
    core.step(Message(MessageType.VOTE_RESPONSE, 2, 1, 1), False)
    assert (core.role, core.term) == (Role.CANDIDATE, 2)


def test_trap_3_the_leader_counts_only_what_it_has_flushed() -> None:
    cluster = elected((1,))
    cluster.propose(1, b"a")
    cluster.do(1, lambda core: core.on_flushed())
    assert cluster.core(1).commit_index == 1
    cluster.begin_flush(1)
    cluster.propose(1, b"b")
    cluster.end_flush(1)
    assert cluster.core(1).commit_index == 2
    cluster.flush(1)
    assert cluster.core(1).commit_index == 3


def test_trap_3_a_late_fsync_of_a_rewritten_index_does_not_count() -> None:
    """Entries 2 and 3 of term 1 are being flushed while term 2 replaces them: that fsync proves nothing about the new ones."""
    core = follower([1], term=1)
    log = core.log
    assert isinstance(log, MemoryLog)
    core.step(append(1, 1, 1, entries(1, 1, start=2)), False)
    promised = core.take_messages_after_flush()
    assert log.take_flush()
    core.step(append(2, 1, 1, entries(2, 2, start=2), sender=3), False)
    log.finish_flush()
    assert log.flushed_index == 1
    assert not [message for message in promised if core.still_true(message)], "nothing promised in term 1 is said in term 2"
    core.on_flushed()
    (answer,) = said(core)
    assert (answer.term, answer.index, log.flushed_index) == (2, 3, 3)


def test_trap_3_a_promised_acknowledgement_is_withdrawn_with_its_term() -> None:
    core = follower([1], term=1)
    core.step(append(1, 1, 1, entries(1, start=2)), False)
    (promised,) = core.take_messages_after_flush()
    assert core.still_true(promised)
    core.step(Message(MessageType.VOTE, 3, 1, 2, 9, 9), False)
    assert not core.still_true(promised)


def test_trap_3_a_withdrawn_candidacy_asks_nobody() -> None:
    core = follower([1], term=1)
    core.campaign(transfer=True)
    promised = core.take_messages_after_flush()
    core.step(Message(MessageType.HEARTBEAT, 2, 1, 2), False)
    assert not [message for message in promised if message.receiver != 1 and core.still_true(message)]


def test_trap_4_a_new_leader_marks_where_its_term_starts() -> None:
    cluster = elected()
    cluster.propose(1, b"a", b"b")
    cluster.stabilize()
    cluster.campaign(2)
    cluster.stabilize()
    core = cluster.core(2)
    assert (core.term_start_index, core.log.term(core.term_start_index)) == (4, 2)
    assert core.commit_index == 4


def test_trap_5_nothing_committed_is_ever_cut() -> None:
    core = follower([1, 1, 1], term=1)
    core.step(append(1, 3, 1, [], commit=2), False)
    said(core)
    with pytest.raises(InvariantError, match="contradicts index 2"):
        core.step(append(2, 0, 0, entries(1, 2), sender=3), False)
    assert core.log.last_index == 3


def test_trap_5_a_leader_that_lacks_a_committed_entry_stops_the_worker() -> None:
    core = follower([1, 1], term=1)
    core.step(append(1, 2, 1, [], commit=2), False)
    with pytest.raises(InvariantError, match="is committed in term 1"):
        core.step(append(3, 2, 2, [], sender=3), False)


def test_trap_5_late_duplicate_and_shorter_appends_cut_nothing() -> None:
    core = follower([1, 1, 1, 1], term=1)
    for sent in ([], entries(1), entries(1, 1)):
        core.step(append(1, 0, 0, sent), False)
        assert core.log.last_index == 4
        assert [message.index for message in said(core)] == [len(sent)]


def test_trap_5_an_append_in_front_of_a_trimmed_log_is_harmless() -> None:
    core = follower([1, 1, 1, 1], term=1)
    core.step(append(1, 4, 1, [], commit=3), False)
    log = core.log
    assert isinstance(log, MemoryLog)
    log.advance_commit(3)
    log.truncate_prefix(4, 3)
    said(core)
    core.step(append(1, 0, 0, entries(1, 1, 1, 1, 1)), False)
    assert (log.first_index, log.last_index) == (4, 5)
    assert [message.index for message in said(core)] == [5]


def test_trap_6_commit_only_what_this_message_proved() -> None:
    """Entries 2 and 3 may be of another leader: the message proves only 1."""
    core = follower([1, 1, 1], term=1)
    core.step(append(2, 1, 1, [], commit=3), False)
    assert core.commit_index == 1


def test_trap_6_a_heartbeat_commits_only_what_was_proven_in_this_term() -> None:
    core = follower([1, 1, 1], term=1)
    core.step(Message(MessageType.HEARTBEAT, 2, 1, 2, commit=3), False)
    assert core.commit_index == 0
    core.step(append(2, 2, 1, []), False)
    core.step(Message(MessageType.HEARTBEAT, 2, 1, 2, commit=3), False)
    assert core.commit_index == 2


def test_trap_6_the_leader_tells_no_more_than_is_known_to_match() -> None:
    cluster = elected()
    cluster.partition((1, 2), (3,))
    cluster.propose(1, b"a")
    cluster.stabilize()
    cluster.heal()
    cluster.do(1, lambda core: core.heartbeat(3))
    (heartbeat,) = cluster.network
    assert (cluster.core(1).commit_index, heartbeat.commit) == (2, 1)


@pytest.mark.parametrize(("asked", "granted"), [((6, 4), False), ((7, 3), False), ((7, 4), True), ((3, 5), True)])
def test_trap_7_an_empty_log_votes_by_its_snapshot(asked: tuple[int, int], granted: bool) -> None:
    log = MemoryLog()
    log.save_hard_state(4, 0)
    log.install_snapshot(7, 4, 20, encode(simple((1, 2, 3))))
    core = RaftCore(1, log, LIMITS)
    core.step(Message(MessageType.VOTE, 2, 1, 6, *asked), False)
    assert said(core)[-1].reject is not granted


def test_trap_8_a_leader_without_quorum_steps_down_in_its_term() -> None:
    cluster = elected()
    cluster.do(1, lambda core: core.quorum_lost())
    core = cluster.core(1)
    assert (core.role, core.term, core.vote, core.leader, core.progress) == (Role.FOLLOWER, 1, 1, 0, {})


def test_trap_8_transfer_passes_pre_vote_and_the_live_leader() -> None:
    cluster = elected()
    cluster.leader_alive = True
    cluster.campaign(2)
    cluster.stabilize()
    assert cluster.core(1).role == Role.LEADER, "an ordinary campaign does not"
    cluster.do(1, lambda core: core.transfer_leadership(2))
    cluster.stabilize()
    assert cluster.core(2).role == Role.LEADER


def test_trap_8_a_follower_that_only_thought_the_leader_dead_comes_back() -> None:
    cluster = elected()
    cluster.leader_alive = True
    cluster.campaign(3)
    cluster.stabilize()
    core = cluster.core(3)
    assert (core.role, core.leader, core.term) == (Role.FOLLOWER, 1, 1)


@pytest.mark.parametrize("kind", list(MessageType))
def test_trap_12_a_message_for_another_replica_changes_nothing(kind: MessageType) -> None:
    """The node came back under a new replica id; what was meant for the old one is not for it."""
    core = follower([1], term=1)
    core.step(Message(kind, 2, 1 + (1 << 32), 9), False)
    assert (core.term, core.messages, core.messages_after_flush) == (1, [], [])


def test_trap_12_what_was_believed_of_a_restarted_replica_is_forgotten() -> None:
    cluster = elected()
    cluster.partition((1, 2), (3,))
    cluster.do(1, lambda core: core.peer_reset(2))
    assert cluster.core(1).progress[2].match_index == 0
    cluster.propose(1, b"a")
    cluster.flush(1)
    assert cluster.core(1).commit_index == 1
    cluster.stabilize()
    assert cluster.core(1).commit_index == 2


def test_trap_13_no_change_before_an_own_entry_is_committed() -> None:
    cluster = Cluster((1, 2, 3))
    cluster.campaign(1, transfer=True)
    cluster.flush(1)
    cluster.deliver(Message(MessageType.VOTE_RESPONSE, 2, 1, 1))
    core = cluster.core(1)
    assert core.role == Role.LEADER
    assert "no entry of term 1" in core.propose_configuration([1, 2], [])


def test_trap_13_one_change_in_flight() -> None:
    cluster = elected()
    assert cluster.do(1, lambda core: core.propose_configuration([1, 2], [3])) == ""
    assert "one change at a time" in cluster.core(1).propose_configuration([1, 2, 3], [])
    cluster.stabilize()
    assert cluster.do(1, lambda core: core.propose_configuration([1, 2], [])) == ""


def test_trap_13_in_force_when_appended_and_rolled_back_when_truncated() -> None:
    cluster = elected()
    cluster.partition((1,), (2, 3))
    cluster.do(1, lambda core: core.propose_configuration([1, 2], []))
    assert cluster.core(1).membership == simple([1, 2])
    cluster.campaign(2)
    cluster.stabilize()
    cluster.heal()
    cluster.do(2, lambda core: core.peer_reset(1))
    cluster.stabilize()
    assert cluster.core(1).membership == simple([1, 2, 3])
    assert cluster.core(1).configuration_index == 0


def test_trap_13_joint_consensus_needs_both_majorities() -> None:
    cluster = elected((1, 2, 3), learners=(4, 5))
    assert cluster.do(1, lambda core: core.propose_configuration([1, 4, 5], [])) == ""
    core = cluster.core(1)
    assert core.membership.voters_outgoing == {1, 2, 3}
    cluster.partition((1, 4, 5), (2,), (3,))
    cluster.stabilize()
    assert core.commit_index == 1, "a majority of the new voters is not enough"
    cluster.heal()
    cluster.do(1, lambda core: core.peer_reset(2))
    cluster.stabilize()
    assert core.membership == simple([1, 4, 5])
    assert core.commit_index == core.configuration_index == 3


def test_trap_13_a_new_leader_leaves_joint_consensus() -> None:
    cluster = elected((1, 2, 3), learners=(4, 5))
    cluster.do(1, lambda core: core.propose_configuration([1, 4, 5], []))
    for _ in range(4):
        cluster.deliver_next()
    for replica in (1, 2, 3, 4, 5):
        cluster.flush(replica)
    cluster.network.clear()
    cluster.do(1, lambda core: core.quorum_lost())
    cluster.campaign(4)
    cluster.stabilize()
    assert cluster.core(4).role == Role.LEADER
    assert cluster.core(4).membership == simple([1, 4, 5])


@pytest.mark.parametrize(
    ("voters", "learners", "reason"),
    [
        ([], [1], "at least one voter"),
        ([1, 2, 3], [3], "voters and learners at once"),
        ([1, 2, 3], [4], "already so"),
        ([1, 2, 3, 5], [4], "learner first"),
        ([1, 2, 0], [4], "positive"),
    ],
)
def test_trap_13_senseless_changes_are_refused(voters: list[int], learners: list[int], reason: str) -> None:
    assert reason in elected(learners=(4,)).core(1).propose_configuration(voters, learners)


def test_trap_14_a_snapshot_replaces_a_newer_uncommitted_configuration() -> None:
    core = follower([1], term=1)
    configuration = entries(1, start=2)
    configuration[0].kind = 2
    configuration[0].record_count = 0
    configuration[0].chunks = (encode(simple([1])),)
    core.step(append(1, 1, 1, configuration), False)
    assert core.membership == simple([1])
    core.step(Message(MessageType.HEARTBEAT, 3, 1, 4), False)
    assert core.restore(2, 3, encode(simple([1, 2, 3, 4])), 7)
    assert (core.membership, core.configuration_index) == (simple([1, 2, 3, 4]), 2)
    assert (core.log.last_index, core.log.last_term, core.log.next_offset, core.commit_index) == (2, 3, 7, 2)


def test_trap_14_an_installed_snapshot_is_confirmed_only_when_durable() -> None:
    core = follower([], term=1)
    core.step(Message(MessageType.HEARTBEAT, 2, 1, 1), False)
    said(core)
    core.restore(9, 1, encode(simple([1, 2, 3])), 9)
    core.step(append(1, 9, 1, []), False)
    assert not core.messages
    assert [(message.type, message.index) for message in said(core)] == [(MessageType.SNAPSHOT_STATUS, 9), (MessageType.APPEND_RESPONSE, 9)]


def test_trap_14_an_old_snapshot_is_ignored() -> None:
    core = follower([1, 1, 1], term=1)
    core.step(append(1, 3, 1, [], commit=3), False)
    assert not core.restore(2, 1, encode(simple([1])), 2)
    assert (core.log.last_index, core.membership) == (3, simple([1, 2, 3]))


def test_trap_15_a_learner_that_has_not_caught_up_is_not_promoted() -> None:
    cluster = elected()
    cluster.add(4, b"")
    cluster.partition((1, 2, 3), (4,))
    assert cluster.do(1, lambda core: core.propose_configuration([1, 2, 3], [4])) == ""
    cluster.stabilize()
    assert "has not caught up" in cluster.core(1).propose_configuration([1, 2, 3, 4], [])
    cluster.heal()
    cluster.do(1, lambda core: core.peer_reset(4))
    cluster.stabilize()
    assert cluster.do(1, lambda core: core.propose_configuration([1, 2, 3, 4], [])) == ""


def test_trap_15_a_removed_leader_leads_on_without_counting_itself() -> None:
    cluster = elected()
    assert cluster.do(1, lambda core: core.propose_configuration([2, 3], [])) == ""
    core = cluster.core(1)
    cluster.flush(1)
    cluster.deliver(Message(MessageType.APPEND, 1, 2, 1, 1, 1, 1, core.log.memory_slice(2, 99) or ()))
    cluster.flush(2)
    cluster.network = [message for message in cluster.network if message.sender == 2]
    while cluster.deliver_next():
        pass
    assert core.role == Role.LEADER
    assert core.commit_index == 1, "1 and 2 hold the change, but 1 is no voter"
    assert cluster.propose(1, b"a")
    cluster.do(1, lambda core: core.peer_reset(3))
    cluster.stabilize()
    assert core.role == Role.FOLLOWER
    assert core.commit_index >= 2
    assert cluster.leader() is not None, "a successor was named"


# Not numbered: what makes many idle groups cheap and a lossy network harmless


def test_nothing_is_sent_without_something_to_say() -> None:
    cluster = elected()
    for action in (lambda core: core.broadcast_commit(), lambda core: core.on_flushed(), lambda core: core.propose([]), lambda core: core.retry(2)):
        cluster.do(1, action)
    assert not cluster.network
    assert not cluster.core(1).retry_unsettled()


def test_a_commit_is_told_once() -> None:
    cluster = elected()
    cluster.propose(1, b"a")
    cluster.stabilize()
    for _ in range(3):
        cluster.do(1, lambda core: core.broadcast_commit())
    assert [(message.type, message.receiver, message.commit) for message in cluster.network] == [
        (MessageType.HEARTBEAT, 2, 2),
        (MessageType.HEARTBEAT, 3, 2),
    ]
    cluster.network.clear()
    cluster.do(1, lambda core: core.peer_reset(2))
    cluster.stabilize()
    assert cluster.core(2).commit_index == 2, "lost with the session, told again by the next append"


def test_acknowledgements_that_wait_for_one_flush_are_one_message() -> None:
    cluster = elected()
    for payload in (b"a", b"b", b"c"):
        cluster.propose(1, payload)
    while cluster.deliver_next():
        pass
    cluster.flush(2)
    assert [(message.type, message.index) for message in cluster.network] == [(MessageType.APPEND_RESPONSE, 4)]


def test_a_lost_append_is_found_by_the_next_one() -> None:
    cluster = elected()
    cluster.propose(1, b"a")
    cluster.network.clear()
    cluster.propose(1, b"b")
    cluster.stabilize()
    assert cluster.core(1).commit_index == 3


def test_dropped_messages_are_sent_again_after_peer_unreachable() -> None:
    cluster = elected()
    cluster.propose(1, b"a")
    cluster.network.clear()
    for peer in (2, 3):
        cluster.do(1, lambda core, peer=peer: core.peer_unreachable(peer))
    assert not cluster.network
    assert cluster.do(1, lambda core: core.retry_unsettled()) is True
    cluster.stabilize()
    assert cluster.core(1).commit_index == 2


def test_entries_out_of_memory_are_read_and_a_failed_read_waits_for_retry() -> None:
    cluster = elected()
    cluster.partition((1, 2), (3,))
    cluster.propose(1, b"a", b"b")
    cluster.stabilize()
    cluster.log(1).memory_first = 4
    cluster.heal()
    cluster.do(1, lambda core: core.peer_reset(3))
    while not cluster.replicas[1].reads:
        cluster.deliver_next()
    progress = cluster.core(1).progress[3]
    assert progress.reading
    cluster.serve_read(1, ok=False)
    assert (progress.reading, progress.paused, cluster.replicas[1].reads) == (False, True, [])
    cluster.do(1, lambda core: core.retry(3))
    cluster.stabilize()
    assert (progress.state, progress.match_index) == (ProgressState.REPLICATE, 3)


def test_a_read_answered_after_leadership_is_lost_is_ignored() -> None:
    cluster = elected()
    read = cluster.log(1).read(1, 99)
    cluster.do(1, lambda core: core.quorum_lost())
    cluster.do(1, lambda core: core.entries_read(2, read))
    assert not cluster.network


def test_an_impossible_append_is_ignored() -> None:
    core = follower([1], term=1)
    core.step(append(1, 1, 1, entries(1, start=3)), False)
    assert core.log.last_index == 1
    assert not [message for message in said(core) if message.type == MessageType.APPEND_RESPONSE]


def test_entries_that_do_not_continue_the_offsets_stop_the_worker() -> None:
    core = follower([1], term=1)
    wrong = entries(1, start=2)
    wrong[0].base_offset = 7
    with pytest.raises(InvariantError, match="does not follow offset 1"):
        core.step(append(1, 1, 1, wrong), False)


def test_an_acknowledgement_beyond_the_log_is_not_counted() -> None:
    cluster = elected()
    cluster.deliver(Message(MessageType.APPEND_RESPONSE, 2, 1, 1, 99))
    assert cluster.core(1).progress[2].match_index == 1


def test_trap_1_entries_that_are_durable_are_not_acknowledged_in_a_term_that_is_not() -> None:
    core = follower([1], term=1)
    core.step(append(5, 1, 1, []), False)
    assert not core.messages
    assert [(message.type, message.term, message.index) for message in said(core)] == [(MessageType.APPEND_RESPONSE, 5, 1)]


def test_trap_1_durability_of_an_older_hard_state_proves_nothing_about_the_newer() -> None:
    core = follower([], voters=(1,))
    core.campaign()
    (older,) = core.take_messages_after_flush()
    core.step(Message(MessageType.HEARTBEAT_RESPONSE, 2, 1, 4), False)
    core.campaign()
    assert not core.still_true(older)
    core.step(older, False)
    assert (core.role, core.is_settled()) == (Role.CANDIDATE, False)


def test_trap_6_what_was_proven_in_an_older_term_proves_nothing_in_this_one() -> None:
    core = follower([1, 1, 1], term=1)
    core.step(append(2, 3, 1, []), False)
    assert core.proven_index == 3
    core.step(Message(MessageType.HEARTBEAT, 3, 1, 3, commit=3), False)
    assert core.commit_index == 0


def test_trap_13_a_configuration_replaced_at_its_own_index_is_in_force() -> None:
    core = follower([1], term=1)
    for term, voters in ((2, [1, 2]), (3, [1, 2, 3, 4])):
        (change,) = entries(term, start=2)
        change.kind, change.record_count, change.chunks = 2, 0, (encode(simple(voters)),)
        core.step(append(term, 1, 1, [change], sender=term), False)
        assert core.membership == simple(voters)


def test_trap_14_an_installed_snapshot_is_no_acknowledgement() -> None:
    cluster = elected()
    progress = cluster.core(1).progress[3]
    progress.reset(1)
    progress.become_snapshot(1)
    cluster.deliver(Message(MessageType.SNAPSHOT_STATUS, 3, 1, 1, 1))
    assert (progress.state, progress.match_index, progress.next_index) == (ProgressState.PROBE, 0, 2)


def test_trap_1_a_snapshot_of_a_term_not_heard_of_brings_its_term() -> None:
    """Found by a random schedule: the file arrives before any message of its term, and the replica restarts."""
    core = follower([1], term=1)
    assert core.restore(4, 5, encode(simple([1, 2, 3])), 9)
    said(core)
    assert isinstance(core.log, MemoryLog)
    again = RaftCore(1, core.log.crash(), LIMITS)
    assert (again.term, again.log.last_term, again.commit_index) == (5, 5, 4)


def test_trap_14_a_member_behind_a_newer_trim_gets_another_snapshot_though_its_status_was_lost() -> None:
    cluster = elected()
    leader = cluster.core(1)
    for number in range(6):
        cluster.propose(1, b"%d" % number)
    cluster.stabilize()
    cluster.trim(1, 4)
    progress = leader.progress[3]
    progress.reset(2)
    progress.become_snapshot(2)
    leader.report_snapshot(3, True)
    leader.messages.clear()
    leader.snapshots.clear()
    refused = leader.log.first_index - 1
    leader.step(Message(MessageType.APPEND_RESPONSE, 3, 1, leader.term, refused, 1, reject=True, hint_index=2), False)
    assert [(request.peer, request.index) for request in leader.snapshots] == [(3, refused)]


def test_trap_14_a_refusal_while_the_snapshot_is_installed_changes_nothing() -> None:
    cluster = elected()
    leader = cluster.core(1)
    cluster.propose(1, b"a", b"b")
    cluster.stabilize()
    progress = leader.progress[3]
    progress.reset(2)
    progress.become_snapshot(2)
    leader.report_snapshot(3, True)
    leader.step(Message(MessageType.APPEND_RESPONSE, 3, 1, leader.term, 2, 1, reject=True, hint_index=1), False)
    assert progress.state == ProgressState.SNAPSHOT


def test_entries_that_were_trimmed_while_they_were_read_are_not_sent() -> None:
    """Found by the simulator: the entry before them is no longer known, so that a snapshot is due."""
    cluster = elected()
    leader = cluster.core(1)
    for number in range(6):
        cluster.propose(1, b"%d" % number)
    cluster.stabilize()
    read = leader.log.memory_slice(2, 1 << 20)
    assert read is not None
    progress = leader.progress[3]
    progress.reset(2)
    progress.reading = True
    cluster.trim(1, 5)
    leader.snapshots.clear()
    leader.entries_read(3, read)
    assert [(request.peer, request.index) for request in leader.snapshots] == [(3, leader.log.first_index - 1)]


def test_a_leader_that_asks_for_votes_is_not_protected_from_itself() -> None:
    """Found by the simulator: its beats go on for other groups, so that its followers would believe in it for ever."""
    core = follower([1], term=1)
    core.step(Message(MessageType.HEARTBEAT, 2, 1, 1), False)
    said(core)
    core.step(Message(MessageType.PRE_VOTE, 2, 1, 2, 1, 1), True)
    core.step(Message(MessageType.PRE_VOTE, 3, 1, 2, 1, 1), True)
    assert [(message.receiver, message.reject) for message in said(core)] == [(2, False), (3, True)]
