"""Majorities, configurations and their bytes: the fast function against a dumb one, and every rule of chapter 4 of the thesis."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.core.membership import Membership, MembershipFormatError, VoteResult, decode, encode, simple
from raft.core.quorum import NO_LIMIT, is_majority, majority_index

IDS = st.integers(1, 9)


def dumb_majority_index(matches: list[int]) -> int:
    """Try every index: the largest that more than half have reached."""
    if not matches:
        return NO_LIMIT
    return max(index for index in [0, *matches] if 2 * sum(match >= index for match in matches) > len(matches))


@settings(max_examples=500, deadline=None)
@given(st.lists(st.integers(0, 1 << 62), max_size=9))
def test_majority_index_equals_the_dumb_one(matches: list[int]) -> None:
    assert majority_index(matches) == dumb_majority_index(matches)


def test_majority_index_equals_the_dumb_one_on_every_small_case() -> None:
    """55,987 cases: up to six voters, each at 0 to 5."""
    for count in range(7):
        for matches in product(range(6), repeat=count):
            assert majority_index(matches) == dumb_majority_index(list(matches))


@settings(max_examples=400, deadline=None)
@given(st.frozensets(IDS), st.frozensets(IDS))
def test_any_two_majorities_overlap(voters: frozenset[int], chosen: frozenset[int]) -> None:
    if voters and is_majority(voters, chosen):
        assert not is_majority(voters, voters - chosen)


@settings(max_examples=400, deadline=None)
@given(st.frozensets(IDS, min_size=1), st.frozensets(IDS), st.dictionaries(IDS, st.booleans()))
def test_vote_result_equals_the_dumb_one(voters: frozenset[int], outgoing: frozenset[int], votes: dict[int, bool]) -> None:
    """Won: both halves have a majority of yes. Lost: some half can not get one any more."""
    halves = [half for half in (voters, outgoing) if half]
    won = all(2 * sum(votes.get(voter, False) for voter in half) > len(half) for half in halves)
    lost = any(2 * sum(votes.get(voter, True) for voter in half) <= len(half) for half in halves)
    expected = VoteResult.WON if won else VoteResult.LOST if lost else VoteResult.PENDING
    assert Membership(voters, frozenset(), outgoing).vote_result(votes) == expected


def test_nobody_is_no_quorum() -> None:
    assert not Membership().is_quorum([1, 2, 3])
    assert Membership().vote_result({1: True}) == VoteResult.LOST


def test_learners_and_duplicates_do_not_count() -> None:
    membership = simple([1, 2, 3], [4, 5])
    assert not membership.is_quorum([1, 4, 5])
    assert not membership.is_quorum([1, 1, 1])
    assert membership.is_quorum([3, 1])


@settings(max_examples=200, deadline=None)
@given(st.frozensets(st.integers(1, (1 << 64) - 1)), st.frozensets(st.integers(1, (1 << 64) - 1)), st.frozensets(IDS))
def test_encoding_round_trip(voters: frozenset[int], learners: frozenset[int], outgoing: frozenset[int]) -> None:
    membership = Membership(voters, learners - voters, outgoing)
    assert decode(encode(membership)) == membership


def test_no_bytes_mean_nobody() -> None:
    assert decode(b"") == Membership()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x01\x00", "shorter than its head"),
        (b"\x02" + bytes(6), "format 2 is unknown"),
        (encode(simple([1, 2, 3]))[:-1], "instead of"),
        (encode(simple([1, 2, 3])) + b"\x00", "instead of"),
        (b"\x01\x00\x01\x00\x01\x00\x00" + (5).to_bytes(8, "big") * 2, "voters and learners at once"),
    ],
)
def test_bad_bytes_are_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(MembershipFormatError, match=reason):
        decode(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64))
def test_arbitrary_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        assert decode(encode(decode(data))) == decode(data)
    except MembershipFormatError:
        pass


def test_the_bytes_do_not_change() -> None:
    """On disk for ever: a change of this constant needs a new format version."""
    assert encode(Membership(frozenset([2, 1]), frozenset([3]), frozenset([1]))).hex() == (
        "01" + "0002" + "0001" + "0001" + "0000000000000001" + "0000000000000002" + "0000000000000003" + "0000000000000001"
    )
