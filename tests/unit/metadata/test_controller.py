"""Changes from any node: forwarding, lost answers, leader changes, waiting for the own image."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from broker.api import NewTopic
from broker.errors import ErrorCode, KafkaError
from broker.metadata.controller import Controller, SubmitResponse
from broker.metadata.operations import RegisterBroker
from tests.unit.metadata.support import MAX_BYTES, Replica, VirtualClock, brokers
from wal.entry import Entry, EntryKind


class Cluster:
    """Three nodes; the leader's proposals are committed at once unless held, and reach each follower unless it is cut off."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.replicas = {node: Replica() for node in (1, 2, 3)}
        self.ids = 0
        self.calls: list[tuple[int, int]] = []
        self.lose_answers = 0
        self.lose_requests = 0
        self.hold = False
        self.cut: set[int] = set()
        self.log: list[Entry] = []
        self.controllers = {
            node: Controller(node, self.replicas[node].machine, self._caller(node), self.clock, self._new_id) for node in self.replicas
        }
        self.leader = 0
        self.elect(1)

    def _new_id(self) -> bytes:
        self.ids += 1
        return b"id" + self.ids.to_bytes(14, "big")

    def _caller(self, source: int) -> Callable[[int, str, bytes, int], Coroutine[Any, Any, bytes]]:
        async def call(node: int, method: str, payload: bytes, timeout_ms: int) -> bytes:
            assert method == "meta.submit"
            self.calls.append((source, node))
            if self.lose_requests:
                self.lose_requests -= 1
                raise ConnectionRefusedError
            answer = await self.controllers[node].handle_submit(payload, timeout_ms)
            if self.lose_answers:
                self.lose_answers -= 1
                raise TimeoutError
            return answer

        return call

    def elect(self, node: int) -> None:
        """`node` has everything that is committed; what the old leader had proposed is lost."""
        if self.leader:
            self.replicas[self.leader].machine.on_leadership(False)
        self.leader = node
        self.append(EntryKind.NOOP, (), 0, 0, 0)
        for replica in self.replicas.values():
            replica.machine.on_leader_change(node, 1)
        machine = self.replicas[node].machine
        machine.on_leadership(True)
        self.replicas[node].group.mark_dirty = lambda: self.clock.call_later(1, self.turn)  # type: ignore[method-assign]

    def turn(self) -> None:
        if not self.hold and (proposal := self.replicas[self.leader].machine.collect(MAX_BYTES)) is not None:
            self.append(proposal.kind, proposal.chunks, proposal.size, proposal.payload_crc, proposal.record_count)

    def append(self, kind: int, chunks: Any, size: int, crc: int, count: int) -> None:
        self.log.append(Entry(1, len(self.log) + 1, kind, chunks, size, crc, 0, count))
        for replica in self.replicas.values():
            replica.group.log.last_index = len(self.log)
        for node in self.replicas:
            if node not in self.cut:
                self.catch_up(node)

    def catch_up(self, node: int) -> None:
        machine = self.replicas[node].machine
        machine.apply(self.log[machine.applied_index :])

    async def register(self) -> None:
        for r in brokers(3):
            assert await self.run(self.controllers[1].register_broker(RegisterBroker(r.node_id, r.host, r.port, r.raft_address, r.directory_id))) == 0

    async def run(self, coroutine: Coroutine[Any, Any, Any], limit_ms: int = 600_000) -> Any:
        task = asyncio.ensure_future(coroutine)
        await self.clock.until(task, limit_ms)
        assert task.done(), "still waiting"
        return task.result()


@pytest.fixture
async def cluster() -> Cluster:
    cluster = Cluster()
    await cluster.register()
    return cluster


TOPIC = NewTopic("t", 3, 2)


async def test_any_node_accepts_and_answers_once_its_own_image_has_it(cluster: Cluster) -> None:
    cluster.cut.add(2)
    task = asyncio.ensure_future(cluster.controllers[2].create_topics([TOPIC], 10_000, False))
    await cluster.clock.until(task, 1_000)
    assert "t" in cluster.replicas[1].machine.image.topics and not task.done()
    cluster.cut.clear()
    cluster.catch_up(2)
    (result,) = await cluster.run(_await(task))
    assert result.error == 0
    assert result.topic is cluster.replicas[2].machine.image.topics["t"]
    assert cluster.controllers[2].controller_id == 1


async def _await(task: asyncio.Future[Any]) -> Any:
    return await task


async def test_lost_answer_is_repeated_and_finds_its_own_topic(cluster: Cluster) -> None:
    cluster.lose_answers = 2
    (created,) = await cluster.run(cluster.controllers[3].create_topics([TOPIC], 10_000, False))
    assert created.error == 0 and cluster.calls == [(3, 1)] * 3
    cluster.lose_answers = 1
    (deleted,) = await cluster.run(cluster.controllers[3].delete_topics(["t"], 10_000))
    assert deleted.error == 0 and deleted.topic.name == "t" and deleted.topic.topic_id == created.topic.topic_id
    cluster.lose_requests = 1
    await cluster.run(cluster.controllers[2].create_topics([TOPIC], 10_000, False))
    cluster.lose_answers = 1
    (grown,) = await cluster.run(cluster.controllers[2].create_partitions([("t", 5, None)], 10_000, False))
    assert grown.error == 0 and len(grown.topic.partitions) == 5


async def test_leader_change_in_flight_lost_entry(cluster: Cluster) -> None:
    cluster.hold = True
    task = asyncio.ensure_future(cluster.controllers[1].create_topics([TOPIC], 10_000, False))
    await cluster.clock.until(task, 100)
    assert cluster.replicas[1].propose() is not None  # and never committed
    cluster.hold = False
    cluster.elect(2)
    (result,) = await cluster.run(_await(task))
    assert result.error == 0 and cluster.calls == [(1, 2)]


async def test_leader_change_in_flight_entry_survives(cluster: Cluster) -> None:
    cluster.hold = True
    task = asyncio.ensure_future(cluster.controllers[1].create_topics([TOPIC], 10_000, False))
    await cluster.clock.until(task, 100)
    proposal = cluster.replicas[1].machine.collect(MAX_BYTES)
    assert proposal is not None
    cluster.replicas[1].machine.on_leadership(False)
    cluster.append(proposal.kind, proposal.chunks, proposal.size, proposal.payload_crc, proposal.record_count)  # the next leader has it
    cluster.hold = False
    cluster.elect(2)
    (result,) = await cluster.run(_await(task))
    assert result.error == 0 and result.topic is cluster.replicas[1].machine.image.topics["t"]


async def test_what_is_not_confirmed_in_time_is_unknown(cluster: Cluster) -> None:
    cluster.hold = True
    before_ms = cluster.clock.now_ms()
    (result,) = await cluster.run(cluster.controllers[2].create_topics([TOPIC], 5_000, False))
    assert result.error == ErrorCode.REQUEST_TIMED_OUT and "may or may not" in result.message
    assert 5_000 <= cluster.clock.now_ms() - before_ms <= 6_000
    with pytest.raises(KafkaError) as caught:
        await cluster.run(cluster.controllers[1].unregister_broker(3, 1_000))
    assert caught.value.code == ErrorCode.REQUEST_TIMED_OUT
    cluster.hold = False
    cluster.turn()
    assert "t" not in cluster.replicas[1].machine.image.topics  # nobody waited any more, and nobody had begun it


async def test_no_leader_for_a_while(cluster: Cluster) -> None:
    cluster.replicas[1].machine.on_leadership(False)
    for replica in cluster.replicas.values():
        replica.machine.on_leader_change(0, 2)
    assert cluster.controllers[2].controller_id == -1
    task = asyncio.ensure_future(cluster.controllers[2].create_topics([TOPIC], 10_000, False))
    await cluster.clock.until(task, 2_000)
    assert not task.done()
    cluster.leader = 0
    cluster.elect(3)
    (result,) = await cluster.run(_await(task))
    assert result.error == 0


async def test_image_that_does_not_come_is_unknown(cluster: Cluster) -> None:
    cluster.cut.add(2)
    (result,) = await cluster.run(cluster.controllers[2].create_topics([TOPIC], 1_000, False))
    assert result.error == ErrorCode.REQUEST_TIMED_OUT and "committed" in result.message


async def test_refusals_are_told_at_once(cluster: Cluster) -> None:
    results = await cluster.run(cluster.controllers[2].create_topics([TOPIC, NewTopic("!"), NewTopic("u", assignments={0: [3, 1]})], 10_000, False))
    assert [r.error for r in results] == [0, ErrorCode.INVALID_TOPIC_EXCEPTION, 0]
    assert results[2].topic.partitions[0].replicas == (3, 1)
    (again,) = await cluster.run(cluster.controllers[2].create_topics([TOPIC], 10_000, False))
    assert again.error == ErrorCode.TOPIC_ALREADY_EXISTS
    with pytest.raises(KafkaError) as caught:
        await cluster.run(cluster.controllers[2].set_configs(2, "t", [("retention.ms", "x")], 1_000))
    assert caught.value.code == ErrorCode.INVALID_CONFIG


async def test_validate_only(cluster: Cluster) -> None:
    (result,) = await cluster.run(cluster.controllers[2].create_topics([TOPIC], 10_000, True))
    assert result.error == 0 and len(result.topic.partitions) == 3
    assert not cluster.replicas[1].machine.image.topics


async def test_producer_ids_are_unique_and_taken_in_blocks(cluster: Cluster) -> None:
    async def take(node: int, count: int) -> list[int]:
        return list(await asyncio.gather(*(cluster.controllers[node].allocate_producer_id() for _ in range(count))))

    first, second = await cluster.run(take(2, 1_001)), await cluster.run(take(1, 3))
    assert len(set(first) | set(second)) == 1_004
    assert cluster.calls == [(2, 1)] * 2
    assert cluster.replicas[3].machine.image.next_producer_id == 3_000


async def test_other_changes(cluster: Cluster) -> None:
    controller = cluster.controllers[2]
    await cluster.run(controller.create_cluster("k"))
    (created,) = await cluster.run(controller.create_topics([TOPIC], 10_000, False))
    await cluster.run(controller.set_configs(2, "t", [("retention.ms", "5")], 1_000))
    await cluster.run(controller.assign_replicas("t", 0, [3, 1], 1_000))
    group = created.topic.partitions[0].group_id
    assert await cluster.run(controller.bump_generation(group, 0)) == 1
    image = cluster.replicas[2].machine.image
    assert image.cluster_id == "k" and image.topics["t"].configs == {"retention.ms": "5"} and image.topics["t"].partitions[0].replicas == (3, 1)
    assert image.replica_id(2, group) == 2 + (1 << 32)
    await cluster.run(controller.delete_topics([created.topic.topic_id], 1_000))
    for node in (1, 2, 3):
        await cluster.run(cluster.controllers[node].confirm_deletion([created.topic.topic_id]))
    await cluster.run(controller.unregister_broker(3))
    assert not cluster.replicas[2].machine.image.deleting and set(cluster.replicas[2].machine.image.brokers) == {1, 2}


async def test_request_of_another_version_is_refused(cluster: Cluster) -> None:
    answer = msgspec.msgpack.decode(await cluster.controllers[1].handle_submit(b"\xc1", 1_000), type=SubmitResponse)
    assert answer.result.error == ErrorCode.INVALID_REQUEST


async def test_cancelled_caller_leaves_nothing_behind(cluster: Cluster) -> None:
    cluster.cut.add(2)
    task = asyncio.ensure_future(cluster.controllers[2].create_topics([TOPIC], 10_000, False))
    await cluster.clock.until(task, 500)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not cluster.controllers[2]._waiters
