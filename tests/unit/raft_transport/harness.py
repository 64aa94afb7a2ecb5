"""Nodes that record what the transport tells them, on loopback ports of their own. Waits are for events, never for a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

from raft.api import Lane
from raft.transport.network import GrpcNetwork
from raft.transport.options import Identity, NetworkConfig
from raft.transport.services import RaftInspector
from raft.transport.snapshot import SnapshotReceiver, SnapshotSource
from wal.entry import GroupId

CLUSTER = b"cluster-id-of-16"
CONFIG = NetworkConfig(listen="127.0.0.1:0", snapshot_chunk_bytes=1000)


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until `condition()` is true; a failure after 10 s says `what` never came."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{what} did not come")


class Recorder:
    """A NetworkHandler that keeps everything; answers requests when `echo` is set."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.requests: list[tuple[int, Lane, bytes]] = []
        self.answers: list[tuple[int, Lane, bytes]] = []
        self.snapshots: list[tuple[int, GroupId, int, int, str]] = []
        self.raises: Exception | None = None
        self.echo: Callable[[int, Lane, memoryview], None] | None = None

    def on_ready(self) -> None:
        """Nothing waits here."""

    def on_session_open(self, peer: int, lane: Lane, outgoing: bool, incarnation: int) -> None:
        self.events.append(("open", peer, lane, outgoing, incarnation))

    def on_session_lost(self, peer: int, lane: Lane, outgoing: bool, refused: bool) -> None:
        self.events.append(("lost", peer, lane, outgoing, refused))

    def on_request(self, peer: int, lane: Lane, data: memoryview) -> None:
        assert isinstance(data, memoryview)
        if self.raises is not None:
            raise self.raises
        self.requests.append((peer, lane, bytes(data)))
        if self.echo is not None:
            self.echo(peer, lane, data)

    def on_answer(self, peer: int, lane: Lane, data: memoryview) -> None:
        assert isinstance(data, memoryview)
        self.answers.append((peer, lane, bytes(data)))

    def on_snapshot(self, peer: int, group: GroupId, index: int, term: int, path: str) -> None:
        self.snapshots.append((peer, group, index, term, path))

    def opened(self, peer: int, outgoing: bool) -> int:
        return sum(1 for event in self.events if event[0] == "open" and event[1] == peer and event[3] == outgoing)

    def lost(self, peer: int, outgoing: bool) -> list[object]:
        """The refused flags of the losses, in order."""
        return [event[4] for event in self.events if event[0] == "lost" and event[1] == peer and event[3] == outgoing]


class Node:
    """One GrpcNetwork with its recorder."""

    def __init__(self, node_id: int, incarnation: int = 1, cluster_id: bytes = CLUSTER, config: NetworkConfig = CONFIG, port: int = 0) -> None:
        self.id = node_id
        self.recorder = Recorder()
        self.fatal: list[BaseException] = []
        self.network = GrpcNetwork(
            Identity(cluster_id, node_id, incarnation), replace(config, listen=f"127.0.0.1:{port}"), random.Random(node_id), self.fatal.append
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.network.port}"

    async def start(
        self, inspector: RaftInspector | None = None, source: SnapshotSource | None = None, receiver: SnapshotReceiver | None = None
    ) -> None:
        await self.network.start()
        self.network.attach(self.recorder, inspector, source, receiver)


def introduce(*nodes: Node) -> None:
    """Tell each of the nodes where the others are."""
    for node in nodes:
        node.network.set_peers({other.id: other.address for other in nodes})


async def connected(*nodes: Node) -> None:
    """Both lanes, both directions, between all of the nodes."""
    for node in nodes:
        for other in nodes:
            if other is not node:
                await until(lambda node=node, other=other: node.recorder.opened(other.id, True) >= 2, f"sessions {node.id} → {other.id}")
                await until(lambda node=node, other=other: node.recorder.opened(other.id, False) >= 2, f"sessions {node.id} ← {other.id}")
