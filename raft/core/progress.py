"""How the leader sees one member of its group, and the window of what is on its way to it.

probe: where the logs agree is unknown; one append at a time. replicate: appends are pipelined, `next_index` runs ahead of the answers.
snapshot: the member needs entries that are trimmed; no appends until the snapshot is there.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum


class ProgressState(IntEnum):
    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


PROBE = ProgressState.PROBE
REPLICATE = ProgressState.REPLICATE
SNAPSHOT = ProgressState.SNAPSHOT


RETRY_WAIT_MAX = 32


class Progress:
    """One member, the leader itself included (its `match_index` is what it has flushed).

    match_index: the last index known to be flushed there and equal to ours. Use: commit, lag. Invariant: match_index < next_index; it only rises, but
    for `reset`, which forgets it.
    next_index: the next entry to send. Invariant: next_index ≤ last_index + 1.
    told_commit: the commit index that the member has been told in a message it can believe. Use: to tell each commit once.
    in_flight: (last index, bytes) of each append that is not answered, ascending; only in replicate.
    """

    __slots__ = (
        "in_flight",
        "in_flight_bytes",
        "match_index",
        "next_index",
        "paused",
        "reading",
        "replica",
        "retries",
        "retry_wait",
        "snapshot_delivered",
        "snapshot_index",
        "state",
        "told_commit",
    )

    def __init__(self, replica: int, next_index: int) -> None:
        self.replica = replica
        self.state = PROBE
        self.match_index = 0
        self.next_index = next_index
        self.told_commit = 0
        self.paused = False  # a probe is out, or something failed: wait for an answer or for `retry`
        self.reading = False  # a ReadRequest is out
        self.in_flight: deque[tuple[int, int]] = deque()
        self.in_flight_bytes = 0
        self.snapshot_index = 0
        self.snapshot_delivered = False
        self.retries = 0
        self.retry_wait = 0

    def __repr__(self) -> str:
        text = f"{self.replica} {self.state.name.lower()} match={self.match_index} next={self.next_index}"
        if self.paused:
            text += " paused"
        if self.reading:
            text += " reading"
        if self.in_flight:
            text += f" in_flight={len(self.in_flight)}"
        if self.state is SNAPSHOT:
            text += f" snapshot={self.snapshot_index}"
        return text

    def may_send(self, messages_max: int, bytes_max: int) -> bool:
        """Whether another append may go now."""
        if self.paused or self.reading or self.state is SNAPSHOT:
            return False
        return len(self.in_flight) < messages_max and self.in_flight_bytes < bytes_max

    def sent(self, last_index: int, size_bytes: int) -> None:
        """An append with entries up to `last_index` went out."""
        if self.state is REPLICATE:
            self.next_index = last_index + 1
            self.in_flight.append((last_index, size_bytes))
            self.in_flight_bytes += size_bytes
        else:
            self.paused = True

    def acknowledge(self, index: int) -> bool:
        """The member has flushed everything up to `index`; whether that is news. Frees the window up to there."""
        in_flight = self.in_flight
        while in_flight and in_flight[0][0] <= index:
            self.in_flight_bytes -= in_flight.popleft()[1]
        if self.next_index <= index:
            self.next_index = index + 1
        if index <= self.match_index:
            return False
        self.match_index = index
        return True

    def is_stale_reject(self, refused_index: int) -> bool:
        """Whether a refusal of the previous index `refused_index` answers something that we have moved on from."""
        if self.state is PROBE:
            return refused_index != self.next_index - 1
        return self.state is SNAPSHOT or not self.match_index < refused_index < self.next_index

    def become_probe(self, next_index: int) -> None:
        """Start over at `next_index`, never below what is known to match."""
        self.state = PROBE
        self.next_index = max(next_index, self.match_index + 1)
        self.told_commit = min(self.told_commit, self.match_index)  # what was on its way may never be believed
        self.paused = False
        self.reading = False
        self._empty_window()

    def become_replicate(self) -> None:
        self.state = REPLICATE
        self.next_index = self.match_index + 1
        self.paused = False
        self.retries = self.retry_wait = 0
        self._empty_window()

    def become_snapshot(self, index: int) -> None:
        self.state = SNAPSHOT
        self.snapshot_index = index
        self.snapshot_delivered = False
        self.paused = False
        self._empty_window()

    def retry_due(self) -> bool:
        """Whether this call of a regular timer should repeat the probe: the 1st, 2nd, 4th … call in vain, then every RETRY_WAIT_MAXth."""
        if self.retry_wait > 0:
            self.retry_wait -= 1
            return False
        self.retry_wait = min(self.retries, RETRY_WAIT_MAX - 1)
        self.retries = max(1, self.retries * 2) if self.retries < RETRY_WAIT_MAX else self.retries
        return True

    def reset(self, next_index: int) -> None:
        """Forget what was believed of the member: another incarnation may answer now, and nothing is counted from before."""
        self.match_index = 0
        self.retries = self.retry_wait = 0
        self.become_probe(next_index)

    def _empty_window(self) -> None:
        self.in_flight.clear()
        self.in_flight_bytes = 0
