"""The coordinators of one simulated process, put together as `broker.node` and `broker.transactions` do it: the real services, observers of the
partitions of the internal topics, over the simulated clock and the calls between simulated nodes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from broker.coordinator.coordination import Coordination
from broker.coordinator.groups.machine import GroupsMachine
from broker.coordinator.internal_topics import GROUPS_TOPIC, TRANSACTIONS_TOPIC
from broker.coordinator.transactions.machine import TransactionMachine
from broker.coordinator.transactions.markers import MarkerReceiver, SenderParts
from broker.coordinator.transactions.service import ServiceParts, TransactionService
from broker.coordinator.transactions.wire import Reply
from broker.metadata.image import MetadataImage
from broker.metadata.leaders import LeaderTable
from broker.partition.partition import Partition
from raft.core.core import Role
from raft.wire import LeaderNews
from wal.entry import GroupId

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

SETTINGS: dict[str, object] = {
    "group.min.session.timeout.ms": 200,
    "group.initial.rebalance.delay.ms": 100,
}


class Hosted:
    """`services` is what a handler of the broker is given, as far as the coordinators' handlers use it."""

    def __init__(self, node: SimNode, image: MetadataImage, allocate: Callable[[SimNode, Callable[[int | None], None]], None]) -> None:
        self.node = node
        self.image = image
        self.leaders = LeaderTable()
        sender = SenderParts(node.clock, self.leaders, lambda: image, self._send, lambda name, done: done(True))
        parts = ServiceParts(node.id, sender, node.wall_time_ms, SETTINGS, lambda done: allocate(node, done))
        self.transactions = TransactionService(parts, MarkerReceiver(node.clock, self._find))
        self.transactions.set_incarnation(node.incarnation)
        broker: Any = SimpleNamespace(
            node_id=node.id, clock=node.clock, wall_time_ms=node.wall_time_ms, settings=SETTINGS, image=image, partitions=self, leaders=self.leaders
        )
        self._ids = 0
        self.coordination = broker.coordination = Coordination(broker, lambda: len(node.cluster.node_ids), self._new_member_id)
        self.coordination.add(TRANSACTIONS_TOPIC, self.transactions.observe)
        self.services: Any = SimpleNamespace(broker=broker)

    def _new_member_id(self) -> str:
        self._ids += 1
        return f"{self.node.id}.{self.node.incarnation}.{self._ids}"

    def _find(self, group: GroupId) -> Partition | None:
        return self.node.partitions.get(group)

    def get(self, topic: str, index: int) -> Partition | None:
        """`broker.api.Partitions.get`."""
        image = self.image.partition(topic, index)
        return self.node.partitions.get(image.group_id) if image is not None else None

    # -- what coordinators are -----------------------------------------------------------------------------------

    def transaction_machine(self, group: GroupId) -> TransactionMachine | None:
        machine: TransactionMachine | None = self._machine(group, TRANSACTIONS_TOPIC)
        return machine

    def groups_machine(self, group: GroupId) -> GroupsMachine | None:
        machine: GroupsMachine | None = self._machine(group, GROUPS_TOPIC)
        return machine

    def _machine(self, group: GroupId, topic: str) -> Any:
        partition = self.node.partitions.get(group)
        observer: Any = partition._observer if partition is not None and partition.topic == topic else None
        return observer.machine if observer is not None else None

    # -- from node to node ----------------------------------------------------------------------------------------

    def _send(self, to: int, method: str, payload: bytes, reply: Reply) -> None:
        node = self.node
        if to == node.id:
            self.transactions.serve(to, method, payload, reply)
            return

        def serve(target: SimNode, data: bytes, answer: Callable[[bytes], None]) -> None:
            node.cluster.counts[f"call_{method}"] += 1
            target.hosted.transactions.serve(node.id, method, data, answer)

        node.cluster.calls.call(node, to, payload, serve, reply)

    def on_news(self, sender: int, news: LeaderNews) -> None:
        self.leaders.observe(sender, ((news.group, news.term, news.isr),))

    def on_leader(self, group: Any) -> None:
        """As `broker.replicas`: who leads goes into our own table, and to our peers if it is us."""
        if group.core.role != Role.LEADER:
            self.leaders.set(group.group_id, group.term, group.leader or -1, None)
            return
        isr = self.node.partitions[group.group_id].isr()
        self.leaders.set(group.group_id, group.term, self.node.id, isr)
        self.node.driver.post.publish(LeaderNews(group.group_id, group.term, self.node.id, isr))
