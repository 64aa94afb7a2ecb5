"""Liveness per pair of nodes: beats, agreement, leases and the timers of a worker's groups.

One beat per peer counts for every group whose term both sides have agreed on in the present session, so an idle group sends nothing and has no
timer. Owns what is believed about peers; knows no entry, no disk and no asyncio. Times are the driver clock's ms.

What must change together: a group in `Peer.following` has no armed timer; `RaftGroup.followed` names that peer; both end with the session, with a
term or leader that differs, and with a peer that fell silent.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from raft.api import Lane
from raft.core.membership import Membership
from raft.core.message import Message, node_of
from wal.entry import GroupId

if TYPE_CHECKING:
    from raft.group import RaftGroup
    from raft.wire import LeaderNews

NEVER = -1
BEATS_REMEMBERED = 256


class Timing(NamedTuple):
    """All in ms. election_timeout is drawn from [min, max) afresh each round; refused: after the peer's port refused a new connection."""

    beat_interval: int = 80
    election_timeout_min: int = 1000
    election_timeout_max: int = 1500
    refused_timeout_min: int = 50
    refused_timeout_max: int = 150
    tick_interval: int = 20
    lease_margin: int = 100

    @property
    def suspect_after(self) -> int:
        """Silence after which clients are not sent to a node any more. Nothing is decided by it: elections wait for their own time."""
        return min(6 * self.beat_interval, self.election_timeout_min // 2)

    @property
    def lease(self) -> int:
        """How long a confirmed leadership lasts from the time of sending; shorter than any follower waits."""
        return self.election_timeout_min - self.lease_margin


class Peer:
    """What this worker believes about one other worker.

    The outgoing control session is ours to lead on: `agreed` names the groups that we lead and the peer has confirmed there, with their term;
    `acked_ms` is when the newest answered beat was *sent*. The incoming one is the peer's: `following` names our groups that its beats keep quiet.
    """

    __slots__ = (
        "acked_ms",
        "agreed",
        "answers",
        "beat",
        "beat_to_answer",
        "beats",
        "carried",
        "data_acked",
        "data_echoed",
        "data_flushed",
        "data_seen",
        "data_sent",
        "following",
        "heard_ms",
        "incarnation",
        "into",
        "news",
        "node",
        "orphans",
        "out",
        "refused",
        "requests",
        "silent",
        "suspected",
    )

    def __init__(self, node: int) -> None:
        self.node = node
        self.incarnation = 0
        self.out = [False, False]  # by lane: is our own session open
        self.into = [False, False]  # by lane: is the peer's session open
        self.requests: list[list[tuple[GroupId, Message]]] = [[], []]
        self.answers: list[list[tuple[GroupId, Message]]] = [[], []]
        self.news: dict[GroupId, LeaderNews] = {}
        self.beat = 0
        self.beats: deque[tuple[int, int]] = deque(maxlen=BEATS_REMEMBERED)
        self.beat_to_answer = 0
        self.acked_ms = NEVER
        self.agreed: dict[GroupId, int] = {}
        self.heard_ms = NEVER
        self.following: set[GroupId] = set()
        self.orphans: set[GroupId] = set()  # groups that followed this peer when it was lost
        self.refused = False
        self.data_sent = 0  # number of the last data message that we sent in this session
        self.data_acked = 0  # highest one that the peer has flushed
        self.data_seen = 0  # the same for the peer's own session: received,
        self.data_flushed = 0  # flushed here,
        self.data_echoed = 0  # and told
        self.carried = False  # answers of the peer's data session went along on ours
        self.silent = True  # as leader: no answered beat within the election timeout
        self.suspected = False  # connected, but no beat for a while

    def next_beat(self, now_ms: int) -> int:
        """Number a beat that is sent now."""
        self.beat += 1
        self.beats.append((self.beat, now_ms))
        return self.beat

    def beat_answered(self, number: int) -> None:
        """Take the sending time of the answered beat, if it belongs to this session."""
        beats = self.beats
        while beats and beats[0][0] <= number:
            found, sent_ms = beats.popleft()
            if found == number and sent_ms > self.acked_ms:
                self.acked_ms = sent_ms

    def outgoing_reset(self, lane: Lane) -> None:
        """Forget what was said on our own session of `lane`."""
        self.requests[lane].clear()
        if lane == Lane.DATA:
            self.data_sent = self.data_acked = 0
        else:
            self.agreed.clear()
            self.beats.clear()
            self.acked_ms = NEVER

    def incoming_reset(self, lane: Lane) -> None:
        """Forget what waits to be said on the peer's session of `lane`."""
        self.answers[lane].clear()
        if lane == Lane.DATA:
            self.data_seen = self.data_flushed = self.data_echoed = 0
            self.carried = False
        else:
            self.beat_to_answer = 0


class TimerKind(IntEnum):
    ELECTION = 0
    CHECK_QUORUM = 1
    TRANSFER = 2


class Timers:
    """One heap for all timers of all groups; a timer is re-armed by arming it again (the older one is skipped when it comes up)."""

    __slots__ = ("_armed", "_heap", "_sequence")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, TimerKind, RaftGroup]] = []
        self._armed: dict[tuple[GroupId, TimerKind], int] = {}  # -> sequence of the live one
        self._sequence = 0

    def arm(self, group: RaftGroup, kind: TimerKind, deadline_ms: int) -> None:
        self._sequence += 1
        self._armed[group.group_id, kind] = self._sequence
        heapq.heappush(self._heap, (deadline_ms, self._sequence, kind, group))

    def disarm(self, group: RaftGroup, kind: TimerKind) -> None:
        self._armed.pop((group.group_id, kind), None)

    def is_armed(self, group: RaftGroup, kind: TimerKind) -> bool:
        return (group.group_id, kind) in self._armed

    def forget(self, group: RaftGroup) -> None:
        for kind in TimerKind:
            self.disarm(group, kind)

    def expire(self, now_ms: int, fire: Callable[[RaftGroup, TimerKind], None]) -> None:
        """Fire what is due. A callback may arm timers; those due at once fire with the next call."""
        due: list[tuple[RaftGroup, TimerKind]] = []
        heap, armed = self._heap, self._armed
        while heap and heap[0][0] <= now_ms:
            _, sequence, kind, group = heapq.heappop(heap)
            if armed.get((group.group_id, kind)) == sequence:
                del armed[group.group_id, kind]
                due.append((group, kind))
        for group, kind in due:
            fire(group, kind)


@lru_cache(maxsize=1024)
def superseded(membership: Membership) -> frozenset[int]:
    """Members whose node is a member under a newer replica id too: their disk is gone, so that what the node says is not said for them."""
    members = membership.members
    newest: dict[int, int] = {}
    for replica in sorted(members):
        newest[node_of(replica)] = replica
    return members - frozenset(newest.values())


def quorum_contact_ms(group: RaftGroup, peers: dict[int, Peer], now_ms: int) -> int:
    """Latest time T such that a majority confirmed our leadership of `group` in a message that we sent at T or later; NEVER if none.

    A peer counts only while it has agreed on our present term in the present session (Raft thesis 6.4; DESIGN section 4).
    """
    core = group.core
    term, own, group_id = core.term, core.replica, group.group_id
    membership = core.membership
    dead = superseded(membership)

    def contact(replica: int) -> int:
        if replica == own:
            return now_ms
        peer = peers.get(replica & 0xFFFFFFFF)
        if peer is None or peer.agreed.get(group_id) != term or replica in dead:
            return NEVER
        return peer.acked_ms

    worst = now_ms
    for voters in (membership.voters, membership.voters_outgoing):
        if voters:
            times = sorted(map(contact, voters))
            worst = min(worst, times[(len(times) - 1) // 2])
    return worst
