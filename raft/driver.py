"""All groups of one worker: one tick, one flush, one message per peer, lane and turn.

Owns the groups, the peers and the order of things in a turn: collect proposals, send, flush, apply. Knows neither asyncio nor gRPC: clock, network
and disk are passed in (`raft.api`), so the simulator runs this file as it is. Everything runs on one loop thread; a surprise anywhere ends the worker
through `fatal`.

Durability in one place: messages that are true only after an fsync wait in `_after_flush` until the flush that took everything staged before them is
done, and are dropped if they stopped being true meanwhile (RaftCore.still_true).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random
from typing import NamedTuple, Protocol

from raft.api import Clock, Disk, Lane, Network, StateMachine
from raft.core.core import CoreLimits, RaftCore, Role
from raft.core.message import CONTROL_TYPES, Message, MessageType, node_of
from raft.group import RaftGroup
from raft.liveness import NEVER, Peer, TimerKind, Timers, Timing, quorum_contact_ms
from raft.wire import Batch, Envelope, LeaderNews, WireError, decode_batch, encode_batch
from wal.api import GroupLog, Job, WalStore
from wal.entry import Entry, GroupId
from wal.errors import DiskFullError

log = logging.getLogger("chronik_raft")

ANSWERS = frozenset(
    (
        MessageType.APPEND_RESPONSE,
        MessageType.PRE_VOTE_RESPONSE,
        MessageType.VOTE_RESPONSE,
        MessageType.HEARTBEAT_RESPONSE,
        MessageType.SNAPSHOT_STATUS,
    )
)
LEADER_SAYS = frozenset((MessageType.APPEND, MessageType.HEARTBEAT, MessageType.INSTALL_SNAPSHOT))


class Identity(NamedTuple):
    """Who this worker is. incarnation: larger at each start."""

    node: int
    cluster_id: bytes  # 16 bytes
    incarnation: int


class World(NamedTuple):
    """Everything that is not deterministic, passed in."""

    clock: Clock
    disk: Disk
    network: Network
    random: Random


class DriverSettings(NamedTuple):
    timing: Timing = Timing()
    limits: CoreLimits = CoreLimits(max_message_bytes=4 << 20, max_in_flight_messages=1000, max_in_flight_bytes=64 << 20, max_message_entries=1000)
    max_proposal_bytes: int = 16 << 20
    max_message_bytes: int = 4 << 20


class DriverEvents(Protocol):
    """What the composition root wants to know."""

    def on_fatal(self, error: BaseException) -> None: ...

    def on_news(self, sender: int, news: LeaderNews) -> None: ...

    def on_flush(self, seconds: float, size_bytes: int) -> None: ...

    def on_snapshot_needed(self, group: RaftGroup, peer: int, index: int, term: int) -> None: ...

    def on_peer_lost(self, peer: int) -> None: ...

    def on_leader(self, group: RaftGroup) -> None:
        """The group's known leader, its term, or whether we serve changed."""


class Driver:
    """The multi-group driver of one worker. Fulfils `raft.api.NetworkHandler`."""

    def __init__(self, identity: Identity, store: WalStore, world: World, settings: DriverSettings, events: DriverEvents) -> None:
        self.identity = identity
        self.store = store
        self.clock, self.disk, self.network, self.random = world
        self.settings = settings
        self.timing = settings.timing
        self.events = events
        self.groups: dict[GroupId, RaftGroup] = {}
        self.peers: dict[int, Peer] = {}
        self.timers = Timers()
        self.dirty: list[RaftGroup] = []
        self.stopped = False
        self.envelope = Envelope(identity.cluster_id, identity.node, identity.incarnation)
        self._touched: dict[GroupId, RaftGroup] = {}
        self._turn_scheduled = False
        self._flush: Job | None = None
        self._background: Job | None = None
        self._background_retry_ms = 0
        self._flush_started_ms = 0
        self._staged_by: dict[GroupId, RaftGroup] = {}  # groups that may have staged something since the last flush was taken
        self._after_flush: list[tuple[RaftGroup, Message]] = []  # waiting for the next flush that takes everything staged
        self._behind_flush: list[tuple[RaftGroup, Message]] = []  # waiting for the flush that is out
        self._confirming: dict[GroupId, RaftGroup] = {}  # groups with ReadIndex requests
        self._commit_changed: dict[GroupId, RaftGroup] = {}
        self._unsettled: dict[GroupId, RaftGroup] = {}  # led groups with a follower that is not replicating
        self._news: dict[GroupId, LeaderNews] = {}  # what we say of the groups we lead
        self._next_beat_ms = 0
        self._last_tick_ms = 0
        self._idle_noted = False

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin ticking. Groups may be opened before or after."""
        self._last_tick_ms = self.clock.now_ms()
        self._next_beat_ms = self._last_tick_ms
        self.clock.call_later(self.timing.tick_interval, self._tick)

    def stop(self) -> None:
        """Do nothing more: no message, no flush, no callback."""
        self.stopped = True

    def fatal(self, error: BaseException) -> None:
        """Something happened that may not be survived: acknowledge nothing more and tell the composition root, once."""
        if not self.stopped:
            self.stopped = True
            self.events.on_fatal(error)

    def set_peers(self, nodes: set[int]) -> None:
        """The other workers that we know. Addresses are the network's matter."""
        for node in nodes - self.peers.keys():
            if node != self.identity.node:
                self.peers[node] = Peer(node)
        for node in self.peers.keys() - nodes:
            self._release_followers(self.peers[node])
            del self.peers[node]

    def open_group(self, group_log: GroupLog, machine: StateMachine, replica: int) -> RaftGroup:
        """Take up a group whose log is open, found by recovery or just created. `replica`: our replica id in it."""
        state = group_log.applied_state
        applied = machine.restore(state)
        core = RaftCore(replica, group_log, self.settings.limits, max(applied, group_log.first_index - 1))
        group = RaftGroup(self, group_log, core, machine, core.commit_index if applied < core.commit_index == group_log.first_index - 1 else applied)
        self.groups[group.group_id] = group
        group_log.capture_state = machine.capture
        self._arm_election(group)
        self._staged_by[group.group_id] = group
        self.touch(group)
        return group

    def close_group(self, group_id: GroupId) -> None:
        """Forget a group (its log is deleted by the caller)."""
        group = self.groups.pop(group_id, None)
        if group is None:
            return
        self.timers.forget(group)
        self._unfollow(group)
        group.serving = False
        for table in (self._touched, self._staged_by, self._confirming, self._commit_changed, self._unsettled, self._news):
            table.pop(group_id, None)
        for peer in self.peers.values():
            peer.agreed.pop(group_id, None)
            peer.orphans.discard(group_id)
            peer.news.pop(group_id, None)
        group.machine.on_leadership(False)
        group.abandon_membership_change()
        waiting, group.reads_waiting = group.reads_waiting, []
        for _, _, done in waiting:
            done(-1)

    def is_open(self, group: RaftGroup) -> bool:
        return not self.stopped and self.groups.get(group.group_id) is group

    # -- the turn -------------------------------------------------------------------------------------------------

    def schedule_turn(self) -> None:
        if not self._turn_scheduled and not self.stopped:
            self._turn_scheduled = True
            self.clock.call_soon(self._turn)

    def touch(self, group: RaftGroup) -> None:
        """The group's core has something to say, flush or apply: look at it in the next turn."""
        self._touched[group.group_id] = group
        if not self._turn_scheduled:
            self.schedule_turn()

    def _turn(self) -> None:
        self._turn_scheduled = False
        if self.stopped:
            return
        try:
            if self._flush is None and self.dirty:
                self._collect()
            touched, self._touched = self._touched, {}
            for group in touched.values():
                self._gather(group)
            self._send()
            if self._flush is None:
                self._start_flush()
            for group in touched.values():
                if group.applied_index < group.core.commit_index or group.progress_moved or not group.serving:
                    self._advance(group)
            self._start_background()
        except BaseException as error:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            self.fatal(error)

    def _collect(self) -> None:
        dirty, self.dirty = self.dirty, []
        for group in dirty:
            group.dirty = False
            if not group.serving or self.groups.get(group.group_id) is not group:
                continue
            proposal = group.machine.collect(self.settings.max_proposal_bytes)
            if proposal is not None:
                kind, chunks, size, payload_crc, record_count = proposal
                if group.core.propose((Entry(0, 0, kind, chunks, size, payload_crc, 0, record_count),)):
                    self._staged_by[group.group_id] = group
                    self._touched[group.group_id] = group

    def _gather(self, group: RaftGroup) -> None:
        """Move what the core wants to say to the peers' outboxes, and see what changed."""
        core = group.core
        if core.changed:
            core.changed = False
            group.note_status()
            if group.log.committed_index < core.commit_index:
                group.log.advance_commit(core.commit_index)
                if core.role == Role.LEADER:
                    self._commit_changed[group.group_id] = group
        if core.messages:
            messages, core.messages = core.messages, []
            for message in messages:
                self._route(group, message)
        if core.messages_after_flush:
            self._after_flush.extend((group, message) for message in core.take_messages_after_flush())
            self._staged_by[group.group_id] = group
        if core.reads:
            self._serve_reads(group)
        if core.snapshots:
            wanted, core.snapshots = core.snapshots, []
            for request in wanted:
                self.events.on_snapshot_needed(group, request.peer, request.index, request.term)

    def _route(self, group: RaftGroup, message: Message) -> None:
        peer = self.peers.get(node_of(message.receiver))
        if peer is None:
            return
        kind = message.type
        lane = Lane.CONTROL if kind in CONTROL_TYPES else Lane.DATA
        if kind in ANSWERS:
            if peer.into[lane]:
                peer.answers[lane].append((group.group_id, message))
        elif peer.out[lane]:
            peer.requests[lane].append((group.group_id, message))

    def _advance(self, group: RaftGroup) -> None:
        """Apply what is committed; then what hangs on it."""
        if group.progress_moved:
            group.progress_moved = False
            group.note_progress()
        group.apply_committed()
        if group.reads_waiting:
            self._confirm(group)

    def _send(self) -> None:
        for peer in self.peers.values():
            for lane in (Lane.CONTROL, Lane.DATA):
                if peer.requests[lane]:
                    messages, peer.requests[lane] = peer.requests[lane], []
                    self._send_requests(peer, lane, messages)
                answers_beat = peer.beat_to_answer if lane == Lane.CONTROL else 0
                if peer.answers[lane] or answers_beat:
                    messages, peer.answers[lane] = peer.answers[lane], []
                    if answers_beat:
                        peer.beat_to_answer = 0
                    self.network.send_answer(peer.node, lane, encode_batch(self.envelope, Batch(messages, answers_beat, [])))

    def _send_requests(self, peer: Peer, lane: Lane, messages: list[tuple[GroupId, Message]], beat: int = 0) -> None:
        news: list[LeaderNews] = []
        if beat and peer.news:
            news, peer.news = list(peer.news.values()), {}
        limit = self.settings.max_message_bytes
        start = size = 0
        if lane == Lane.DATA:
            # An entry larger than the usual message travels alone; everything else of this turn goes out in messages of at most `limit` bytes.
            for position, (_, message) in enumerate(messages):
                length = sum(entry.size for entry in message.entries)
                if size and size + length > limit:
                    self._send_batch(peer, lane, messages[start:position], 0, [])
                    start, size = position, 0
                size += length
        self._send_batch(peer, lane, messages[start:] if start else messages, beat, news)

    def _send_batch(self, peer: Peer, lane: Lane, messages: list[tuple[GroupId, Message]], beat: int, news: list[LeaderNews]) -> None:
        if not self.network.send_request(peer.node, lane, encode_batch(self.envelope, Batch(messages, beat, news))):
            # The queue to the peer is full or the session is gone: what was not sent is probed for later.
            for group_id, message in messages:
                group = self.groups.get(group_id)
                if group is not None and message.type == MessageType.APPEND:
                    group.core.peer_reset(message.receiver)
                    self._unsettled[group_id] = group
            for item in news:
                peer.news.setdefault(item.group, item)

    # -- flush and background -------------------------------------------------------------------------------------

    def _start_flush(self) -> None:
        if not self.store.has_staged():
            if self._after_flush:
                # Nothing had to be written for these: they are true already.
                waiting, self._after_flush = self._after_flush, []
                self._release(waiting)
            return
        job = self.store.next_flush()
        if job is None:
            return  # no room in the journal yet; background work makes some
        self._idle_noted = False
        self._flush = job
        self._flush_started_ms = self.clock.now_ms()
        self._behind_flush = self._after_flush
        self._after_flush = []
        flushed, self._staged_by = self._staged_by, {}
        complete = not self.store.has_staged()
        if not complete:
            self._staged_by.update(flushed)
        self.disk.submit_flush(job, lambda error: self._flush_done(job, flushed, complete, error))

    def _flush_done(self, job: Job, flushed: dict[GroupId, RaftGroup], complete: bool, error: BaseException | None) -> None:
        if self.stopped:
            return
        if error is not None:
            self.fatal(error)
            return
        try:
            job.complete()
            self._flush = None
            self.events.on_flush((self.clock.now_ms() - self._flush_started_ms) / 1000, job.size_bytes)
            waiting, self._behind_flush = self._behind_flush, []
            self._release(waiting, complete)
            for group in flushed.values():
                if self.groups.get(group.group_id) is group:
                    group.core.on_flushed()
                    group.machine.on_flushed()
                    self._touched[group.group_id] = group
            self.schedule_turn()
        except BaseException as surprise:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            self.fatal(surprise)

    def _release(self, waiting: list[tuple[RaftGroup, Message]], complete: bool = True) -> None:
        """Hand on messages whose fsync is done. When the flush did not take all that was staged, only acknowledgements that it covers may go."""
        for group, message in waiting:
            if self.groups.get(group.group_id) is not group or not group.core.still_true(message):
                continue
            if complete or (message.type == MessageType.APPEND_RESPONSE and not message.reject and message.index <= group.log.flushed_index):
                self._route(group, message)
            else:
                self._after_flush.append((group, message))
        if waiting:
            self.schedule_turn()

    def _start_background(self) -> None:
        if self._background is not None or (self._background_retry_ms and self.clock.now_ms() < self._background_retry_ms):
            return
        job = self.store.next_background()
        if job is None:
            return
        self._background = job
        self._background_retry_ms = 0
        self.disk.submit_background(job, lambda error: self._background_done(job, error))

    def _background_done(self, job: Job, error: BaseException | None) -> None:
        if self.stopped:
            return
        self._background = None
        if isinstance(error, DiskFullError):
            self._background_retry_ms = self.clock.now_ms() + 500
            return
        if error is not None:
            self.fatal(error)
            return
        try:
            job.complete()
        except BaseException as surprise:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            self.fatal(surprise)
            return
        self.schedule_turn()

    def _serve_reads(self, group: RaftGroup) -> None:
        """A follower needs entries that are in segments only: read them on a disk thread."""
        wanted, group.core.reads = group.core.reads, []
        for request in wanted:
            job = group.log.read_job(request.low, request.max_bytes)

            def done(error: BaseException | None, peer: int = request.peer, job: object = job) -> None:
                if self.is_open(group):
                    group.core.entries_read(peer, [] if error is not None else job.entries)  # type: ignore[attr-defined]
                    if error is not None:
                        log.warning("%s: reading entries for node %d failed: %s", group.name, node_of(peer), error)
                        group.log.quarantine(str(error))
                    self.touch(group)

            self.disk.submit_read(job, done)

    # -- from the network -----------------------------------------------------------------------------------------

    def on_request(self, peer: int, lane: Lane, data: memoryview) -> None:
        """Raises WireError when the bytes are not a valid message: the network closes the session."""
        found = self.peers.get(peer)
        if found is None or self.stopped:
            return
        envelope, batch = decode_batch(data)
        self._check_envelope(found, envelope)
        try:
            for group_id, message in batch.messages:
                group = self.groups.get(group_id)
                if group is not None:
                    self._step(group, found, message)
            if lane == Lane.CONTROL and batch.beat:
                found.heard_ms = self.clock.now_ms()
                found.beat_to_answer = batch.beat
                self.schedule_turn()
            for news in batch.news:
                self.events.on_news(peer, news)
        except WireError:
            raise
        except BaseException as error:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            self.fatal(error)

    def on_answer(self, peer: int, lane: Lane, data: memoryview) -> None:
        """As on_request, for what comes back on our own session."""
        found = self.peers.get(peer)
        if found is None or self.stopped:
            return
        envelope, batch = decode_batch(data)
        self._check_envelope(found, envelope)
        try:
            for group_id, message in batch.messages:
                group = self.groups.get(group_id)
                if group is not None:
                    self._step_answer(group, found, message)
            if lane == Lane.CONTROL and batch.beat:
                found.beat_answered(batch.beat)
                if found.silent:
                    found.silent = False
                for group in list(self._confirming.values()):
                    self._confirm(group)
        except BaseException as error:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            self.fatal(error)

    def _check_envelope(self, peer: Peer, envelope: Envelope) -> None:
        if envelope.sender != peer.node or envelope.cluster_id != self.identity.cluster_id:
            raise WireError(f"a message of node {envelope.sender} came on the session of node {peer.node}, or it is from another cluster")

    def _step(self, group: RaftGroup, peer: Peer, message: Message) -> None:
        core = group.core
        if message.receiver != core.replica:
            return
        kind = message.type
        if kind == MessageType.HEARTBEAT_RESPONSE:
            # On the peer's own session this means: I lead this group no longer.
            if group.followed is peer and message.term >= core.term:
                self._unfollow(group)
                self._arm_election(group)
            if message.term > core.term:
                core.step(message, False)
        else:
            core.step(message, self._leader_alive(group))
            if kind in LEADER_SAYS and core.leader == message.sender and core.term == message.term:
                group.contact_ms = self.clock.now_ms()
                if group.followed is None:
                    if kind == MessageType.HEARTBEAT:
                        self._follow(group, peer)
                    else:
                        self._arm_election(group)
            elif kind == MessageType.VOTE and core.vote == message.sender and core.term == message.term:
                self._arm_election(group)  # a vote was granted: give the candidate its time (Raft 5.2)
        self._staged_by[group.group_id] = group
        self._touched[group.group_id] = group
        self.schedule_turn()

    def _step_answer(self, group: RaftGroup, peer: Peer, message: Message) -> None:
        core = group.core
        if message.receiver != core.replica:
            return
        kind = message.type
        if kind == MessageType.HEARTBEAT_RESPONSE:
            if message.reject or message.term != core.term or core.role != Role.LEADER:
                if peer.agreed.pop(group.group_id, None) is not None:
                    self._watch_quorum(group)
            else:
                peer.agreed[group.group_id] = core.term
                if group.reads_waiting:
                    self.confirm_leadership(group)
        elif kind == MessageType.APPEND_RESPONSE:
            group.progress_moved = True
        elif kind in (MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE) and not message.reject:
            log.info("%s: Vote granted by node %d (%s, term %d)", group.name, peer.node, "pre-vote" if kind == MessageType.PRE_VOTE_RESPONSE else "vote", message.term)
        core.step(message, False)
        self._staged_by[group.group_id] = group
        self._touched[group.group_id] = group
        self.schedule_turn()

    def on_session_open(self, peer: int, lane: Lane, outgoing: bool, incarnation: int) -> None:
        found = self.peers.get(peer)
        if found is None or self.stopped:
            return
        if incarnation != found.incarnation:
            if found.incarnation:
                self._release_followers(found)  # a new process: whatever it led, it leads no more
            found.incarnation = incarnation
        found.refused = False
        if not outgoing:
            found.into[lane] = True
            found.answers[lane].clear()
            if lane == Lane.CONTROL:
                self._release_followers(found)
                found.heard_ms = self.clock.now_ms()
            return
        found.outgoing_reset(lane)
        found.out[lane] = True
        node = found.node
        for group in self.groups.values():
            if group.core.role == Role.LEADER:
                for replica in group.core.progress:
                    if node_of(replica) == node:
                        if lane == Lane.CONTROL:
                            group.core.heartbeat(replica)
                        else:
                            group.core.peer_reset(replica)
                            self._unsettled[group.group_id] = group
                        self.touch(group)
        if lane == Lane.CONTROL:
            found.news = dict(self._news)
            self._beat(found)

    def on_session_lost(self, peer: int, lane: Lane, outgoing: bool, refused: bool) -> None:
        found = self.peers.get(peer)
        if found is None or self.stopped:
            return
        if outgoing:
            was_open, found.out[lane] = found.out[lane], False
            found.outgoing_reset(lane)
            if lane == Lane.CONTROL and was_open:
                for group in self.groups.values():
                    if group.core.role == Role.LEADER and any(node_of(r) == peer for r in group.core.progress):
                        self._watch_quorum(group)
        else:
            found.into[lane] = False
            found.answers[lane].clear()
            if lane == Lane.CONTROL:
                found.beat_to_answer = 0
                self._release_followers(found)
        if refused and not found.refused:
            found.refused = True
            self._release_followers(found)
            now, timing = self.clock.now_ms(), self.timing
            for group_id in found.orphans:
                orphan = self.groups.get(group_id)
                if orphan is not None and orphan.core.role != Role.LEADER:
                    orphan.contact_ms = NEVER
                    if orphan.is_voter():
                        self.timers.arm(orphan, TimerKind.ELECTION, now + self.random.randrange(timing.refused_timeout_min, timing.refused_timeout_max))
            self.events.on_peer_lost(peer)

    # -- who follows whom -----------------------------------------------------------------------------------------

    def _follow(self, group: RaftGroup, peer: Peer) -> None:
        """From now on the peer's beats keep this group's election timer quiet."""
        group.followed = peer
        peer.following.add(group.group_id)
        if group.orphaned_by is not None:
            group.orphaned_by.orphans.discard(group.group_id)
            group.orphaned_by = None
        self.timers.disarm(group, TimerKind.ELECTION)

    def _unfollow(self, group: RaftGroup) -> None:
        peer = group.followed
        if peer is not None:
            peer.following.discard(group.group_id)
            group.followed = None

    def _release_followers(self, peer: Peer) -> None:
        """The peer's beats count for nothing any more: its groups wait for their own timers."""
        for group_id in list(peer.following):
            group = self.groups.get(group_id)
            if group is not None:
                group.followed = None
                group.contact_ms = max(group.contact_ms, peer.heard_ms)
                group.orphaned_by = peer
                peer.orphans.add(group_id)
                self._arm_election(group)
        peer.following.clear()

    def follow_or_wait(self, group: RaftGroup) -> None:
        """The group's term, role or leader changed and we do not lead it: what was agreed with the former leader is void."""
        peer = group.followed
        if peer is not None and node_of(group.core.leader) != peer.node:
            self._unfollow(group)
            if peer.into[Lane.CONTROL]:
                # Said before the next beat is answered, so that the answer does not count for this group.
                core = group.core
                notice = Message(MessageType.HEARTBEAT_RESPONSE, core.replica, self._replica_on(group, peer.node), core.term, reject=True)
                peer.answers[Lane.CONTROL].append((group.group_id, notice))
        if group.followed is None and not self.timers.is_armed(group, TimerKind.ELECTION):
            self._arm_election(group)

    def _replica_on(self, group: RaftGroup, node: int) -> int:
        membership = group.core.membership
        return next((r for r in membership.voters | membership.learners if node_of(r) == node), node)

    def _leader_alive(self, group: RaftGroup) -> bool:
        """Whether a live leader is known, so that votes are refused (Raft thesis 4.2.3)."""
        if group.core.role == Role.LEADER:
            return group.lease_valid()
        heard = group.contact_ms
        peer = group.followed
        if peer is not None and peer.heard_ms > heard:
            heard = peer.heard_ms
        return heard != NEVER and self.clock.now_ms() - heard < self.timing.election_timeout_min

    def _arm_election(self, group: RaftGroup) -> None:
        """Arm the election timer afresh, with jitter (Raft 5.2)."""
        if not group.is_voter() or group.core.role == Role.LEADER or group.log.quarantined:
            self.timers.disarm(group, TimerKind.ELECTION)
            return
        timing, now = self.timing, self.clock.now_ms()
        peer = group.orphaned_by
        if (group.fresh and group.preferred) or len(group.core.membership.voters) == 1:
            delay = self.random.randrange(10, 30) if group.core.term == 0 else self.random.randrange(timing.refused_timeout_min, timing.refused_timeout_max)
        elif peer is not None and peer.refused:
            delay = self.random.randrange(timing.refused_timeout_min, timing.refused_timeout_max)
        else:
            delay = self.random.randrange(timing.election_timeout_min, timing.election_timeout_max)
        self.timers.arm(group, TimerKind.ELECTION, now + delay)

    def prefer(self, group: RaftGroup) -> None:
        """This replica is the preferred first leader of a new group: campaign without waiting for the usual time-out."""
        group.preferred = True
        if group.fresh and group.core.leader == 0:
            self._arm_election(group)

    def became_leader(self, group: RaftGroup) -> None:
        self._unfollow(group)
        if group.orphaned_by is not None:
            group.orphaned_by.orphans.discard(group.group_id)
            group.orphaned_by = None
        group.fresh = False
        group.contact_ms = NEVER
        self.timers.disarm(group, TimerKind.ELECTION)
        for peer in self.peers.values():
            peer.agreed.pop(group.group_id, None)
        self._unsettled[group.group_id] = group
        self._staged_by[group.group_id] = group
        self._watch_quorum(group)

    def lost_leadership(self, group: RaftGroup) -> None:
        """Tell the followers before the next beat that our beats do not count for this group any more."""
        core, group_id = group.core, group.group_id
        self._news.pop(group_id, None)
        self.timers.disarm(group, TimerKind.CHECK_QUORUM)
        self.timers.disarm(group, TimerKind.TRANSFER)
        for table in (self._confirming, self._commit_changed, self._unsettled):
            table.pop(group_id, None)
        for peer in self.peers.values():
            if peer.agreed.pop(group_id, None) is not None and peer.out[Lane.CONTROL]:
                notice = Message(MessageType.HEARTBEAT_RESPONSE, core.replica, self._replica_on(group, peer.node), core.term, reject=True)
                peer.requests[Lane.CONTROL].append((group_id, notice))

    def publish(self, news: LeaderNews) -> None:
        """Tell all peers, with the next beat, who leads a group and who is in sync."""
        self._news[news.group] = news
        for peer in self.peers.values():
            if peer.out[Lane.CONTROL]:
                peer.news[news.group] = news

    # -- time -----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self.stopped:
            return
        try:
            now, timing = self.clock.now_ms(), self.timing
            if now - self._last_tick_ms > timing.election_timeout_min // 2:
                # We were stopped or starved: silence of the others in that time says nothing, so they get a full time-out.
                log.warning("no tick for %d ms (paused or starved): election timers start afresh", now - self._last_tick_ms)
                self._restart_timers(now)
            self._last_tick_ms = now
            if now >= self._next_beat_ms:
                self._next_beat_ms = max(self._next_beat_ms + timing.beat_interval, now + timing.beat_interval // 2)
                self._on_beat(now)
            self.timers.expire(now, self._fire)
            self._start_background()
        except BaseException as error:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            self.fatal(error)
            return
        self.clock.call_later(timing.tick_interval, self._tick)

    def _restart_timers(self, now: int) -> None:
        for peer in self.peers.values():
            if peer.into[Lane.CONTROL]:
                peer.heard_ms = now
        for group in self.groups.values():
            if self.timers.is_armed(group, TimerKind.ELECTION):
                self._arm_election(group)

    def _on_beat(self, now: int) -> None:
        for group in self._commit_changed.values():
            group.core.broadcast_commit()
            self._touched[group.group_id] = group
        self._commit_changed.clear()
        for group in list(self._unsettled.values()):
            if group.core.retry_unsettled():
                self._touched[group.group_id] = group
            else:
                del self._unsettled[group.group_id]
        if self._touched:
            touched = list(self._touched.values())
            for group in touched:
                self._gather(group)
            self.schedule_turn()
        for peer in self.peers.values():
            if peer.out[Lane.CONTROL]:
                self._beat(peer)
            if peer.into[Lane.CONTROL] and peer.following and now - peer.heard_ms > self.timing.election_timeout_min:
                log.info("node %d has been silent for %d ms", peer.node, now - peer.heard_ms)
                self._peer_fell_silent(peer, now)
            if not peer.silent and (peer.acked_ms == NEVER or now - peer.acked_ms > self.timing.election_timeout_min):
                peer.silent = True
                for group in self.groups.values():
                    if group.core.role == Role.LEADER and any(node_of(r) == peer.node for r in group.core.progress):
                        self._watch_quorum(group)

    def _peer_fell_silent(self, peer: Peer, now: int) -> None:
        released = list(peer.following)
        self._release_followers(peer)
        spread = self.timing.election_timeout_max - self.timing.election_timeout_min
        for group_id in released:
            group = self.groups.get(group_id)
            if group is not None and self.timers.is_armed(group, TimerKind.ELECTION):
                self.timers.arm(group, TimerKind.ELECTION, now + self.random.randrange(0, max(1, spread)))

    def _beat(self, peer: Peer) -> None:
        """One beat: everything waiting on the control lane goes before it, in the same message."""
        messages, peer.requests[Lane.CONTROL] = peer.requests[Lane.CONTROL], []
        self._send_requests(peer, Lane.CONTROL, messages, peer.next_beat(self.clock.now_ms()))

    def _fire(self, group: RaftGroup, kind: TimerKind) -> None:
        if self.groups.get(group.group_id) is not group:
            return
        if kind == TimerKind.ELECTION:
            self._campaign(group)
        elif kind == TimerKind.CHECK_QUORUM:
            self._check_quorum(group)
        elif group.core.role == Role.LEADER:
            group.core.abort_transfer()
            self.touch(group)

    def _campaign(self, group: RaftGroup) -> None:
        if group.followed is not None or group.core.role == Role.LEADER or not group.is_voter() or group.log.quarantined:
            return
        log.info("%s: Election timeout reached", group.name)
        group.core.campaign()
        if group.core.role != Role.LEADER:
            self._arm_election(group)
        self._staged_by[group.group_id] = group
        self.touch(group)

    def _watch_quorum(self, group: RaftGroup) -> None:
        """Something made the quorum of a led group doubtful: look again after an election time-out (check-quorum)."""
        if not self.timers.is_armed(group, TimerKind.CHECK_QUORUM):
            self.timers.arm(group, TimerKind.CHECK_QUORUM, self.clock.now_ms() + self.timing.election_timeout_min)

    def _check_quorum(self, group: RaftGroup) -> None:
        if group.core.role != Role.LEADER:
            return
        now = self.clock.now_ms()
        contact = quorum_contact_ms(group, self.peers, now)
        if contact == NEVER or now - contact > self.timing.election_timeout_min:
            log.warning("%s term %d: no majority has answered for %d ms: stepping down", group.name, group.term, self.timing.election_timeout_min)
            group.core.quorum_lost()
            self.touch(group)
            return
        if any(self._is_doubtful(group, replica) for replica in group.core.progress):
            self.timers.arm(group, TimerKind.CHECK_QUORUM, now + self.timing.election_timeout_min // 2)

    def _is_doubtful(self, group: RaftGroup, replica: int) -> bool:
        if replica == group.core.replica:
            return False
        peer = self.peers.get(node_of(replica))
        return peer is None or peer.silent or peer.agreed.get(group.group_id) != group.core.term

    def confirm_leadership(self, group: RaftGroup) -> None:
        """A ReadIndex waits: beat now instead of at the next interval."""
        self._confirming[group.group_id] = group
        for replica in group.core.progress:
            peer = self.peers.get(node_of(replica))
            if peer is not None and peer.out[Lane.CONTROL] and replica != group.core.replica:
                self._beat(peer)
        self.touch(group)
        group.progress_moved = True

    def _confirm(self, group: RaftGroup) -> None:
        group.answer_reads(quorum_contact_ms(group, self.peers, self.clock.now_ms()))
        if not group.reads_waiting:
            self._confirming.pop(group.group_id, None)

    def transfer(self, group: RaftGroup, target: int) -> str:
        """Hand leadership to `target` (replica id), or say why not. Given up after an election time-out (thesis 3.10)."""
        refusal = group.core.transfer_leadership(target)
        if not refusal:
            self.timers.arm(group, TimerKind.TRANSFER, self.clock.now_ms() + self.timing.election_timeout_min)
            self.touch(group)
        return refusal
