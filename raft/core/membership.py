"""Who belongs to a group: the configuration in force and its bytes in a CONFIGURATION entry.

A configuration is in force as soon as it is appended, and rolled back when its entry is truncated. While `voters_outgoing` is not empty the
group is in joint consensus (section 6 of the Raft paper): elections and commits need a majority of both sets.

Bytes (big endian): version (1), three counts of 2 bytes (voters, learners, outgoing voters), then that many replica ids of 8 bytes, ascending.
To change the format: raise FORMAT_VERSION, keep reading every older version, and write the new one only when all members can read it.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

from raft.core.quorum import is_majority

FORMAT_VERSION = 1
_HEAD = struct.Struct(">BHHH")
MEMBERS_MAX = 0xFFFF
_NOBODY: frozenset[int] = frozenset()


class MembershipFormatError(ValueError):
    """The bytes are no configuration that this version can read."""


class VoteResult(IntEnum):
    PENDING = 0
    WON = 1
    LOST = 2


class Membership(NamedTuple):
    """Invariants: voters and learners are disjoint; a learner may be an outgoing voter (it is being demoted)."""

    voters: frozenset[int] = _NOBODY
    learners: frozenset[int] = _NOBODY
    voters_outgoing: frozenset[int] = _NOBODY

    @property
    def members(self) -> frozenset[int]:
        return self.voters | self.learners | self.voters_outgoing

    @property
    def electorate(self) -> frozenset[int]:
        """Whose votes are asked for: the voters of both configurations."""
        return self.voters | self.voters_outgoing

    def is_quorum(self, replicas: Collection[int]) -> bool:
        """Whether `replicas` hold a majority of the voters, in joint consensus of both sets. Without voters nothing is a quorum."""
        return bool(self.voters) and is_majority(self.voters, replicas) and is_majority(self.voters_outgoing, replicas)

    def vote_result(self, votes: Mapping[int, bool]) -> VoteResult:
        """The state of a poll; answers of non-voters do not count."""
        if self.is_quorum([replica for replica, granted in votes.items() if granted]):
            return VoteResult.WON
        still_possible = self.electorate - {replica for replica, granted in votes.items() if not granted}
        return VoteResult.PENDING if self.is_quorum(still_possible) else VoteResult.LOST


def simple(voters: Iterable[int], learners: Iterable[int] = ()) -> Membership:
    """A configuration outside joint consensus."""
    return Membership(frozenset(voters), frozenset(learners))


def encode(membership: Membership) -> bytes:
    """The bytes of a CONFIGURATION entry."""
    groups = (sorted(membership.voters), sorted(membership.learners), sorted(membership.voters_outgoing))
    if max(map(len, groups)) > MEMBERS_MAX:
        raise MembershipFormatError(f"a configuration holds at most {MEMBERS_MAX} members of each kind")
    ids = [replica for group in groups for replica in group]
    return _HEAD.pack(FORMAT_VERSION, *map(len, groups)) + struct.pack(f">{len(ids)}Q", *ids)


def decode(data: bytes) -> Membership:
    """Read a configuration; no bytes at all mean that nobody is known yet (a replica that waits to be added).

    Raises MembershipFormatError: the bytes are cut, too long, of an unknown version, or name one replica as voter and learner.
    """
    if not data:
        return Membership()
    if len(data) < _HEAD.size:
        raise MembershipFormatError(f"a configuration of {len(data)} bytes is shorter than its head of {_HEAD.size}")
    version, voters, learners, outgoing = _HEAD.unpack_from(data)
    if version != FORMAT_VERSION:
        raise MembershipFormatError(f"configuration format {version} is unknown (this version reads {FORMAT_VERSION}): upgrade this node")
    count = voters + learners + outgoing
    if len(data) != _HEAD.size + 8 * count:
        raise MembershipFormatError(f"a configuration of {count} members has {len(data)} bytes instead of {_HEAD.size + 8 * count}")
    ids = struct.unpack_from(f">{count}Q", data, _HEAD.size)
    found = Membership(frozenset(ids[:voters]), frozenset(ids[voters : voters + learners]), frozenset(ids[voters + learners :]))
    if found.voters & found.learners:
        raise MembershipFormatError(f"replicas {sorted(found.voters & found.learners)} are voters and learners at once")
    return found
