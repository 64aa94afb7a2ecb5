"""One simulated node: the real store, driver and partitions in a simulated process. Its files outlive its processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from broker.partition.config import TopicConfig
from broker.partition.partition import Partition, PartitionContext
from broker.records.batch import max_timestamp
from broker.replicas import first_membership, own_replica
from raft.api import Lane
from raft.core.core import CoreLimits
from raft.core.membership import encode
from raft.driver import Driver, DriverSettings, Identity, World
from raft.group import RaftGroup
from raft.liveness import Timing
from tests.simulation.files import PowerCut, SimFileSystem
from tests.simulation.meta import MetaReplica
from tests.simulation.watching import WatchedStore, watch_post, watched_port
from tests.simulation.world import CLUSTER_ID, Port, SimClock, SimDisk
from wal.api import AppliedState
from wal.entry import META_GROUP, Buffer, GroupId
from wal.errors import DamageError, check
from wal.memory_filesystem import Keep
from wal.settings import WalSettings
from wal.store import WalStore

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

TINY = WalSettings(
    journal_file_bytes=20 << 10,
    journal_files=3,
    segment_piece_bytes=4 << 10,
    segment_piece_bytes_max=8 << 10,
    segment_bytes=32 << 10,
    buffer_bytes=4 << 10,
    cache_bytes=16 << 10,
    reserve_bytes=0,
)
"""60 KiB of journal: laps, rolls and checkpoints happen all the time."""
LARGE_PIECES = replace(TINY, segment_piece_bytes=20 << 10, segment_piece_bytes_max=20 << 10, memory_limit_bytes=12 << 10)
"""Memory becomes short before any partition has a piece's worth, as with hundreds of partitions."""
LIMITS = CoreLimits(max_message_bytes=8 << 10, max_in_flight_messages=8, max_in_flight_bytes=32 << 10, max_message_entries=4)
SETTINGS = DriverSettings(timing=Timing(), limits=LIMITS, max_proposal_bytes=4 << 10, max_message_bytes=8 << 10, max_uncommitted_bytes=8 << 10)


def newest_timestamp(chunks: Sequence[Buffer]) -> int:
    """As the broker's: entries of `__meta` hold no record batches."""
    try:
        return max_timestamp(chunks)
    except DamageError:
        return -1


class SimNode:
    """`up`: a process runs (it may be stopped). A fatal error ends the process, as it ends a worker."""

    def __init__(self, cluster: Cluster, node: int, random: Random) -> None:
        self.cluster = cluster
        self.id = node
        self.random = random
        self.files = SimFileSystem(Random(random.getrandbits(32)))
        self.incarnation = 0
        self.up = False
        self.clock = SimClock(cluster.scheduler)
        self.disk = SimDisk(cluster.scheduler, self.clock, self.files, cluster.counts)
        self.store: Any = None
        self.driver: Any = None
        self.partitions: dict[GroupId, Partition] = {}
        self.groups: dict[GroupId, RaftGroup] = {}
        self.meta: MetaReplica | None = None
        self.hosted: Any = None
        self.expected_fatal = False
        self.producers_wait = False

    def hears_producers(self) -> bool:
        """As connections that produce are not read from the limit of the memory on, until it is not short any more (broker/housekeeping.py)."""
        store = self.store
        self.producers_wait = store.memory_is_short() if self.producers_wait else store.memory_bytes > store.memory_limit_bytes
        self.cluster.counts["producers_waited"] += self.producers_wait
        return not self.producers_wait

    def start(self) -> None:
        """A new process. A disk that fails while it starts ends it again; the cluster starts it once more later."""
        cluster = self.cluster
        self.incarnation += 1
        self.clock = SimClock(cluster.scheduler, self.random.randrange(1, 1_000_000))
        slow_us = self.disk.slow_us
        self.disk = SimDisk(cluster.scheduler, self.clock, self.files, cluster.counts)
        self.disk.slow_us = slow_us
        self.store = WalStore.open(self.files, "data", LARGE_PIECES if cluster.seed % 4 == 3 else TINY, describe=newest_timestamp)
        self.producers_wait = False
        port = watched_port(self, Port(cluster.network, self.id))
        world = World(self.clock, self.disk, port, Random(self.random.getrandbits(32)))
        identity = Identity(self.id, CLUSTER_ID, self.incarnation)
        self.driver = Driver(identity, WatchedStore(self.store, cluster.counts), world, SETTINGS, self)
        watch_post(self)
        self.driver.set_peers(set(cluster.node_ids))
        self.partitions, self.groups = {}, {}
        self.up = True
        self.hosted = cluster.workload.host(self)
        for group_id, topic in cluster.topics.items():
            group_log = self.store.groups.get(group_id)
            if group_log is None:
                payload = encode(first_membership(cluster.first_voters, cluster.replica_id(self.id, group_id)))
                group_log = self.store.create_group(group_id, topic, payload)
            cluster.invariants.on_recovered(self, group_log)
            self._open(group_id, group_log, own_replica(group_log, self.id))
        self.meta = None
        if cluster.has_meta:
            self.meta = MetaReplica(self)
            self.groups[META_GROUP] = self.meta.open()
            self._watch_states(self.groups[META_GROUP])
        if unknown := sorted(self.store.groups.keys() - self.groups.keys()):
            raise AssertionError(f"node {self.id} recovered groups that nobody made: {unknown}")
        self.driver.start()
        if self.hosted is not None:
            self.hosted.transactions.start()
        for peer in cluster.node_ids:
            if peer != self.id:
                for lane in Lane:
                    cluster.network.dial(self, peer, lane)

    def _open(self, group_id: GroupId, group_log: Any, replica: int) -> None:
        cluster = self.cluster
        if group_log.quarantined:
            cluster.counts["recovered_damaged"] += 1
        partition = Partition(None, cluster.topics[group_id], group_log.partition, group_id[:16], self._context())
        partition.configure(TopicConfig())
        group = self.driver.open_group(group_log, partition, replica)
        partition.attach(group)
        self.partitions[group_id], self.groups[group_id] = partition, group
        self._watch_states(group)

    def _watch_states(self, group: Any) -> None:
        capture = group.log.capture_state

        def captured() -> AppliedState | None:
            state: AppliedState | None = capture()
            if state is not None:
                self.cluster.invariants.states.see(group, state)
            return state

        group.log.capture_state = captured

    def rebuild(self, group_id: GroupId, replica: int) -> None:
        """What `broker.refill` and `broker.replicas` do with a damaged replica: begin anew, empty, under a new replica id."""
        group_log: Any = self.groups[group_id].log
        payload = encode(first_membership(self.cluster.first_voters, replica))
        self.driver.close_group(group_id)
        if group_log.topic == self.cluster.topics[group_id]:
            group_log.install_snapshot(0, 0, 0, payload)
            group_log.quarantine("")
        else:
            self.store.delete_group(group_id)
            group_log = self.store.create_group(group_id, self.cluster.topics[group_id], payload)
        self._open(group_id, group_log, replica)
        self.cluster.invariants.on_rebuilt(self, group_id)
        self.driver.schedule_turn()

    def _context(self) -> PartitionContext:
        store, clock = self.store, self.clock
        return PartitionContext(
            clock=clock,
            wall_time_ms=self.wall_time_ms,
            disk_full=lambda: bool(store.disk_full),
            node_id=self.id,
            max_pending_bytes=64 << 10,
            observe=self.hosted.coordination.observe if self.hosted is not None else None,
            verify=self.hosted.transactions.verifier.verify if self.hosted is not None else None,
        )

    def wall_time_ms(self) -> int:
        return 1_700_000_000_000 + self.cluster.scheduler.now_us // 1000

    def crash(self, keep: Keep = "random") -> None:
        """kill -9 and power loss in one: the process is gone, and of what was not fsynced any part may be lost."""
        if not self.up:
            return
        self.cluster.invariants.on_crash(self)
        self.up = False
        self.clock.alive = False
        self.driver.stop()
        for kind, job in list(self.disk.out.items()):
            # The power fails in the middle of what a disk thread is doing: some of its writes have happened.
            if self.random.random() < 0.5:
                self.files.fuse = self.random.randrange(0, 6)
                try:
                    job.run()
                except PowerCut:
                    self.cluster.counts[f"torn_{kind}"] += 1
                except Exception:  # noqa: BLE001 - whatever the job says, its process is dead
                    self.cluster.counts["failed_at_crash"] += 1
                self.files.fuse = None
        self.disk.out.clear()
        self.files.crash(self.random, keep)
        self.cluster.network.node_died(self.id)
        self.cluster.calls.node_died(self.id)

    # -- raft.driver.DriverEvents ---------------------------------------------------------------------------------

    def on_fatal(self, error: BaseException) -> None:
        self.cluster.on_fatal(self, error)

    def on_news(self, sender: int, news: Any) -> None:
        self.cluster.counts["news"] += 1
        if self.hosted is not None:
            self.hosted.on_news(sender, news)

    def on_flush(self, milliseconds: int, size_bytes: int) -> None:
        self.cluster.counts["flushes"] += 1

    def on_snapshot_needed(self, group: RaftGroup, replica: int, index: int, term: int) -> None:
        check(self.meta is not None and group.group_id == META_GROUP, "partitions keep their whole log")
        self.cluster.counts["snapshot_needed"] += 1
        self.meta.meta.send_snapshot(group, replica, index)  # type: ignore[union-attr]

    def on_snapshot_received(self, group: RaftGroup, index: int, term: int, path: str) -> None:
        self.meta.meta.on_received(group, index, path)  # type: ignore[union-attr]

    def on_peer_lost(self, peer: int) -> None:
        self.cluster.counts["refused"] += 1
        if self.hosted is not None:
            self.hosted.leaders.node_gone(peer)

    def on_peer_silent(self, peer: int, silent: bool) -> None:
        self.cluster.counts["suspected" if silent else "heard_again"] += 1
        if self.hosted is not None:
            (self.hosted.leaders.node_silent if silent else self.hosted.leaders.node_heard)(peer)

    def on_leader(self, group: RaftGroup) -> None:
        self.cluster.scheduler.trace(f"n{self.id} {group.name} term {group.term} leader {group.leader} serving {group.serving}")
        if self.hosted is not None:
            self.hosted.on_leader(group)
