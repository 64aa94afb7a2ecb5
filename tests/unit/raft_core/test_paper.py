"""One test per rule of the Raft paper (section in the name) and of Ongaro's thesis (chapter in the name)."""

from __future__ import annotations

import pytest

from raft.core.core import CoreLimits, RaftCore, Role
from raft.core.log_view import last_index_within_term
from raft.core.membership import encode, simple
from raft.core.memory_log import MemoryLog
from raft.core.message import Message, MessageType
from raft.core.progress import ProgressState
from tests.unit.raft_core.cluster import LIMITS, Cluster, data, elected
from wal.entry import Entry, EntryKind


def follower(terms: list[int], term: int = 0, voters: tuple[int, ...] = (1, 2, 3)) -> RaftCore:
    """Replica 1 with one flushed entry per element of `terms`, in hard state `term` (at least the last entry's)."""
    log = MemoryLog(encode(simple(voters)))
    log.save_hard_state(max([term, *terms]), 0)
    log.append([Entry(t, index, EntryKind.DATA, (b"x",), 1, 0, index - 1, 1) for index, t in enumerate(terms, 1)])
    log.take_flush()
    log.finish_flush()
    return RaftCore(1, log, LIMITS)


def entries(*terms: int, start: int = 1) -> list[Entry]:
    return [Entry(term, index, EntryKind.DATA, (b"x",), 1, 0, index - 1, 1) for index, term in enumerate(terms, start)]


def said(core: RaftCore) -> list[Message]:
    """Everything that the core wants to say, flushing first what has to be."""
    if core.log.take_flush():
        core.log.finish_flush()
    after = [message for message in core.take_messages_after_flush() if core.still_true(message)]
    core.on_flushed()
    for message in after:
        if message.receiver == core.replica:
            core.step(message, False)
    found, core.messages = core.messages + [message for message in after if message.receiver != core.replica], []
    return found


def append(term: int, index: int, log_term: int, sent: list[Entry], commit: int = 0, sender: int = 2) -> Message:
    return Message(MessageType.APPEND, sender, 1, term, index, log_term, commit, sent)


# 5.1 Raft basics


@pytest.mark.parametrize(
    "kind", [MessageType.APPEND, MessageType.HEARTBEAT, MessageType.VOTE, MessageType.APPEND_RESPONSE, MessageType.VOTE_RESPONSE]
)
@pytest.mark.parametrize("role", ["follower", "candidate", "leader"])
def test_5_1_a_higher_term_makes_a_follower(role: str, kind: MessageType) -> None:
    cluster = elected() if role == "leader" else Cluster((1, 2, 3))
    if role == "candidate":
        cluster.campaign(1, transfer=True)
    core = cluster.core(1)
    core.step(Message(kind, 2, 1, 9, reject=True), False)
    assert (core.role, core.term) == (Role.FOLLOWER, 9)
    assert core.leader == (2 if kind in (MessageType.APPEND, MessageType.HEARTBEAT) else 0)


@pytest.mark.parametrize("kind", [MessageType.APPEND, MessageType.HEARTBEAT, MessageType.VOTE, MessageType.PRE_VOTE, MessageType.INSTALL_SNAPSHOT])
def test_5_1_a_request_of_an_old_term_is_refused_and_told_the_new_one(kind: MessageType) -> None:
    core = follower([1], term=3)
    core.step(Message(kind, 2, 1, 2, 5, 2, entries=entries(2, start=6)), False)
    (answer,) = said(core)
    assert answer.reject
    assert answer.term == 3
    assert core.log.last_index == 1


@pytest.mark.parametrize("kind", list(MessageType))
def test_5_1_an_old_message_changes_nothing(kind: MessageType) -> None:
    core = follower([1, 2], term=3)
    before = (core.term, core.vote, core.role, core.leader, core.commit_index, core.log.last_index)
    core.step(Message(kind, 2, 1, 2, 1, 1, 2), False)
    assert (core.term, core.vote, core.role, core.leader, core.commit_index, core.log.last_index) == before


# 5.2 Leader election


@pytest.mark.parametrize(
    ("voters", "yes", "no", "expected"),
    [
        ((1,), (), (), Role.LEADER),
        ((1, 2, 3), (2,), (), Role.LEADER),
        ((1, 2, 3), (2,), (3,), Role.LEADER),
        ((1, 2, 3), (), (3,), Role.CANDIDATE),
        ((1, 2, 3), (), (2, 3), Role.FOLLOWER),
        ((1, 2, 3, 4, 5), (2,), (), Role.CANDIDATE),
        ((1, 2, 3, 4, 5), (2, 3), (4, 5), Role.LEADER),
        ((1, 2, 3, 4, 5), (2,), (3, 4, 5), Role.FOLLOWER),
        ((1, 2), (), (), Role.CANDIDATE),
    ],
)
def test_5_2_a_majority_of_votes_makes_a_leader(voters: tuple[int, ...], yes: tuple[int, ...], no: tuple[int, ...], expected: Role) -> None:
    core = follower([], voters=voters)
    core.campaign(transfer=True)
    said(core)
    for sender in (*yes, *no):
        core.step(Message(MessageType.VOTE_RESPONSE, sender, 1, core.term, reject=sender in no), False)
    assert core.role == expected
    assert core.term == 1


def test_5_2_one_vote_per_term_first_come_first_served() -> None:
    core = follower([])
    for candidate, granted in [(2, True), (3, False), (2, True)]:
        core.step(Message(MessageType.VOTE, candidate, 1, 1), False)
        (answer,) = said(core)
        assert (answer.receiver, answer.reject) == (candidate, not granted)


def test_5_2_a_candidate_recognises_the_leader_of_its_term() -> None:
    core = follower([])
    core.campaign(transfer=True)
    core.step(append(1, 0, 0, entries(1)), False)
    assert (core.role, core.leader, core.log.last_index) == (Role.FOLLOWER, 2, 1)


def test_5_2_two_leaders_in_one_term_stop_the_worker() -> None:
    cluster = elected()
    with pytest.raises(Exception, match="both lead term 1"):
        cluster.core(1).step(append(1, 0, 0, []), False)
    with pytest.raises(Exception, match="both lead term 1"):
        cluster.core(2).step(Message(MessageType.HEARTBEAT, 3, 2, 1), False)


def test_5_2_a_new_leader_says_so_to_all() -> None:
    cluster = Cluster((1, 2, 3), learners=(4,))
    sent: list[Message] = []
    cluster.on_sent = sent.append
    cluster.campaign(1)
    cluster.stabilize()
    assert {message.receiver for message in sent if message.type == MessageType.HEARTBEAT} == {2, 3, 4}


# 5.3 Log replication


@pytest.mark.parametrize(
    ("log", "previous", "sent", "expected"),
    [
        ([], (0, 0), [1], [1]),
        ([1, 1], (2, 1), [2], [1, 1, 2]),
        ([1, 2], (1, 1), [2], [1, 2]),  # known already
        ([1, 2, 2], (1, 1), [2], [1, 2, 2]),  # shorter, no conflict: nothing is cut
        ([1, 1, 1], (1, 1), [2], [1, 2]),  # conflict
        ([1, 1, 1], (0, 0), [1, 2, 2], [1, 2, 2]),  # conflict in the middle
        ([1, 1, 1], (3, 1), [], [1, 1, 1]),
        ([1, 1, 1], (1, 1), [], [1, 1, 1]),  # an empty append cuts nothing
    ],
)
def test_5_3_a_follower_makes_its_log_the_leaders(log: list[int], previous: tuple[int, int], sent: list[int], expected: list[int]) -> None:
    core = follower(log, term=3)
    core.step(append(3, *previous, entries(*sent, start=previous[0] + 1)), False)
    assert [entry.term for entry in core.log.entries] == expected
    (answer,) = said(core)
    assert (answer.type, answer.reject, answer.index) == (MessageType.APPEND_RESPONSE, False, previous[0] + len(sent))


@pytest.mark.parametrize(
    ("log", "previous", "hint"),
    [
        ([1, 1], (5, 1), (2, 1)),  # too short
        ([1, 1, 2, 2], (3, 1), (2, 1)),  # its term 2 is skipped
        ([1, 1, 4, 4, 4], (5, 2), (2, 1)),  # whole terms at once
        ([2, 2, 2], (3, 1), (0, 0)),
        ([1, 1, 1], (3, 2), (3, 1)),  # the leader looks for its own last entry of term 1
    ],
)
def test_5_3_a_refusal_skips_whole_terms(log: list[int], previous: tuple[int, int], hint: tuple[int, int]) -> None:
    core = follower(log, term=5)
    core.step(append(5, *previous, entries(5, start=previous[0] + 1)), False)
    (answer,) = said(core)
    assert answer.reject
    assert answer.index == previous[0]
    assert (answer.hint_index, answer.log_term) == hint
    assert core.log.last_index == len(log), "nothing is cut by a refused append"


def test_5_3_last_index_within_term_equals_the_dumb_search() -> None:
    core = follower([1, 1, 3, 3, 4, 7, 7])
    for low in range(8):
        for high in range(low, 8):
            for term in range(9):
                wanted = max([index for index in range(low, high + 1) if (core.log.term(index) or 0) <= term], default=low - 1)
                assert last_index_within_term(core.log, low, high, term) == wanted


def test_5_3_figure_7_every_log_becomes_the_leaders() -> None:
    leader_terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    others = [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ]
    for terms in others:
        cores = {1: follower(leader_terms, voters=(1, 2, 3)), 2: follower(terms, voters=(1, 2, 3))}
        cores[2].replica = 2
        leader = cores[1]
        leader.save_hard_state(7, 0)
        leader.campaign(transfer=True)
        said(leader)
        leader.step(Message(MessageType.VOTE_RESPONSE, 3, 1, 8), False)
        moving = said(leader)
        rounds = 0
        while moving:
            rounds += 1
            assert rounds < 40, "the logs do not converge"
            message = moving.pop(0)
            if message.receiver in cores:
                cores[message.receiver].step(message, False)
                moving += said(cores[message.receiver])
        assert [entry.term for entry in cores[2].log.entries] == [*leader_terms, 8]
        assert leader.commit_index == 11


def test_5_3_the_base_offsets_form_a_chain() -> None:
    cluster = elected()
    cluster.do(1, lambda core: core.propose([data(b"a", 3), data(b"b", 2)]))
    cluster.propose(1, b"c")
    cluster.stabilize()
    for replica in (1, 2, 3):
        assert [(entry.base_offset, entry.record_count) for entry in cluster.log(replica).entries] == [(0, 0), (0, 3), (3, 2), (5, 1)]


def test_5_3_only_the_leader_proposes() -> None:
    cluster = elected()
    assert not cluster.propose(2, b"x")
    assert cluster.log(2).last_index == 1


# 5.4 Safety


@pytest.mark.parametrize(
    ("own", "asked", "granted"),
    [
        ([1], (1, 1), True),
        ([1], (2, 1), True),
        ([1, 1], (1, 1), False),
        ([1], (1, 2), True),
        ([1, 1], (1, 2), True),
        ([2], (5, 1), False),
        ([], (0, 0), True),
    ],
)
@pytest.mark.parametrize("kind", [MessageType.VOTE, MessageType.PRE_VOTE])
def test_5_4_1_only_an_up_to_date_log_gets_a_vote(own: list[int], asked: tuple[int, int], granted: bool, kind: MessageType) -> None:
    core = follower(own, term=2)
    core.step(Message(kind, 2, 1, 3, *asked), False)
    (answer,) = said(core)
    assert answer.reject is not granted


def test_5_4_2_an_old_term_is_not_committed_by_counting() -> None:
    core = follower([1, 2, 2], term=2)
    core.campaign(transfer=True)
    said(core)
    core.step(Message(MessageType.VOTE_RESPONSE, 2, 1, 3), False)
    said(core)
    core.step(Message(MessageType.APPEND_RESPONSE, 2, 1, 3, 3), False)
    assert core.commit_index == 0, "entry 3 is on a majority, but of term 2"
    core.step(Message(MessageType.APPEND_RESPONSE, 2, 1, 3, 4), False)
    assert core.commit_index == 4


# 7 Log compaction


def test_7_a_member_behind_the_log_gets_a_snapshot_and_nothing_else() -> None:
    cluster = elected()
    cluster.partition((1, 2), (3,))
    cluster.propose(1, b"a", b"b")
    cluster.stabilize()
    cluster.trim(1, 4)
    cluster.heal()
    cluster.do(1, lambda core: core.peer_reset(3))
    while not cluster.snapshots:
        cluster.deliver_next()
    progress = cluster.core(1).progress[3]
    assert progress.state == ProgressState.SNAPSHOT
    cluster.network.clear()
    cluster.propose(1, b"c")
    assert [message.receiver for message in cluster.network] == [2]
    cluster.serve_snapshot()
    assert progress.match_index == 0, "a snapshot that arrived is no acknowledgement"
    cluster.stabilize()
    assert (progress.state, progress.match_index) == (ProgressState.REPLICATE, 4)
    assert cluster.log(3).next_offset == 3


def test_7_a_failed_snapshot_is_asked_for_again_by_retry_only() -> None:
    cluster = elected()
    cluster.partition((1, 2), (3,))
    cluster.propose(1, b"a")
    cluster.stabilize()
    cluster.trim(1, 3)
    cluster.heal()
    cluster.do(1, lambda core: core.peer_reset(3))
    while not cluster.snapshots:
        cluster.deliver_next()
    cluster.serve_snapshot(ok=False)
    cluster.propose(1, b"b")
    assert not cluster.snapshots
    cluster.do(1, lambda core: core.retry(3))
    assert len(cluster.snapshots) == 1


def test_7_a_snapshot_the_log_already_holds_keeps_the_log() -> None:
    """What was acknowledged behind the snapshot must not be lost with it."""
    core = follower([1, 1, 1], term=1)
    core.step(append(1, 3, 1, []), False)
    said(core)
    assert not core.restore(2, 1, encode(simple((1, 2, 3))), 2)
    assert (core.log.last_index, core.commit_index) == (3, 2)


def test_7_a_snapshot_that_can_not_be_installed_is_reported() -> None:
    core = follower([1], term=1)
    core.step(append(1, 1, 1, []), False)
    said(core)
    core.refuse_snapshot(9)
    (answer,) = said(core)
    assert (answer.type, answer.reject, answer.receiver) == (MessageType.SNAPSHOT_STATUS, True, 2)


# Thesis


def test_thesis_3_10_transfer_waits_for_the_target_and_stops_proposals() -> None:
    cluster = elected()
    cluster.propose(1, b"a")
    assert cluster.do(1, lambda core: core.transfer_leadership(2)) == ""
    assert not [message for message in cluster.network if message.type == MessageType.TIMEOUT_NOW]
    assert not cluster.propose(1, b"b")
    cluster.leader_alive = True
    cluster.stabilize()
    leader = cluster.leader()
    assert leader is not None
    assert (leader.replica, leader.term) == (2, 2)


def test_thesis_3_10_an_aborted_transfer_proposes_again() -> None:
    cluster = elected()
    cluster.propose(1, b"a")
    cluster.do(1, lambda core: core.transfer_leadership(2))
    cluster.do(1, lambda core: core.abort_transfer())
    assert cluster.propose(1, b"b")
    cluster.stabilize()
    assert cluster.core(1).role == Role.LEADER


@pytest.mark.parametrize(
    ("replica", "target", "reason"), [(1, 1, "leads already"), (1, 4, "not a voter"), (1, 9, "not a voter"), (2, 3, "does not lead")]
)
def test_thesis_3_10_a_transfer_is_refused_with_a_reason(replica: int, target: int, reason: str) -> None:
    cluster = elected(learners=(4,))
    assert reason in cluster.core(replica).transfer_leadership(target)


def test_thesis_4_2_1_learners_receive_and_do_not_count() -> None:
    cluster = elected(learners=(4, 5))
    cluster.partition((1, 4, 5), (2,), (3,))
    cluster.propose(1, b"a")
    cluster.stabilize()
    assert cluster.log(4).last_index == 2
    assert cluster.core(1).commit_index == 1
    cluster.campaign(4)
    assert cluster.core(4).role == Role.FOLLOWER


def test_thesis_4_2_2_who_was_a_voter_before_an_open_change_may_campaign() -> None:
    """Figure 4.6: the removed leader alone holds the entry that removes it; nobody else can win, and it does not count itself."""
    cluster = elected((1, 2))
    cluster.partition((1,), (2,))
    assert cluster.do(1, lambda core: core.propose_configuration([2], [])) == ""
    cluster.flush(1)
    cluster.do(1, lambda core: core.quorum_lost())
    cluster.heal()
    cluster.campaign(2)
    cluster.stabilize()
    assert cluster.leader() is None
    cluster.campaign(1)
    cluster.stabilize()
    leader = cluster.leader()
    assert leader is not None
    assert leader.replica == 2
    assert leader.membership == simple([2])


def test_thesis_4_2_3_a_live_leader_is_protected() -> None:
    cluster = elected()
    cluster.leader_alive = True
    cluster.core(3).quorum_lost()
    for transfer in (False, True):
        vote = Message(MessageType.VOTE, 3, 2, 9, 5, 9, transfer=transfer)
        cluster.deliver(vote)
        assert (cluster.core(2).term == 9) is transfer


def test_thesis_9_6_pre_vote_changes_no_state() -> None:
    core = follower([1], term=1)
    core.step(Message(MessageType.HEARTBEAT, 2, 1, 1), True)
    said(core)
    before = (core.term, core.vote, core.role, core.leader, core.log.hard_state, core.log.has_staged())
    for candidate in (2, 3):
        core.step(Message(MessageType.PRE_VOTE, candidate, 1, 7, 5, 6), False)
    assert [message.reject for message in said(core)] == [False, False]
    assert (core.term, core.vote, core.role, core.leader, core.log.hard_state, core.log.has_staged()) == before


def test_thesis_9_6_a_pre_candidate_keeps_term_and_vote() -> None:
    core = follower([1], term=4)
    core.campaign()
    core.campaign()
    assert (core.role, core.term, core.vote) == (Role.PRE_CANDIDATE, 4, 0)
    assert not core.log.has_staged()
    core.step(Message(MessageType.PRE_VOTE_RESPONSE, 2, 1, 4), False)
    assert core.role == Role.PRE_CANDIDATE, "a grant of another round does not count"
    core.step(Message(MessageType.PRE_VOTE_RESPONSE, 2, 1, 5), False)
    assert (core.role, core.term, core.vote) == (Role.CANDIDATE, 5, 1)


def test_thesis_10_2_1_appends_are_pipelined_and_bounded() -> None:
    limits = CoreLimits(max_message_bytes=10, max_in_flight_messages=2, max_in_flight_bytes=1000, max_message_entries=2)
    cluster = elected((1, 2), limits=limits)
    cluster.propose(1, b"1", b"2", b"3", b"4", b"5", b"6")
    assert [len(message.entries) for message in cluster.network] == [2, 2]
    cluster.stabilize()
    cluster.propose(1, b"x" * 8, b"y" * 8, b"z" * 50)
    assert [sum(entry.size for entry in message.entries) for message in cluster.network] == [8, 8]
    cluster.stabilize()
    assert cluster.log(2).last_index == 10


def test_thesis_10_2_1_the_window_is_bounded_in_bytes() -> None:
    limits = CoreLimits(max_message_bytes=10, max_in_flight_messages=100, max_in_flight_bytes=25, max_message_entries=100)
    cluster = elected((1, 2), limits=limits)
    for _ in range(10):
        cluster.propose(1, b"x" * 10)
    assert len(cluster.network) == 3
    cluster.stabilize()
    assert cluster.core(1).commit_index == 11
