"""`__meta` in the simulation: the real MetadataMachine and MetaGroup, snapshots and trims at tiny thresholds, and a client of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from broker.errors import ErrorCode
from broker.meta_group import MetaGroup
from broker.metadata.draft import OperationResult
from broker.metadata.machine import MetadataMachine, PendingOperation
from broker.metadata.operations import AllocateProducerIds
from broker.replicas import first_membership
from raft.core.membership import encode
from tests.simulation.invariants import Broken
from wal.entry import META_GROUP, META_TOPIC, GroupId
from wal.errors import WalError

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.node import SimNode

SNAPSHOT_DIRECTORY = "snapshots"
SNAPSHOT_ENTRIES = 30
KEPT_ENTRIES = 8
CHUNK_BYTES = 256
LOOK_MS = 100
RETRY_US = 60_000
TIMEOUT_US = 1_500_000


class CountingMachine(MetadataMachine):
    """Counts installs."""

    __slots__ = ("_cluster",)

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster = cluster

    def install(self, index: int, data: bytes) -> None:
        super().install(index, data)
        self._cluster.counts["snapshot_installed"] += 1


class MetaReplica:
    """`__meta` in one process. Stands in for the parts of `broker.node.Node` that MetaGroup uses."""

    def __init__(self, node: SimNode) -> None:
        self.sim = node
        self.machine = CountingMachine(node.cluster)
        storage = SimpleNamespace(snapshot_dir=SNAPSHOT_DIRECTORY, snapshot_compression="none")
        raft = SimpleNamespace(snapshot_log_size_threshold=SNAPSHOT_ENTRIES, log_compaction_threshold=KEPT_ENTRIES)
        surroundings: Any = SimpleNamespace(
            node_id=node.id,
            files=node.files,
            store=node.store,
            driver=node.driver,
            disk=node.disk,
            clock=node.clock,
            machine=self.machine,
            config=SimpleNamespace(storage=storage, raft=raft),
            links=SimpleNamespace(send_snapshot=self.send_snapshot),
        )
        self.meta = MetaGroup(surroundings)
        self._seen = 0

    def open(self) -> Any:
        """Recover or create the group; returns it."""
        node = self.sim
        if META_GROUP not in node.store.groups:
            node.store.create_group(META_GROUP, META_TOPIC, encode(first_membership(node.cluster.first_voters, node.id)))
        node.cluster.invariants.on_recovered(node, node.store.groups[META_GROUP])
        self.meta.open(0)
        node.clock.call_later(LOOK_MS, self._look)
        return self.meta.group

    def _look(self) -> None:
        self.meta.maybe_snapshot()
        self.sim.cluster.counts["snapshots"] += self.meta.snapshot_index != self._seen
        self._seen = self.meta.snapshot_index
        self.sim.clock.call_later(LOOK_MS, self._look)

    # -- a snapshot's way -----------------------------------------------------------------------------------------

    def send_snapshot(self, peer: int, group: GroupId, index: int, term: int, done: Any) -> None:
        """Chunk by chunk; whatever happens to either process or to the way between them ends it."""
        cluster, sender = self.sim.cluster, self.sim
        receiver = cluster.nodes[peer]
        scheduler, near, far = cluster.scheduler, sender.clock, receiver.clock
        try:
            reader = self.meta.files.source.open(group, index, term)
            writer = receiver.meta.meta.files.receiver.open(group, index, term, reader.size) if receiver.up and receiver.meta else None
        except (OSError, WalError):
            writer = None
        if writer is None:
            scheduler.at(1000, lambda: near.run(lambda: done(False)))
            return
        position = 0

        def end(ok: bool) -> None:
            cluster.counts["snapshot_sent" if ok else "snapshot_broken_off"] += 1
            near.run(lambda: done(ok))

        def chunk() -> None:
            nonlocal position
            network = cluster.network
            if not near.alive or not far.alive or network.cuts[sender.id, peer] or network.cuts[peer, sender.id]:
                if far.alive:
                    writer.abort()
                end(False)
                return
            if near.stopped or far.stopped:
                scheduler.at(50_000, chunk)
                return
            try:
                data = reader.read(position, CHUNK_BYTES)
                if data:
                    writer.write(position, data)
                    position += len(data)
                    scheduler.at(scheduler.random.randrange(*network.delay_us), chunk)
                    return
                path = writer.finish()
            except (OSError, WalError):
                writer.abort()
                end(False)
                return
            driver = receiver.driver
            far.run(lambda: driver.on_snapshot(sender.id, group, index, term, path))
            end(True)

        scheduler.at(scheduler.random.randrange(*cluster.network.delay_us), chunk)


class Allocator:
    """A client of `__meta`: takes blocks of producer ids, one at a time, and repeats an operation under the same request id until it is answered.

    Invariant: each block is given once; a later one is higher than all that were answered before it was asked for (linearizability of a counter).
    """

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster, self.number = cluster, number
        self.asked = 0
        self.attempt = 0
        self.answered = 0
        self.paused = False
        self.idle = False
        self.floor = 0  # highest end of a block that was answered before this one was asked for

    def next_block(self) -> None:
        self.idle = self.paused
        if self.idle:
            return
        self.asked += 1
        self.floor = self.cluster.allocated_end
        self.send()

    def send(self) -> None:
        self.attempt += 1
        attempt, cluster = self.attempt, self.cluster
        cluster.scheduler.at(TIMEOUT_US, lambda: self.retry(attempt))
        node = cluster.nodes[cluster.believed_leader(META_GROUP)]
        if not node.up or node.meta is None:
            cluster.scheduler.at(RETRY_US, lambda: self.retry(attempt))
            return
        request_id, machine, clock = b"%d:%d" % (self.number, self.asked), node.meta.machine, node.clock
        operation = PendingOperation(AllocateProducerIds(10), lambda result, version: self.done(attempt, result), request_id)
        cluster.scheduler.at(cluster.random.randrange(50, 500), lambda: clock.run(lambda: machine.submit(operation)))

    def done(self, attempt: int, result: OperationResult) -> None:
        cluster = self.cluster
        if attempt != self.attempt:
            return
        if result.error:
            if result.error not in (ErrorCode.NOT_CONTROLLER, ErrorCode.REQUEST_TIMED_OUT):
                raise Broken(f"UnexpectedError: __meta: {result.error}: {result.message}")
            cluster.scheduler.at(RETRY_US, lambda: self.retry(attempt))
            return
        block = result.value
        owner = cluster.allocated.setdefault(block, (self.number, self.asked))
        if owner != (self.number, self.asked):
            raise Broken(f"GivenTwice: producer ids from {block} went to {owner} and to {(self.number, self.asked)}")
        if block < self.floor:
            raise Broken(f"StaleAnswer: producer ids from {block} were given when {self.floor} had been reached before the question")
        cluster.allocated_end = max(cluster.allocated_end, block + 10)
        cluster.counts["allocated"] += 1
        cluster.scheduler.trace(f"block {block}")
        self.answered += 1
        self.attempt += 1
        cluster.scheduler.at(cluster.random.randrange(100, 2 * cluster.pace_us), self.next_block)

    def retry(self, attempt: int) -> None:
        if attempt == self.attempt:
            self.send()
