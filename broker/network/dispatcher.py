"""From frame to handler: the registry of served APIs, the request header, versions, and what happens when a handler fails.

A handler is synchronous (it ends the request itself, now or later) or returns a coroutine, which runs as one supervised task; Produce and Fetch
are never tasks. ApiVersions is derived from the registry. Errors are translated here, once: the request's fault gets an answer or a closed connection
and one log line, our own fault a traceback in the log and UNKNOWN_SERVER_ERROR to the client.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from broker.errors import ErrorCode, KafkaError
from broker.network.connection import BLOCKED_EXCLUSIVE, Connection
from broker.network.request import Request
from broker.network.stats import ApiStats, NetworkStats
from broker.protocol.errors import ProtocolError
from broker.protocol.headers import decode_request_header
from wal.entry import Buffer

log = logging.getLogger("chronik_server")

NEVER_FLEXIBLE = 1 << 15
API_VERSIONS_KEY = 18

Handler = Callable[[Request], "Coroutine[Any, Any, None] | None"]
ErrorBody = Callable[[int, int], "bytes | None"]

_ERROR = struct.Struct(">h")


def _no_error_form(version: int, code: int) -> bytes | None:
    """For APIs whose response has no error field of its own: the connection is closed instead."""
    return None


@dataclass(slots=True)
class Route:
    """One served API.

    `versions` are handled, `advertised` may name more (Produce 0-2, KAFKA-18659). `pipelined`: the next request of the connection may start before
    this one is answered. `error_body(version, code)` makes a response that carries only an error, or None when its form has no place for one.
    """

    key: int
    name: str
    versions: tuple[int, int]
    flexible_from: int
    handle: Handler
    advertised: tuple[int, int] = (-1, -1)
    pipelined: bool = False
    error_body: ErrorBody = _no_error_form
    flexible_response_from: int = -1
    stats: ApiStats = field(default_factory=lambda: ApiStats("unknown"))
    now_ns: Callable[[], int] = time.perf_counter_ns

    def __post_init__(self) -> None:
        if self.advertised[0] < 0:
            self.advertised = self.versions
        if self.flexible_response_from < 0:
            # The response header of ApiVersions is v0 for ever, so that any client can read it (KIP-511).
            self.flexible_response_from = NEVER_FLEXIBLE if self.key == API_VERSIONS_KEY else self.flexible_from


class Dispatcher:
    """The registry and the way into it. One per node, used by all listeners. Use: `register` all routes, then give `dispatch` to the listener."""

    __slots__ = ("_now_ns", "_routes", "_stats", "_tasks", "_unknown", "complain")

    def __init__(self, stats: NetworkStats, now_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._stats = stats
        self._now_ns = now_ns
        self._routes: dict[int, Route] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unknown = Route(-1, "unknown", (0, -1), NEVER_FLEXIBLE, lambda request: None, advertised=(0, -1), flexible_response_from=NEVER_FLEXIBLE)
        self.complain: Callable[[str], None] = log.warning

    def register(self, routes: Iterable[Route]) -> None:
        for route in routes:
            if route.key in self._routes:
                raise ValueError(f"API key {route.key} is registered twice")
            self._routes[route.key] = route
            route.stats = self._stats.api(route.key, route.name)
            route.now_ns = self._now_ns

    @property
    def routes(self) -> dict[int, Route]:
        return self._routes

    def advertised(self) -> list[tuple[int, int, int]]:
        """(key, lowest, highest version) of everything that is served, by key: the content of ApiVersions."""
        return [(key, *self._routes[key].advertised) for key in sorted(self._routes)]

    def dispatch(self, connection: Connection, frame: Buffer) -> None:
        """Handle one frame (without its length prefix, at least 8 bytes). Never raises for what a client sent or a handler did."""
        try:
            key, version, correlation_id, client_id, position = decode_request_header(frame)
        except ProtocolError as error:
            self._stats.errors += 1
            connection.refuse(f"malformed request header: {error}")
            return
        route = self._routes.get(key)
        if route is None or not route.versions[0] <= version <= route.versions[1]:
            self._refuse_version(connection, route, key, version, correlation_id, frame)
            return
        request = Request(connection, route, version, correlation_id, frame)
        connection.admit(request)
        request.client_id = client_id
        request.position = position
        route.stats.requests += 1
        request.started_ns = self._now_ns()
        try:
            coroutine = route.handle(request)
            if coroutine is not None:
                task = asyncio.get_running_loop().create_task(self._supervise(request, coroutine))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        except ProtocolError as error:
            self._malformed(request, error)
        except KafkaError as error:
            self._answer_error(request, error.code, error.message)
        except Exception as error:  # noqa: BLE001 - the edge: logged with its traceback, translated once
            self._failed(request, error)
        if not route.pipelined and not request.done:
            connection.blocked |= BLOCKED_EXCLUSIVE

    async def stop(self) -> None:
        """Cancel the tasks that are left and wait for them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _supervise(self, request: Request, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
            if not request.done:
                self._failed(request, RuntimeError("the handler returned without an answer"))
        except ProtocolError as error:
            self._malformed(request, error)
        except KafkaError as error:
            self._answer_error(request, error.code, error.message)
        except asyncio.CancelledError:
            request.close()
            raise
        except Exception as error:  # noqa: BLE001 - the edge: logged with its traceback, translated once
            self._failed(request, error)

    def _refuse_version(self, connection: Connection, route: Route | None, key: int, version: int, correlation_id: int, frame: Buffer) -> None:
        self._stats.unsupported += 1
        request = Request(connection, self._unknown, version, correlation_id, frame)
        request.started_ns = self._now_ns()
        connection.admit(request)
        if route is not None and key == API_VERSIONS_KEY:
            # KIP-511: the answer in v0 form, which every client can read, with the list to choose from.
            listed = self.advertised()
            body = struct.pack(">hi", ErrorCode.UNSUPPORTED_VERSION, len(listed)) + b"".join(struct.pack(">hhh", *one) for one in listed)
            request.reply(body)
            return
        name = f"{route.name} version {version} (served: {route.versions[0]} to {route.versions[1]})" if route is not None else f"API key {key}"
        self.complain(f"connection from {connection.peer} closed: {name} is not supported")
        request.close_after = True
        request.reply(_ERROR.pack(ErrorCode.UNSUPPORTED_VERSION))

    def _malformed(self, request: Request, error: Exception) -> None:
        self._stats.errors += 1
        request.route.stats.errors += 1
        self.complain(f"malformed {request.route.name} v{request.api_version} request from {request.connection.peer}: {error}")
        self._answer_error(request, ErrorCode.INVALID_REQUEST)

    def _failed(self, request: Request, error: Exception) -> None:
        self._stats.errors += 1
        request.route.stats.errors += 1
        log.error("unexpected error in %s v%d from %s", request.route.name, request.api_version, request.connection.peer, exc_info=error)
        self._answer_error(request, ErrorCode.UNKNOWN_SERVER_ERROR)

    def _answer_error(self, request: Request, code: ErrorCode, message: str = "") -> None:
        if request.done:
            return
        own = request.error_answer
        body = own(code, message) if own is not None else request.route.error_body(request.api_version, code)
        if body is None:
            request.close()
        else:
            request.reply(body)
