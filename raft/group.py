"""One group on one worker: its core, its log, its state machine, and what the driver remembers about it.

Fulfils `raft.api.Group`. Everything is called on the loop thread. The state machine is told of leadership only after the no-op of the term is applied
("serving"); it is told of the loss at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from raft import telling
from raft.api import ReplicaStatus, StateMachine
from raft.core.core import RaftCore, Role
from raft.core.message import node_of
from raft.liveness import NEVER, quorum_contact_ms, superseded
from wal.api import GroupLog, ReadJob
from wal.entry import Entry, GroupId
from wal.errors import DamageError, InvariantError, check

if TYPE_CHECKING:
    from raft.driver import Driver
    from raft.liveness import Peer

log = logging.getLogger("chronik_raft")

APPLY_BYTES = 8 << 20


class RaftGroup:
    """Invariants: applied_index ≤ commit_index; serving ⇒ role leader and applied_index ≥ core.term_start_index."""

    __slots__ = (
        "_last_leader",
        "_last_role",
        "_last_term",
        "_membership_done",
        "applied_index",
        "at_end",
        "campaigns",
        "contact_ms",
        "core",
        "dirty",
        "driver",
        "eager_commit",
        "followed",
        "fresh",
        "group_id",
        "log",
        "machine",
        "name",
        "orphaned_by",
        "preferred",
        "progress_moved",
        "reading",
        "reads_waiting",
        "serving",
        "uncommitted",
    )

    def __init__(self, driver: Driver, log_: GroupLog, core: RaftCore, machine: StateMachine, applied_index: int) -> None:
        self.driver = driver
        self.group_id: GroupId = log_.group_id
        self.log = log_
        self.core = core
        self.machine = machine
        self.name = f"{log_.topic}-{log_.partition}"
        self.applied_index = applied_index
        self.serving = False
        self.dirty = False
        self.eager_commit = False  # followers are told of a commit at once, not with the next beat
        self.campaigns = 0  # since a leader was known
        self.preferred = False  # campaign without waiting when the group is new
        self.fresh = log_.last_index == 0 and log_.hard_state.term == 0
        self.followed: Peer | None = None  # whose beats keep our election timer quiet
        self.orphaned_by: Peer | None = None
        self.uncommitted: deque[tuple[int, int]] = deque()  # (index, bytes) of what we proposed and is not known to be committed
        self.contact_ms = NEVER  # last message of the present leader
        self.reading = False  # entries to apply are being read from disk
        self.progress_moved = False
        self.reads_waiting: list[tuple[int, int, Callable[[int], None]]] = []  # ReadIndex: (asked at ms, index, done)
        self.at_end: dict[int, tuple[int, int]] = {}  # replica -> (last_index when it reached the end, ms)
        self._last_role = core.role
        self._last_term = core.term
        self._last_leader = core.leader
        self._membership_done: tuple[int, Callable[[bool], None]] | None = None  # (index of the change, callback)

    # -- what state machines and handlers see ---------------------------------------------------------------------

    @property
    def term(self) -> int:
        return self.core.term

    @property
    def leader(self) -> int:
        return node_of(self.core.leader)

    @property
    def commit_index(self) -> int:
        return self.core.commit_index

    def mark_dirty(self) -> None:
        if not self.dirty:
            self.dirty = True
            self.driver.dirty.append(self)
            self.driver.schedule_turn()

    def lease_valid(self) -> bool:
        if not self.serving:
            return False
        driver = self.driver
        now = driver.clock.now_ms()
        contact = quorum_contact_ms(self, driver.peers, now)
        return contact != NEVER and contact + driver.timing.lease > now

    def read_index(self, done: Callable[[int], None]) -> None:
        """Raft section 8 / thesis 6.4: the commit index of now, once a beat sent after now has been answered by a majority."""
        if not self.serving:
            done(-1)
            return
        self.reads_waiting.append((self.driver.clock.now_ms(), self.core.commit_index, done))
        self.driver.confirm_leadership(self)

    def replicas(self) -> list[ReplicaStatus]:
        core, now = self.core, self.driver.clock.now_ms()
        membership = core.membership
        last, dead = self.log.last_index, superseded(membership)
        found = []
        for replica in sorted(membership.voters | membership.voters_outgoing | membership.learners):
            voter = replica in membership.voters or replica in membership.voters_outgoing
            if replica == core.replica:
                found.append(ReplicaStatus(node_of(replica), voter, self.log.flushed_index, now, now))
                continue
            progress = core.progress.get(replica)
            match = progress.match_index if progress is not None else 0
            peer = self.driver.peers.get(node_of(replica))
            contact = peer.acked_ms if peer is not None and peer.agreed.get(self.group_id) == core.term else NEVER
            at_end = self.at_end.get(replica, (0, NEVER))[1]
            if replica in dead:
                contact = at_end = NEVER
            elif progress is not None and match >= last and contact > at_end:
                at_end = contact
            found.append(ReplicaStatus(node_of(replica), voter, match, contact, at_end))
        return found

    def read(self, job: ReadJob, done: Callable[[BaseException | None], None]) -> None:
        def finished(error: BaseException | None) -> None:
            if isinstance(error, DamageError) and self.driver.is_open(self):
                self.driver.quarantine(self, error)
            done(error)

        self.driver.disk.submit_read(job, finished)

    def transfer_leadership(self, target_node: int) -> None:
        target = max((r for r in self.core.membership.voters if node_of(r) == target_node), default=0)
        if target:
            self.driver.elections.transfer(self, target)

    def change_membership(self, voters: Sequence[int], learners: Sequence[int], done: Callable[[bool], None]) -> None:
        refusal = self.core.propose_configuration(frozenset(voters), frozenset(learners))
        if refusal:
            log.info("%s term %d: membership change refused: %s", self.name, self.term, refusal)
            done(False)
            return
        self.abandon_membership_change()
        self._membership_done = (self.log.last_index, done)
        self.driver.touch(self)

    @property
    def changing_membership(self) -> bool:
        """Whether a change that was asked for here is not committed yet."""
        return self._membership_done is not None

    def abandon_membership_change(self) -> None:
        if self._membership_done is not None:
            _, done = self._membership_done
            self._membership_done = None
            done(False)

    def abandon(self) -> None:
        """Nobody here can answer any more: ReadIndex requests and a membership change end without a result."""
        waiting, self.reads_waiting = self.reads_waiting, []
        self.abandon_membership_change()
        for _, _, done in waiting:
            done(-1)

    # -- snapshots ------------------------------------------------------------------------------------------------

    def install_snapshot(self, index: int, term: int, configuration: bytes, next_offset: int, data: bytes) -> bool:
        """Go on behind a snapshot that is on disk here, read and checked; whether it replaced the log and the state.

        A log that holds all of it stays, and the state follows by applying. The leader is answered when the replaced log is durable.
        """
        replaced = index > self.applied_index and self.core.restore(index, term, configuration, next_offset)
        if replaced:
            self.machine.install(index, data)
            self.applied_index = index
            log.info("%s term %d: snapshot installed: index=%d", self.name, self.term, index)
        elif index <= self.applied_index:
            self.core.restore(index, term, configuration, next_offset)  # tells the leader that all of it is here
        self.driver.touch(self)
        return replaced

    def refuse_snapshot(self, index: int) -> None:
        """The snapshot that was received is damaged: the leader sends another one."""
        self.core.refuse_snapshot(index)
        self.driver.touch(self)

    # -- what the driver does with it -----------------------------------------------------------------------------

    def note_status(self) -> None:
        """Look at what the core changed: tell the driver of a new role or leader, the state machine of lost leadership."""
        core = self.core
        role, term, leader = core.role, core.term, core.leader
        if role == self._last_role and term == self._last_term and leader == self._last_leader:
            return
        was_leader, term_changed = self._last_role == Role.LEADER, term != self._last_term
        leader_changed = leader != self._last_leader or term_changed
        previous_term = self._last_term
        self._last_role, self._last_term, self._last_leader = role, term, leader
        if was_leader and (role != Role.LEADER or term_changed):
            self._lost_leadership(previous_term)
        if role == Role.LEADER and (not was_leader or term_changed):
            self.at_end.clear()
            log.info("%s: Became leader for term %d", self.name, term)
            self.driver.became_leader(self)
        elif role == Role.CANDIDATE:
            telling.election_started(self)
        elif role == Role.FOLLOWER and leader and leader_changed:
            log.debug("%s term %d: following node %d", self.name, term, node_of(leader))
        if leader_changed:
            self.machine.on_leader_change(node_of(leader), term)
            self.driver.events.on_leader(self)
        if role != Role.LEADER:
            self.driver.elections.follow_or_wait(self)

    def _lost_leadership(self, previous_term: int) -> None:
        log.info("%s: stepped down from leadership of term %d (now term %d)", self.name, previous_term, self.core.term)
        was_serving, self.serving = self.serving, False
        self.driver.lost_leadership(self)
        if was_serving:
            self.machine.on_leadership(False)
        self.abandon()

    def apply_committed(self) -> None:
        """Give committed entries to the state machine, in order; start serving when the no-op of our term is among them."""
        commit = self.core.commit_index
        while self.applied_index < commit and not self.reading and not self.log.quarantined:
            entries = self.log.memory_slice(self.applied_index + 1, APPLY_BYTES)
            if entries is None:
                self._read_to_apply()
                return
            if not entries:
                check(False, f"{self.name}: committed entry {self.applied_index + 1} is missing (commit {commit}, last {self.log.last_index})")
            self._apply(entries, commit)
        self._settle()

    def _apply(self, entries: Sequence[Entry], commit: int) -> None:
        if entries[-1].index > commit:
            entries = [entry for entry in entries if entry.index <= commit]
        if entries[0].index != self.applied_index + 1:
            check(False, f"{self.name}: entries to apply do not follow index {self.applied_index}")
        self.machine.apply(entries)
        self.applied_index = entries[-1].index

    def _settle(self) -> None:
        core = self.core
        if core.role == Role.LEADER and not self.serving and self.applied_index >= core.term_start_index:
            self.serving = True
            self.machine.on_leadership(True)
            self.driver.events.on_leader(self)
            self.driver.touch(self)
        pending = self._membership_done
        if pending is not None and self.applied_index >= pending[0]:
            self._membership_done = None
            pending[1](True)

    def _read_to_apply(self) -> None:
        self.reading = True
        low = self.applied_index + 1
        job = self.log.read_job(low, APPLY_BYTES)

        def done(error: BaseException | None) -> None:
            self.reading = False
            if not self.driver.is_open(self):
                return
            if self.applied_index + 1 == low:  # otherwise a snapshot came meanwhile, and what was read, or could not be, is of no use
                if isinstance(error, DamageError):
                    self.driver.quarantine(self, error)
                    return
                if error is None and not job.entries:
                    error = InvariantError(f"{self.name}: committed entry {low} can not be read")
                if error is not None:
                    self.driver.fatal(error)
                    return
                try:
                    self._apply(job.entries, self.core.commit_index)
                except BaseException as surprise:  # noqa: BLE001 - any surprise here ends the worker, with its cause
                    self.driver.fatal(surprise)
                    return
            self.driver.touch(self)

        self.driver.disk.submit_read(job, done)

    def note_progress(self) -> None:
        """Leader: remember who holds everything (isr), and tell the state machine once per turn."""
        core = self.core
        if core.role != Role.LEADER:
            return
        last, now = self.log.last_index, self.driver.clock.now_ms()
        for replica, progress in core.progress.items():
            if replica != core.replica:
                reached = self.at_end.get(replica)
                # At the end of what the leader had when it was last at the end counts too: a busy log has no quiet moment.
                if progress.match_index >= (reached[0] if reached is not None else last):
                    self.at_end[replica] = (last, now)
        self.machine.on_progress()

    def answer_reads(self, contact_ms: int) -> None:
        """Complete the ReadIndex requests that were asked before the newest confirmation of our leadership."""
        ready = [r for r in self.reads_waiting if r[0] <= contact_ms and r[1] <= self.applied_index]
        if ready:
            self.reads_waiting = [r for r in self.reads_waiting if not (r[0] <= contact_ms and r[1] <= self.applied_index)]
            for _, index, done in ready:
                done(index)

    def is_voter(self) -> bool:
        membership = self.core.membership
        return self.core.replica in membership.voters or self.core.replica in membership.voters_outgoing

    def replica_on(self, node: int) -> int:
        """The replica id of the member on `node`; the node id itself when it has none.

        A node whose disk was lost may be a member twice for a while, under its old and its new id: only the newer one lives.
        """
        return max((r for r in self.core.membership.members if node_of(r) == node), default=node)
