"""Who follows whom, who may campaign, and whether a leader still has its quorum. The timers of all groups.

The rules here decide liveness; safety is the core's. They decide safety in one place only: `leader_alive` (votes are refused while a leader is alive)
and the lease of `RaftGroup.lease_valid` rest on the same times, so a change of one is a change of both (Raft thesis 4.2.3 and 6.4.1).
"""

from __future__ import annotations

import logging
from random import Random
from typing import TYPE_CHECKING

from raft import telling
from raft.api import Clock, Lane
from raft.core.core import Role
from raft.core.message import Message, MessageType, node_of
from raft.liveness import NEVER, Peer, TimerKind, Timers, Timing, quorum_contact_ms

if TYPE_CHECKING:
    from raft.driver import Driver
    from raft.group import RaftGroup

log = logging.getLogger("chronik_raft")

HURRIED_CAMPAIGNS = 10
"""Campaigns in a row that need not wait for the full time-out; without a quorum more of them would only fill the log."""


class Elections:
    """Timers and followers of one driver. Invariant: a group that follows a peer (`RaftGroup.followed`) has no armed election timer."""

    def __init__(self, driver: Driver, clock: Clock, random: Random, timing: Timing) -> None:
        self.driver = driver
        self.clock = clock
        self.random = random
        self.timing = timing
        self.timers = Timers()

    # -- following ------------------------------------------------------------------------------------------------

    def follow(self, group: RaftGroup, peer: Peer) -> None:
        """From now on the peer's beats keep this group's election timer quiet."""
        group.followed = peer
        group.campaigns = 0
        peer.following.add(group.group_id)
        self._adopt(group)
        self.timers.disarm(group, TimerKind.ELECTION)

    def unfollow(self, group: RaftGroup) -> None:
        peer = group.followed
        if peer is not None:
            peer.following.discard(group.group_id)
            group.followed = None

    def _adopt(self, group: RaftGroup) -> None:
        if group.orphaned_by is not None:
            group.orphaned_by.orphans.discard(group.group_id)
            group.orphaned_by = None

    def release_followers(self, peer: Peer, tell: bool = False) -> None:
        """The peer's beats count for nothing any more: its groups wait for their own timers.

        `tell`: its session goes on, and it would take our answers to beats that come late for the agreement that they were.
        """
        released, peer.following = peer.following, set()
        for group_id in sorted(released):
            group = self.driver.groups.get(group_id)
            if group is not None:
                group.followed = None
                group.contact_ms = max(group.contact_ms, peer.heard_ms)
                self._adopt(group)
                group.orphaned_by = peer
                peer.orphans.add(group_id)
                self.arm(group)
                if tell:
                    self._tell_unfollowed(group, peer)

    def _tell_unfollowed(self, group: RaftGroup, peer: Peer) -> None:
        """Said before the next beat is answered, so that the answer does not count for this group."""
        if peer.into[Lane.CONTROL]:
            core = group.core
            notice = Message(MessageType.HEARTBEAT_RESPONSE, core.replica, group.replica_on(peer.node), core.term, reject=True)
            peer.answers[Lane.CONTROL].append((group.group_id, notice))

    def peer_refused(self, peer: Peer) -> None:
        """The peer's process is gone for certain: its groups need not wait for the full time-out (pre-vote guards against a mistake)."""
        peer.refused = True
        self.release_followers(peer, True)
        for group_id in sorted(peer.orphans):
            group = self.driver.groups.get(group_id)
            if group is not None and group.core.role != Role.LEADER:
                group.contact_ms = NEVER
                self.arm(group)

    def heard(self, peer: Peer) -> None:
        """A beat of the peer's has come."""
        peer.heard_ms = self.driver.clock.now_ms()
        if peer.suspected:
            peer.suspected = False
            self.driver.events.on_peer_silent(peer.node, False)

    def look_at(self, peer: Peer, now: int) -> None:
        """At each beat: is the peer still heard, and does it still answer?"""
        timeout = self.timing.election_timeout_min
        if peer.into[Lane.CONTROL]:
            silence = now - peer.heard_ms
            if silence > self.timing.suspect_after and not peer.suspected:
                peer.suspected = True
                self.driver.events.on_peer_silent(peer.node, True)
            if silence > timeout and peer.following:
                self.peer_fell_silent(peer, now)
        if not peer.silent and (peer.acked_ms == NEVER or now - peer.acked_ms > timeout):
            peer.silent = True
            self.watch_led_with(peer)

    def peer_fell_silent(self, peer: Peer, now: int) -> None:
        """Connected, but no beat for an election time-out: that time has been waited already, only the jitter is left."""
        log.info("node %d has been silent for %d ms", peer.node, now - peer.heard_ms)
        released = sorted(peer.following)
        self.release_followers(peer, True)
        spread = max(1, self.timing.election_timeout_max - self.timing.election_timeout_min)
        for group_id in released:
            group = self.driver.groups.get(group_id)
            if group is not None and self.timers.is_armed(group, TimerKind.ELECTION):
                self.timers.arm(group, TimerKind.ELECTION, now + self.random.randrange(spread))

    def follow_or_wait(self, group: RaftGroup) -> None:
        """The group's term, role or leader changed and we do not lead it: what was agreed with the former leader is void."""
        peer, core = group.followed, group.core
        if peer is not None and node_of(core.leader) != peer.node:
            self.unfollow(group)
            self._tell_unfollowed(group, peer)
        if group.followed is None and not self.timers.is_armed(group, TimerKind.ELECTION):
            self.arm(group)

    def leader_alive(self, group: RaftGroup) -> bool:
        """Whether a live leader is known, so that votes are refused."""
        if group.core.role == Role.LEADER:
            return group.lease_valid()
        heard, peer = group.contact_ms, group.followed
        if peer is not None and peer.heard_ms > heard:
            heard = peer.heard_ms
        return heard != NEVER and self.clock.now_ms() - heard < self.timing.election_timeout_min

    # -- election timer -------------------------------------------------------------------------------------------

    def arm(self, group: RaftGroup) -> None:
        """Arm the election timer afresh, with jitter (Raft 5.2); not for those that may not campaign."""
        core = group.core
        if core.role == Role.LEADER or not core.may_campaign() or group.log.quarantined:
            self.timers.disarm(group, TimerKind.ELECTION)
            return
        timing, orphaned_by = self.timing, group.orphaned_by
        low, high = timing.election_timeout_min, timing.election_timeout_max
        if len(core.membership.electorate) == 1:
            low, high = 5, 15  # nobody to wait for
        elif group.campaigns < HURRIED_CAMPAIGNS and ((group.fresh and group.preferred) or (orphaned_by is not None and orphaned_by.refused)):
            low, high = timing.refused_timeout_min, timing.refused_timeout_max
        self.timers.arm(group, TimerKind.ELECTION, self.clock.now_ms() + self.random.randrange(low, high))

    def prefer(self, group: RaftGroup) -> None:
        """This replica is the preferred first leader of a new group: campaign without waiting for the usual time-out."""
        group.preferred = True
        if group.fresh and group.core.leader == 0:
            self.timers.arm(group, TimerKind.ELECTION, self.clock.now_ms() + self.random.randrange(10, 30))

    def restart_timers(self, now: int) -> None:
        """We were stopped or starved: the silence of others in that time says nothing, so they get a full time-out."""
        for peer in self.driver.peers.values():
            if peer.into[Lane.CONTROL]:
                peer.heard_ms = now
        for group in self.driver.groups.values():
            if self.timers.is_armed(group, TimerKind.ELECTION):
                self.arm(group)

    def fire(self, group: RaftGroup, kind: TimerKind) -> None:
        if not self.driver.is_open(group):
            return
        if kind == TimerKind.ELECTION:
            self._campaign(group)
        elif kind == TimerKind.CHECK_QUORUM:
            self._check_quorum(group)
        elif group.core.role == Role.LEADER:
            group.core.abort_transfer()
            self.driver.touch(group)

    def _campaign(self, group: RaftGroup) -> None:
        core = group.core
        if group.followed is not None or core.role == Role.LEADER or not core.may_campaign() or group.log.quarantined:
            return
        telling.election_timeout(group)
        group.campaigns += 1
        core.campaign()
        self.arm(group)
        self.driver.touch(group)

    # -- leading --------------------------------------------------------------------------------------------------

    def became_leader(self, group: RaftGroup) -> None:
        self.unfollow(group)
        self._adopt(group)
        group.campaigns = 0
        group.fresh = False
        group.contact_ms = NEVER
        self.timers.disarm(group, TimerKind.ELECTION)
        for peer in self.driver.peers.values():
            peer.agreed.pop(group.group_id, None)
        self.watch_quorum(group)

    def lost_leadership(self, group: RaftGroup) -> None:
        """Tell the followers before the next beat that our beats do not count for this group any more."""
        core, group_id = group.core, group.group_id
        self.timers.disarm(group, TimerKind.CHECK_QUORUM)
        self.timers.disarm(group, TimerKind.TRANSFER)
        for peer in self.driver.peers.values():
            peer.agreed.pop(group_id, None)
            # Also those that have not confirmed our term: they may follow us, and only their answer was lost.
            if peer.out[Lane.CONTROL] and any(node_of(replica) == peer.node for replica in core.membership.members):
                notice = Message(MessageType.HEARTBEAT_RESPONSE, core.replica, group.replica_on(peer.node), core.term, reject=True)
                peer.requests[Lane.CONTROL].append((group_id, notice))

    def watch_quorum(self, group: RaftGroup) -> None:
        """Something made the quorum of a led group doubtful: look again after an election time-out (check-quorum)."""
        if not self.timers.is_armed(group, TimerKind.CHECK_QUORUM):
            self.timers.arm(group, TimerKind.CHECK_QUORUM, self.clock.now_ms() + self.timing.election_timeout_min)

    def watch_led_with(self, peer: Peer) -> None:
        """The peer may be gone: every group that we lead and that it votes in is doubtful."""
        for group in self.driver.groups.values():
            if group.core.role == Role.LEADER and any(node_of(replica) == peer.node for replica in group.core.progress):
                self.watch_quorum(group)

    def _check_quorum(self, group: RaftGroup) -> None:
        if group.core.role != Role.LEADER:
            return
        now, timing = self.clock.now_ms(), self.timing
        contact = quorum_contact_ms(group, self.driver.peers, now)
        if contact == NEVER or now - contact > timing.election_timeout_min:
            log.warning("%s term %d: no majority has answered for %d ms: stepping down", group.name, group.term, timing.election_timeout_min)
            group.core.quorum_lost()
            self.driver.touch(group)
        elif any(self._is_doubtful(group, replica) for replica in group.core.progress):
            self.timers.arm(group, TimerKind.CHECK_QUORUM, now + timing.election_timeout_min // 2)

    def _is_doubtful(self, group: RaftGroup, replica: int) -> bool:
        if replica == group.core.replica:
            return False
        peer = self.driver.peers.get(node_of(replica))
        return peer is None or peer.silent or peer.agreed.get(group.group_id) != group.core.term

    def transfer(self, group: RaftGroup, target: int) -> str:
        """Hand leadership to `target` (replica id), or say why not. Given up after an election time-out (thesis 3.10)."""
        refusal = group.core.transfer_leadership(target)
        if not refusal:
            self.timers.arm(group, TimerKind.TRANSFER, self.clock.now_ms() + self.timing.election_timeout_min)
            self.driver.touch(group)
        return refusal
