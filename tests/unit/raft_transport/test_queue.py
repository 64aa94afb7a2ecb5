"""The bounded queue of one session."""

from __future__ import annotations

import asyncio

import grpc

from raft.api import Lane
from raft.transport.session import Session
from tests.unit.raft_transport.harness import until


class Pipe:
    """A call whose writes wait for `open`, and whose reads wait for ever."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.written: list[bytes] = []
        self.error: Exception | None = None

    async def write(self, data: bytes) -> None:
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.written.append(data)

    async def read(self) -> bytes:
        await asyncio.Event().wait()
        return b""


async def test_a_full_queue_refuses_and_takes_again_when_it_was_written() -> None:
    pipe, session = Pipe(), Session(2, Lane.DATA, True, 1, 10_000)
    run = asyncio.create_task(session.run(pipe.read, pipe.write, lambda data: None))
    accepted = 0
    while session.offer([bytes(1000)]):
        accepted += 1
    assert 1 <= accepted <= 10
    assert session.queued_bytes <= 10_000
    await asyncio.sleep(0)
    assert not session.offer([bytes(1000)]), "the message being written still counts"
    pipe.open.set()
    await until(lambda: session.queued_bytes == 0, "an empty queue")
    assert [len(data) for data in pipe.written] == [1000] * accepted
    assert session.offer([b"a", b"b"])
    await until(lambda: pipe.written[-1] == b"ab", "the next message")
    session.end("enough")
    assert await run == "enough"
    assert not session.offer([b"late"])


async def test_empty_messages_are_bounded_too() -> None:
    session = Session(2, Lane.CONTROL, True, 1, 10_000)
    assert sum(1 for _ in range(1000) if session.offer([b""])) < 50


async def test_a_message_larger_than_the_limit_travels_alone() -> None:
    session = Session(2, Lane.DATA, True, 1, 1000)
    assert session.offer([bytes(5000)])
    assert not session.offer([b"x"])


async def test_nothing_is_delivered_after_the_end() -> None:
    """A message that was read when another session took the place of this one belongs to nobody."""
    pipe, session = Pipe(), Session(2, Lane.DATA, False, 1, 1000)
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    delivered: list[bytes] = []

    async def read() -> bytes:
        return await arrived

    run = asyncio.create_task(session.run(read, pipe.write, lambda data: delivered.append(bytes(data))))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    arrived.set_result(b"late")
    session.end("replaced")
    assert await run in ("replaced", "closed")
    assert delivered == []


async def test_a_broken_call_ends_the_session_with_its_reason() -> None:
    pipe, session = Pipe(), Session(2, Lane.DATA, True, 1, 1000)
    pipe.error = grpc.aio.UsageError("RPC is done")
    pipe.open.set()
    session.offer([b"x"])
    assert await session.run(pipe.read, pipe.write, lambda data: None) == "RPC is done"
