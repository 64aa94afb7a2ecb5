"""The state of one replica of one group, and the few transitions that every role shares.

What must change together changes here: term with vote and everything that was only true in the old term; the configuration in force with the
leader's view of the members. The rules of the roles are in election, follower, leader, replication and reconfiguration; `core` is the door.
No clock, no random source, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum
from typing import NamedTuple

from raft.core.log_view import LogView
from raft.core.membership import Membership, decode
from raft.core.message import Message, MessageType
from raft.core.progress import REPLICATE, Progress
from wal.errors import InvariantError, check

VOTE_RESPONSE = MessageType.VOTE_RESPONSE


class Role(IntEnum):
    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


FOLLOWER = Role.FOLLOWER
PRE_CANDIDATE = Role.PRE_CANDIDATE
CANDIDATE = Role.CANDIDATE
LEADER = Role.LEADER


class CoreLimits(NamedTuple):
    """Bounds of what is on its way to one member. An entry larger than `max_message_bytes` travels alone."""

    max_message_bytes: int
    max_in_flight_messages: int
    max_in_flight_bytes: int
    max_message_entries: int


class ReadRequest(NamedTuple):
    """The leader needs entries from `low` on, at least one, at most `max_bytes`, that are no longer in memory, for `peer`."""

    peer: int
    low: int
    max_bytes: int


class SnapshotRequest(NamedTuple):
    """`peer` needs a snapshot. (index, term) is the oldest that helps; a newer one does as well."""

    peer: int
    index: int  # type: ignore[assignment]
    term: int


class CoreState:
    """One replica's state. The driver reads the public fields and empties the four lists; only the core changes the rest.

    term, vote: as staged in the log; never fall. What may be said only when they are durable waits in `messages_after_flush`.
    leader: replica id of the leader of `term`, 0 while none is known. Invariant: one leader per term.
    commit_index: known committed. Invariant: first_index - 1 ≤ commit_index ≤ last_index; it never falls. The driver tells the log.
    proven_index: follower: the last index proven to equal the log of the leader of `term`. Use: how far a HEARTBEAT's commit may be believed.
    term_start_index: leader: index of its no-op. Invariant: all entries from there on are of `term`.
    configuration_index: entry of the configuration in force. Use: a change is in flight while it is above commit_index.
    hard_state_mark, durable_mark: count the changes of (term, vote) and installs; equal when all of them are durable.
    """

    __slots__ = (
        "changed",
        "commit_index",
        "configuration_index",
        "durable_mark",
        "hard_state_mark",
        "leader",
        "limits",
        "log",
        "membership",
        "messages",
        "messages_after_flush",
        "open_ack",
        "outgoing_progress",
        "own_progress",
        "peers",
        "progress",
        "proven_index",
        "reads",
        "replica",
        "role",
        "snapshots",
        "term",
        "term_start_index",
        "transferee",
        "vote",
        "voter_progress",
        "votes",
    )

    def __init__(self, replica: int, log: LogView, limits: CoreLimits, applied_index: int = 0) -> None:
        self.replica = replica
        self.log = log
        self.limits = limits
        self.role = FOLLOWER
        self.term, self.vote = log.hard_state
        self.leader = 0
        self.commit_index = max(log.committed_index, applied_index, log.first_index - 1)
        self.proven_index = 0
        self.term_start_index = 0
        self.transferee = 0
        self.changed = True
        self.messages: list[Message] = []
        self.messages_after_flush: list[Message] = []
        self.reads: list[ReadRequest] = []
        self.snapshots: list[SnapshotRequest] = []
        self.votes: dict[int, bool] = {}
        self.open_ack: Message | None = None
        self.hard_state_mark = 0
        self.durable_mark = 0
        self.membership = Membership()
        self.configuration_index = -1
        self.progress: dict[int, Progress] = {}
        self.own_progress: Progress | None = None
        self.peers: tuple[Progress, ...] = ()
        self.voter_progress: tuple[Progress, ...] = ()
        self.outgoing_progress: tuple[Progress, ...] = ()
        check(self.term >= log.last_term, f"the log ends in term {log.last_term}, but the hard state is of term {self.term}: the vote is lost")
        check(self.commit_index <= log.last_index, f"{self.commit_index} is applied, but the log ends at {log.last_index}: entries are lost")
        self.refresh_membership()

    # Term, vote, role

    def save_hard_state(self, term: int, vote: int) -> None:
        """Stage (term, vote). A message to ourselves waits for the flush and tells us that they are durable: see `on_hard_state_durable`."""
        check(
            term > self.term or (term == self.term and self.vote in (0, vote)),
            f"({term}, vote {vote}) can not follow ({self.term}, vote {self.vote})",
        )
        if term != self.term:
            self.proven_index = 0
            self.open_ack = None
        self.term = term
        self.vote = vote
        self.changed = True
        self.log.save_hard_state(term, vote)
        self.mark_staged()

    def mark_staged(self) -> None:
        """Something besides entries was staged: nothing that depends on it is said before it is durable."""
        self.hard_state_mark += 1
        self.messages_after_flush.append(Message(VOTE_RESPONSE, self.replica, self.replica, self.term, self.hard_state_mark))

    def is_settled(self) -> bool:
        """Whether term, vote and snapshot are durable, so that answers may go now."""
        return self.durable_mark == self.hard_state_mark

    def become_follower(self, term: int, leader: int) -> None:
        """Follow `leader` (0: unknown) in `term`. In the same term the vote stays."""
        if term != self.term:
            self.save_hard_state(term, 0)
        if self.role == LEADER:
            self._drop_leader_state()
        self.role = FOLLOWER
        self.leader = leader
        self.votes = {}
        self.changed = True

    def _drop_leader_state(self) -> None:
        self.transferee = 0
        self.progress = {}
        self.own_progress = None
        self.peers = self.voter_progress = self.outgoing_progress = ()
        self.reads = []
        self.snapshots = []

    def follow(self, leader: int) -> None:
        """`leader` spoke as the leader of the current term. Raises InvariantError when that term has another leader (Raft 5.2, election safety)."""
        if self.role == FOLLOWER and self.leader == leader:
            return
        if self.role == LEADER or self.leader not in (0, leader):
            raise InvariantError(
                f"replicas {self.leader or self.replica} and {leader} both lead term {self.term}: stop, one of them has lost its vote"
            )
        self.become_follower(self.term, leader)

    # Commit

    def commit_to(self, index: int) -> bool:
        """Entries up to `index` are committed; whether that is news."""
        if index <= self.commit_index:
            return False
        if index > self.log.last_index:
            raise InvariantError(f"{index} is committed, but the log ends at {self.log.last_index}: entries that were acknowledged are lost")
        self.commit_index = index
        self.changed = True
        return True

    # Messages

    def answer(self, message: Message) -> None:
        """Send an answer that must not precede the durability of term and vote (trap 1)."""
        (self.messages if self.is_settled() else self.messages_after_flush).append(message)

    # Membership

    def refresh_membership(self) -> None:
        """Put the log's last configuration in force: when appended, and again the one before when it is truncated (thesis 4.1)."""
        index, payload = self.log.configurations[-1]
        self.configuration_index = index
        self.membership = decode(payload)
        self.changed = True
        if self.role == LEADER:
            self.rebuild_progress()

    def rebuild_progress(self) -> None:
        """Follow the configuration in force: keep who stays, drop who left, start probing who is new."""
        known, membership = self.progress, self.membership
        next_index = self.log.last_index + 1
        self.progress = {replica: known.get(replica) or Progress(replica, next_index) for replica in sorted(membership.members)}
        self.own_progress = self.progress.get(self.replica)
        if self.own_progress is not None:
            self.own_progress.state = REPLICATE
        self.peers = tuple(progress for progress in self.progress.values() if progress is not self.own_progress)
        self.voter_progress = tuple(self.progress[replica] for replica in sorted(membership.voters))
        self.outgoing_progress = tuple(self.progress[replica] for replica in sorted(membership.voters_outgoing))

    def is_quorum(self, replicas: Collection[int]) -> bool:
        """Whether `replicas` are a quorum of the configuration in force (of both halves in joint consensus)."""
        return self.membership.is_quorum(replicas)
