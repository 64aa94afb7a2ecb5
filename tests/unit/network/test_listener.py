"""The listener on real sockets and a real loop, with and without uvloop."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import uvloop

from broker.handlers.registry import register_all
from broker.network.connection import ConnectionLimits
from broker.network.dispatcher import Dispatcher
from broker.network.listener import KafkaListener, ListenError
from broker.network.pressure import Pressure
from broker.network.stats import NetworkStats
from broker.protocol._generated.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from broker.protocol._generated.metadata import MetadataRequest, MetadataResponse
from broker.protocol._generated.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from broker.runtime import LoopClock
from tests.unit.handlers.fakes import FakeBroker, batch, decode_answer


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return request.param()  # type: ignore[no-any-return]


class Node:
    def __init__(self, listener: KafkaListener, broker: FakeBroker, pressure: Pressure, stats: NetworkStats) -> None:
        self.listener = listener
        self.broker = broker
        self.pressure = pressure
        self.stats = stats

    async def connect(self) -> Wire:
        return Wire(*await asyncio.open_connection("127.0.0.1", self.listener.port))


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.correlation = 0

    def send(self, key: int, version: int, body: bytes, flexible: bool) -> int:
        self.correlation += 1
        header = struct.pack(">hhih", key, version, self.correlation, -1) + (b"\0" if flexible else b"")
        self.writer.write(struct.pack(">i", len(header) + len(body)) + header + body)
        return self.correlation

    async def receive(self) -> bytes:
        (size,) = struct.unpack(">i", await self.reader.readexactly(4))
        return await self.reader.readexactly(size)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    clock = LoopClock(asyncio.get_running_loop())
    broker = FakeBroker(clock)
    broker.add_topic("events", 1)
    stats = NetworkStats()
    pressure = Pressure()
    dispatcher = Dispatcher(stats)
    register_all(broker, dispatcher)
    listener = KafkaListener(dispatcher.dispatch, clock, stats, pressure, ConnectionLimits())
    await listener.start("127.0.0.1", 0)
    yield Node(listener, broker, pressure, stats)
    await listener.stop(1000)
    await dispatcher.stop()


def produce(records: bytes) -> bytes:
    topic = TopicProduceData(name="events", partition_data=[PartitionProduceData(index=0, records=records)])
    return ProduceRequest(acks=-1, timeout_ms=5000, topic_data=[topic]).encode(9)


async def test_produce_and_fetch_of_all_sizes(node: Node) -> None:
    wire = await node.connect()
    sizes = [10, 1000, 16_000, 70_000, 300_000, 3_000_000]
    values = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    sent = [wire.send(0, 9, produce(batch(value)), True) for value in values]
    for index, correlation in enumerate(sent):
        response = decode_answer(await wire.receive(), correlation, ProduceResponse, 9)
        assert response.responses[0].partition_responses[0].base_offset == index
    parts = [FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=10_000_000)]
    request = FetchRequest(max_wait_ms=0, min_bytes=1, max_bytes=10_000_000, session_epoch=-1, topics=[FetchTopic(topic="events", partitions=parts)])
    correlation = wire.send(1, 12, request.encode(12), True)
    response = decode_answer(await wire.receive(), correlation, FetchResponse, 12)
    records = bytes(response.responses[0].partitions[0].records)
    assert records == b"".join(node.broker.partitions.by_name[("events", 0)].batches)
    assert all(value in records for value in values)


async def test_many_requests_at_once_on_many_connections(node: Node) -> None:
    wires = [await node.connect() for _ in range(10)]
    for _ in range(100):
        for wire in wires:
            wire.send(0, 9, produce(batch(b"x" * 100)), True)
    offsets = []
    for wire in wires:
        for correlation in range(1, 101):
            response = decode_answer(await wire.receive(), correlation, ProduceResponse, 9)
            offsets.append(response.responses[0].partition_responses[0].base_offset)
    assert sorted(offsets) == list(range(1000))
    assert node.stats.requests_in_flight == 0
    for wire in wires:
        wire.writer.close()
        await wire.writer.wait_closed()
    for _ in range(100):
        if not node.stats.connections:
            break
        await asyncio.sleep(0.01)
    assert node.stats.connections == 0


async def test_a_client_that_does_not_read_its_fetches(node: Node) -> None:
    """Its answers stay within the write buffer; the node goes on for the others."""
    setup = await node.connect()
    setup.send(0, 9, produce(batch(bytes(2_000_000))), True)
    await setup.receive()
    wire = await node.connect()
    parts = [FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=10_000_000)]
    body = FetchRequest(max_wait_ms=0, min_bytes=1, max_bytes=10_000_000, session_epoch=-1, topics=[FetchTopic(topic="events", partitions=parts)])
    for _ in range(50):
        wire.send(1, 12, body.encode(12), True)
    partition = node.broker.partitions.by_name[("events", 0)]
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert partition.reads < 10
    setup.send(3, 9, MetadataRequest(topics=None).encode(9), True)
    decode_answer(await setup.receive(), 2, MetadataResponse, 9)
    for _ in range(50):
        await wire.receive()
    assert partition.reads == 50


async def test_pressure_reaches_the_socket(node: Node) -> None:
    wire = await node.connect()
    wire.send(0, 9, produce(batch(b"a")), True)
    await wire.receive()
    node.pressure.set(True)
    wire.send(0, 9, produce(batch(b"b")), True)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(wire.receive(), 0.1)
    node.pressure.set(False)
    await asyncio.wait_for(wire.receive(), 5)


async def test_metadata_gives_the_address_that_was_used(node: Node) -> None:
    wire = await node.connect()
    wire.send(3, 9, MetadataRequest(topics=None).encode(9), True)
    response = decode_answer(await wire.receive(), 1, MetadataResponse, 9)
    assert (response.brokers[0].host, response.brokers[0].port) == ("127.0.0.1", node.listener.port)


async def test_tls_hello_is_closed(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    wire = await node.connect()
    wire.writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
    assert await asyncio.wait_for(wire.reader.read(), 5) == b""
    assert [record for record in caplog.records if "TLS on a plaintext port" in record.getMessage()]


async def test_stop_answers_what_is_in_flight(node: Node) -> None:
    partition = node.broker.partitions.by_name[("events", 0)]
    partition.auto_commit = False
    wire = await node.connect()
    wire.send(0, 9, produce(batch(b"a")), True)
    while not partition.pending:
        await asyncio.sleep(0.005)
    stopping = asyncio.get_running_loop().create_task(node.listener.stop(5000))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    partition.commit()
    assert await asyncio.wait_for(wire.receive(), 5)
    assert await asyncio.wait_for(wire.reader.read(), 5) == b""
    await stopping
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", node.listener.port)


async def test_a_port_that_is_taken_names_its_owner(node: Node) -> None:
    second = KafkaListener(lambda connection, frame: None, LoopClock(asyncio.get_running_loop()), NetworkStats())
    with pytest.raises(ListenError, match=rf"Port {node.listener.port} already in use( by pid \d+ \(.+\))?\. .*--kafka-port"):
        await second.start("127.0.0.1", node.listener.port)
    with pytest.raises(ListenError, match="not an address of this machine"):
        await second.start("192.0.2.1", 0)


async def test_reuse_port(node: Node) -> None:
    if not hasattr(socket, "SO_REUSEPORT"):
        pytest.skip("no SO_REUSEPORT on this system")
    clock = LoopClock(asyncio.get_running_loop())
    first, second = (KafkaListener(lambda connection, frame: None, clock, NetworkStats()) for _ in range(2))
    await first.start("127.0.0.1", 0, reuse_port=True)
    await second.start("127.0.0.1", first.port, reuse_port=True)
    assert first.port == second.port
    await first.stop(100)
    await second.stop(100)
