"""One simulated node: the real store, driver and partitions over a simulated process. Its file system outlives its processes."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

from broker.partition.config import TopicConfig
from broker.partition.partition import Partition, PartitionContext
from broker.records.reader import max_timestamp
from raft.core.core import CoreLimits
from raft.core.membership import Membership, encode
from raft.driver import Driver, DriverSettings, Identity, World
from raft.group import RaftGroup
from raft.liveness import Timing
from tests.simulation.world import Port, SimClock, SimDisk
from wal.entry import GroupId
from wal.errors import DataDirectoryError
from wal.memory_filesystem import MemoryFileSystem
from wal.store import WalSettings, WalStore

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

CLUSTER_ID = b"simulated-cluste"
TINY = {
    "journal_file_bytes": 16 << 10,
    "journal_files": 4,
    "piece_bytes": 4 << 10,
    "segment_bytes": 32 << 10,
    "cache_bytes": 16 << 10,
    "reserve_bytes": 0,
}
LIMITS = CoreLimits(max_message_bytes=8 << 10, max_in_flight_messages=8, max_in_flight_bytes=32 << 10, max_message_entries=16)
TIMING = Timing()
MAX_PROPOSAL_BYTES = 4 << 10


class SimNode:
    """`up`: a process runs (it may be stopped). A fatal error ends the process, as it ends a worker."""

    def __init__(self, cluster: Cluster, node: int, random: Random) -> None:
        self.cluster = cluster
        self.id = node
        self.random = random
        self.files = MemoryFileSystem(Random(random.getrandbits(32)))
        self.incarnation = 0
        self.up = False
        self.clock = SimClock(cluster.scheduler)
        self.disk = SimDisk(cluster.scheduler, self.clock)
        self.store: Any = None
        self.driver: Any = None
        self.partitions: dict[GroupId, Partition] = {}
        self.groups: dict[GroupId, RaftGroup] = {}
        self.fatal_error: BaseException | None = None
        self.expected_fatal = False

    def start(self) -> None:
        cluster = self.cluster
        self.incarnation += 1
        self.clock = SimClock(cluster.scheduler)
        self.disk = SimDisk(cluster.scheduler, self.clock)
        self.fatal_error = None
        try:
            self.store = WalStore.open(self.files, "data", WalSettings(**TINY), describe=max_timestamp)
        except DataDirectoryError as error:
            raise AssertionError(f"node {self.id} does not start: {error}") from error
        world = World(self.clock, self.disk, Port(cluster.network, self.id), Random(self.random.getrandbits(32)))
        settings = DriverSettings(timing=TIMING, limits=LIMITS, max_proposal_bytes=MAX_PROPOSAL_BYTES, max_message_bytes=8 << 10)
        self.driver = Driver(Identity(self.id, CLUSTER_ID, self.incarnation), self.store, world, settings, self)
        self.driver.set_peers(set(cluster.node_ids))
        self.partitions, self.groups = {}, {}
        self.up = True
        voters = encode(Membership(frozenset(cluster.node_ids), frozenset(), frozenset()))
        for group_id, topic in cluster.topics.items():
            group_log = self.store.groups.get(group_id)
            if group_log is None:
                group_log = self.store.create_group(group_id, topic, voters)
            cluster.invariants.on_recovered(self, group_log)
            if group_log.quarantined:
                cluster.counts["quarantined"] += 1
            partition = Partition(None, topic, group_log.partition, group_id[:16], self._context())
            partition.configure(TopicConfig.defaults())
            group = self.driver.open_group(group_log, partition, self.id)
            partition.attach(group)
            self.partitions[group_id], self.groups[group_id] = partition, group
        self.driver.start()
        from raft.api import Lane

        for peer in cluster.node_ids:
            if peer != self.id:
                for lane in Lane:
                    cluster.network.dial(self, peer, lane)

    def _context(self) -> PartitionContext:
        return PartitionContext(
            clock=self.clock,
            wall_time_ms=lambda: 1_700_000_000_000 + self.clock.now_ms(),
            disk_full=lambda: bool(self.store.disk_full),
        )

    def crash(self, torn: bool = True) -> None:
        """kill -9 and power loss in one: the process is gone, and of what was not fsynced any part may be lost."""
        if not self.up:
            return
        self.cluster.invariants.on_crash(self)
        self.up = False
        self.clock.alive = False
        self.driver.stop()
        if torn and self.disk.flush_out is not None and self.random.random() < 0.5:
            # The crash hits in the middle of a flush: some of its writes happened.
            self.files.stop_after(self.random.randrange(0, 6))
            try:
                self.disk.flush_out.run()
            except Exception:  # noqa: BLE001 - whatever the torn flush says, the process is dead
                self.cluster.counts["torn_flush"] += 1
            self.files.stop_after(None)
        self.files.crash(self.random)
        self.cluster.network.node_died(self.id)

    # -- raft.driver.DriverEvents ---------------------------------------------------------------------------------

    def on_fatal(self, error: BaseException) -> None:
        self.fatal_error = error
        self.cluster.on_fatal(self, error)

    def on_news(self, sender: int, news: Any) -> None:
        self.cluster.counts["news"] += 1

    def on_flush(self, milliseconds: int, size_bytes: int) -> None:
        self.cluster.counts["flushes"] += 1

    def on_snapshot_needed(self, group: RaftGroup, peer: int, index: int, term: int) -> None:
        raise AssertionError("partitions keep their whole log")

    def on_peer_lost(self, peer: int) -> None:
        self.cluster.counts["refused"] += 1

    def on_leader(self, group: RaftGroup) -> None:
        self.cluster.scheduler.trace(f"n{self.id} {group.name} term {group.term} leader {group.leader} serving {group.serving}")


__all__ = ["CLUSTER_ID", "Counter", "SimNode"]
