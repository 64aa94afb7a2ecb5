"""CreateTopics and CreatePartitions wait for the first leaders, but never for long."""

from __future__ import annotations

import asyncio

from broker.handlers.leaders_wait import WAIT_MS_MAX, wait_for_leaders
from tests.unit.handlers.fakes import FakeBroker, ManualClock


async def started(broker: FakeBroker, timeout_ms: int) -> asyncio.Task[None]:
    topic = broker.add_topic("new", 2, keep=False)
    task = asyncio.ensure_future(wait_for_leaders(broker, [topic], timeout_ms))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    return task


async def turn(clock: ManualClock, milliseconds: int) -> None:
    for _ in range(milliseconds // 10):
        clock.advance(10)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_until_all_leaders_are_known() -> None:
    broker = FakeBroker()
    task = await started(broker, 30_000)
    groups = [one.group_id for one in broker.add_topic("new", 2, keep=False).partitions]
    broker.leaders.known[groups[0]] = (2, 1)
    await turn(broker.clock, 50)
    assert not task.done()
    broker.leaders.known[groups[1]] = (1, 1)
    await turn(broker.clock, 20)
    assert task.done()


async def test_not_longer_than_the_request_or_the_limit() -> None:
    for timeout_ms in (100, 60_000):
        broker = FakeBroker()
        task = await started(broker, timeout_ms)
        limit = min(timeout_ms, WAIT_MS_MAX)
        await turn(broker.clock, limit - 20)
        assert not task.done()
        await turn(broker.clock, 40)
        assert task.done()


async def test_known_leaders_cost_no_wait() -> None:
    broker = FakeBroker()
    await asyncio.wait_for(wait_for_leaders(broker, [broker.add_topic("old", 3)], 1000), 1)  # type: ignore[arg-type]
