"""One open Exchange call, from either end: a reader, and a writer behind a queue that is bounded in bytes.

Knows neither who dialled nor what the messages mean. Runs on the loop thread. Each message costs one write and one read of grpc and no task.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from raft.api import Lane
from raft.transport.options import MESSAGE_SIZE_MAX_BYTES, join_parts
from raft.wire import WireError
from wal.entry import Buffer
from wal.errors import check

logger = logging.getLogger("chronik_raft")

_MESSAGE_OVERHEAD_BYTES = 256  # what a queued message costs besides its parts, so that tiny ones are bounded too


class Session:
    """The peer's messages go to `deliver` in order; ours leave in the order of `offer`.

    Invariant: queued_bytes counts the messages that grpc has not taken yet, the one being written included, and never exceeds the limit by more than
    one message that found the queue empty (so that a message larger than the limit can travel alone).
    """

    __slots__ = ("_ended", "_limit_bytes", "_queue", "_waiting", "_wanted", "incarnation", "lane", "on_ready", "outgoing", "peer", "queued_bytes")

    def __init__(self, peer: int, lane: Lane, outgoing: bool, incarnation: int, limit_bytes: int) -> None:
        self.peer = peer
        self.lane = lane
        self.outgoing = outgoing
        self.incarnation = incarnation
        self.queued_bytes = 0
        self._limit_bytes = limit_bytes
        self._queue: deque[tuple[Sequence[Buffer], int]] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._wanted = False
        self.on_ready: Callable[[], None] | None = None
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def ready(self) -> bool:
        """Whether nothing is queued behind the message that is being written. If something is, `on_ready` is called when it is not."""
        if self._queue:
            self._wanted = True
            return False
        return True

    def offer(self, parts: Sequence[Buffer]) -> bool:
        """Queue one message; False when the queue is full or the session has ended. The parts must not change until they are sent."""
        size = sum(map(len, parts))
        check(size <= MESSAGE_SIZE_MAX_BYTES, "a message larger than the transport carries")
        size += _MESSAGE_OVERHEAD_BYTES
        if (self.queued_bytes and self.queued_bytes + size > self._limit_bytes) or self._ended.done():
            return False
        self.queued_bytes += size
        self._queue.append((parts, size))
        waiting = self._waiting
        if waiting is not None:
            self._waiting = None
            if not waiting.done():
                waiting.set_result(None)
        return True

    def end(self, reason: str) -> None:
        """Close the session from our side; `run` returns `reason`."""
        if not self._ended.done():
            self._ended.set_result(reason)

    async def run(self, read: Callable[[], Awaitable[Any]], write: Callable[[bytes], Awaitable[None]], deliver: Callable[[memoryview], None]) -> str:
        """Read and write until one of them ends; returns why. Whatever `deliver` raises, WireError excepted, is raised."""
        loop = asyncio.get_running_loop()
        reader = loop.create_task(self._read(read, deliver))
        writer = loop.create_task(self._write(write))
        try:
            await asyncio.wait((reader, writer, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                return reader.result()
            return self._ended.result() if self._ended.done() else writer.result()
        finally:
            self.end("closed")
            reader.cancel()
            writer.cancel()
            await asyncio.wait((reader, writer))
            self._queue.clear()

    async def _read(self, read: Callable[[], Awaitable[Any]], deliver: Callable[[memoryview], None]) -> str:
        while True:
            try:
                data = await read()
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name}: {error.details()}"
            except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
                return str(error)
            if data is grpc.aio.EOF:  # type: ignore[attr-defined]
                return "closed by the peer"
            if self._ended.done():
                return "closed"  # nothing of an ended session may be heard: another one may have taken its place
            try:
                deliver(memoryview(data))
            except WireError as error:
                logger.warning("node %d sent a malformed message, its %s session is closed: %s", self.peer, self.lane.name.lower(), error)
                return f"malformed message: {error}"
            del data  # otherwise the last message stays in memory until the next one comes

    async def _write(self, write: Callable[[bytes], Awaitable[None]]) -> str:
        loop = asyncio.get_running_loop()
        queue = self._queue
        while True:
            while queue:
                parts, size = queue.popleft()
                if self._wanted and not queue:
                    self._wanted = False
                    if self.on_ready is not None:
                        self.on_ready()
                try:
                    await write(join_parts(parts))
                except grpc.aio.AioRpcError as error:
                    return f"{error.code().name}: {error.details()}"
                except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
                    return str(error)
                self.queued_bytes -= size
                del parts
            self._waiting = loop.create_future()
            await self._waiting
