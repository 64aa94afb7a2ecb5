"""A bare Kafka connection for workloads with more clients than librdkafka has room for: one socket, one request at a time, no threads.

The messages are encoded and decoded by the broker's generated codec; every system gets the same bytes.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TypeVar

from broker.protocol._generated.api_versions import ApiVersionsRequest, ApiVersionsResponse
from broker.protocol._generated.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from broker.protocol.message import Message

Answer = TypeVar("Answer", bound=Message)
CLIENT_ID = b"benchmark"
_HEAD = struct.Struct(">ihhih")


class Connection:
    """Invariant: `_correlation` counts requests; answers come in their order."""

    __slots__ = ("_correlation", "_reader", "_writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._correlation = 0

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        return cls(*await asyncio.open_connection(host, port))

    async def call(self, request: Message, answer: type[Answer], version: int, seconds: float = 120) -> Answer:
        """Send and wait for the answer. Raises ConnectionError or TimeoutError."""
        flexible = version >= type(request).first_flexible_version
        body = request.encode(version)
        self._correlation += 1
        size = _HEAD.size - 4 + len(CLIENT_ID) + flexible + len(body)
        head = _HEAD.pack(size, request.api_key, version, self._correlation, len(CLIENT_ID)) + CLIENT_ID + bytes(flexible)
        self._writer.write(head + body)
        async with asyncio.timeout(seconds):
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            frame = await self._reader.readexactly(size)
        if int.from_bytes(frame[:4], "big") != self._correlation:
            raise ConnectionError("an answer out of order")
        # ApiVersions alone keeps the old response header, so that any client can read it.
        found, _ = answer.decode(frame, 4 + (flexible and answer.api_key != ApiVersionsResponse.api_key), version)
        return found

    def close(self) -> None:
        self._writer.close()


def addresses(bootstrap: str) -> list[tuple[str, int]]:
    return [(host, int(port)) for host, _, port in (one.rpartition(":") for one in bootstrap.split(","))]


async def greet(host: str, port: int) -> Connection:
    """A connection that has asked for the versions, as every client does first."""
    connection = await Connection.open(host, port)
    await connection.call(ApiVersionsRequest(), ApiVersionsResponse, 0, 30)
    return connection


async def find_coordinator(bootstrap: str, group: str) -> tuple[str, int]:
    """Address of a group's coordinator; waits until there is one."""
    connection = await greet(*addresses(bootstrap)[0])
    try:
        for _ in range(300):
            found = await connection.call(FindCoordinatorRequest(key=group), FindCoordinatorResponse, 2)
            if not found.error_code:
                return found.host, found.port
            await asyncio.sleep(0.1)
    finally:
        connection.close()
    raise TimeoutError(f"no coordinator of {group} in 30 s, last error {found.error_code}")
