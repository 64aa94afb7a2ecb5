"""Work of the node that is nobody's request: pressure, who is in sync, the reconciler, deletions, handing over at the end.

Runs on the loop thread from one timer; long-running steps are tasks of one group, and a surprise in any of them ends the worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from broker.errors import KafkaError
from broker.metadata.reconciler import ChangeMembers, GroupView, Reconciler, Step, TransferLeader
from broker.refill import Refill
from raft.api import Lane
from raft.core.core import Role
from raft.core.message import node_of
from raft.group import RaftGroup
from wal.entry import META_GROUP, META_TOPIC, GroupId

if TYPE_CHECKING:
    from broker.node import Node

log = logging.getLogger("chronik_cluster")

INTERVAL_S = 0.5
STOPPED_INTERVAL_S = 0.01
"""How often is looked whether stopped producers may go on: memory that becomes free is no event here."""
PRODUCER_SWEEP_MS = 10_000
CATCH_UP_ENTRIES = 100
"""A learner this close to the end may vote: the rest reaches it within a turn or two."""
PENDING_LIMIT_BYTES = 64 << 20
LAG_WARNING_ENTRIES = 10_000
METHOD_CHANGE = "group.change"


class Housekeeping:
    """One per node. `start` when the node serves, `stop` before it stops."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.pending_bytes = 0
        self.lag_warned: set[tuple[GroupId, int]] = set()
        self._reconciler = Reconciler()
        self._refill = Refill(node)
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False
        self._stopped_timer: asyncio.TimerHandle | None = None
        self._deleted: list[bytes] = []
        self._next_producer_sweep_ms = 0

    def start(self) -> None:
        self._running = True
        self._run()

    def stop(self) -> None:
        self._running = False
        if self._stopped_timer is not None:
            self._stopped_timer.cancel()
        for task in self._tasks:
            task.cancel()

    def _run(self) -> None:
        if not self._running:
            return
        try:
            self.watch_pressure()
            node, now = self.node, self.node.clock.now_ms()
            node.partitions.sweep_isr()
            self._warn_of_lag()
            node.meta.maybe_snapshot()
            node.meta.update_isr()
            self._refill.look(now)
            if now >= self._next_producer_sweep_ms:
                self._next_producer_sweep_ms = now + PRODUCER_SWEEP_MS
                node.partitions.tick(now)
            if node.machine.serving:
                self._reconcile(now)
            node.reassignments.run()
        except Exception as error:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            self.node.fatal(error)
            return
        asyncio.get_running_loop().call_later(INTERVAL_S, self._run)

    # -- pressure -------------------------------------------------------------------------------------------------

    def pending_bytes_changed(self, delta: int) -> None:
        """What waits in partitions to be proposed: more than the limit stops the producers, half of it lets them go on."""
        self.pending_bytes += delta
        if (delta > 0) != self.node.pressure.paused:
            self.watch_pressure()

    def watch_pressure(self) -> None:
        store, pressure = self.node.store, self.node.pressure
        if pressure.paused:
            if not store.memory_is_short() and self.pending_bytes < PENDING_LIMIT_BYTES // 2:
                pressure.set(False)
        elif store.memory_bytes > store.memory_limit_bytes or self.pending_bytes > PENDING_LIMIT_BYTES:
            pressure.set(True)
        if pressure.paused and self._running and self._stopped_timer is None:
            self._stopped_timer = asyncio.get_running_loop().call_later(STOPPED_INTERVAL_S, self._watch_stopped)

    def _watch_stopped(self) -> None:
        self._stopped_timer = None
        self.watch_pressure()

    def _warn_of_lag(self) -> None:
        """ "Follower node 2 is 10000 entries behind leader": once per crossing."""
        for group in self.node.driver.groups.values():
            if group.core.role != Role.LEADER:
                continue
            last = group.log.last_index
            for replica, progress in group.core.progress.items():
                key = (group.group_id, replica)
                behind = last - progress.match_index
                if behind >= LAG_WARNING_ENTRIES and key not in self.lag_warned:
                    self.lag_warned.add(key)
                    log.warning("Follower node %d is %d entries behind leader (%s)", node_of(replica), behind, group.name)
                elif behind < LAG_WARNING_ENTRIES // 2 and key in self.lag_warned:
                    self.lag_warned.discard(key)

    # -- deletions ------------------------------------------------------------------------------------------------

    def confirm_deletion(self, topic_id: bytes) -> None:
        """Our replicas of the topic are gone: tell `__meta`, as often as needed."""
        if topic_id not in self._deleted:
            self._deleted.append(topic_id)
            if len(self._deleted) == 1:
                self.spawn(self._confirm())

    async def _confirm(self) -> None:
        while self._deleted:
            batch = list(self._deleted)
            try:
                await self.node.controller.confirm_deletion(batch)
            except KafkaError as error:
                log.debug("deletion of %d topics is not confirmed yet: %s", len(batch), error)
                await asyncio.sleep(0.5)
                continue
            self._deleted = [topic_id for topic_id in self._deleted if topic_id not in batch]

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task of this node; a surprise in it ends the worker."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            if error is not None:
                self.node.fatal(error)

    # -- reconciler -----------------------------------------------------------------------------------------------

    def alive(self) -> frozenset[int]:
        """Ourselves and the peers that answer our beats."""
        node = self.node
        return frozenset([node.node_id, *(peer.node for peer in node.driver.peers.values() if peer.out[Lane.CONTROL] and not peer.silent)])

    def view_of(self, group: RaftGroup) -> GroupView:
        core, last = group.core, group.log.last_index
        caught_up = frozenset(r for r, progress in core.progress.items() if r == core.replica or last - progress.match_index <= CATCH_UP_ENTRIES)
        membership = core.membership
        changing = bool(membership.voters_outgoing) or group.changing_membership
        return GroupView(group.group_id, self.node.node_id, membership.voters, membership.learners, caught_up & membership.members, changing)

    def _reconcile(self, now: int) -> None:
        node = self.node
        groups: dict[GroupId, RaftGroup] = node.driver.groups
        views = {g.group_id: self.view_of(g) for g in groups.values() if g.serving}
        leaders = {}
        for topic in node.image.topics.values():
            for partition in topic.partitions:
                leader, _ = node.leaders.leader_of(partition.group_id)
                leaders[partition.group_id] = (leader, tuple(node.leaders.isr_of(partition.group_id)))
        if node.settings.get("auto.leader.rebalance.enable") is False:
            leaders = {}
        for step in self._reconciler.plan(now, node.image, views, leaders, self.alive()):
            self.carry_out(step)

    def carry_out(self, step: Step) -> None:
        """Do one step of a plan, or ask the leader that it concerns."""
        node = self.node
        log.info("%s: %s", self._describe(step), step.reason)
        if isinstance(step, ChangeMembers):
            group = node.driver.groups.get(step.group)
            if group is not None and group.serving:
                group.change_membership(step.voters, step.learners, lambda ok: None)
        elif step.leader == node.node_id:
            self.transfer(step)
        else:
            self.spawn(self._ask_transfer(step))

    def _describe(self, step: Step) -> str:
        """Whom the step concerns, and where leadership goes."""
        topic = self.node.image.topics_by_id.get(step.group[:16])
        name = topic.name if topic is not None else META_TOPIC if step.group == META_GROUP else step.group[:16].hex()
        where = f", node {step.leader} hands over to node {step.target}" if isinstance(step, TransferLeader) else ""
        return f"{name}-{int.from_bytes(step.group[16:], 'big')}{where}"

    def transfer(self, step: TransferLeader) -> None:
        group = self.node.driver.groups.get(step.group)
        if group is not None and group.serving:
            group.transfer_leadership(step.target)

    async def _ask_transfer(self, step: TransferLeader) -> None:
        payload = step.group + step.target.to_bytes(8, "big")
        try:
            await self.node.links.call(step.leader, METHOD_CHANGE, payload, 2_000)
        except OSError as error:
            log.debug("node %d was not asked to hand over: %s", step.leader, error)

    async def serve_transfer(self, _sender: int, payload: bytes) -> bytes:
        """The leader's side of METHOD_CHANGE."""
        group_id, target = GroupId(bytes(payload[:20])), int.from_bytes(payload[20:28], "big")
        self.transfer(TransferLeader(group_id, self.node.node_id, target, "asked by the controller"))
        return b""

    async def hand_over(self) -> None:
        """A node that stops gives its leaderships away, so that nobody has to wait for a time-out."""
        driver = self.node.driver
        alive = self.alive() - {self.node.node_id}
        led = [group for group in driver.groups.values() if group.serving]
        for group in led:
            heirs = [r for r in group.core.membership.voters if node_of(r) in alive]
            if heirs:
                group.transfer_leadership(node_of(max(heirs, key=lambda r: group.core.progress[r].match_index)))
        deadline = self.node.clock.now_ms() + 1_000
        waiting = [group for group in led if group.group_id != META_GROUP and len(group.core.membership.voters) > 1]
        while self.node.clock.now_ms() < deadline and any(group.serving for group in waiting):  # noqa: ASYNC110 - only while stopping
            await asyncio.sleep(0.02)
