"""Bytes of any kind at the front door, with all real handlers behind it: no crash, no hang, no memory beyond a few times what was sent."""

from __future__ import annotations

import asyncio
import importlib
import logging
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.protocol._generated.api_versions import ApiVersionsRequest, ApiVersionsResponse
from broker.protocol.api_keys import APIS
from broker.protocol.generator.schema import snake
from broker.protocol.message import Message
from tests.unit.handlers.fakes import Client, World, batch, decode_answer

SYNC = [0, 1, 2, 3, 18, 23, 32, 60]
"""Answered at once, on no loop. All others are tasks: here what happens before and while they decode is looked at."""


def module_of(key: int) -> str:
    """Name of the generated module of a served API."""
    return snake(APIS[key].name)


def request_type(key: int) -> type[Message]:
    module = importlib.import_module(f"broker.protocol._generated.{module_of(key)}")
    return next(found for name, found in vars(module).items() if name == f"{APIS[key].name}Request")  # type: ignore[no-any-return]


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Thousands of lines about malformed requests, and only while these tests run."""
    logger = logging.getLogger("chronik_server")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def make_world() -> World:
    world = World({"auto.create.topics.enable": "false"})
    world.broker.add_topic("events", 2)
    return world


def example(key: int, version: int) -> bytes:
    """A request with something in every array, for topic `events`."""
    kind = request_type(key)
    module = importlib.import_module(kind.__module__)
    topic_id = b"events".ljust(16, b"\0")
    body: Any = kind()
    match key:
        case 0:
            part = module.PartitionProduceData(index=0, records=batch())
            body = module.ProduceRequest(
                acks=1, timeout_ms=1000, topic_data=[module.TopicProduceData(name="events", topic_id=topic_id, partition_data=[part])]
            )
        case 1:
            part = module.FetchPartition(partition=0, partition_max_bytes=1000)
            body = module.FetchRequest(
                max_wait_ms=0,
                session_epoch=0,
                topics=[module.FetchTopic(topic="events", topic_id=topic_id, partitions=[part])],
                forgotten_topics_data=[module.ForgottenTopic(topic="events", topic_id=topic_id, partitions=[1])],
                rack_id="rack",
            )
        case 2:
            body = module.ListOffsetsRequest(topics=[module.ListOffsetsTopic(name="events", partitions=[module.ListOffsetsPartition(timestamp=-1)])])
        case 3:
            body = module.MetadataRequest(topics=[module.MetadataRequestTopic(name="events")])
        case 18:
            body = ApiVersionsRequest(client_software_name="a", client_software_version="1")
        case 23:
            part = module.OffsetForLeaderPartition(partition=0, leader_epoch=1)
            body = module.OffsetForLeaderEpochRequest(topics=[module.OffsetForLeaderTopic(topic="events", partitions=[part])])
        case 32:
            one = module.DescribeConfigsResource(resource_type=2, resource_name="events", configuration_keys=["retention.ms"])
            body = module.DescribeConfigsRequest(resources=[one])
    return bytes(body.encode(version))


def settle(world: World, client: Client) -> None:
    """Every accepted frame ends: answered, waiting for a time limit that comes, or the connection is closed."""
    world.clock.advance(1)
    for _ in range(3):
        if client.transport.closing or not client.connection.slots:
            break
        for partition in world.broker.partitions.by_name.values():
            while partition.disk:
                partition.disk.pop()()
        world.clock.advance(2**31)
    assert client.transport.closing or not client.connection.slots
    client.connection.connection_lost(None)
    assert world.stats.requests_in_flight == 0
    fresh = world.client()
    sent = fresh.send(18, 0, b"")
    assert decode_answer(fresh.answers()[0], sent, ApiVersionsResponse, 0).error_code == 0
    fresh.connection.connection_lost(None)


@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    world = make_world()
    client = world.client()
    client.feed(data)
    settle(world, client)


@given(st.sampled_from(SYNC), st.integers(-1, 20), st.binary(max_size=200), st.booleans())
def test_random_bodies(key: int, version: int, body: bytes, null_client: bool) -> None:
    world = make_world()
    client = world.client()
    client.feed(client.frame(key, version, body, client_id=None if null_client else b"x"))
    settle(world, client)


@pytest.mark.parametrize("key", SYNC)
def test_truncated_at_each_byte(key: int) -> None:
    """With a length that fits the rest, so that the body itself ends early; and with one that does not, so that the frame never ends."""
    world = make_world()
    low, high = world.dispatcher.routes[key].versions
    for version in range(low, high + 1):
        whole = world.client().frame(key, version, example(key, version))
        for size in range(8, len(whole) - 4):
            client = world.client()
            client.feed(struct.pack(">i", size) + whole[4 : 4 + size])
            settle(world, client)
        for size in range(0, len(whole), 3):
            client = world.client()
            client.feed(whole[:size])
            assert client.transport.written == b""
            client.connection.connection_lost(None)
        client = world.client()
        client.feed(whole)
        assert len(client.answers()) == 1


@given(st.sampled_from(SYNC), st.data())
def test_every_four_bytes_replaced_by_a_huge_number(key: int, data: st.DataObject) -> None:
    world = make_world()
    low, high = world.dispatcher.routes[key].versions
    version = data.draw(st.integers(low, high))
    body = example(key, version)
    huge = data.draw(
        st.sampled_from([b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\xff\x0f", b"\x7f\xff", b"\xff\xff\xff\xff\xff\xff"])
    )
    place = data.draw(st.integers(0, max(len(body) - 1, 0)))
    client = world.client()
    client.feed(client.frame(key, version, body[:place] + huge + body[place + len(huge) :]))
    settle(world, client)


@settings(max_examples=30)
@given(st.sampled_from(SYNC), st.data())
def test_memory_stays_within_a_few_times_of_what_was_sent(key: int, data: st.DataObject) -> None:
    world = make_world()
    low, high = world.dispatcher.routes[key].versions
    version = data.draw(st.integers(low, high))
    body = example(key, version)
    place = data.draw(st.integers(0, max(len(body) - 1, 0)))
    changed = body[:place] + b"\x7f\xff\xff\xff" + body[place + 4 :] + bytes(data.draw(st.integers(0, 2000)))
    client = world.client()
    frame = client.frame(key, version, changed)
    tracemalloc.start()
    try:
        client.feed(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Python's own objects and the text of an error cost a little however short the request is; DescribeConfigs answers with its documentation.
    assert peak < 4 * len(frame) + 400_000
    settle(world, client)


def test_a_frame_that_claims_to_be_large_gets_no_memory() -> None:
    world = make_world()
    tracemalloc.start()
    try:
        clients = [world.client() for _ in range(50)]
        for client in clients:
            client.feed(struct.pack(">ihh", 100 * 1024 * 1024, 0, 9))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 50 * 32 * 1024


@pytest.mark.parametrize("key", sorted(set(make_world().dispatcher.routes) - set(SYNC)))
async def test_apis_that_run_as_tasks(key: int) -> None:
    world = make_world()
    low, high = world.dispatcher.routes[key].versions
    kind = request_type(key)
    for version in range(low, high + 1):
        whole = kind().encode(version)
        for size in range(len(whole)):
            client = world.client()
            client.feed(client.frame(key, version, whole[:size]))
            for _ in range(5):
                await asyncio.sleep(0)
            world.clock.turn()
            assert client.transport.closing or not client.connection.slots


def test_all_served_keys_are_covered() -> None:
    served = set(make_world().dispatcher.routes)
    assert set(SYNC) <= served <= set(APIS)
