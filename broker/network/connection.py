"""One client connection: bytes to frames, frames to the dispatcher, answers back in the order of the requests.

Small frames are parsed from a receive buffer that all connections share (it is empty again when `buffer_updated` returns) and copied once; a frame
that does not end in it gets a buffer of its own, which grows with what has arrived and is handed over without a further copy.
Knows nothing of Kafka's messages except the length prefix and that API key 0 (Produce) keeps its bytes. Runs on the loop thread.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from broker.network.pressure import Pressure
from broker.network.request import Request
from broker.network.stats import NetworkStats
from wal.entry import Buffer

_SIZE = struct.Struct(">i")
_SMALLEST_FRAME = 8  # key, version, correlation id
_JOIN_BYTES = 32 * 1024
_FIRST_FRAME_BYTES = 16 * 1024
CLOSE_SWEEPS = 2  # that a closing connection may take to hand over its last bytes
_PRODUCE_PREFIX = b"\x00\x00"

# Why the handing over of frames is suspended; a set of flags.
BLOCKED_EXCLUSIVE = 1  # an API other than Produce is being answered: what follows it waits, as it does in Kafka
BLOCKED_IN_FLIGHT = 2  # too many bytes or requests without an answer
BLOCKED_WRITE = 4  # the client does not read its answers
BLOCKED_PRESSURE = 8  # the node's memory is full and the next request is a Produce
BLOCKED_CLOSING = 16
_STOPS_READING = BLOCKED_IN_FLIGHT | BLOCKED_WRITE | BLOCKED_PRESSURE | BLOCKED_CLOSING


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of one connection. `frame_bytes` is socket.request.max.bytes; `waiting_bytes` bounds what is received and not yet handed over.

    `idle_ms` is connections.max.idle.ms, -1 for never.
    """

    frame_bytes: int = 100 * 1024 * 1024
    in_flight_bytes: int = 64 * 1024 * 1024
    in_flight_requests: int = 1000
    waiting_bytes: int = 256 * 1024
    write_high_water_bytes: int = 1024 * 1024
    idle_ms: int = 600_000
    slow_frame_ms: int = 30_000
    slow_frame_bytes_per_ms: int = 64


class Owner(Protocol):
    """What a connection asks of its listener."""

    limits: ConnectionLimits
    stats: NetworkStats
    pressure: Pressure
    dispatch: Callable[[Connection, Buffer], None]
    call_soon: Callable[[Callable[[], None]], Any]

    @property
    def receive_view(self) -> memoryview:
        """Where bytes are received to; empty again when `buffer_updated` returns."""

    def register(self, connection: Connection) -> bool:
        """False: the node has all the connections that it may have."""

    def forget(self, connection: Connection) -> None: ...

    def complain(self, text: str) -> None:
        """One log line, unless there were too many of late."""


class Connection(asyncio.BufferedProtocol):
    """One client connection.

    Invariants: `slots` holds the unanswered requests, and answered ones behind an unanswered one, in the order of arrival; `in_flight_bytes` is the
    sum of the sizes of those without an answer. `_frame` is None unless a frame is half received. Frames wait in `_waiting` only while `blocked`.
    """

    __slots__ = (
        "_close_sweeps",
        "_closed",
        "_filled",
        "_frame",
        "_frame_length",
        "_head",
        "_in_received",
        "_largest_frame",
        "_out",
        "_out_bytes",
        "_owner",
        "_reading",
        "_transport",
        "_turn_scheduled",
        "_waiting",
        "_waiting_bytes",
        "active",
        "blocked",
        "frame_limit_bytes",
        "in_flight_bytes",
        "last_active_ms",
        "local_host",
        "local_port",
        "partial_since_ms",
        "peer",
        "produces",
        "slots",
    )

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._frame: memoryview | None = None
        self._frame_length = 0
        self._filled = 0
        self._head = b""
        self._largest_frame = 0
        self._waiting: deque[Buffer] = deque()
        self._waiting_bytes = 0
        self._out: list[Buffer] = []
        self._out_bytes = 0
        self._turn_scheduled = False
        self._in_received = False
        self._reading = True
        self._closed = False
        self._close_sweeps = -1  # sweeps since close was asked for
        self.slots: deque[Request] = deque()
        self.in_flight_bytes = 0
        self.blocked = 0
        self.produces = False
        self.frame_limit_bytes = owner.limits.frame_bytes
        self.active = True
        self.last_active_ms = 0
        self.partial_since_ms = -1  # -1: no half frame, or not yet seen by the sweep
        self.peer = "?"
        self.local_host = ""
        self.local_port = 0

    # Opening and closing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        local = transport.get_extra_info("sockname")
        if isinstance(peer, tuple):
            self.peer = f"{peer[0]}:{peer[1]}"
        if isinstance(local, tuple):
            self.local_host, self.local_port = local[0], local[1]
        if not self._owner.register(self):
            self.blocked |= BLOCKED_CLOSING
            transport.close()
            return
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=self._owner.limits.write_high_water_bytes)

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        self._transport = None
        self._frame = None
        self._waiting.clear()
        self._out.clear()
        slots, self.slots = self.slots, deque()
        for request in slots:
            if not request.done:
                self._owner.stats.requests_in_flight -= 1
                if request.on_disconnect is not None:
                    request.on_disconnect()
                request.done = True
                request.buffer = b""
                request.on_disconnect = request.error_answer = None
        self._owner.forget(self)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def half_received(self) -> int:
        """Bytes of a frame that has begun and not ended."""
        return self._filled if self._frame is not None else len(self._head)

    @property
    def reading(self) -> bool:
        return self._reading

    def close(self) -> None:
        """Close after what is already written; unanswered requests are given up. A client that does not take it is cut off by the sweep."""
        self.blocked |= BLOCKED_CLOSING
        self._close_sweeps = max(self._close_sweeps, 0)
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def stop_reading(self) -> None:
        """Take no further requests (graceful stop); those that are here are answered."""
        self.blocked |= BLOCKED_CLOSING
        self._waiting.clear()
        self._waiting_bytes = 0
        self._update_reading()

    def refuse(self, reason: str) -> None:
        """Close because of what the client sent, with one log line."""
        self._owner.stats.connections_closed_malformed += 1
        self._owner.complain(f"connection from {self.peer} closed: {reason}")
        self._frame = None
        self._head = b""
        self.close()

    # Receiving

    def get_buffer(self, sizehint: int) -> memoryview:
        frame = self._frame
        return self._owner.receive_view if frame is None else frame[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self.blocked & BLOCKED_CLOSING:
            return
        self._owner.stats.bytes_in += nbytes
        self.active = True
        self._in_received = True
        if self._frame is None:
            self._parse(nbytes)
        else:
            self._continue_frame(self._frame, nbytes)
        self._in_received = False
        if self._out:
            self._flush()
        if self.blocked or not self._reading:
            self._update_reading()

    def _continue_frame(self, frame: memoryview, nbytes: int) -> None:
        filled = self._filled = self._filled + nbytes
        if filled < len(frame):
            return
        length = self._frame_length
        if filled < length:
            # Grown fourfold, so that memory stays within a few times of what was sent and most frames are copied once at most.
            larger = memoryview(bytearray(min(length, max(4 * filled, self._largest_frame))))
            larger[:filled] = frame
            self._frame = larger
            return
        self._frame = None
        self.partial_since_ms = -1
        self._largest_frame = max(self._largest_frame, length)
        self._received(frame if frame[0] | frame[1] == 0 else bytes(frame))

    def _parse(self, nbytes: int) -> None:
        """Take whole frames out of the shared buffer; what is left of an incomplete one moves to a buffer of its own."""
        view = self._owner.receive_view
        position = 0
        end = nbytes
        if self._head:
            view = memoryview(self._head + bytes(view[:nbytes]))
            end = len(view)
            self._head = b""
        unpack_size = _SIZE.unpack_from
        while end - position >= 4:
            (length,) = unpack_size(view, position)
            if not _SMALLEST_FRAME <= length <= self.frame_limit_bytes:
                self.refuse(_describe_bad_size(bytes(view[position : min(end, position + 8)]), length, self.frame_limit_bytes))
                return
            start = position + 4
            stop = start + length
            if stop > end:
                self._begin_frame(view[start:end], length)
                return
            # Only Produce keeps its bytes and writes into them; `bytes` are faster to decode for the others.
            self._received(memoryview(bytearray(view[start:stop])) if view[start] | view[start + 1] == 0 else bytes(view[start:stop]))
            if self.blocked & BLOCKED_CLOSING:
                return
            position = stop
        if position < end:
            self._head = bytes(view[position:end])
        self.partial_since_ms = -1

    def _begin_frame(self, arrived: memoryview, length: int) -> None:
        filled = len(arrived)
        frame = memoryview(bytearray(min(length, max(_FIRST_FRAME_BYTES, 4 * filled, self._largest_frame))))
        frame[:filled] = arrived
        self._frame = frame
        self._filled = filled
        self._frame_length = length
        self.partial_since_ms = -1

    def _received(self, frame: Buffer) -> None:
        """Hand over a whole frame, or let it wait for its turn."""
        if frame[:2] == _PRODUCE_PREFIX:
            self.produces = True
            if self._owner.pressure.paused:
                self.blocked |= BLOCKED_PRESSURE
        if self.blocked:
            self._waiting.append(frame)
            self._waiting_bytes += len(frame)
        else:
            self._owner.dispatch(self, frame)

    # Answering

    def admit(self, request: Request) -> None:
        """The dispatcher made `request` of a frame: it takes its place in the order of answers."""
        self.slots.append(request)
        self.in_flight_bytes += request.size
        self._owner.stats.requests_in_flight += 1
        limits = self._owner.limits
        if self.in_flight_bytes > limits.in_flight_bytes or len(self.slots) >= limits.in_flight_requests:
            self.blocked |= BLOCKED_IN_FLIGHT

    def completed(self, request: Request) -> None:
        """`request` has its answer; whatever is ready at the head of the line leaves with the next write."""
        request.buffer = b""
        request.on_disconnect = request.error_answer = None  # they refer back to the request: no work for the cycle collector
        if self._closed:
            return
        route = request.route
        route.stats.observe(route.now_ns() - request.started_ns)
        self._owner.stats.requests_in_flight -= 1
        self.in_flight_bytes -= request.size
        slots = self.slots
        if slots[0] is request:
            out = self._out
            while slots and slots[0].done:
                first = slots.popleft()
                out.extend(first.parts)
                self._out_bytes += first.parts_size
                if first.close_after:
                    self.close()
                    return
            if self._out_bytes >= self._owner.limits.write_high_water_bytes:
                self._flush()  # so that a client that does not read blocks the very next of its requests
        blocked = self.blocked
        if blocked:
            limits = self._owner.limits
            if blocked & BLOCKED_EXCLUSIVE and not route.pipelined:
                blocked &= ~BLOCKED_EXCLUSIVE
            if blocked & BLOCKED_IN_FLIGHT and self.in_flight_bytes <= limits.in_flight_bytes // 2 and len(slots) <= limits.in_flight_requests // 2:
                blocked &= ~BLOCKED_IN_FLIGHT
            self.blocked = blocked
        if not self._in_received:
            self._schedule_turn()

    def _schedule_turn(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._owner.call_soon(self._turn)

    def _turn(self) -> None:
        """Once per loop turn in which something changed: write what is ready, hand over what waited, read again."""
        self._turn_scheduled = False
        if self._closed:
            return
        if self._out:
            self._flush()
        waiting = self._waiting
        if waiting and not self.blocked:
            self._in_received = True
            while waiting and not self.blocked:
                if waiting[0][:2] == _PRODUCE_PREFIX and self._owner.pressure.paused:
                    self.blocked |= BLOCKED_PRESSURE
                    break
                frame = waiting.popleft()
                self._waiting_bytes -= len(frame)
                self._owner.dispatch(self, frame)
            self._in_received = False
            if self._out:
                self._flush()
        self._update_reading()

    def _flush(self) -> None:
        out = self._out
        transport = self._transport
        if not out or transport is None:
            return
        size = self._out_bytes
        self._out = []
        self._out_bytes = 0
        self._owner.stats.bytes_out += size
        if len(out) == 1:
            transport.write(out[0])
        elif size <= _JOIN_BYTES:
            transport.write(b"".join(out))
        else:
            transport.writelines(out)

    # Back-pressure

    def pause_writing(self) -> None:
        self.blocked |= BLOCKED_WRITE
        self._update_reading()

    def resume_writing(self) -> None:
        self.blocked &= ~BLOCKED_WRITE
        self._schedule_turn()

    def pressure_changed(self, paused: bool) -> None:
        """Memory pressure of the node began or ended."""
        if paused:
            if self.produces:
                self.blocked |= BLOCKED_PRESSURE
                self._update_reading()
        elif self.blocked & BLOCKED_PRESSURE:
            self.blocked &= ~BLOCKED_PRESSURE
            self._schedule_turn()

    def _update_reading(self) -> None:
        transport = self._transport
        if transport is None:
            return
        wanted = not self.blocked & _STOPS_READING and self._waiting_bytes < self._owner.limits.waiting_bytes
        if wanted == self._reading:
            return
        self._reading = wanted
        if wanted:
            self.partial_since_ms = -1
            transport.resume_reading()
        else:
            transport.pause_reading()

    def sweep(self, now_ms: int) -> None:
        """Called every few seconds: close a connection that is idle, or whose half-sent frame comes too slowly."""
        limits = self._owner.limits
        if self._close_sweeps >= 0:
            self._close_sweeps += 1
            if self._close_sweeps > CLOSE_SWEEPS and self._transport is not None:
                self._transport.abort()
            return
        if self.active or self.slots:
            self.active = False
            self.last_active_ms = now_ms
        arrived = self.half_received
        if not arrived or not self._reading:
            self.partial_since_ms = -1
        elif self.partial_since_ms < 0:
            self.partial_since_ms = now_ms
        elif now_ms - self.partial_since_ms >= limits.slow_frame_ms + arrived // limits.slow_frame_bytes_per_ms:
            self._owner.stats.connections_closed_slow += 1
            self._owner.complain(f"connection from {self.peer} closed: a request was left half sent ({arrived} bytes) for {limits.slow_frame_ms} ms")
            self.close()
            return
        if 0 <= limits.idle_ms <= now_ms - self.last_active_ms:
            self._owner.stats.connections_closed_idle += 1
            self.close()


def _describe_bad_size(start: bytes, length: int, limit: int) -> str:
    """Say what a client that does not speak plain Kafka probably speaks."""
    if start[:2] == b"\x16\x03":
        return "looks like TLS on a plaintext port; set security.protocol=PLAINTEXT in the client or use the TLS listener"
    if start[:4] in (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"DELE", b"CONN", b"PRI "):
        return "looks like HTTP on the Kafka port; the admin interface has a port of its own"
    return f"a request of {length} bytes is not acceptable (8 to {limit}); either it is not a Kafka client or socket.request.max.bytes is too small"
