"""Producers are stopped when memory runs short, and let on; steps of the reconciler are told with the partition that they concern."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from broker.housekeeping import Housekeeping
from broker.metadata.reconciler import ChangeMembers, TransferLeader
from broker.network.pressure import Pressure
from wal.entry import META_GROUP, group_id

TOPIC_ID = bytes(range(16))


class Store:
    def __init__(self) -> None:
        self.memory_bytes, self.memory_limit_bytes = 0, 100

    def memory_is_short(self) -> bool:
        return self.memory_bytes >= 75


@pytest.fixture
def node() -> Any:
    found = SimpleNamespace(node_id=1, store=Store(), pressure=Pressure(), driver=SimpleNamespace(groups={}))
    found.image = SimpleNamespace(topics_by_id={TOPIC_ID: SimpleNamespace(name="orders")})
    return found


async def test_stopped_producers_go_on_as_soon_as_memory_is_free(node: Any) -> None:
    housekeeping = Housekeeping(node)
    housekeeping._running = True  # without its timer of half a second
    node.store.memory_bytes = 101
    housekeeping.watch_pressure()
    assert node.pressure.paused
    node.store.memory_bytes = 75
    await asyncio.sleep(0.05)
    assert node.pressure.paused, "memory is still short"
    node.store.memory_bytes = 74
    async with asyncio.timeout(30):
        while node.pressure.paused:
            await asyncio.sleep(0.001)
    assert node.pressure.times_paused == 1


async def test_nobody_looks_at_stopped_producers_of_a_node_that_stops(node: Any) -> None:
    housekeeping = Housekeeping(node)
    housekeeping._running = True
    node.store.memory_bytes = 101
    housekeeping.watch_pressure()
    housekeeping.stop()
    node.store.memory_bytes = 0
    await asyncio.sleep(0.05)
    assert node.pressure.paused


def test_steps_are_told_with_their_partition(node: Any, caplog: pytest.LogCaptureFixture) -> None:
    housekeeping = Housekeeping(node)
    with caplog.at_level(logging.INFO, "chronik_cluster"):
        housekeeping.carry_out(TransferLeader(group_id(TOPIC_ID, 3), 1, 2, "preferred leader is back"))
        housekeeping.carry_out(ChangeMembers(META_GROUP, 1, (1, 2), (), "broker 3 is gone"))
        housekeeping.carry_out(ChangeMembers(group_id(bytes(16), 0), 1, (1,), (), "its topic is unknown"))
    assert caplog.messages == [
        "orders-3, node 1 hands over to node 2: preferred leader is back",
        "__meta-0: broker 3 is gone",
        f"{bytes(16).hex()}-0: its topic is unknown",
    ]
