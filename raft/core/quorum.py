"""Arithmetic of majorities. Pure functions; the hot one does not sort for the usual three voters."""

from __future__ import annotations

from collections.abc import Collection, Sequence

NO_LIMIT = 1 << 62
"""What an empty set of voters allows: the outgoing half outside joint consensus limits nothing."""


def majority_index(matches: Sequence[int]) -> int:
    """The largest index that a majority of the voters has reached, given what each of them has; NO_LIMIT without voters."""
    count = len(matches)
    if count == 3:
        a, b, c = matches
        if a > b:
            a, b = b, a
        return a if c < a else min(b, c)
    if count == 1:
        return matches[0]
    if count == 0:
        return NO_LIMIT
    return sorted(matches)[(count - 1) // 2]


def is_majority(voters: Collection[int], replicas: Collection[int]) -> bool:
    """Whether `replicas` hold more than half of `voters`; an empty set of voters is always satisfied. Each replica counts once."""
    chosen = replicas if isinstance(replicas, set | frozenset) else set(replicas)
    return sum(voter in chosen for voter in voters) * 2 > len(voters) or not voters
