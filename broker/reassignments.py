"""Carries out what `__meta` wishes for the replicas of this node's groups, and deletes replicas that were moved away.

On the leader of each group: the next step of `plan_partition` (a learner, its promotion, the removal of an old voter, one at a time), and, when the
group's configuration is as wished, the report that ends the reassignment. On the node whose replica is to go: delete it, but only for the explicit
record of `__meta`, and only after the group's leader has confirmed, by a ReadIndex, that the replica is no member; then tell `__meta` so.
Called from one timer on the loop thread; what has to wait is a task.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from broker.errors import KafkaError
from broker.metadata.image import MetadataImage, PartitionImage, TopicImage
from broker.metadata.reconciler import plan_partition
from raft.core.membership import Membership
from raft.group import RaftGroup
from wal.entry import META_GROUP, GroupId

if TYPE_CHECKING:
    from broker.node import Node

log = logging.getLogger("chronik_cluster")

METHOD_IS_MEMBER = "group.is_member"
CALL_TIMEOUT_MS = 3_000
_MEMBER, _GONE, _UNKNOWN = b"\x01", b"\x00", b""


class _Settled(NamedTuple):
    """What a group looked like when nothing was left to do: as long as all of it is the same objects, nothing is."""

    partition: PartitionImage
    membership: Membership
    brokers: object
    generations: object


class Reassignments:
    """One per node. Invariant: of a partition, and of a removal, at most one task is out."""

    __slots__ = ("_busy", "_images", "_node", "_seen", "_settled")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._seen: object = None
        self._images: dict[GroupId, tuple[TopicImage, PartitionImage]] = {}
        self._settled: dict[GroupId, _Settled] = {}
        self._busy: set[GroupId] = set()

    def run(self) -> None:
        """Called about twice a second while the node serves."""
        image: MetadataImage = self._node.image
        if self._seen is not image.topics:
            self._seen = image.topics
            self._images = {partition.group_id: (topic, partition) for topic in image.topics.values() for partition in topic.partitions}
            self._settled = {group: settled for group, settled in self._settled.items() if group in self._images}
        for group in list(self._node.driver.groups.values()):
            if group.serving and group.group_id != META_GROUP and group.group_id not in self._busy:
                self._lead(group, image)
        for (group_id, broker), replica in image.removals.items():
            if broker == self._node.node_id and group_id not in self._busy:
                self._remove(group_id, replica)

    # -- at the leader of a group ---------------------------------------------------------------------------------

    def _lead(self, group: RaftGroup, image: MetadataImage) -> None:
        found = self._images.get(group.group_id)
        if found is None:
            return
        topic, partition = found
        now = _Settled(partition, group.core.membership, image.brokers, image.replica_generations)
        before = self._settled.get(group.group_id)
        if before is not None and all(a is b for a, b in zip(now, before, strict=True)):
            return
        housekeeping = self._node.housekeeping
        view = housekeeping.view_of(group)
        wished = frozenset(image.replica_id(broker, group.group_id) for broker in partition.replicas)
        if not view.changing and not view.learners and view.voters == wished:
            if partition.original or partition.leaving:
                self._busy.add(group.group_id)
                housekeeping.spawn(self._settle(group.group_id, topic, partition))
            else:
                self._settled[group.group_id] = now
            return
        step = plan_partition(image, partition, view, housekeeping.alive())
        if step is not None:
            housekeeping.carry_out(step)

    async def _settle(self, group_id: GroupId, topic: TopicImage, partition: PartitionImage) -> None:
        try:
            await self._node.controller.settle_reassignment(topic.topic_id, partition.partition, partition.replicas)
            log.info("%s-%d: replicas are %s now", topic.name, partition.partition, list(partition.replicas))
        except KafkaError as error:
            log.debug("%s-%d: the end of its reassignment is not recorded yet: %s", topic.name, partition.partition, error)
        finally:
            self._busy.discard(group_id)

    async def serve_is_member(self, _sender: int, payload: bytes) -> bytes:
        """The leader's side of METHOD_IS_MEMBER: a group (20 bytes) and a replica id (8 bytes)."""
        group_id, replica = GroupId(bytes(payload[:20])), int.from_bytes(payload[20:28], "big")
        group: RaftGroup | None = self._node.driver.groups.get(group_id)
        if group is None or not group.serving:
            return _UNKNOWN
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def proven(index: int) -> None:
            if not future.done():
                future.set_result(index)

        group.read_index(proven)
        try:
            index = await asyncio.wait_for(future, CALL_TIMEOUT_MS / 1000)
        except TimeoutError:
            return _UNKNOWN
        if index < 0 or not group.serving:
            return _UNKNOWN
        return _MEMBER if replica in group.core.membership.members or group.changing_membership else _GONE

    # -- at the node whose replica is to go -----------------------------------------------------------------------

    def _remove(self, group_id: GroupId, replica: int) -> None:
        """The next step for one replica that `__meta` tells us to delete: ask, delete, confirm."""
        node = self._node
        group: RaftGroup | None = node.driver.groups.get(group_id)
        if group is not None and group.core.replica <= replica:
            leader, _ = node.leaders.leader_of(group_id)
            if leader not in (-1, node.node_id):
                self._busy.add(group_id)
                node.housekeeping.spawn(self._ask_and_delete(group_id, replica, leader))
        elif not node.store.is_removing(group_id):
            self._busy.add(group_id)
            node.housekeeping.spawn(self._confirm(group_id))

    async def _ask_and_delete(self, group_id: GroupId, replica: int, leader: int) -> None:
        node = self._node
        try:
            answer = await node.links.call(leader, METHOD_IS_MEMBER, group_id + replica.to_bytes(8, "big"), CALL_TIMEOUT_MS)
            if answer == _GONE and node.image.removals.get((group_id, node.node_id)) == replica:
                node.partitions.remove(group_id, "it was moved away by a reassignment")
        except OSError as error:
            log.debug("node %d did not say whether our replica belongs to its group: %s", leader, error)
        finally:
            self._busy.discard(group_id)

    async def _confirm(self, group_id: GroupId) -> None:
        try:
            await self._node.controller.confirm_removals([group_id])
        except KafkaError as error:
            log.debug("the removal of a replica is not confirmed yet: %s", error)
        finally:
            self._busy.discard(group_id)
