"""Three nodes in one process: real connection, handlers, partitions, drivers and stores; memory instead of sockets, peers and disks.

Nothing runs at the same time and nothing reads a clock, hence the same requests make the same calls and copies each time. Disk jobs run at once, and
their ends, like messages between nodes, are delivered by the next turn of the one loop. What crosses between nodes is joined, as gRPC's serializer
does it. Disks are the tests' file system in memory, whose own work is not the product's and is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from broker.partition.config import TopicConfig
from broker.partition.context import PartitionContext
from broker.partition.partition import Partition
from broker.partition.read_cache import ReadCache
from broker.records.batch import max_timestamp
from raft.api import Lane
from raft.core.membership import encode, simple
from raft.driver import Driver, DriverSettings, Identity
from raft.driver import World as Surroundings
from tests.unit.handlers.fakes import Client, ManualClock
from tests.unit.handlers.fakes import World as HandlerWorld
from wal.entry import GroupId, group_id
from wal.memory_filesystem import MemoryFileSystem
from wal.settings import WalSettings
from wal.store import WalStore

NODES = (1, 2, 3)
CLUSTER_ID = b"path-costs-of-us"
TOPIC = "events"
JOURNAL_FILE_BYTES = 4 << 20
"""Small files, so that laps and checkpoints are part of what is measured and memory is filled quickly."""
SETTINGS = WalSettings(journal_file_bytes=JOURNAL_FILE_BYTES, segment_bytes=16 << 20, cache_bytes=16 << 20, reserve_bytes=0)
ELECTION_MS, STEP_MS = 20_000, 20


class InlineDisk:
    """Runs a job at once; the driver hears of it in the next turn. `reads` counts those of old entries."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.reads = 0

    def submit_flush(self, job: Any, done: Callable[[BaseException | None], None]) -> None:
        job.run()
        self._clock.call_soon(lambda: done(None))

    submit_background = submit_flush

    def submit_read(self, job: Any, done: Callable[[BaseException | None], None]) -> None:
        self.reads += 1
        self.submit_flush(job, done)


class Wire:
    """One node's network: messages arrive whole, in order, in the next turn."""

    def __init__(self, node: int, drivers: dict[int, Driver], clock: ManualClock) -> None:
        self._node = node
        self._drivers = drivers
        self._clock = clock
        self.sent_bytes = 0

    def send_request(self, peer: int, lane: Lane, parts: Sequence[Any]) -> bool:
        return self._send(self._drivers[peer].on_request, lane, parts)

    def send_answer(self, peer: int, lane: Lane, parts: Sequence[Any]) -> bool:
        return self._send(self._drivers[peer].on_answer, lane, parts)

    def _send(self, deliver: Callable[[int, Lane, memoryview], None], lane: Lane, parts: Sequence[Any]) -> bool:
        data = b"".join(parts)
        self.sent_bytes += len(data)
        self._clock.call_soon(lambda: deliver(self._node, lane, memoryview(data)))
        return True

    def ready(self, peer: int, lane: Lane, outgoing: bool) -> bool:
        return True

    def end_incoming(self, peer: int, lane: Lane) -> None:
        raise AssertionError("no session is lost here")

    def send_snapshot(self, peer: int, group: GroupId, index: int, term: int, done: Callable[[bool], None]) -> None:
        done(False)


class Events:
    """A surprise must not pass unnoticed; nothing else is of interest."""

    def on_fatal(self, error: BaseException) -> None:
        raise error

    def on_news(self, *_: Any) -> None: ...

    on_flush = on_snapshot_needed = on_snapshot_received = on_peer_lost = on_peer_silent = on_leader = on_news


class Node:
    def __init__(self, node: int, world: World) -> None:
        clock = world.clock
        self.wire = Wire(node, world.drivers, clock)
        self.store = WalStore.open(MemoryFileSystem(Random(node)), "data", SETTINGS, describe=max_timestamp)
        self.disk = InlineDisk(clock)
        surroundings = Surroundings(clock, self.disk, self.wire, Random(node))
        self.driver = Driver(Identity(node, CLUSTER_ID, 1), self.store, surroundings, DriverSettings(), Events())
        self.driver.set_peers(set(NODES))
        self.context = PartitionContext(
            clock, lambda: 1_700_000_000_000, lambda: bool(self.store.disk_full), node_id=node, read_cache=ReadCache(1 << 20)
        )
        self.partitions: list[Partition] = []

    def open(self, topic_id: bytes, index: int) -> Partition:
        group_log = self.store.create_group(group_id(topic_id, index), TOPIC, encode(simple(NODES)))
        partition = Partition(None, TOPIC, index, topic_id, self.context)
        partition.configure(TopicConfig())
        partition.attach(self.driver.open_group(group_log, partition, self.driver.identity.node))
        self.partitions.append(partition)
        return partition


class World:
    """Three nodes and `count` partitions, all led by node 1, whose handlers `client` talks to."""

    def __init__(self, count: int) -> None:
        self.handlers = HandlerWorld()
        self.clock = self.handlers.clock
        self.drivers: dict[int, Driver] = {}
        self.nodes = {}
        for number in NODES:
            self.nodes[number] = Node(number, self)
            self.drivers[number] = self.nodes[number].driver
        self.handlers.broker.add_topic(TOPIC, count)
        topic_id = self.handlers.broker.image.topics[TOPIC].topic_id
        for node in self.nodes.values():
            for index in range(count):
                node.open(topic_id, index)
        for partition in self.nodes[1].partitions:
            self.handlers.broker.partitions.add(partition)  # type: ignore[arg-type]
        self._connect()
        self._elect(count)
        self.client: Client = self.handlers.client()

    def _connect(self) -> None:
        for number, driver in self.drivers.items():
            driver.start()
            for peer in NODES:
                if peer != number:
                    for lane in Lane:
                        self.drivers[peer].on_session_open(number, lane, False, 1)
                        driver.on_session_open(peer, lane, True, 1)

    def _elect(self, count: int) -> None:
        """Let time pass until every partition is led, then hand over to node 1 what others lead."""
        for _ in range(ELECTION_MS // STEP_MS):
            self.clock.advance(STEP_MS)
            leaders = {
                index: [n for n, node in self.nodes.items() if node.driver.groups[node.partitions[index].group_id].serving] for index in range(count)
            }
            if all(found == [1] for found in leaders.values()):
                return
            for index, found in leaders.items():
                for node in found:
                    if node != 1:
                        self.nodes[node].driver.groups[self.nodes[node].partitions[index].group_id].transfer_leadership(1)
        raise AssertionError(f"node 1 does not lead all partitions after {ELECTION_MS} ms: {leaders}")

    @property
    def sent_bytes(self) -> int:
        """Between nodes, so far."""
        return sum(node.wire.sent_bytes for node in self.nodes.values())

    def exchange(self, frames: Sequence[bytes]) -> list[bytes]:
        """Requests that arrive together, and their answers. Everything that is due runs; time stands still."""
        for frame in frames:
            self.client.feed(frame)
        answers = self.client.answers()
        if len(answers) != len(frames):
            raise AssertionError(f"{len(answers)} answers to {len(frames)} requests")
        return answers
