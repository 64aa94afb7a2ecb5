"""Serves the admin interface inside the node's loop.

The port is bound at once; the heavy imports happen on a thread, so that the loop goes on serving. Connections that come before it is up wait
in the socket's backlog. Installs no signal handlers and no logging: both belong to the process.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import uvicorn

    from admin_api.view import ClusterView

CONNECTIONS_MAX = 256
KEEP_ALIVE_SECONDS = 30
STOP_SECONDS = 3.0


class Handle:
    """The running admin server. Invariant: `stop` may be called more than once; afterwards the port is free."""

    def __init__(self, server: uvicorn.Server, task: asyncio.Task[None], listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self._server = server
        self._task = task
        self._listener = listener

    async def stop(self) -> None:
        """Finish what is being answered (at most STOP_SECONDS), then close."""
        self._server.should_exit = True
        done, _ = await asyncio.wait([self._task], timeout=STOP_SECONDS)
        if not done:
            self._server.force_exit = True
            self._task.cancel()
            await asyncio.wait([self._task])
        self._listener.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"Port {port} already in use, and the admin interface needs it; stop what listens there or choose another with --admin-port"
            raise OSError(errno.EADDRINUSE, text) from error
        raise


def _build(view: ClusterView, started: asyncio.Event) -> uvicorn.Server:
    """Import and construct; on a thread. `started` is only set later, on the loop."""
    import uvicorn

    from admin_api.app import create_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started.set()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    options: dict[str, Any] = {
        "lifespan": "off",
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "ws": "none",
        "limit_concurrency": CONNECTIONS_MAX,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": 2,
    }
    config = uvicorn.Config(create_app(view), **options)
    config.load()
    return Server(config)


async def serve(view: ClusterView, host: str, port: int) -> Handle:
    """Start serving `view`; returns when requests are answered. Raises OSError (EADDRINUSE with a text for the user) when the port is taken."""
    listener = _listen(host, port)
    try:
        started = asyncio.Event()
        server = await asyncio.to_thread(_build, view, started)
        task = asyncio.create_task(server.serve(sockets=[listener]), name="admin")
        waiting = asyncio.ensure_future(started.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if task.done():
            task.result()
            raise OSError(errno.ECANCELED, "the admin interface stopped while it was starting; see the log")
    except BaseException:
        listener.close()
        raise
    return Handle(server, task, listener)
