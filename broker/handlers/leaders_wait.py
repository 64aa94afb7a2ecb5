"""Answers to CreateTopics, CreatePartitions and Metadata wait a moment for the first elections.

A client that asks for the metadata of a topic as soon as it is told that it exists would find partitions without a leader, and back off for
100–500 ms, although the leaders are there within some 50 ms; librdkafka's admin fails at once. Other brokers hear of the leaders a beat after
the one that took the request, so that Metadata waits too, but only for groups of which nothing was ever heard: a leader that was lost is told as lost
(what comes behind on the connection waits too). Bounded: an answer never fails because of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.api import Broker
from broker.metadata.controller import sleep
from broker.metadata.image import TopicImage
from wal.entry import GroupId

WAIT_MS_MAX = 1_000
NEWS_WAIT_MS_MAX = 250
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


def without_news(broker: Broker, topics: Iterable[TopicImage]) -> list[GroupId]:
    """The partitions of `topics` of which no leader was ever known here."""
    leaders = broker.leaders
    groups = (partition.group_id for topic in topics for partition in topic.partitions)
    return [group for group in groups if leaders.leader_of(group)[0] < 0 and not leaders.heard_of(group)]


async def wait_for_news(broker: Broker, groups: Iterable[GroupId]) -> None:
    """Until a leader of each was heard of, but not longer than NEWS_WAIT_MS_MAX."""
    end_ms = broker.clock.now_ms() + NEWS_WAIT_MS_MAX
    waiting = list(groups)
    while waiting and broker.clock.now_ms() < end_ms:
        await sleep(broker.clock, STEP_MS)
        waiting = [group for group in waiting if not broker.leaders.heard_of(group)]
