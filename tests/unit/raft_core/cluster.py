"""Several cores, their memory disks and a network that the test moves by hand; invariants are checked after every move.

Nothing happens by itself: messages wait in `network`, staged state waits for a flush, reads and snapshots wait to be served. What leaves a replica is
checked against its disk, so that anything said before it is durable fails at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from crc32c import crc32c

from raft.core.core import CoreLimits, RaftCore, ReadRequest, Role
from raft.core.membership import Membership, encode, simple
from raft.core.memory_log import MemoryLog
from raft.core.message import Message, MessageType
from raft.core.progress import ProgressState
from wal.entry import Entry, EntryKind

LIMITS = CoreLimits(max_message_bytes=64, max_in_flight_messages=4, max_in_flight_bytes=256, max_message_entries=8)
NEEDS_DURABLE_TERM = frozenset(set(MessageType) - {MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE})


class Broken(AssertionError):
    """An invariant of Raft does not hold."""


def data(payload: bytes, record_count: int = 1) -> Entry:
    return Entry(0, 0, EntryKind.DATA, (payload,), len(payload), crc32c(payload), 0, record_count)


def show(message: Message) -> str:
    """One line, only the fields that say something."""
    text = f"{message.sender}->{message.receiver} {message.type.name} term={message.term}"
    if message.index or message.log_term or message.type == MessageType.APPEND:
        text += f" at={message.log_term}/{message.index}"
    if message.commit:
        text += f" commit={message.commit}"
    if message.reject:
        text += " reject"
    if message.hint_index:
        text += f" hint={message.hint_index}"
    if message.transfer:
        text += " transfer"
    if message.entries:
        text += " entries=[" + ", ".join(show_entry(entry) for entry in message.entries) + "]"
    return text


def show_entry(entry: Entry) -> str:
    text = f"{entry.term}/{entry.index} {EntryKind(entry.kind).name.lower()}"
    return text + (f" {entry.payload().decode()!r}" if entry.kind == EntryKind.DATA else "")


class Snapshot(NamedTuple):
    sender: int
    receiver: int
    at: int
    term: int
    configuration: bytes
    next_offset: int


class Identity(NamedTuple):
    """What (term, index) must mean on every replica."""

    previous_term: int | None
    kind: int
    payload: bytes
    base_offset: int


class Replica:
    """A core with its log. `waiting`: messages taken with the flush that is in flight."""

    def __init__(self, replica: int, log: MemoryLog, limits: CoreLimits) -> None:
        self.id = replica
        self.log = log
        self.core = RaftCore(replica, log, limits, log.committed_index)
        self.waiting: list[Message] = []
        self.reads: list[ReadRequest] = []
        self.seen_commit = log.committed_index
        self.seen_term = self.core.term
        self.seen_membership = self.core.membership


class Cluster:
    def __init__(self, voters: Sequence[int], learners: Sequence[int] = (), others: Sequence[int] = (), limits: CoreLimits = LIMITS) -> None:
        self.limits = limits
        self.replicas: dict[int, Replica] = {}
        self.network: list[Message] = []
        self.snapshots: list[Snapshot] = []
        self.blocked: set[tuple[int, int]] = set()
        self.on_sent: Callable[[Message], None] = lambda message: None
        self.leaders: dict[int, int] = {}
        self.identities: dict[tuple[int, int], Identity] = {}
        self.committed: dict[int, int] = {}  # index → term
        self.votes: dict[tuple[int, int], int] = {}
        self.leader_alive = False
        for replica in sorted([*voters, *learners]):
            self.add(replica, encode(simple(voters, learners)))
        for replica in others:
            self.add(replica, b"")

    def add(self, replica: int, configuration: bytes) -> None:
        self.replicas[replica] = Replica(replica, MemoryLog(configuration), self.limits)

    def core(self, replica: int) -> RaftCore:
        return self.replicas[replica].core

    def log(self, replica: int) -> MemoryLog:
        return self.replicas[replica].log

    def leader(self) -> RaftCore | None:
        """The leader of the highest term, if there is one."""
        leading = [replica.core for replica in self.replicas.values() if replica.core.role == Role.LEADER]
        return max(leading, key=lambda core: core.term, default=None)

    # Moves

    def do(self, replica: int, action: Callable[[RaftCore], object]) -> object:
        """Call something on a core, then collect what it says and check the invariants."""
        result = action(self.replicas[replica].core)
        self.collect(self.replicas[replica])
        return result

    def campaign(self, replica: int, transfer: bool = False) -> None:
        self.do(replica, lambda core: core.campaign(transfer))

    def propose(self, replica: int, *payloads: bytes) -> bool:
        return bool(self.do(replica, lambda core: core.propose([data(payload) for payload in payloads])))

    def collect(self, replica: Replica) -> None:
        core = replica.core
        if core.changed:
            core.changed = False
            if core.commit_index > replica.log.committed_index:
                replica.log.advance_commit(core.commit_index)
        self.check(replica)
        messages, core.messages = core.messages, []
        for message in messages:
            self.send(replica, message)
        reads, core.reads = core.reads, []
        replica.reads.extend(reads)
        wanted, core.snapshots = core.snapshots, []
        for request in wanted:
            self.snapshots.append(self.take_snapshot(core, request.peer))

    def take_snapshot(self, core: RaftCore, peer: int) -> Snapshot:
        at = core.commit_index
        log = self.log(core.replica)
        configuration = [payload for index, payload in log.configurations if index <= at][-1]
        offset = next((entry.base_offset for entry in log.entries if entry.index == at + 1), log.next_offset)
        return Snapshot(core.replica, peer, at, log.term(at) or 0, configuration, offset)

    def begin_flush(self, replica: int) -> None:
        """The disk takes what is staged. Without anything staged the waiting messages are true already."""
        found = self.replicas[replica]
        if found.log.is_flushing:
            return
        found.waiting = found.core.take_messages_after_flush()
        if not found.log.take_flush():
            self._release(found)

    def end_flush(self, replica: int) -> None:
        """The fsync returned."""
        found = self.replicas[replica]
        if found.log.is_flushing:
            found.log.finish_flush()
            found.core.on_flushed()
            self._release(found)

    def _release(self, replica: Replica) -> None:
        waiting, replica.waiting = replica.waiting, []
        for message in waiting:
            if not replica.core.still_true(message):
                continue
            if message.receiver == replica.id:
                replica.core.step(message, False)
            else:
                self.send(replica, message)
        self.collect(replica)

    def flush(self, replica: int) -> None:
        self.end_flush(replica)
        self.begin_flush(replica)
        self.end_flush(replica)

    def send(self, replica: Replica, message: Message) -> None:
        self.check_said(replica, message)
        self.on_sent(message)
        if (message.sender, message.receiver) not in self.blocked and message.receiver in self.replicas:
            self.network.append(message)

    def deliver(self, message: Message, leader_alive: bool | None = None) -> None:
        found = self.replicas[message.receiver]
        found.core.step(message, self.leader_alive if leader_alive is None else leader_alive)
        self.collect(found)

    def deliver_next(self) -> bool:
        if not self.network:
            return False
        message = self.network.pop(0)
        if (message.sender, message.receiver) not in self.blocked:
            self.deliver(message)
        return True

    def serve_read(self, replica: int, ok: bool = True) -> None:
        found = self.replicas[replica]
        if found.reads:
            request = found.reads.pop(0)
            found.core.entries_read(request.peer, found.log.read(request.low, request.max_bytes) if ok else [])
            self.collect(found)

    def serve_snapshot(self, ok: bool = True) -> None:
        if not self.snapshots:
            return
        snapshot = self.snapshots.pop(0)
        if snapshot.sender in self.replicas:
            self.do(snapshot.sender, lambda core: core.report_snapshot(snapshot.receiver, ok))
        if ok and snapshot.receiver in self.replicas:
            self.do(snapshot.receiver, lambda core: core.restore(snapshot.at, snapshot.term, snapshot.configuration, snapshot.next_offset))

    def trim(self, replica: int, first_kept: int) -> None:
        """Remove committed entries below `first_kept` from the log."""
        log = self.log(replica)
        if log.first_index < first_kept <= log.committed_index + 1:
            last = log.entries[first_kept - log.first_index - 1]
            log.truncate_prefix(first_kept, last.base_offset + last.record_count)

    def restart(self, replica: int) -> None:
        """The process dies; what was not flushed is lost. Messages on their way stay on their way."""
        old = self.replicas[replica]
        self.replicas[replica] = new = Replica(replica, old.log.crash(), self.limits)
        if new.core.term < old.log.durable_hard_state.term:
            raise Broken(f"replica {replica}: the term fell at restart")
        self.check(new)

    def partition(self, *sides: Sequence[int]) -> None:
        """Cut what does not stand on one side."""
        side_of = {replica: number for number, side in enumerate(sides) for replica in side}
        self.blocked = {(a, b) for a in self.replicas for b in self.replicas if side_of.get(a) != side_of.get(b)}
        self.network = [message for message in self.network if (message.sender, message.receiver) not in self.blocked]

    def heal(self) -> None:
        self.blocked = set()

    def stabilize(self, rounds: int = 1000) -> None:
        """Flush, deliver and serve until nothing moves. Timers do not fire."""
        for _ in range(rounds):
            moved = False
            for replica in self.replicas.values():
                if replica.core.messages_after_flush or replica.log.has_staged() or replica.log.is_flushing:
                    self.flush(replica.id)
                    moved = True
                while replica.reads:
                    self.serve_read(replica.id)
                    moved = True
            while self.snapshots:
                self.serve_snapshot()
                moved = True
            for _ in range(len(self.network)):
                moved = self.deliver_next() or moved
            if not moved:
                return
        raise Broken(f"{rounds} rounds and no rest: the replicas talk in circles")

    # Invariants

    def check(self, replica: Replica) -> None:
        self.check_terms(replica)
        self.check_log_matching(replica)
        self.check_committed(replica)
        self.check_leader(replica)
        self.check_progress(replica)
        replica.seen_membership = replica.core.membership

    def check_terms(self, replica: Replica) -> None:
        if replica.core.term < replica.seen_term:
            raise Broken(f"replica {replica.id}: the term fell from {replica.seen_term} to {replica.core.term}")
        replica.seen_term = replica.core.term

    def check_log_matching(self, replica: Replica) -> None:
        """One (term, index) means one entry with one predecessor everywhere; by induction the logs before are equal too (5.3)."""
        log = replica.log
        for entry in log.entries[max(0, replica.seen_commit - log.first_index + 1) :]:
            identity = Identity(log.term(entry.index - 1), entry.kind, entry.payload(), entry.base_offset)
            if self.identities.setdefault((entry.term, entry.index), identity) != identity:
                raise Broken(f"replica {replica.id}: entry {entry!r} differs from what other replicas hold there")

    def check_committed(self, replica: Replica) -> None:
        core, log = replica.core, replica.log
        if core.commit_index < replica.seen_commit:
            raise Broken(f"replica {replica.id}: the commit index fell from {replica.seen_commit} to {core.commit_index}")
        for index in range(max(replica.seen_commit + 1, log.first_index - 1), core.commit_index + 1):
            term = log.term(index)
            if index and index not in self.committed:
                self.check_durable_majority(replica, index)
            if index and self.committed.setdefault(index, term or 0) != term:
                raise Broken(f"replica {replica.id}: index {index} is committed in term {term}, but was in term {self.committed[index]}")
        replica.seen_commit = core.commit_index

    def check_durable_majority(self, replica: Replica, index: int) -> None:
        """Whoever commits first: a quorum has the entry on its disk."""
        term = replica.log.term(index)
        holders = [other.id for other in self.replicas.values() if other.log.durable_term(index) == term or other.log.durable_snapshot_index >= index]
        if not any(membership.is_quorum(holders) for membership in (replica.seen_membership, replica.core.membership)):
            raise Broken(f"replica {replica.id} commits index {index} of term {term}, which only {holders} have on disk")

    def check_leader(self, replica: Replica) -> None:
        """Election safety (5.2) and leader completeness (5.4)."""
        core = replica.core
        if core.role != Role.LEADER:
            return
        new = core.term not in self.leaders
        if self.leaders.setdefault(core.term, core.replica) != core.replica:
            raise Broken(f"replicas {self.leaders[core.term]} and {core.replica} both lead term {core.term}")
        if new:
            for index, term in self.committed.items():
                if index >= core.log.first_index and core.log.term(index) != term:
                    raise Broken(f"replica {core.replica} leads term {core.term} without the committed index {index} of term {term}")

    def check_progress(self, replica: Replica) -> None:
        core = replica.core
        for progress in core.progress.values():
            if not progress.match_index < progress.next_index <= core.log.last_index + 1 and progress is not core.own_progress:
                raise Broken(f"replica {replica.id}: impossible progress {progress!r} with last index {core.log.last_index}")
            if progress.state != ProgressState.REPLICATE and progress.in_flight:
                raise Broken(f"replica {replica.id}: {progress!r} has a window")
            if progress.in_flight_bytes != sum(size for _, size in progress.in_flight):
                raise Broken(f"replica {replica.id}: the window of {progress!r} does not add up")

    def check_said(self, replica: Replica, message: Message) -> None:
        """What leaves a replica is durable there (traps 1 and 3)."""
        log = replica.log
        durable = log.durable_hard_state
        if message.type in NEEDS_DURABLE_TERM and durable.term < message.term:
            raise Broken(f"{show(message)}: term {message.term} is not on disk yet")
        if message.type == MessageType.VOTE and durable.term == message.term and durable.vote != message.sender:
            raise Broken(f"{show(message)}: the candidate's own vote is not on disk yet")
        if message.type == MessageType.VOTE_RESPONSE and not message.reject:
            if durable.term == message.term and durable.vote != message.receiver:
                raise Broken(f"{show(message)}: the vote is not on disk yet")
            if self.votes.setdefault((message.sender, message.term), message.receiver) != message.receiver:
                raise Broken(f"{show(message)}: a second vote in term {message.term}")
        if message.type == MessageType.APPEND_RESPONSE and not message.reject and durable.term == message.term:
            index = message.index
            known = log.durable_term(index) is not None and log.term(index) in (None, log.durable_term(index))
            if not known and index > log.durable_snapshot_index:
                raise Broken(f"{show(message)}: the entries are not on disk yet")


def elected(voters: Sequence[int] = (1, 2, 3), leader: int = 1, learners: Sequence[int] = (), limits: CoreLimits = LIMITS) -> Cluster:
    """A cluster at rest whose `leader` leads term 1."""
    cluster = Cluster(voters, learners, limits=limits)
    cluster.campaign(leader)
    cluster.stabilize()
    cluster.do(leader, lambda core: core.broadcast_commit())
    cluster.stabilize()
    return cluster


__all__ = ["LIMITS", "Broken", "Cluster", "Membership", "data", "elected", "show", "show_entry"]
