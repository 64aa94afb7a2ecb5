"""The replicas on this node: opens what recovery found, creates what `__meta` assigns, removes what `__meta` has deleted.

Owns the table of partitions and keeps the leader table in step with the groups. A replica is created once, empty, with the first voters that `__meta`
records; it is deleted only for an explicit deletion record (never because something is absent). Loop thread only; knows no asyncio.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from broker.metadata.image import MetadataImage, PartitionImage, TopicImage
from broker.metadata.leaders import LeaderTable
from broker.partition.config import TopicConfig
from broker.partition.partition import Partition, PartitionContext
from raft.core.core import Role
from raft.core.membership import Membership, decode, encode
from raft.core.message import node_of
from raft.driver import Driver
from raft.group import RaftGroup
from raft.wire import LeaderNews
from wal.api import GroupLog, WalStore
from wal.entry import META_GROUP, GroupId

log = logging.getLogger("chronik_cluster")

TopicConfigOf = Callable[[Mapping[str, str]], TopicConfig]


def own_replica(group_log: GroupLog, node: int) -> int:
    """Our replica id in a group: the newest that its configurations name, else the node id itself (first generation).

    A replica that came later has a first configuration that names it, whatever the entries that it is sent then say of its predecessors.
    """
    known = [replica for _, payload in group_log.configurations for replica in decode(payload).members if node_of(replica) == node]
    return max(known, default=node)


def first_membership(first_voters: Sequence[int], replica: int) -> Membership:
    """With which configuration our `replica` of a group begins: as one of its first voters, or as a learner that the leader will add."""
    if replica in first_voters:
        return Membership(frozenset(first_voters))
    others = frozenset(voter for voter in first_voters if node_of(voter) != node_of(replica))
    return Membership(others, frozenset([replica]))


class Replicas:
    """Fulfils `broker.api.Partitions`. Invariant: every open group but `__meta` has exactly one Partition here, under its name and under its id."""

    def __init__(
        self,
        node: int,
        store: WalStore,
        driver: Driver,
        leaders: LeaderTable,
        context: PartitionContext,
        topic_config: TopicConfigOf,
        confirm_deletion: Callable[[bytes], None],
    ) -> None:
        self.node = node
        self.store = store
        self.driver = driver
        self.leaders = leaders
        self.context = context
        self.topic_config = topic_config
        self.confirm_deletion = confirm_deletion
        self.by_name: dict[tuple[str, int], Partition] = {}
        self.by_id: dict[GroupId, Partition] = {}
        self.groups: dict[GroupId, RaftGroup] = {}
        self.generation = 0  # of this data directory: no replica here is older
        self._isr: dict[GroupId, tuple[int, ...]] = {}
        self._behind_start: set[tuple[GroupId, int]] = set()  # complained about

    # -- broker.api.Partitions ------------------------------------------------------------------------------------

    def get(self, topic: str, partition: int) -> Partition | None:
        return self.by_name.get((topic, partition))

    def get_by_id(self, topic_id: bytes, partition: int) -> Partition | None:
        return self.by_id.get(GroupId(topic_id + partition.to_bytes(4, "big", signed=True)))  # a client may ask for any number

    # -- life -----------------------------------------------------------------------------------------------------

    def open_recovered(self) -> None:
        """Take up every group that recovery found."""
        for group_id, group_log in list(self.store.groups.items()):
            if group_id != META_GROUP:
                self._open(group_log, {})

    def _open(self, group_log: GroupLog, configs: Mapping[str, str], replica: int = 0) -> RaftGroup:
        group_id, topic = group_log.group_id, group_log.topic
        replica = max(replica, own_replica(group_log, self.node), self.node + (self.generation << 32))
        partition = Partition(None, topic, group_log.partition, group_id[:16], self.context)
        partition.configure(self.topic_config(configs))
        group = self.driver.open_group(group_log, partition, replica)
        partition.attach(group)
        self.by_id[group_id] = partition
        self.by_name[topic, group_log.partition] = partition
        self.groups[group_id] = group
        if group_log.quarantined:
            log.error("%s is quarantined: %s", group.name, group_log.quarantined)
        return group

    def on_image(self, old: MetadataImage, new: MetadataImage) -> None:
        """Bring the replicas in step with a new image: create, configure, delete."""
        came_back = self.node in new.brokers and self.node not in old.brokers  # whatever was assigned to us meanwhile is to be made
        for topic_id, topic in new.topics_by_id.items():
            before = old.topics_by_id.get(topic_id)
            if before is topic and not came_back:
                continue
            for image in topic.partitions:
                self._on_partition(topic, image, new)
            if before is not None and before.configs != topic.configs:
                self._configure(topic)
        if old.deleting is not new.deleting:
            for topic_id, deletion in new.deleting.items():
                self._delete_topic(topic_id, self.node in deletion.pending)

    def _on_partition(self, topic: TopicImage, image: PartitionImage, metadata: MetadataImage) -> None:
        group = self.groups.get(image.group_id)
        if group is None:
            replica = metadata.replica_id(self.node, image.group_id)
            if self.node not in image.replicas or replica is None:
                return
            # While old records are replayed, `__meta` still tells of a disk that was lost: a replica of this directory is never older than it.
            replica = max(replica, self.node + (self.generation << 32))
            payload = encode(first_membership(image.first_voters, replica))
            group = self._open(self.store.create_group(image.group_id, topic.name, payload), topic.configs)
            if image.first_voters[0] == replica:
                self.driver.elections.prefer(group)
        else:
            self.by_id[image.group_id].configure(self.topic_config(topic.configs))

    def rebuild(self, group_id: GroupId, replica: int, topic: TopicImage) -> None:
        """Begin anew in place of a damaged replica: empty, under the new id `replica`, as a learner that the leader fills.

        The caller has kept the old files, and knows that a majority without us is intact.
        """
        group, partition = self.groups[group_id], self.by_id[group_id]
        first_voters = topic.partitions[partition.index].first_voters
        payload = encode(first_membership(first_voters, replica))
        self.driver.close_group(group_id)
        self.by_name.pop((partition.topic, partition.index), None)
        group_log = group.log
        if group_log.topic == topic.name:
            group_log.install_snapshot(0, 0, 0, payload)
            group_log.quarantine("")
        else:  # recovery found only frames of it, and not even its name
            self.store.delete_group(group_id)
            group_log = self.store.create_group(group_id, topic.name, payload)
        self._open(group_log, topic.configs, replica)
        self.driver.schedule_turn()

    def configure_all(self, metadata: MetadataImage) -> None:
        """The broker's own settings, which give the topics' defaults, have changed."""
        for topic in metadata.topics.values():
            self._configure(topic)

    def _configure(self, topic: TopicImage) -> None:
        config = self.topic_config(topic.configs)
        for image in topic.partitions:
            partition = self.by_id.get(image.group_id)
            if partition is not None:
                partition.configure(config)

    def _delete_topic(self, topic_id: bytes, confirm: bool) -> None:
        for group_id in [g for g in self.groups if g[:16] == topic_id]:
            self.remove(group_id, "its topic was deleted")
            self.leaders.remove(group_id)
        if confirm:
            self.confirm_deletion(topic_id)

    def remove(self, group_id: GroupId, reason: str) -> None:
        """Delete our replica of a group. Only for an explicit record of `__meta` that says so."""
        group = self.groups.pop(group_id)
        partition = self.by_id.pop(group_id)
        name = (partition.topic, partition.index)
        if self.by_name.get(name) is partition:
            del self.by_name[name]
        self._isr.pop(group_id, None)
        self.driver.close_group(group_id)
        self.store.delete_group(group_id)
        self.driver.schedule_turn()
        log.info("%s: replica removed, %s", group.name, reason)

    # -- who leads ------------------------------------------------------------------------------------------------

    def on_leader(self, group: RaftGroup) -> None:
        """The driver's event: a group's leader, term or serving state changed."""
        group_id = group.group_id
        if group.core.role == Role.LEADER:
            self._isr.pop(group_id, None)
            self.update_isr(group)
        else:
            self._isr.pop(group_id, None)
            self.leaders.set(group_id, group.term, group.leader or -1, None)

    def update_isr(self, group: RaftGroup) -> None:
        """Leader: recompute who is in sync, and publish it when it changed."""
        partition = self.by_id.get(group.group_id)
        isr = partition.isr() if partition is not None else tuple(r.node for r in group.replicas() if r.voter)
        known = (group.term, *isr)
        if self._isr.get(group.group_id) != known:
            self._isr[group.group_id] = known
            self.leaders.set(group.group_id, group.term, self.node, isr)
            self.driver.post.publish(LeaderNews(group.group_id, group.term, self.node, isr))

    def refuse_snapshot(self, group: RaftGroup, replica: int, index: int) -> None:
        """The driver's event: `replica` needs what retention has deleted. Partitions send no snapshots: it has to wait for another way."""
        if (group.group_id, replica) not in self._behind_start:
            self._behind_start.add((group.group_id, replica))
            log.warning("%s: the replica on node %d needs entries up to %d, which are deleted here", group.name, node_of(replica), index)
        group.core.report_snapshot(replica, False)

    def sweep_isr(self) -> None:
        """Once a second: replicas fall out of sync by time alone."""
        for group in self.groups.values():
            if group.core.role == Role.LEADER:
                self.update_isr(group)

    def tick(self, now_ms: int) -> None:
        """Coarse timers of the partitions (expiry of producers)."""
        for partition in self.by_id.values():
            partition.tick(now_ms)
