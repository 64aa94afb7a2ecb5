"""An answer to CreateTopics or CreatePartitions waits a moment for the first elections.

A client that asks for the metadata of a topic as soon as it is told that it exists would find partitions without a leader, and back off for
100–500 ms, although the leaders are there within some 50 ms. Bounded: an answer never fails because of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.api import Broker
from broker.metadata.controller import sleep
from broker.metadata.image import TopicImage

WAIT_MS_MAX = 1_000
STEP_MS = 10


async def wait_for_leaders(broker: Broker, topics: Iterable[TopicImage], timeout_ms: int) -> None:
    """Until this broker knows a leader of every partition of `topics`, but not longer than the request's time-out or WAIT_MS_MAX."""
    end_ms = broker.clock.now_ms() + min(timeout_ms, WAIT_MS_MAX)
    waiting = [partition.group_id for topic in topics for partition in topic.partitions]
    while True:
        waiting = [group for group in waiting if broker.leaders.leader_of(group)[0] < 0]
        if not waiting or broker.clock.now_ms() >= end_ms:
            return
        await sleep(broker.clock, STEP_MS)
