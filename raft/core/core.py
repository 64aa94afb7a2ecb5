"""The Raft state machine of one group, sans I/O: messages in, messages out, changes staged in the log. No clock, no timers, no random source.

Three rules for whoever drives it, after every call:
1. `messages` may go now. `messages_after_flush` are true only when everything staged in the log when they were made is durable; before they leave,
   `still_true` is asked. One whose receiver is this replica is given back to `step` then: it is how the core learns that its own vote is durable.
2. After a flush `on_flushed` is called; `reads` and `snapshots` are answered; all lists are emptied by the driver.
3. When `changed`, the log is told of `commit_index` (`advance_commit`), and the entries up to there are applied.
The driver owns time: it calls `campaign`, `quorum_lost`, `retry`, `broadcast_commit`, and judges whether a leader is alive.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from raft.core import election, follower, leader, reconfiguration, replication
from raft.core.log_view import LogView as LogView
from raft.core.membership import Membership as Membership
from raft.core.message import Message, MessageType
from raft.core.progress import REPLICATE, SNAPSHOT
from raft.core.progress import Progress as Progress
from raft.core.state import CANDIDATE, FOLLOWER, LEADER, CoreState
from raft.core.state import CoreLimits as CoreLimits
from raft.core.state import ReadRequest as ReadRequest
from raft.core.state import Role as Role
from raft.core.state import SnapshotRequest as SnapshotRequest
from wal.entry import Entry

_HANDLERS: dict[MessageType, Callable[[CoreState, Message], None]] = {
    MessageType.APPEND: follower.on_append,
    MessageType.APPEND_RESPONSE: leader.on_append_response,
    MessageType.PRE_VOTE_RESPONSE: election.on_pre_vote_response,
    MessageType.VOTE: election.on_vote,
    MessageType.VOTE_RESPONSE: election.on_vote_response,
    MessageType.HEARTBEAT: follower.on_heartbeat,
    MessageType.HEARTBEAT_RESPONSE: leader.on_heartbeat_response,
    MessageType.TIMEOUT_NOW: election.on_timeout_now,
    MessageType.INSTALL_SNAPSHOT: follower.on_install_snapshot,
    MessageType.SNAPSHOT_STATUS: replication.on_snapshot_status,
}


class RaftCore(CoreState):
    """One replica of one group. Fields: see CoreState. Any InvariantError means that going on could lose data: the worker stops."""

    __slots__ = ()

    def step(self, message: Message, leader_alive: bool) -> None:
        """Take in a message. `leader_alive`: whether the driver believes the leader that this replica knows to be alive (for the vote rules).

        Messages of other receivers, of old terms, late or twice, change nothing (trap 12).
        """
        if message.receiver != self.replica:
            return
        if message.sender == self.replica:
            self._on_hard_state_durable(message)
            return
        if message.term != self.term and not election.admit(self, message, leader_alive):
            return
        if message.type == MessageType.PRE_VOTE:
            election.on_pre_vote(self, message, leader_alive)
        else:
            _HANDLERS[message.type](self, message)

    def campaign(self, transfer: bool = False) -> None:
        """The election timer expired: a pre-vote round first. `transfer`: straight to a vote that may ignore a live leader."""
        election.campaign(self, transfer)

    def may_campaign(self) -> bool:
        """Whether `campaign` would do anything: this replica is a voter, or was one until a change that may not commit. Use: election timers."""
        return self.role != LEADER and election.may_campaign(self)

    def propose(self, entries: Sequence[Entry]) -> bool:
        """Leader: append entries (kind, chunks, size, payload_crc, record_count set; the rest is set here) and send them. False: not appended."""
        return leader.propose(self, entries)

    def propose_configuration(self, voters: Collection[int], learners: Collection[int]) -> str:
        """Leader: begin the change to exactly these members (replica ids); "" when appended, otherwise why not. In force when appended."""
        return reconfiguration.propose_configuration(self, voters, learners)

    # Flushes

    def take_messages_after_flush(self) -> list[Message]:
        """Messages that wait for what is staged now. Ask `still_true` when that is durable."""
        taken, self.messages_after_flush = self.messages_after_flush, []
        self.open_ack = None
        return taken

    def still_true(self, message: Message) -> bool:
        """Whether a message taken earlier may be sent, provided that what was staged then is durable: no newer term or role has overtaken it."""
        kind = message.type
        if message.sender == message.receiver:
            return message.index == self.hard_state_mark
        if kind == MessageType.PRE_VOTE_RESPONSE and not message.reject:
            return message.term >= self.term
        if message.term != self.term:
            return False
        if kind == MessageType.APPEND_RESPONSE:
            return message.reject or message.index <= self.log.last_index
        if kind == MessageType.VOTE:
            return self.role == CANDIDATE
        if kind == MessageType.VOTE_RESPONSE:
            return message.reject or self.vote == message.receiver
        return True

    def on_flushed(self) -> None:
        """The log's `flushed_index` may have advanced: the leader counts itself."""
        if self.role == LEADER:
            leader.on_own_flush(self)

    def _on_hard_state_durable(self, message: Message) -> None:
        """Our message to ourselves came through a flush: term, vote and snapshot as they were when it was made are durable."""
        if message.index == self.hard_state_mark:
            self.durable_mark = message.index
            election.on_own_vote_durable(self)

    # Leadership

    def quorum_lost(self) -> None:
        """Check-quorum failed: no majority answers. Step down in the same term; nobody is known to lead."""
        if self.role == LEADER:
            self.become_follower(self.term, 0)

    def resign(self) -> None:
        """This replica may not lead, nor become leader by votes that are on their way: a follower in the same term, whatever it was."""
        if self.role != FOLLOWER:
            self.become_follower(self.term, 0)

    def transfer_leadership(self, target: int) -> str:
        """Hand leadership to the voter `target`; "" when begun, otherwise why not. The driver gives up with `abort_transfer`."""
        return leader.transfer_leadership(self, target)

    def abort_transfer(self) -> None:
        if self.transferee:
            self.transferee = 0
            self.changed = True

    # Peers

    def peer_reset(self, peer: int) -> None:
        """The connection to `peer` is new, or its process: what the leader believed of it is forgotten, and it is probed at once."""
        replication.reset_peer(self, peer)

    def peer_unreachable(self, peer: int) -> None:
        """Messages to `peer` were dropped in the same session: go back to what it has acknowledged."""
        progress = self.progress.get(peer)
        if progress is not None and progress is not self.own_progress and progress.state is REPLICATE:
            progress.become_probe(progress.match_index + 1)
            progress.paused = True

    def retry(self, peer: int) -> None:
        """Repeat a probe to `peer` that may be lost, or a read that failed. Nothing for a member that replicates."""
        progress = self.progress.get(peer)
        if progress is not None and progress is not self.own_progress and (progress.state is not REPLICATE or progress.paused):
            replication.retry(self, progress)

    def retry_unsettled(self) -> bool:
        """`retry` for all members that wait, ever more rarely; for a regular timer. False when there is nothing to come back for."""
        return replication.retry_unsettled(self)

    def heartbeat(self, peer: int) -> None:
        """Say to `peer` that we lead (a new session, or something changed)."""
        progress = self.progress.get(peer)
        if progress is not None and progress is not self.own_progress:
            replication.send_heartbeat(self, progress)

    def broadcast_commit(self) -> None:
        """Tell the commit index to the members that got no append with it (once per turn or beat)."""
        replication.broadcast_commit(self)

    def entries_read(self, peer: int, entries: Sequence[Entry]) -> None:
        """The answer to a ReadRequest: consecutive entries from its `low` on, or none when reading failed (tried again by `retry`)."""
        replication.entries_read(self, peer, entries)

    # Snapshots

    def report_snapshot(self, peer: int, ok: bool) -> None:
        """Leader: the stream that a SnapshotRequest asked for ended. After ok=True the member's SNAPSHOT_STATUS is waited for."""
        replication.report_snapshot(self, peer, ok)

    def restore(self, index: int, term: int, configuration: bytes, next_offset: int) -> bool:
        """Receiver: the snapshot at (index, term) is installed on disk. Whether the log was replaced by it (False: it already held all of it)."""
        return follower.restore(self, index, term, configuration, next_offset)

    def refuse_snapshot(self, index: int) -> None:
        """Receiver: the snapshot at `index` arrived but can not be installed: the leader is told."""
        if self.leader and self.leader != self.replica:
            self.answer(Message(MessageType.SNAPSHOT_STATUS, self.replica, self.leader, self.term, index, reject=True))

    def needs_snapshot(self, peer: int) -> bool:
        """Whether `peer` still waits for a snapshot from us (a stream that ends otherwise is of no use)."""
        progress = self.progress.get(peer)
        return progress is not None and progress.state is SNAPSHOT
