"""Each checker of the programs (tests/integration/programs/journal.py) flags a history that was made bad by hand, and no good one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.programs.journal import Journal, Row, check_exactly_once


def rows(partition: int, *offsets: int) -> list[Row]:
    return [Row(partition, offset, b"%d" % offset, 0) for offset in offsets]


def commit(journal: Journal, partition: int, offset: int, acked: bool = True) -> None:
    journal.on_attempted({partition: offset})
    if acked:
        journal.on_acked({partition: offset})


def handed_over(journal: Journal, acked: bool, *next_rows: int) -> None:
    """`a` reads three records, commits them, gives the partition up; `b` goes on with `next_rows`."""
    journal.on_assigned("a", [0])
    journal.on_given("a", rows(0, 0, 1, 2))
    commit(journal, 0, 3, acked)
    journal.on_revoked("a", [0])
    journal.on_assigned("b", [0])
    journal.on_given("b", rows(0, *next_rows))


def test_a_good_history_has_no_problems() -> None:
    journal = Journal()
    handed_over(journal, True, 3, 4)
    commit(journal, 0, 5)
    journal.check_complete({0: 5}, lambda _, offset: b"%d" % offset)
    journal.check_commits({0: 5})
    assert journal.problems == [] and journal.given_twice == 0


@pytest.mark.parametrize("begin", [0, 3])
def test_a_commit_without_an_answer_may_be_there_or_not(begin: int) -> None:
    journal = Journal()
    handed_over(journal, False, *range(begin, 5))
    assert journal.problems == []
    assert journal.given_twice == (3 if begin == 0 else 0)


def given_again_after_an_acknowledged_commit(journal: Journal) -> None:
    handed_over(journal, True, 2, 3)


def jumped_over_at_the_begin(journal: Journal) -> None:
    handed_over(journal, True, 4)


def jumped_over_in_a_run(journal: Journal) -> None:
    handed_over(journal, True, 3, 5)


def twice_in_a_run(journal: Journal) -> None:
    handed_over(journal, True, 3, 3)


def backwards(journal: Journal) -> None:
    handed_over(journal, True, 3, 4, 3)


def two_owners(journal: Journal) -> None:
    journal.on_assigned("a", [0, 1])
    journal.on_assigned("b", [1])


def given_to_who_does_not_own(journal: Journal) -> None:
    journal.on_assigned("a", [0])
    journal.on_given("b", rows(0, 0))


def given_after_the_revocation(journal: Journal) -> None:
    journal.on_assigned("a", [0])
    journal.on_revoked("a", [0])
    journal.on_given("a", rows(0, 0))


def another_value(journal: Journal) -> None:
    handed_over(journal, False)
    journal.on_given("b", [Row(0, 0, b"else", 0)])


def lost(journal: Journal) -> None:
    handed_over(journal, True, 3)
    journal.check_complete({0: 5}, lambda _, offset: b"%d" % offset)


def altered(journal: Journal) -> None:
    handed_over(journal, True, 3, 4)
    journal.check_complete({0: 5}, lambda _, offset: b"sent %d" % offset)


def a_commit_is_gone(journal: Journal) -> None:
    handed_over(journal, True)
    journal.check_commits({0: 2})


def a_commit_that_nobody_made(journal: Journal) -> None:
    handed_over(journal, True)
    journal.check_commits({0: 4})


@pytest.mark.parametrize(
    "history",
    [
        given_again_after_an_acknowledged_commit,
        jumped_over_at_the_begin,
        jumped_over_in_a_run,
        twice_in_a_run,
        backwards,
        two_owners,
        given_to_who_does_not_own,
        given_after_the_revocation,
        another_value,
        lost,
        altered,
        a_commit_is_gone,
        a_commit_that_nobody_made,
    ],
    ids=lambda history: history.__name__,
)
def test_a_bad_history_is_flagged(history: Callable[[Journal], None]) -> None:
    journal = Journal()
    history(journal)
    assert journal.problems


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([b"a", b"b", b"c"], ""),
        ([b"a", b"c"], "lost"),
        ([b"a", b"b", b"b", b"c"], "twice"),
        ([b"b", b"a", b"c"], "order"),
        ([b"a", b"b", b"c", b"x"], "not be seen"),
    ],
)
def test_exactly_once(found: list[bytes], said: str) -> None:
    problems = check_exactly_once({0: found}, {0: [b"a", b"b", b"c"]})
    assert any(said in problem for problem in problems) if said else problems == []
