"""One connection over a transport in memory: framing, order, back-pressure, limits."""

from __future__ import annotations

import struct

import pytest

from broker.network.connection import Connection, ConnectionLimits
from broker.network.dispatcher import NEVER_FLEXIBLE, Dispatcher, Route
from broker.network.listener import KafkaListener
from broker.network.pressure import Pressure
from broker.network.request import Request
from broker.network.stats import NetworkStats
from broker.protocol._generated.api_versions import ApiVersionsRequest, ApiVersionsResponse
from tests.unit.handlers.fakes import Client, ManualClock, World

PRODUCE, FETCH, SLOW, METADATA = 0, 1, 2, 3


class Server:
    """Handlers that keep the requests, to be answered by the test. Key 0 may overlap, 1 may not, 2 is a task."""

    def __init__(self, limits: ConnectionLimits | None = None, max_connections: int = 100) -> None:
        self.clock = ManualClock()
        self.stats = NetworkStats()
        self.pressure = Pressure()
        self.dispatcher = Dispatcher(self.stats)
        self.seen: list[Request] = []
        self.bodies: list[bytes] = []
        self.kinds: list[type] = []
        self.dispatcher.register(
            [
                Route(PRODUCE, "Produce", (0, 3), NEVER_FLEXIBLE, self.take, pipelined=True),
                Route(FETCH, "Fetch", (0, 3), NEVER_FLEXIBLE, self.take),
                Route(METADATA, "Metadata", (0, 3), NEVER_FLEXIBLE, self.echo),
            ]
        )
        self.listener = KafkaListener(self.dispatcher.dispatch, self.clock, self.stats, self.pressure, limits, max_connections)

    def take(self, request: Request) -> None:
        self.seen.append(request)
        self.bodies.append(bytes(request.buffer[request.position :]))
        self.kinds.append(type(request.buffer))

    def echo(self, request: Request) -> None:
        request.reply(bytes(request.buffer[request.position :]))

    def client(self) -> Client:
        return Client(self.listener, self.clock)


def numbers(client: Client) -> list[int]:
    return [struct.unpack_from(">i", answer)[0] for answer in client.answers()]


def test_frames_in_any_pieces() -> None:
    bodies = [bytes([index]) * size for index, size in enumerate((0, 1, 5, 1000, 20_000, 70_000, 300_000, 3))]
    for key in (PRODUCE, METADATA):
        for piece in (1, 3, 7, 1000, 65_536, 10**9):
            if piece < 7 and key == METADATA:
                continue
            server = Server()
            client = server.client()
            data = b"".join(client.frame(key, 1, body) for body in bodies)
            if piece < 7:
                data = b"".join(client.frame(key, 1, body) for body in bodies[:4])
            for start in range(0, len(data), piece):
                client.feed(data[start : start + piece])
            if key == PRODUCE:
                assert server.bodies == bodies[: len(server.bodies)]
                assert len(server.bodies) == (4 if piece < 7 else len(bodies))
                assert set(server.kinds) == {memoryview}
                assert all(not request.buffer.readonly for request in server.seen)  # type: ignore[union-attr]
            else:
                assert [answer[4:] for answer in client.answers()] == bodies
            assert client.connection.half_received == 0


def test_produce_bytes_are_not_overwritten_by_what_follows() -> None:
    server = Server()
    client = server.client()
    client.feed(client.frame(PRODUCE, 1, b"first"))
    client.feed(client.frame(PRODUCE, 1, b"other"))
    first = server.seen[0]
    assert bytes(first.buffer[first.position :]) == b"first"


def test_a_large_frame_is_received_into_the_buffer_that_is_handed_over() -> None:
    server = Server()
    client = server.client()
    frame = client.frame(PRODUCE, 1, bytes(200_000))
    client.feed(frame)
    client.feed(client.frame(PRODUCE, 1, bytes(200_000))[:5000])
    # The size is trusted once the client has sent that much: the second frame has its whole buffer from the first byte on.
    offered = client.connection.get_buffer(-1)
    assert len(offered) == len(frame) - 5000
    buffer = offered.obj
    client.feed(bytes(len(offered)))
    second = server.seen[1].buffer
    assert isinstance(second, memoryview)
    assert second.obj is buffer


def test_answers_leave_in_the_order_of_requests() -> None:
    server = Server()
    client = server.client()
    client.feed(b"".join(client.frame(PRODUCE, 1, b"") for _ in range(4)))
    for index in (2, 1):
        server.seen[index].reply(b"x")
    assert numbers(client) == []
    server.seen[0].reply(b"x")
    assert numbers(client) == [1, 2, 3]
    server.seen[3].reply(b"x")
    assert numbers(client) == [4]


def test_one_write_per_turn() -> None:
    server = Server()
    client = server.client()
    client.feed(b"".join(client.frame(PRODUCE, 1, b"") for _ in range(10)))
    for request in server.seen:
        request.reply(b"x")
    server.clock.turn()
    assert client.transport.writes == 1
    client.feed(b"".join(client.frame(METADATA, 1, b"y") for _ in range(10)))
    assert client.transport.writes == 2


def test_large_answers_are_not_joined() -> None:
    server = Server()
    client = server.client()
    client.feed(client.frame(FETCH, 1, b""))
    chunk = memoryview(bytes(100_000))
    server.seen[0].reply_parts([b"head", chunk, b"tail"], 100_008)
    (answer,) = client.answers()
    assert answer[4:] == b"head" + bytes(100_000) + b"tail"


def test_the_second_answer_to_a_request_is_ignored() -> None:
    server = Server()
    client = server.client()
    client.feed(client.frame(PRODUCE, 1, b""))
    server.seen[0].reply(b"x")
    server.seen[0].reply(b"y")
    server.seen[0].reply_parts([b"z"], 1)
    server.seen[0].close()
    assert numbers(client) == [1]
    assert server.stats.requests_in_flight == 0


def test_an_api_other_than_produce_holds_back_what_follows() -> None:
    server = Server()
    client = server.client()
    client.feed(client.frame(FETCH, 1, b"a") + client.frame(PRODUCE, 1, b"b") + client.frame(FETCH, 1, b"c"))
    assert server.bodies == [b"a"]
    assert not client.transport.paused  # we still want to notice that the client goes
    server.seen[0].reply(b"")
    server.clock.turn()
    assert server.bodies == [b"a", b"b", b"c"]


def test_frames_that_wait_are_bounded() -> None:
    server = Server(ConnectionLimits(waiting_bytes=10_000))
    client = server.client()
    client.feed(client.frame(FETCH, 1, b""))
    client.feed(client.frame(PRODUCE, 1, bytes(9_000)))
    assert not client.transport.paused
    client.feed(client.frame(PRODUCE, 1, bytes(9_000)))
    assert client.transport.paused
    server.seen[0].reply(b"")
    server.clock.turn()
    assert not client.transport.paused
    assert len(server.seen) == 3


def test_bytes_in_flight_are_bounded() -> None:
    server = Server(ConnectionLimits(in_flight_bytes=10_000))
    client = server.client()
    for _ in range(3):
        client.feed(client.frame(PRODUCE, 1, bytes(4_000)))
    assert client.transport.paused
    client.feed(client.frame(PRODUCE, 1, b"still in the socket buffer"))
    assert len(server.seen) == 3
    server.seen[0].reply(b"")
    server.clock.turn()
    assert client.transport.paused
    server.seen[1].reply(b"")
    server.clock.turn()
    assert not client.transport.paused
    assert len(server.seen) == 4


def test_requests_in_flight_are_bounded() -> None:
    server = Server(ConnectionLimits(in_flight_requests=10))
    client = server.client()
    client.feed(b"".join(client.frame(PRODUCE, 1, b"") for _ in range(25)))
    assert len(server.seen) == 10
    for index in range(25):
        server.seen[index].reply(b"")
        server.clock.turn()
    assert numbers(client) == list(range(1, 26))


def test_a_client_that_does_not_read_is_not_read() -> None:
    server = Server()
    client = server.client()
    client.connection.pause_writing()
    assert client.transport.paused
    client.feed(client.frame(METADATA, 1, b"x"))
    assert client.transport.written == b""
    client.connection.resume_writing()
    server.clock.turn()
    assert not client.transport.paused
    assert numbers(client) == [1]


def test_pressure_stops_producers_and_nobody_else() -> None:
    server = Server()
    producer, consumer, fresh = server.client(), server.client(), server.client()
    producer.feed(producer.frame(PRODUCE, 1, b"before"))
    server.pressure.set(True)
    assert producer.transport.paused
    assert not consumer.transport.paused
    consumer.feed(consumer.frame(METADATA, 1, b""))
    assert numbers(consumer) == [1]
    fresh.feed(fresh.frame(METADATA, 1, b"") + fresh.frame(PRODUCE, 1, b"held back"))
    assert fresh.transport.paused
    assert server.bodies == [b"before"]
    server.pressure.set(False)
    server.clock.turn()
    assert not producer.transport.paused
    assert not fresh.transport.paused
    assert server.bodies == [b"before", b"held back"]


def test_produce_that_waited_behind_a_fetch_meets_pressure() -> None:
    server = Server()
    client = server.client()
    client.feed(client.frame(FETCH, 1, b"") + client.frame(PRODUCE, 1, b"p"))
    server.pressure.set(True)
    server.seen[0].reply(b"")
    server.clock.turn()
    assert len(server.seen) == 1
    server.pressure.set(False)
    server.clock.turn()
    assert server.bodies[1:] == [b"p"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "TLS on a plaintext port"),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
        (struct.pack(">i", -1), "request of -1 bytes"),
        (struct.pack(">i", 7), "request of 7 bytes"),
        (struct.pack(">i", 2**31 - 1), "socket.request.max.bytes"),
        (struct.pack(">i", 100 * 1024 * 1024 + 1), "socket.request.max.bytes"),
    ],
)
def test_what_is_no_request_closes_with_one_line(data: bytes, text: str, caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    client = server.client()
    client.feed(data)
    assert client.transport.closing
    assert [text in record.getMessage() for record in caplog.records] == [True]
    assert client.connection.half_received == 0


def test_complaints_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(max_connections=1000)
    for _ in range(200):
        server.client().feed(b"GET / HTTP/1.1\r\n\r\n")
    assert len(caplog.records) == 20
    server.listener.sweep()
    assert "180 more" in caplog.records[-1].getMessage()


def test_memory_follows_what_arrived() -> None:
    server = Server()
    client = server.client()
    client.feed(struct.pack(">i", 100 * 1024 * 1024))
    received = 4
    for _ in range(40):
        offered = client.connection.get_buffer(-1)
        piece = min(len(offered), 50_000)
        client.feed(bytes(piece))
        received += piece
        frame = client.connection._frame
        assert frame is not None
        assert len(frame) <= max(16 * 1024, 4 * received)


def test_idle_connections_are_closed() -> None:
    server = Server(ConnectionLimits(idle_ms=600_000))
    idle, busy, waiting = server.client(), server.client(), server.client()
    waiting.feed(waiting.frame(FETCH, 1, b""))
    for _ in range(130):
        busy.feed(busy.frame(METADATA, 1, b""))
        server.clock.advance(5_000)
        server.listener.sweep()
    assert (idle.transport.closing, busy.transport.closing, waiting.transport.closing) == (True, False, False)
    assert server.stats.connections_closed_idle == 1


def test_a_half_sent_frame_is_not_waited_for_for_ever() -> None:
    server = Server()
    client, other = server.client(), server.client()
    client.feed(client.frame(METADATA, 1, bytes(100))[:50])
    for _ in range(8):
        server.clock.advance(5_000)
        server.listener.sweep()
        other.feed(other.frame(METADATA, 1, bytes(100)))
    assert (client.transport.closing, other.transport.closing) == (True, False)
    assert server.stats.connections_closed_slow == 1


def test_max_connections() -> None:
    server = Server(max_connections=2)
    clients = [server.client() for _ in range(3)]
    assert [client.transport.closing for client in clients] == [False, False, True]
    clients[2].connection.connection_lost(None)
    clients[0].connection.connection_lost(None)
    assert server.stats.connections == 1
    assert not server.client().transport.closing
    assert server.stats.connections_refused == 1


def test_unknown_key_and_version_answer_and_close() -> None:
    for key, version in ((999, 0), (PRODUCE, 9), (-5, 3), (METADATA, -1)):
        server = Server()
        client = server.client()
        client.feed(client.frame(METADATA, 1, b"before") + client.frame(key, version, b"") + client.frame(METADATA, 1, b"after"))
        answers = client.answers()
        assert [struct.unpack_from(">i", answer)[0] for answer in answers] == [1, 2]
        assert answers[1][4:] == struct.pack(">h", 35)
        assert client.transport.closing


def test_unknown_key_waits_for_answers_before_it() -> None:
    server = Server()
    client = server.client()
    client.feed(client.frame(PRODUCE, 1, b"") + client.frame(999, 0, b""))
    assert not client.transport.closing
    server.seen[0].reply(b"")
    assert numbers(client) == [1, 2]
    assert client.transport.closing


def test_an_unexpected_error_is_logged_once_and_the_worker_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()

    def broken(request: Request) -> None:
        raise ZeroDivisionError("secret detail")

    server.dispatcher.register(
        [Route(50, "Broken", (0, 0), NEVER_FLEXIBLE, broken), Route(51, "Told", (0, 0), NEVER_FLEXIBLE, broken, error_body=told)]
    )
    client = server.client()
    client.feed(client.frame(51, 0, b""))
    assert [answer[4:] for answer in client.answers()] == [struct.pack(">h", -1)]
    client.feed(client.frame(50, 0, b""))
    assert client.transport.closing
    assert len([record for record in caplog.records if record.exc_info]) == 2
    assert b"secret" not in client.transport.written
    assert server.stats.errors == 2
    other = server.client()
    other.feed(other.frame(METADATA, 1, b"x"))
    assert len(other.answers()) == 1


def told(version: int, code: int) -> bytes:
    return struct.pack(">h", code)


def test_latency_and_requests_are_counted() -> None:
    server = Server()
    client = server.client()
    client.feed(client.frame(METADATA, 1, b"x") * 3)
    api = server.stats.apis[METADATA]
    assert (api.requests, sum(api.latency_buckets)) == (3, 3)
    client.answers()
    assert (server.stats.bytes_in, server.stats.bytes_out) == (3 * len(client.frame(METADATA, 1, b"x")), len(client.transport.written))


def test_a_closing_connection_whose_client_does_not_read_is_cut_off() -> None:
    server = Server()
    client = server.client()
    client.connection.close()
    server.listener.sweep()
    server.listener.sweep()
    assert not client.transport.aborted
    server.listener.sweep()
    assert client.transport.aborted


def test_nothing_is_delivered_after_closing() -> None:
    server = Server()
    client = server.client()
    client.connection.close()
    connection: Connection = client.connection
    buffer = connection.get_buffer(-1)
    frame = client.frame(METADATA, 1, b"x")
    buffer[: len(frame)] = frame
    connection.buffer_updated(len(frame))
    assert client.transport.written == b""


def test_local_address_reaches_handlers() -> None:
    world = World()
    client = world.client()
    assert (client.connection.local_host, client.connection.local_port) == ("10.0.0.1", 9092)
    response = client.call(ApiVersionsRequest(), ApiVersionsResponse, 0)
    assert response.error_code == 0
