"""When a broker deletes a replica that was moved away: for the record, after the leader's word, and confirmed when nothing is left."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from broker.metadata.image import MetadataImage
from broker.metadata.records import ReplicaRemoval, TopicCreated
from broker.reassignments import METHOD_IS_MEMBER, Reassignments
from broker.replicas import first_membership, own_replica
from raft.core.membership import encode, simple
from tests.unit.metadata.support import brokers, image_of, topic_id
from wal.entry import group_id

GROUP = group_id(topic_id(1), 0)


class FakeNode:
    """Node 1 with one replica, which broker 2 leads. `answer`: what the leader says of our membership."""

    def __init__(self, answer: bytes | Exception) -> None:
        self.node_id = 1
        self.answer = answer
        self.image: MetadataImage = image_of(*brokers(3), TopicCreated("t", topic_id(1), ()), ReplicaRemoval(GROUP, 1, 1))
        self.removed: list[bytes] = []
        self.confirmed: list[bytes] = []
        self.calls: list[tuple[int, str, bytes]] = []
        self.on_disk = True
        self.tasks: list[asyncio.Task[None]] = []
        group = SimpleNamespace(group_id=GROUP, serving=False, core=SimpleNamespace(replica=1))
        self.driver = SimpleNamespace(groups={GROUP: group})
        self.leaders = SimpleNamespace(leader_of=lambda _: (2, 1))
        self.store = SimpleNamespace(is_removing=lambda _: self.on_disk)
        self.partitions = SimpleNamespace(remove=self._remove)
        self.links = SimpleNamespace(call=self._call)
        self.controller = SimpleNamespace(confirm_removals=self._confirm)
        self.housekeeping = SimpleNamespace(spawn=lambda work: self.tasks.append(asyncio.ensure_future(work)))

    def _remove(self, group: bytes, reason: str) -> None:
        self.removed.append(group)
        self.driver.groups.clear()

    async def _call(self, node: int, method: str, payload: bytes, timeout_ms: int) -> bytes:
        self.calls.append((node, method, payload))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def _confirm(self, groups: list[bytes]) -> None:
        self.confirmed += groups

    async def turn(self, reassignments: Reassignments) -> None:
        reassignments.run()
        reassignments.run()  # a second look meanwhile starts nothing
        await asyncio.gather(*self.tasks)
        self.tasks.clear()


async def test_ask_delete_confirm() -> None:
    node: Any = FakeNode(b"\x00")
    reassignments = Reassignments(node)
    await node.turn(reassignments)
    assert node.calls == [(2, METHOD_IS_MEMBER, GROUP + (1).to_bytes(8, "big"))]
    assert (node.removed, node.confirmed) == ([GROUP], [])
    await node.turn(reassignments)
    assert node.confirmed == []  # files are still there
    node.on_disk = False
    await node.turn(reassignments)
    assert node.confirmed == [GROUP]


@pytest.mark.parametrize("answer", [b"\x01", b"", OSError("no answer")])
async def test_without_the_leaders_word_nothing_is_deleted(answer: bytes | Exception) -> None:
    node: Any = FakeNode(answer)
    reassignments = Reassignments(node)
    for _ in range(3):
        await node.turn(reassignments)
    assert len(node.calls) == 3
    assert (node.removed, node.confirmed) == ([], [])


async def test_no_record_no_deletion() -> None:
    node: Any = FakeNode(b"\x00")
    node.image = image_of(*brokers(3), TopicCreated("t", topic_id(1), ()))
    await node.turn(Reassignments(node))
    assert (node.calls, node.removed) == ([], [])


async def test_a_newer_replica_is_not_meant() -> None:
    node: Any = FakeNode(b"\x00")
    node.driver.groups[GROUP].core.replica = 1 + (1 << 32)
    node.on_disk = False
    await node.turn(Reassignments(node))
    assert (node.removed, node.confirmed) == ([], [GROUP])


def test_a_later_replica_begins_as_a_learner_and_knows_itself() -> None:
    assert first_membership((1, 2, 3), 2) == simple({1, 2, 3})
    later = 2 + (1 << 32)
    assert first_membership((1, 2, 3), later) == simple({1, 3}, {later})
    assert first_membership((1, 2, 3), 4) == simple({1, 2, 3}, {4})
    history = [(0, encode(first_membership((1, 2, 3), later))), (9, encode(simple({1, 2, 3}, {4})))]
    log: Any = SimpleNamespace(configurations=history)
    assert own_replica(log, 2) == later
    assert own_replica(log, 4) == 4
    assert own_replica(log, 7) == 7
