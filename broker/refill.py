"""Brings damaged replicas of this node's partitions back: under a new replica id, empty, as learners that their leaders fill and promote again.

A replica is given up only when its group's leader has proven, by a ReadIndex, that a majority works without it (a damaged replica says nothing), and
only after `__meta` has given it a new id: what the old one promised is never promised again. Its segment files are kept in `quarantine/` of the data
directory, for whoever wants to look; nothing here removes them. Called from one timer on the loop thread; what has to wait is a task.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from typing import TYPE_CHECKING

from broker.errors import KafkaError
from broker.metadata.image import PartitionImage, TopicImage
from broker.reassignments import METHOD_IS_MEMBER
from raft.group import RaftGroup
from wal.entry import Entry, GroupId
from wal.segment import parse_segment_name

if TYPE_CHECKING:
    from broker.node import Node

log = logging.getLogger("chronik_cluster")

RETRY_MS = 5_000
CALL_TIMEOUT_MS = 3_000
GENERATION_SHIFT = 32


class KeepFiles:
    """Keeps the segment files of one partition under a second name. Unless `move`, the first ones stay: the log still works with them."""

    def __init__(self, directory: str, partition: int, target: str, move: bool) -> None:
        self.entries: list[Entry] = []
        self.kept = 0
        self._directory = directory
        self._partition = partition
        self._target = target
        self._move = move

    def run(self) -> None:
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return
        for name in names:
            found = parse_segment_name(name)
            if found is None or found[0] != self._partition:
                continue
            os.makedirs(self._target, exist_ok=True)
            target = f"{self._target}/{name}"
            try:
                self._keep(f"{self._directory}/{name}", target)
            except FileNotFoundError:
                continue
            self.kept += 1

    def _keep(self, source: str, target: str) -> None:
        if self._move:
            os.rename(source, target)
        elif not os.path.exists(target):
            try:
                os.link(source, target)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(source, target)  # a file system without hard links


class Refill:
    """One per node. Invariant: at most one task per group is out."""

    __slots__ = ("_busy", "_next_ms", "_node")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._busy: set[GroupId] = set()
        self._next_ms: dict[GroupId, int] = {}

    def look(self, now_ms: int) -> None:
        """Called about twice a second while the node serves: begin with what is damaged and not begun with yet."""
        for group_id, group in self._node.partitions.groups.items():
            if group.log.quarantined and group_id not in self._busy and now_ms >= self._next_ms.get(group_id, 0):
                self._next_ms[group_id] = now_ms + RETRY_MS
                self._busy.add(group_id)
                self._node.housekeeping.spawn(self._refill(group))

    async def _refill(self, group: RaftGroup) -> None:
        try:
            await self._rebuild(group)
        except (KafkaError, OSError) as error:
            log.warning("%s: the damaged replica is not rebuilt yet, it is tried again: %s", group.name, error)
        finally:
            self._busy.discard(group.group_id)

    async def _rebuild(self, group: RaftGroup) -> None:
        node, group_id, old = self._node, group.group_id, group.core.replica
        found = self._find(group_id)
        if found is None:
            return
        leader, _ = node.leaders.leader_of(group_id)
        if leader in (-1, node.node_id) or not await self._majority_works(group_id, old, leader):
            log.warning("%s: the damaged replica stays as it is until a majority of the other replicas works", group.name)
            return
        replica = node.image.replica_id(node.node_id, group_id) or 0
        if replica <= old:
            generation = await node.controller.bump_generation(group_id, old >> GENERATION_SHIFT)
            replica = node.node_id + (generation << GENERATION_SHIFT)
        kept = await self._keep_files(group, found[0].name)
        found = self._find(group_id)
        if found is None or not node.driver.is_open(group) or not group.log.quarantined:
            return  # deleted, moved away or stopped meanwhile
        log.warning(
            "%s: the damaged replica (%s) is given up and filled again from node %d as replica id %d; %s",
            group.name,
            group.log.quarantined,
            leader,
            replica,
            kept,
        )
        node.partitions.rebuild(group_id, replica, found[0])

    def _find(self, group_id: GroupId) -> tuple[TopicImage, PartitionImage] | None:
        """The partition, if `__meta` wants a replica of it here and has others."""
        topic = self._node.image.topics_by_id.get(group_id[:16])
        number = int.from_bytes(group_id[16:], "big")
        if topic is None or number >= len(topic.partitions):
            return None
        partition = topic.partitions[number]
        return (topic, partition) if self._node.node_id in partition.replicas and len(partition.replicas) > 1 else None

    async def _majority_works(self, group_id: GroupId, old: int, leader: int) -> bool:
        """Whether the leader can confirm its leadership just now, which it can not with our help."""
        answer = await self._node.links.call(leader, METHOD_IS_MEMBER, group_id + old.to_bytes(8, "big"), CALL_TIMEOUT_MS)
        return answer != b""

    async def _keep_files(self, group: RaftGroup, topic: str) -> str:
        node = self._node
        target = f"{node.directory}/quarantine/{topic}-{group.log.partition}-{group.group_id[:4].hex()}-{group.core.replica >> GENERATION_SHIFT}"
        unknown = group.log.topic != topic  # recovery knows only frames of it: no log works with these files
        job = KeepFiles(f"{node.directory}/wal/{topic}", group.log.partition, target, unknown)
        future: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

        def done(error: BaseException | None) -> None:
            if not future.done():
                future.set_result(error)

        node.disk.submit_read(job, done)
        error = await future
        if error is not None:
            raise error
        return f"its files are kept in {target}" if job.kept else "it had no segment files"
