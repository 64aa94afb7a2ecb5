"""Progress: the window, the states, and what a refusal or an acknowledgement may change."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from raft.core.progress import RETRY_WAIT_MAX, Progress, ProgressState


def replicating(match: int = 0) -> Progress:
    progress = Progress(2, match + 1)
    progress.acknowledge(match)
    progress.become_replicate()
    return progress


def test_a_probe_is_sent_once() -> None:
    progress = Progress(2, 5)
    assert progress.may_send(4, 100)
    progress.sent(4, 0)
    assert not progress.may_send(4, 100)
    assert progress.next_index == 5, "a probe does not move ahead"


def test_the_window_is_bounded_in_messages_and_bytes() -> None:
    progress = replicating()
    progress.sent(1, 10)
    progress.sent(2, 10)
    assert progress.may_send(3, 100)
    assert not progress.may_send(2, 100)
    assert not progress.may_send(3, 20)
    assert progress.next_index == 3


def test_an_acknowledgement_frees_everything_before_it() -> None:
    progress = replicating()
    for index in (1, 2, 3):
        progress.sent(index, 10)
    assert progress.acknowledge(2)
    assert list(progress.in_flight) == [(3, 10)]
    assert progress.in_flight_bytes == 10
    assert not progress.acknowledge(1), "late"
    assert progress.match_index == 2


def test_stale_refusals() -> None:
    progress = replicating(5)
    progress.sent(6, 1)
    progress.sent(7, 1)
    assert progress.is_stale_reject(5), "already acknowledged"
    assert not progress.is_stale_reject(6)
    assert progress.is_stale_reject(8), "never sent"
    progress.become_probe(6)
    assert progress.is_stale_reject(6), "the probe asks for 5"
    assert not progress.is_stale_reject(5)
    progress.become_snapshot(9)
    assert progress.is_stale_reject(5)


def test_a_probe_never_goes_back_before_the_match() -> None:
    progress = replicating(5)
    progress.become_probe(2)
    assert progress.next_index == 6


def test_reset_forgets_the_match_and_what_was_told() -> None:
    progress = replicating(5)
    progress.told_commit = 5
    progress.sent(6, 10)
    progress.reset(9)
    assert (progress.state, progress.match_index, progress.next_index, progress.told_commit) == (ProgressState.PROBE, 0, 9, 0)
    assert not progress.in_flight
    assert progress.in_flight_bytes == 0


def test_what_was_told_but_may_be_lost_is_told_again() -> None:
    progress = replicating(5)
    progress.told_commit = 8
    progress.become_probe(6)
    assert progress.told_commit == 5


def test_retries_become_rare_but_never_stop() -> None:
    progress = Progress(2, 1)
    due = [call for call in range(300) if progress.retry_due()]
    gaps = [b - a for a, b in pairwise(due)]
    assert due[:2] == [0, 1]
    assert gaps == sorted(gaps)
    assert max(gaps) == RETRY_WAIT_MAX
    progress.reset(1)
    assert progress.retry_due()


STEPS = st.lists(
    st.tuples(st.sampled_from(["sent", "ack", "probe", "replicate", "snapshot", "reset"]), st.integers(0, 12), st.integers(0, 50)), max_size=40
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_invariants_hold_after_any_steps(steps: list[tuple[str, int, int]]) -> None:
    progress = Progress(2, 1)
    for step, index, size in steps:
        match = progress.match_index
        if step == "sent":
            if progress.may_send(4, 100):
                progress.sent(progress.next_index + index % 3, size)
        elif step == "ack":
            progress.acknowledge(index)
        elif step == "probe":
            progress.become_probe(index)
        elif step == "replicate":
            progress.become_replicate()
        elif step == "snapshot":
            progress.become_snapshot(index)
        else:
            progress.reset(index + 1)
        assert progress.match_index < progress.next_index
        assert progress.match_index >= match or step == "reset"
        assert progress.in_flight_bytes == sum(part for _, part in progress.in_flight)
        assert len(progress.in_flight) <= 4
        assert not progress.in_flight or progress.state == ProgressState.REPLICATE
        assert [last for last, _ in progress.in_flight] == sorted(last for last, _ in progress.in_flight)
