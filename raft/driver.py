"""All groups of one worker: one tick, one flush, one message per peer, lane and turn.

Owns the groups, the peers and the order of things in a turn: collect proposals, send, flush, apply. Knows neither asyncio nor gRPC: clock, network
and disk are passed in (`raft.api`), so the simulator runs this file as it is. Everything runs on one loop thread; a surprise anywhere ends the worker
through `fatal`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random
from typing import NamedTuple, Protocol

from raft import telling
from raft.api import Clock, Disk, Lane, Network, StateMachine
from raft.core.core import CoreLimits, RaftCore, Role
from raft.core.message import Message, MessageType, node_of
from raft.elections import Elections
from raft.flushing import Flushing
from raft.group import RaftGroup
from raft.liveness import NEVER, Peer, Timing, quorum_contact_ms
from raft.post import Post
from raft.wire import Batch, Envelope, LeaderNews, WireError, decode_batch
from wal.api import GroupLog, ReadJob, WalStore
from wal.entry import Entry, GroupId

log = logging.getLogger("chronik_raft")

LEADER_SAYS = frozenset((MessageType.APPEND, MessageType.HEARTBEAT, MessageType.INSTALL_SNAPSHOT))
UNARY_ANSWERS = {
    MessageType.APPEND: MessageType.APPEND_RESPONSE,
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESPONSE,
    MessageType.VOTE: MessageType.VOTE_RESPONSE,
}


class Identity(NamedTuple):
    """Who this worker is. cluster_id: 16 bytes. incarnation: larger at each start."""

    node: int
    cluster_id: bytes
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
    max_uncommitted_bytes: int = 16 << 20
    """Of all groups that we lead. What is uncommitted fills the journals of a majority; a few leaders together must not fill them whole."""


class DriverEvents(Protocol):
    """What the composition root wants to know. Called on the loop thread."""

    def on_fatal(self, error: BaseException) -> None: ...

    def on_news(self, sender: int, news: LeaderNews) -> None: ...

    def on_flush(self, milliseconds: int, size_bytes: int) -> None: ...

    def on_snapshot_needed(self, group: RaftGroup, replica: int, index: int, term: int) -> None:
        """A replica needs what is trimmed; answer with `group.core.report_snapshot(replica, ok)` and touch the group."""

    def on_snapshot_received(self, group: RaftGroup, index: int, term: int, path: str) -> None:
        """A snapshot file is whole and fsynced at `path`: read it on a disk thread, then `group.install_snapshot` or `group.refuse_snapshot`."""

    def on_peer_lost(self, peer: int) -> None: ...

    def on_peer_silent(self, peer: int, silent: bool) -> None:
        """A connected peer has not been heard for a while, or is heard again."""

    def on_leader(self, group: RaftGroup) -> None:
        """The group's known leader, its term, or whether we serve changed."""


class Driver:
    """The multi-group driver of one worker. Fulfils `raft.api.NetworkHandler`.

    Invariant: a group whose core was given anything since the last turn is in `_touched`; whose log may have staged anything, in
    `flushing.staged_by`.
    """

    def __init__(self, identity: Identity, store: WalStore, world: World, settings: DriverSettings, events: DriverEvents) -> None:
        self.identity = identity
        self.store = store
        self.clock, self.disk, network, random = world
        self.settings = settings
        self.timing = settings.timing
        self.events = events
        self.groups: dict[GroupId, RaftGroup] = {}
        self.peers: dict[int, Peer] = {}
        self.dirty: list[RaftGroup] = []
        self.uncommitted_bytes = 0  # Invariant: the sum over the `uncommitted` of all groups
        self.stopped = False
        self.elections = Elections(self, self.clock, random, self.timing)
        envelope = Envelope(identity.cluster_id, identity.node, identity.incarnation)
        self.post = Post(envelope, self.peers, network, self.clock, settings.max_message_bytes, self._append_dropped)
        self._touched: dict[GroupId, RaftGroup] = {}
        self._turn_scheduled = False
        self.flushing = Flushing(self, store, self.clock, self.disk)
        self._confirming: dict[GroupId, RaftGroup] = {}  # groups with ReadIndex requests
        self._commit_changed: dict[GroupId, RaftGroup] = {}
        self._unsettled: dict[GroupId, RaftGroup] = {}  # led groups with a follower that is not replicating
        self._next_beat_ms = 0
        self._last_tick_ms = 0

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin ticking. Groups may be opened before or after."""
        self._last_tick_ms = self._next_beat_ms = self.clock.now_ms()
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
        for node in sorted(nodes - self.peers.keys() - {self.identity.node}):
            self.peers[node] = Peer(node)
        for node in sorted(self.peers.keys() - nodes):
            self.elections.release_followers(self.peers[node])
            del self.peers[node]

    def open_group(self, group_log: GroupLog, machine: StateMachine, replica: int) -> RaftGroup:
        """Take up a group whose log is open, found by recovery or just created. `replica`: our replica id in it."""
        applied = machine.restore(group_log.applied_state)
        core = RaftCore(replica, group_log, self.settings.limits, applied)
        group = RaftGroup(self, group_log, core, machine, applied)
        self.groups[group.group_id] = group
        group_log.capture_state = machine.capture
        self.elections.arm(group)
        self.flushing.staged_by[group.group_id] = group
        self.touch(group)
        return group

    def close_group(self, group_id: GroupId) -> None:
        """Forget a group (its log is deleted by the caller)."""
        group = self.groups.pop(group_id, None)
        if group is None:
            return
        self.elections.timers.forget(group)
        self.elections.unfollow(group)
        group.serving = False
        for table in (self._touched, self.flushing.staged_by, self._confirming, self._commit_changed, self._unsettled):
            table.pop(group_id, None)
        self.post.forget_group(group_id)
        self._forget_uncommitted(group)
        for peer in self.peers.values():
            peer.agreed.pop(group_id, None)
            peer.orphans.discard(group_id)
        group.machine.on_leadership(False)
        group.abandon()

    def is_open(self, group: RaftGroup) -> bool:
        return not self.stopped and self.groups.get(group.group_id) is group

    # -- the turn -------------------------------------------------------------------------------------------------

    def schedule_turn(self) -> None:
        if not self._turn_scheduled and not self.stopped:
            self._turn_scheduled = True
            self.clock.call_soon(self._turn)

    def look_at(self, group: RaftGroup) -> None:
        """As `touch`, when nothing can have been staged."""
        self._touched[group.group_id] = group

    def touch(self, group: RaftGroup) -> None:
        """The group's core was given something: look at it in the next turn."""
        self._touched[group.group_id] = group
        self.flushing.staged_by[group.group_id] = group
        if not self._turn_scheduled:
            self.schedule_turn()

    def _turn(self) -> None:
        self._turn_scheduled = False
        if self.stopped:
            return
        try:
            if self.dirty and not self.flushing.busy:
                self._collect()
            touched, self._touched = self._touched, {}
            for group in touched.values():
                self._gather(group)
            self.post.send()
            self.flushing.start()
            for group in touched.values():
                self._advance(group)
            self.flushing.start_background()
        except BaseException as error:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            self.fatal(error)

    def _collect(self) -> None:
        dirty, self.dirty = self.dirty, []
        for position, group in enumerate(dirty):
            if self.uncommitted_bytes >= self.settings.max_uncommitted_bytes:
                self.dirty = dirty[position:] + self.dirty  # goes on when something is committed
                return
            group.dirty = False
            if not group.serving or self.groups.get(group.group_id) is not group:
                continue
            proposal = group.machine.collect(self.settings.max_proposal_bytes)
            if proposal is not None:
                kind, chunks, size, payload_crc, record_count = proposal
                if group.core.propose((Entry(0, 0, kind, chunks, size, payload_crc, 0, record_count),)):
                    group.uncommitted.append((group.log.last_index, size))
                    self.uncommitted_bytes += size
                    self.flushing.staged_by[group.group_id] = group
                    self._touched[group.group_id] = group

    def _gather(self, group: RaftGroup) -> None:
        """Move what the core wants to say to the outboxes, and see what changed."""
        core = group.core
        if core.messages:
            self._route(group)  # what was said before a change of role goes before the notice of that change
        if core.changed:
            core.changed = False
            group.note_status()
            if group.log.committed_index < core.commit_index:
                group.log.advance_commit(core.commit_index)
                uncommitted = group.uncommitted
                while uncommitted and uncommitted[0][0] <= core.commit_index:
                    self.uncommitted_bytes -= uncommitted.popleft()[1]
                    if self.dirty:
                        self.schedule_turn()
                if telling.debugging():
                    telling.committed(group)
                if core.role == Role.LEADER:
                    self._commit_changed[group.group_id] = group
                    if group.eager_commit:
                        core.broadcast_commit()
        if core.messages:
            self._route(group)
        if core.messages_after_flush:
            self.flushing.promise(group, core.take_messages_after_flush())
        if core.reads:
            self._serve_reads(group)
        if core.snapshots:
            wanted, core.snapshots = core.snapshots, []
            self._unsettled[group.group_id] = group  # whatever gets lost on the way of a snapshot is found out by asking again
            for request in wanted:
                self.events.on_snapshot_needed(group, request.peer, request.index, request.term)

    def _route(self, group: RaftGroup) -> None:
        messages, group.core.messages = group.core.messages, []
        for message in messages:
            self.post.route(group, message)

    def _advance(self, group: RaftGroup) -> None:
        """Apply what is committed; then what hangs on it."""
        if group.progress_moved:
            group.progress_moved = False
            group.note_progress()
        if group.applied_index < group.core.commit_index or not group.serving:
            group.apply_committed()
        if group.reads_waiting:
            self._confirm(group)

    # -- reads and damage -----------------------------------------------------------------------------------------

    def _serve_reads(self, group: RaftGroup) -> None:
        """A follower needs entries that are in segments only: read them on a disk thread."""
        wanted, group.core.reads = group.core.reads, []
        for request in wanted:
            self._read_for(group, request.peer, group.log.read_job(request.low, request.max_bytes))

    def _read_for(self, group: RaftGroup, replica: int, job: ReadJob) -> None:
        def done(error: BaseException | None) -> None:
            if not self.is_open(group):
                return
            if error is not None:
                log.error("%s: reading entries for node %d failed: %s", group.name, node_of(replica), error)
                self.quarantine(group, error)
            if error is not None or not job.entries:
                self._unsettled[group.group_id] = group
            try:
                group.core.entries_read(replica, [] if error is not None else job.entries)
            except BaseException as surprise:  # noqa: BLE001 - any surprise here ends the worker, with its cause
                self.fatal(surprise)
                return
            self.touch(group)

        self.disk.submit_read(job, done)

    def quarantine(self, group: RaftGroup, error: BaseException) -> None:
        """The files of a replica are damaged: it neither leads nor votes any more, until it is refilled from its peers."""
        if not group.log.quarantined:
            log.error("%s is quarantined, it neither votes nor serves: %s", group.name, error)
            group.log.quarantine(str(error))
        group.core.resign()
        self.elections.arm(group)
        self._stepped(group)

    # -- from the network -----------------------------------------------------------------------------------------

    def on_snapshot(self, peer: int, group_id: GroupId, index: int, term: int, path: str) -> None:
        """A snapshot file of `peer` is here, whole. Who sent it does not matter: what it holds is committed."""
        group = self.groups.get(group_id)
        if group is not None and not self.stopped:
            log.info("%s: InstallSnapshot from node %d received: index=%d, term=%d", group.name, peer, index, term)
            self.events.on_snapshot_received(group, index, term, path)

    def on_ready(self) -> None:
        self.schedule_turn()

    def on_request(self, peer: int, lane: Lane, data: memoryview) -> None:
        """Raises WireError when the bytes are not a valid message of this peer: the network closes the session."""
        found = self.peers.get(peer)
        if found is None or self.stopped:
            return
        envelope, batch = self._decode(found, data)
        try:
            # Answers that came along with appends are about our own session; what an earlier process of the peer answered counts no more there.
            believed = envelope.incarnation >= found.incarnation
            for group_id, message in batch.messages:
                group = self.groups.get(group_id)
                if group is not None and message.receiver == group.core.replica:
                    if message.type != MessageType.APPEND_RESPONSE:
                        self._step_request(group, found, message)
                    elif believed:
                        self._step_answer(group, found, message)
            if batch.echo and believed:
                self._data_acked(found, batch.echo)
            if lane == Lane.CONTROL and batch.beat:
                self.elections.heard(found)
                found.beat_to_answer = batch.beat
                self.schedule_turn()
            elif batch.beat:
                found.data_seen = max(found.data_seen, batch.beat)
                self.schedule_turn()
            for news in batch.news:
                self.events.on_news(peer, news)
        except BaseException as error:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            self.fatal(error)

    def on_answer(self, peer: int, lane: Lane, data: memoryview) -> None:
        """As on_request, for what comes back on our own session."""
        found = self.peers.get(peer)
        if found is None or self.stopped:
            return
        batch = self._decode(found, data)[1]
        try:
            for group_id, message in batch.messages:
                group = self.groups.get(group_id)
                if group is not None and message.receiver == group.core.replica:
                    self._step_answer(group, found, message)
            if lane == Lane.CONTROL and batch.beat:
                found.beat_answered(batch.beat)
                found.silent = False
                for group in list(self._confirming.values()):
                    self._confirm(group)
            elif batch.beat:
                self._data_acked(found, batch.beat)
        except BaseException as error:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            self.fatal(error)

    def _data_acked(self, peer: Peer, number: int) -> None:
        """The peer has flushed our data messages up to `number`."""
        if peer.data_acked < number <= peer.data_sent:
            peer.data_acked = number
            if peer.requests[Lane.DATA]:
                self.schedule_turn()

    def _decode(self, peer: Peer, data: memoryview) -> tuple[Envelope, Batch]:
        envelope, batch = decode_batch(data)
        if envelope.sender != peer.node or envelope.cluster_id != self.identity.cluster_id:
            raise WireError(f"a message of node {envelope.sender} came on the session of node {peer.node}, or it is from another cluster")
        return envelope, batch

    def _step_request(self, group: RaftGroup, peer: Peer, message: Message) -> None:
        if group.log.quarantined:
            return  # a damaged replica may have lost what it promised, its term included: it says nothing, as if it were down
        core, kind, elections = group.core, message.type, self.elections
        if kind == MessageType.HEARTBEAT_RESPONSE:
            # On the peer's own session this means: I lead this group no longer.
            if group.followed is peer and message.term >= core.term:
                elections.unfollow(group)
                elections.arm(group)
            if message.term > core.term:
                core.step(message, False)
        else:
            core.step(message, elections.leader_alive(group) if kind not in LEADER_SAYS else False)
            if kind in LEADER_SAYS:
                if core.leader == message.sender and core.term == message.term:
                    group.contact_ms = self.clock.now_ms()
                    if group.followed is not peer and kind == MessageType.HEARTBEAT:
                        elections.unfollow(group)
                        elections.follow(group, peer)
                    elif group.followed is None:
                        elections.arm(group)
            elif kind == MessageType.VOTE and core.vote == message.sender and core.term == message.term:
                elections.arm(group)  # a vote was granted: give the candidate its time (Raft 5.2)
        self._stepped(group)

    def _step_answer(self, group: RaftGroup, peer: Peer, message: Message) -> None:
        core, kind = group.core, message.type
        if kind == MessageType.APPEND_RESPONSE:
            group.progress_moved = True
            if message.reject or telling.debugging():
                before = core.progress.get(message.sender)
                telling.append_answered(group, message, before.match_index if before is not None else 0)
        elif kind == MessageType.HEARTBEAT_RESPONSE:
            if message.reject or message.term != core.term or core.role != Role.LEADER:
                if peer.agreed.pop(group.group_id, None) is not None:
                    self.elections.watch_quorum(group)
            elif peer.agreed.get(group.group_id) != core.term:
                peer.agreed[group.group_id] = core.term
                if group.reads_waiting:
                    self.confirm_leadership(group)
        elif kind in (MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE) and not message.reject:
            telling.vote_granted(group, message)
        core.step(message, False)
        if kind == MessageType.APPEND_RESPONSE:
            progress = core.progress.get(message.sender)
            if progress is not None and progress.told_commit < progress.match_index and progress.told_commit < core.commit_index:
                # It holds now what was committed, and told to the others, before.
                if group.eager_commit:
                    core.broadcast_commit()
                else:
                    self._commit_changed[group.group_id] = group
            if not core.changed and not core.messages and not core.reads:
                self._touched[group.group_id] = group  # the second of two followers: no hurry, the next turn will do
                return
        self._stepped(group)

    def _stepped(self, group: RaftGroup) -> None:
        """The core was given something: who was deposed by it stops serving at once, not with the next turn; requests may come before that."""
        if group.serving and group.core.role != Role.LEADER:
            self._route(group)
            group.note_status()
        self.touch(group)

    def ask(self, group: RaftGroup, message: Message, done: Callable[[Message], None]) -> Callable[[], None]:
        """Step one message that came by a unary call; `done(answer)` when its answer may leave (after the fsync, as always).

        Call what is returned to wait no longer.
        """
        forget = self.post.expect(group.group_id, message.sender, UNARY_ANSWERS[message.type], done)
        group.core.step(message, self.elections.leader_alive(group))
        self._stepped(group)
        return forget

    def _append_dropped(self, group_id: GroupId, message: Message) -> None:
        group = self.groups.get(group_id)
        if group is not None:
            telling.append_dropped(group, message)
            group.core.peer_reset(message.receiver)
            self._unsettled[group_id] = group

    def on_session_open(self, peer: int, lane: Lane, outgoing: bool, incarnation: int) -> None:
        found = self.peers.get(peer)
        if found is None or self.stopped:
            return
        if incarnation > found.incarnation:
            if found.incarnation:
                self.elections.release_followers(found)  # a new process: whatever it led, it leads no more
            found.incarnation = incarnation
        found.refused = False
        if not outgoing:
            found.into[lane] = True
            found.incoming_reset(lane)
            if lane == Lane.CONTROL:
                self.elections.release_followers(found)
                found.heard_ms = self.clock.now_ms()
                found.suspected = False  # it says again what it leads
            return
        found.outgoing_reset(lane)
        found.out[lane] = True
        self._introduce(found, lane)
        if lane == Lane.CONTROL:
            self.post.repeat_news(found)
            self.post.beat(found)

    def _introduce(self, peer: Peer, lane: Lane) -> None:
        """A new session of ours: say again what we lead (control), find out again where the logs agree (data)."""
        for group in self.groups.values():
            if group.core.role == Role.LEADER:
                for replica in group.core.progress:
                    if node_of(replica) == peer.node:
                        if lane == Lane.CONTROL:
                            group.core.heartbeat(replica)
                        else:
                            group.core.peer_reset(replica)
                            self._unsettled[group.group_id] = group
                        self.touch(group)

    def on_session_lost(self, peer: int, lane: Lane, outgoing: bool, refused: bool) -> None:
        found = self.peers.get(peer)
        if found is None or self.stopped:
            return
        if outgoing:
            was_open, found.out[lane] = found.out[lane], False
            found.outgoing_reset(lane)
            if lane == Lane.CONTROL and was_open:
                self.elections.watch_led_with(found)
            elif lane == Lane.DATA and found.carried:
                # Answers went along and may be lost, and the peer waits for them: its session must not outlive ours.
                found.carried = False
                self.post.network.end_incoming(peer, lane)
        else:
            found.into[lane] = False
            found.incoming_reset(lane)
            if lane == Lane.CONTROL:
                self.elections.release_followers(found)
        if refused and not found.refused:
            self.elections.peer_refused(found)
            self.events.on_peer_lost(peer)

    # -- what groups ask of the driver ----------------------------------------------------------------------------

    def became_leader(self, group: RaftGroup) -> None:
        self.elections.became_leader(group)
        self._unsettled[group.group_id] = group

    def lost_leadership(self, group: RaftGroup) -> None:
        for table in (self._confirming, self._commit_changed, self._unsettled):
            table.pop(group.group_id, None)
        self._forget_uncommitted(group)
        self.post.withdraw(group.group_id)
        self.elections.lost_leadership(group)

    def _forget_uncommitted(self, group: RaftGroup) -> None:
        """We do not lead the group any more: what becomes of its entries is its next leader's matter."""
        while group.uncommitted:
            self.uncommitted_bytes -= group.uncommitted.popleft()[1]

    def confirm_leadership(self, group: RaftGroup) -> None:
        """A ReadIndex waits: beat now instead of at the next interval."""
        self._confirming[group.group_id] = group
        for replica in group.core.progress:
            peer = self.peers.get(node_of(replica))
            if peer is not None and peer.out[Lane.CONTROL]:
                self.post.beat(peer)
        self.touch(group)

    def _confirm(self, group: RaftGroup) -> None:
        contact = quorum_contact_ms(group, self.peers, self.clock.now_ms())
        if contact != NEVER:
            group.answer_reads(contact)
        if not group.reads_waiting:
            self._confirming.pop(group.group_id, None)

    # -- time -----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self.stopped:
            return
        try:
            now, timing = self.clock.now_ms(), self.timing
            if now - self._last_tick_ms > timing.election_timeout_min // 2:
                log.warning("no tick for %d ms (paused or starved): election timers start afresh", now - self._last_tick_ms)
                self.elections.restart_timers(now)
            self._last_tick_ms = now
            if now >= self._next_beat_ms:
                self._next_beat_ms = max(self._next_beat_ms + timing.beat_interval, now + timing.beat_interval // 2)
                self._on_beat(now)
            self.elections.timers.expire(now, self.elections.fire)
            self.flushing.maybe_seal(now)
            if self._touched or (self.dirty and self.flushing.out):
                self.schedule_turn()
            self.flushing.start_background()
        except BaseException as error:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            self.fatal(error)
            return
        self.clock.call_later(timing.tick_interval, self._tick)

    def _on_beat(self, now: int) -> None:
        for group in self._commit_changed.values():
            group.core.broadcast_commit()
            self._gather_now(group)
        self._commit_changed.clear()
        for group in list(self._unsettled.values()):
            if group.core.retry_unsettled():
                self._gather_now(group)
            else:
                del self._unsettled[group.group_id]
        for peer in self.peers.values():
            if peer.out[Lane.CONTROL]:
                self.post.beat(peer)
            self.elections.look_at(peer, now)

    def _gather_now(self, group: RaftGroup) -> None:
        """So that what it says goes with the beat."""
        self._gather(group)
        self.touch(group)
