"""The listening socket, the set of its connections, and the one timer that closes idle and slow ones."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

from broker.network.connection import Connection, ConnectionLimits
from broker.network.pressure import Pressure
from broker.network.stats import NetworkStats
from raft.api import Clock
from wal.entry import Buffer

log = logging.getLogger("chronik_server")

RECEIVE_BUFFER_BYTES = 64 * 1024
SWEEP_MS = 5_000
COMPLAINTS_PER_SWEEP = 20


class ListenError(Exception):
    """The address can not be listened on. The text says why and what to do."""


class KafkaListener:
    """Accepts client connections on one address.

    Use: `await start(host, port)`, later `await stop(grace_ms)`. `port` is the real one after start (also when 0 was asked).
    Invariant: `receive_view` holds bytes only during one `buffer_updated` call, which is why all connections can share it.
    """

    __slots__ = (
        "_clock",
        "_complaints",
        "_complaints_dropped",
        "_connections",
        "_server",
        "_sweeping",
        "call_soon",
        "dispatch",
        "limits",
        "max_connections",
        "port",
        "pressure",
        "receive_view",
        "stats",
    )

    def __init__(
        self,
        dispatch: Callable[[Connection, Buffer], None],
        clock: Clock,
        stats: NetworkStats,
        pressure: Pressure | None = None,
        limits: ConnectionLimits | None = None,
        max_connections: int = 2**31 - 1,
    ) -> None:
        self.dispatch = dispatch
        self._clock = clock
        self.stats = stats
        self.pressure = pressure if pressure is not None else Pressure()
        self.limits = limits if limits is not None else ConnectionLimits()
        self.max_connections = max_connections
        self.receive_view = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        self.port = 0
        self.call_soon: Callable[[Callable[[], None]], Any] = clock.call_soon
        self._connections: set[Connection] = set()
        self._server: asyncio.AbstractServer | None = None
        self._sweeping = False
        self._complaints = 0
        self._complaints_dropped = 0
        self.pressure.subscribe(self._pressure_changed)

    async def start(self, host: str, port: int, reuse_port: bool = False) -> None:
        """Listen on `host` ("" = all addresses) and `port`. Raises ListenError."""
        loop = asyncio.get_running_loop()
        self.call_soon = loop.call_soon
        try:
            self._server = await loop.create_server(self._new_connection, host or None, port, backlog=1024, reuse_port=reuse_port or None)
        except OSError as error:
            raise ListenError(_explain(error, host, port)) from error
        sockets = self._server.sockets
        self.port = sockets[0].getsockname()[1]
        self._sweeping = True
        self._clock.call_later(SWEEP_MS, self._sweep)
        log.info("Kafka listener on %s:%d", host or "*", self.port)

    async def stop(self, grace_ms: int = 5_000) -> None:
        """Accept and read no more, answer what is in flight for up to `grace_ms`, then close."""
        self._sweeping = False
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in list(self._connections):
            connection.stop_reading()
        deadline_ms = self._clock.now_ms() + grace_ms
        while any(connection.slots for connection in self._connections) and self._clock.now_ms() < deadline_ms:  # noqa: ASYNC110 - only while stopping
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.close()
        # connection_lost follows in one of the next turns of the loop, once the write buffers are empty.
        while self._connections and self._clock.now_ms() < deadline_ms:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if server is not None:
            log.info("Kafka listener on port %d stopped", self.port)

    @property
    def connections(self) -> set[Connection]:
        return self._connections

    def register(self, connection: Connection) -> bool:
        if len(self._connections) >= self.max_connections:
            self.stats.connections_refused += 1
            self.complain(f"connection from {connection.peer} refused: max.connections ({self.max_connections}) is reached")
            return False
        connection.last_active_ms = self._clock.now_ms()
        self._connections.add(connection)
        self.stats.connections += 1
        self.stats.connections_opened += 1
        return True

    def forget(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self.stats.connections -= 1

    def complain(self, text: str) -> None:
        """Log `text` at WARNING, at most a few lines per sweep, so that a scan does not fill the disk with log."""
        if self._complaints < COMPLAINTS_PER_SWEEP:
            self._complaints += 1
            log.warning("%s", text)
        else:
            self._complaints_dropped += 1

    def sweep(self) -> None:
        """Close idle and slow connections; allow new complaints."""
        now_ms = self._clock.now_ms()
        for connection in list(self._connections):
            connection.sweep(now_ms)
        if self._complaints_dropped:
            log.warning("%d more complaints about connections were not logged", self._complaints_dropped)
        self._complaints = self._complaints_dropped = 0

    def _new_connection(self) -> Connection:
        return Connection(self)

    def _sweep(self) -> None:
        if self._sweeping:
            self.sweep()
            self._clock.call_later(SWEEP_MS, self._sweep)

    def _pressure_changed(self, paused: bool) -> None:
        for connection in list(self._connections):
            connection.pressure_changed(paused)


def _explain(error: OSError, host: str, port: int) -> str:
    where = f"{host or '*'}:{port}"
    if error.errno == errno.EADDRINUSE:
        owner = _owner_of(port)
        return f"Port {port} already in use{owner}. Stop that process, or choose another port with --kafka-port or kafka_port in chronik.toml."
    if error.errno == errno.EACCES:
        return f"No permission to listen on {where}. Ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one with --kafka-port."
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host!r} is not an address of this machine. Listen on 0.0.0.0 and set advertised_host to the name that clients use."
    return f"Can not listen on {where}: {error.strerror or error}"


def _owner_of(port: int) -> str:
    """ " by pid N (name)" when the system lets us see who listens on `port`, else ""."""
    import psutil

    try:
        for one in psutil.net_connections(kind="tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid:
                return f" by pid {one.pid} ({psutil.Process(one.pid).name()})"
    except (psutil.Error, OSError):
        return ""
    return ""
