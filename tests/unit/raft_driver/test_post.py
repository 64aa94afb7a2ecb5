"""Answers that go along with appends of our own to the same peer: one message instead of two, and nothing lost or believed wrongly by it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from raft.api import Lane
from raft.core.membership import encode, simple
from raft.core.message import Message, MessageType
from raft.wire import Batch, Envelope, encode_batch
from tests.unit.raft_driver.stage import CLUSTER, GROUP, Machine, Stage
from wal.entry import Buffer, Entry, EntryKind, group_id

OTHER = group_id(b"o" * 16, 0)
"""A group that node 2 leads and this node follows."""
TERM = 5


@pytest.fixture
def stage() -> Stage:
    stage = Stage()
    log = stage.store.create_group(OTHER, "o", encode(simple((1, 2, 3))))
    stage.driver.open_group(log, Machine(), 1)
    stage.lead()
    stage.acknowledge(3)
    say(stage, [(OTHER, Message(MessageType.HEARTBEAT, 2, 1, TERM))], lane=Lane.CONTROL)
    stage.settle()
    stage.network.sent.clear()
    return stage


def say(stage: Stage, messages: list, *, number: int = 0, echo: int = 0, incarnation: int = 1, lane: Lane = Lane.DATA) -> None:
    """Node 2 says something on its own session."""
    data = b"".join(encode_batch(Envelope(CLUSTER, 2, incarnation), Batch(messages, number, [], echo)))
    stage.driver.on_request(2, lane, memoryview(data))


def append_of_two(stage: Stage, number: int = 1) -> None:
    entry = Entry(TERM, 1, EntryKind.NOOP, (), 0, 0)
    say(stage, [(OTHER, Message(MessageType.APPEND, 2, 1, TERM, 0, 0, 0, [entry]))], number=number)
    stage.turn()


def kinds(batch: Batch) -> list[MessageType]:
    return [message.type for _, message in batch.messages]


def test_an_answer_goes_along_with_an_append(stage: Stage) -> None:
    append_of_two(stage)
    stage.propose(b"x")  # waits for the flush that is out
    assert stage.batches(2) == []
    stage.flush()
    (batch,) = stage.batches(2)
    assert kinds(batch) == [MessageType.APPEND_RESPONSE, MessageType.APPEND]
    assert (batch.echo, batch.beat) == (1, stage.driver.peers[2].data_sent)
    assert kinds(*stage.batches(3)) == [MessageType.APPEND]
    stage.settle()
    assert stage.batches(2) == []  # said once


def test_an_answer_without_an_append_goes_back_on_the_peers_session(stage: Stage) -> None:
    append_of_two(stage)
    stage.settle()
    (batch,) = stage.batches(2)
    assert kinds(batch) == [MessageType.APPEND_RESPONSE] and (batch.beat, batch.echo) == (1, 0)


def test_an_answer_does_not_wait_for_a_peer_that_takes_no_more_appends(stage: Stage) -> None:
    for payload in (b"1", b"2", b"3"):
        stage.propose(payload)
        stage.settle()
    stage.network.sent.clear()
    assert stage.driver.peers[2].requests[Lane.DATA], "the third append waits"
    append_of_two(stage)
    stage.settle()
    (batch,) = stage.batches(2)
    assert kinds(batch) == [MessageType.APPEND_RESPONSE]


def test_an_answer_that_can_not_go_along_is_not_lost(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    append_of_two(stage)
    stage.propose(b"x")
    taken = stage.network.send_request

    def refuse(peer: int, lane: Lane, parts: Sequence[Buffer]) -> bool:
        return False

    monkeypatch.setattr(stage.network, "send_answer", taken)
    monkeypatch.setattr(stage.network, "send_request", refuse)
    stage.flush()
    assert [kinds(batch) for batch in stage.batches(2)] == [[MessageType.APPEND_RESPONSE]]


def test_what_came_along_counts(stage: Stage) -> None:
    stage.propose(b"x")
    stage.settle()
    last, sent = stage.log.last_index, stage.driver.peers[2].data_sent
    say(stage, [(GROUP, Message(MessageType.APPEND_RESPONSE, 2, 1, stage.core.term, last, stage.core.term))], number=1, echo=sent)
    stage.turn()
    assert stage.core.commit_index == last and stage.machine.applied == [b"x"]
    assert stage.driver.peers[2].data_acked == sent


def test_what_an_earlier_process_of_the_peer_answered_counts_no_more(stage: Stage) -> None:
    stage.propose(b"x")
    stage.settle()
    last, sent, acked = stage.log.last_index, stage.driver.peers[2].data_sent, stage.driver.peers[2].data_acked
    stage.driver.peers[2].incarnation = 2
    say(stage, [(GROUP, Message(MessageType.APPEND_RESPONSE, 2, 1, stage.core.term, last, stage.core.term))], number=1, echo=sent)
    stage.turn()
    assert stage.core.commit_index < last
    assert stage.driver.peers[2].data_acked == acked


def test_the_peers_session_does_not_outlive_ours_when_answers_went_along(stage: Stage) -> None:
    append_of_two(stage)
    stage.propose(b"x")
    stage.settle()  # the answer goes along, and is lost
    stage.driver.on_session_lost(2, Lane.DATA, True, False)
    assert stage.network.ended == [(2, Lane.DATA)], "so that the peer, whose append has no answer, asks again"
    stage.driver.on_session_open(2, Lane.DATA, True, 1)
    stage.driver.on_session_lost(2, Lane.DATA, True, False)
    assert stage.network.ended == [(2, Lane.DATA)], "nothing went along on that one"


def test_the_peers_session_stays_when_ours_carried_only_appends(stage: Stage) -> None:
    append_of_two(stage)
    stage.settle()
    stage.propose(b"x")
    stage.settle()
    stage.driver.on_session_lost(2, Lane.DATA, True, False)
    stage.driver.on_session_lost(3, Lane.DATA, True, False)
    assert stage.network.ended == []


def test_a_session_of_an_older_process_that_opens_late_does_not_make_the_newer_one_unbelievable(stage: Stage) -> None:
    stage.driver.on_session_open(2, Lane.DATA, False, 3)
    stage.driver.on_session_open(2, Lane.CONTROL, True, 2)
    assert stage.driver.peers[2].incarnation == 3


def test_the_slower_follower_causes_no_turn_of_its_own(stage: Stage) -> None:
    stage.propose(b"x")
    stage.settle()
    stage.acknowledge(2)
    last = stage.log.last_index
    assert stage.core.commit_index == last
    stage.advance(200)  # both know of the commit
    data = Message(MessageType.APPEND_RESPONSE, 3, 1, stage.core.term, last, stage.core.term)
    stage.answered(3, data)
    stage.turn()
    stage.answered(3, data)
    assert stage.clock.soon == []
    stage.advance(40)
    assert 3 in {status.node for status in stage.group.replicas() if status.match_index == last}


def test_a_leader_that_fell_silent_is_told_before_its_late_beats_are_answered(stage: Stage) -> None:
    """Seed 2024 of the coordinators' workload: beats that a one-way delay had held back were answered after another leader was elected, and the
    deposed one, whose lease runs from the time of sending, answered a read from its old state."""
    stage.advance(1_600)  # no beat of node 2 for longer than the election time-out; its session stays
    assert_told_before_a_late_beat_is_answered(stage)


def beat_of(stage: Stage, node: int) -> None:
    data = b"".join(encode_batch(Envelope(CLUSTER, node, 1), Batch([], 1)))
    stage.driver.on_request(node, Lane.CONTROL, memoryview(data))


def test_a_silent_peer_is_suspected_long_before_its_groups_elect_and_trusted_again_when_heard(stage: Stage) -> None:
    beat_of(stage, 2)
    beat_of(stage, 3)
    stage.events.silence.clear()
    for _ in range(10):
        stage.advance(80)
        beat_of(stage, 3)
    assert stage.events.silence == [(2, True)], "once, and nobody else"
    assert stage.driver.groups[OTHER].followed is stage.driver.peers[2], "nothing is decided by it"
    beat_of(stage, 2)
    beat_of(stage, 2)
    assert stage.events.silence == [(2, True), (2, False)]
    stage.driver.on_session_lost(2, Lane.CONTROL, False, False)
    stage.advance(800)
    assert (2, True) not in stage.events.silence[2:], "a session that is lost is not silence"


def test_a_new_session_says_itself_what_the_peer_leads(stage: Stage) -> None:
    stage.advance(800)
    assert (2, True) in stage.events.silence
    stage.events.silence.clear()
    stage.driver.on_session_open(2, Lane.CONTROL, False, 1)
    beat_of(stage, 2)
    assert stage.events.silence == []


def test_a_notice_that_can_not_leave_is_said_before_the_next_beat_is_answered(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(stage.network, "send_answer", lambda peer, lane, parts: False)
        stage.advance(1_600)
    stage.network.sent.clear()
    assert_told_before_a_late_beat_is_answered(stage)


def assert_told_before_a_late_beat_is_answered(stage: Stage) -> None:
    late = b"".join(encode_batch(Envelope(CLUSTER, 2, 1), Batch([], 7_777)))
    stage.driver.on_request(2, Lane.CONTROL, memoryview(late))
    stage.settle()
    heard = [(message.type, message.reject) if message else "beat" for batch in stage.batches(2) for message in said_of(batch)]
    notice = (MessageType.HEARTBEAT_RESPONSE, True)
    assert notice in heard and heard.index(notice) < heard.index("beat")


def said_of(batch: Batch) -> list[Message | None]:
    """What a batch says of OTHER, then None if it answers the late beat."""
    return [*(message for group, message in batch.messages if group == OTHER), *([None] if batch.beat == 7_777 else [])]


def test_a_follower_of_meta_is_told_of_a_commit_as_soon_as_it_holds_the_entry(stage: Stage) -> None:
    stage.group.eager_commit = True
    stage.propose(b"x")
    stage.settle()
    stage.acknowledge(2)
    stage.network.sent.clear()
    stage.acknowledge(3)
    told = [message for batch in stage.batches(3) for _, message in batch.messages]
    assert [(message.type, message.commit) for message in told] == [(MessageType.HEARTBEAT, stage.log.last_index)]
