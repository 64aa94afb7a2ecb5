"""What a simulated node's driver does to its store and says to its peers is counted and checked on the way.

The store is watched by standing between. What is said is watched where it is put into an outbox, because only then can it be compared with the disk;
the methods of a compiled class can not be replaced, therefore compiled only the votes are noted, when they leave (docs/adr/0040).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from broker.version import running
from raft.api import Lane
from raft.core.message import Message, MessageType
from raft.group import RaftGroup
from raft.wire import decode_batch
from tests.simulation.world import Port
from wal.entry import Entry, GroupId
from wal.frame import Copy, FrameKind
from wal.jobs import CheckpointJob, WriteBehindJob

if TYPE_CHECKING:
    from tests.simulation.node import SimNode


class WatchedStore:
    """Fulfils `wal.api.WalStore` for the driver. That laps, copies, truncations, checkpoints and rolls happen is looked at, not assumed."""

    def __init__(self, store: Any, counts: Counter[str]) -> None:
        self._store = store
        self._counts = counts
        self._generation = store._journal.generation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def next_flush(self) -> Any:
        store, counts = self._store, self._counts
        job = store.next_flush()
        journal = store._journal
        if journal.generation != self._generation:
            self._generation = journal.generation
            counts["journal_laps"] += journal.generation > journal.settings.journal_files
        if job is not None:
            items = [item for batch in job.batches if batch.slow or batch.items for item in batch.items if type(item) is not Entry]
            counts["journal_copies"] += any(type(item) is Copy for item in items)
            counts["truncations"] += any(getattr(item, "kind", None) == FrameKind.TRUNCATE_SUFFIX for item in items)
            counts["seals"] += not job.batches
        return job

    def next_background(self) -> Any:
        job = self._store.next_background()
        self._counts["checkpoints"] += type(job) is CheckpointJob
        if type(job) is WriteBehindJob:
            self._counts["segment_rolls"] += sum(task.header is not None for task in job.tasks)
        return job


class _WatchedPort(Port):
    """Reads the votes in the answers that leave."""

    def __init__(self, port: Port, vote: Callable[[GroupId, Message], None]) -> None:
        self.__dict__.update(port.__dict__)
        self._vote = vote

    def send_answer(self, peer: int, lane: Lane, parts: Sequence[Any]) -> bool:
        if lane == Lane.CONTROL:
            for group, message in decode_batch(memoryview(b"".join(parts)))[1].messages:
                self._vote(group, message)
        return super().send_answer(peer, lane, parts)


def watched_port(node: SimNode, port: Port) -> Port:
    """The node's way to the network, with what can be seen there and not earlier."""
    return port if running() == "interpreted" else _WatchedPort(port, lambda group, message: _note_vote(node, group, message))


def watch_post(node: SimNode) -> None:
    """Everything that the node's driver says, as it goes into an outbox."""
    if running() == "compiled":
        return
    post = node.driver.post
    route = post.route

    def watched(group: RaftGroup, message: Message) -> None:
        node.cluster.invariants.promises.said(node, group, message)
        _note_vote(node, group.group_id, message)
        route(group, message)

    post.route = watched


def _note_vote(node: SimNode, group: GroupId, message: Message) -> None:
    if message.type == MessageType.VOTE_RESPONSE and not message.reject:
        node.cluster.votes_given[group, message.receiver].append(message)
