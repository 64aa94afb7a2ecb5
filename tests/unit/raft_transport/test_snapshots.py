"""Snapshot transfer: whole files, and every way in which one can fail and be started again."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from crc32c import crc32c

from raft.transport import chronik_raft_pb2 as pb
from raft.transport import chronik_raft_pb2_grpc as rpc
from raft.transport.options import TransportError
from tests.unit.raft_transport.harness import CLUSTER, CONFIG, Node, until
from wal.entry import GroupId, group_id
from wal.errors import DamageError, DiskFullError

MakeNode = Callable[..., Node]
GROUP = group_id(b"topic-id-of-16-b", 3)


class Files:
    """SnapshotSource and SnapshotReceiver in one directory; `fail` raises in the next write, `gate` holds writes up."""

    def __init__(self, directory: Path, content: bytes = b"") -> None:
        self.directory = directory
        self.content = content
        self.loop_thread = threading.get_ident()
        self.fail: Exception | None = None
        self.fail_open: Exception | None = None
        self.gate: threading.Event | None = None
        self.lie_about_size = 0
        self.opened = self.aborted = self.closed = 0
        self.calls: list[str] = []

    def open(self, group: GroupId, index: int, term: int, size: int | None = None) -> Any:
        assert threading.get_ident() != self.loop_thread
        if self.fail_open is not None:
            raise self.fail_open
        self.opened += 1
        return Reader(self) if size is None else Writer(self, self.directory / f"{group.hex()}-{index}-{term}")


class Reader:
    def __init__(self, files: Files) -> None:
        self.files = files
        self.size = len(files.content) + files.lie_about_size

    def read(self, position: int, length: int) -> bytes:
        assert threading.get_ident() != self.files.loop_thread
        return self.files.content[position : position + length]

    def close(self) -> None:
        self.files.closed += 1


class Writer:
    def __init__(self, files: Files, path: Path) -> None:
        self.files = files
        self.path = path
        self.file = path.open("wb")

    def write(self, position: int, data: bytes) -> None:
        assert threading.get_ident() != self.files.loop_thread
        self.files.calls.append("write")
        if self.files.gate is not None:
            self.files.gate.wait(20)
        if self.files.fail is not None:
            raise self.files.fail
        assert position == self.file.tell()
        self.file.write(data)

    def finish(self) -> str:
        self.files.calls.append("finish")
        self.file.close()
        return str(self.path)

    def abort(self) -> None:
        self.files.calls.append("abort")
        self.file.close()
        self.path.unlink()
        self.files.aborted += 1


async def send(node: Node, peer: int = 2, index: int = 9) -> bool:
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    node.network.send_snapshot(peer, GROUP, index, 4, done.set_result)
    return await asyncio.wait_for(done, 20)


async def sender_and_receiver(make_node: MakeNode, tmp_path: Path, content: bytes, **config: Any) -> tuple[Node, Node, Files, Files]:
    settings = replace(CONFIG, **config)
    one, two = make_node(1, config=settings), make_node(2, config=settings)
    source, receiver = Files(tmp_path, content), Files(tmp_path)
    await one.start(source=source)
    await two.start(receiver=receiver)
    one.network.set_peers({2: two.address})
    return one, two, source, receiver


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 123_456])
async def test_a_snapshot_arrives_whole(make_node: MakeNode, tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chronik_raft")
    content = os.urandom(size)
    one, two, source, receiver = await sender_and_receiver(make_node, tmp_path, content)
    assert await send(one)
    [(peer, group, index, term, path)] = two.recorder.snapshots
    assert (peer, group, index, term) == (1, GROUP, 9, 4)
    assert Path(path).read_bytes() == content
    assert receiver.calls.count("write") == -(-size // 1000)
    assert receiver.aborted == 0
    await until(lambda: source.closed == 1, "the source to be closed")
    assert f"Sending snapshot to follower 2 (size: {size})" in caplog.text
    assert f"Snapshot transfer complete: node=2, size={size}" in caplog.text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "DISK_FULL"),
        (DiskFullError("the reserve is reached"), "DISK_FULL"),
        (OSError(errno.EIO, "Input/output error"), "FAILED"),
        (DamageError("not a snapshot"), "DAMAGED"),
    ],
)
async def test_a_disk_error_of_the_receiver_is_told_and_the_transfer_starts_again(
    make_node: MakeNode, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, kind: str
) -> None:
    content = os.urandom(10_000)
    one, two, _, receiver = await sender_and_receiver(make_node, tmp_path, content)
    receiver.fail = error
    assert not await send(one)
    assert f"Snapshot transfer failed: node=2, group={GROUP.hex()}, index=9, error={kind}" in caplog.text
    await until(lambda: receiver.aborted == 1, "the abort")
    assert list(tmp_path.iterdir()) == []
    receiver.fail, receiver.fail_open = None, error
    assert not await send(one)
    receiver.fail_open = None
    assert await send(one)
    assert Path(two.recorder.snapshots[0][4]).read_bytes() == content


async def test_a_receiver_that_is_too_slow_is_a_time_out(make_node: MakeNode, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two, _, receiver = await sender_and_receiver(make_node, tmp_path, bytes(3000), snapshot_timeout_ms=300)
    receiver.gate = threading.Event()
    assert not await send(one)
    assert "error=TIMEOUT: the receiver did not confirm the snapshot within 0.3 s" in caplog.text
    receiver.gate.set()
    await until(lambda: receiver.aborted == 1, "the abort")
    assert receiver.calls[-1] == "abort"
    assert two.recorder.snapshots == []
    assert await send(one)


async def test_a_second_transfer_of_the_group_waits_for_its_turn(make_node: MakeNode, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two, _, receiver = await sender_and_receiver(make_node, tmp_path, bytes(3000))
    receiver.gate = threading.Event()
    first = asyncio.create_task(send(one))
    await until(lambda: receiver.calls, "the first write")
    assert not await send(one), "the sender itself starts no second one"
    other = make_node(3, config=CONFIG)
    await other.start(source=Files(tmp_path, bytes(2000)))
    other.network.set_peers({2: two.address})
    assert not await send(other), "nor does the receiver take one from another peer"
    assert "another transfer is running" in caplog.text
    receiver.gate.set()
    assert await first
    assert len(two.recorder.snapshots) == 1


async def test_a_sender_that_goes_away_leaves_nothing_behind(make_node: MakeNode, tmp_path: Path) -> None:
    one, two, _, receiver = await sender_and_receiver(make_node, tmp_path, bytes(50_000))
    receiver.gate = threading.Event()
    one.network.send_snapshot(2, GROUP, 9, 4, lambda ok: None)
    await until(lambda: receiver.calls, "the first write")
    await one.network.stop()
    receiver.gate.set()
    await until(lambda: receiver.aborted == 1, "the abort")
    assert receiver.calls[-1] == "abort", "the write that was running ended before the file was removed"
    assert two.recorder.snapshots == []
    assert list(tmp_path.iterdir()) == []


async def test_troubles_of_the_sender(make_node: MakeNode, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two, source, _ = await sender_and_receiver(make_node, tmp_path, bytes(2500))
    source.fail_open = FileNotFoundError("no snapshot")
    assert not await send(one)
    assert "FileNotFoundError" in caplog.text
    source.fail_open, source.lie_about_size = None, 10
    assert not await send(one)
    assert "the snapshot file ends at 2500 of 2510 bytes" in caplog.text
    assert not await send(one, peer=7)
    assert "its address is not known" in caplog.text
    source.lie_about_size = 0
    await two.network.stop()
    assert not await send(one)


def chunk(position: int, data: bytes, total: int, **fields: Any) -> pb.SnapshotChunk:
    values = {
        "cluster_id": CLUSTER,
        "topic_id": GROUP[:16],
        "partition": 3,
        "node_id": 1,
        "incarnation": 1,
        "index": 9,
        "term": 4,
        "total_size": total,
        "position": position,
        "crc": crc32c(data),
        "data": data,
    }
    return pb.SnapshotChunk(**{**values, **fields})


@pytest.mark.parametrize(
    ("chunks", "error", "text"),
    [
        ([chunk(0, b"ab", 4), chunk(3, b"d", 4)], pb.OUT_OF_ORDER, "position 3 came, 2 was expected"),
        ([chunk(0, b"ab", 4), chunk(0, b"ab", 4)], pb.OUT_OF_ORDER, "position 0 came, 2 was expected"),
        ([chunk(0, b"abcde", 4)], pb.TOO_LARGE, "beyond the 4 bytes"),
        ([chunk(0, b"ab", 1 << 50)], pb.TOO_LARGE, "at most"),
        ([chunk(0, b"ab", 4, crc=1)], pb.DAMAGED, "checksum"),
        ([chunk(0, b"ab", 4)], pb.DAMAGED, "ended at 2 of 4"),
        ([], pb.DAMAGED, "before the first chunk"),
        ([chunk(0, b"ab", 4), chunk(2, b"cd", 4, index=8)], pb.REFUSED, "another snapshot"),
        ([chunk(0, b"ab", 2, cluster_id=b"quite-another-id")], pb.REFUSED, "belongs to cluster"),
        ([chunk(0, b"ab", 2, topic_id=b"short")], pb.REFUSED, "names no group"),
    ],
)
async def test_what_a_receiver_refuses(make_node: MakeNode, tmp_path: Path, chunks: list[pb.SnapshotChunk], error: int, text: str) -> None:
    two, receiver = make_node(2), Files(tmp_path)
    await two.start(receiver=receiver)
    async with grpc.aio.insecure_channel(two.address) as channel:
        answer = await rpc.RaftServiceStub(channel).InstallSnapshot(iter(chunks))
    assert not answer.installed
    assert answer.error == error
    assert text in answer.error_text
    await until(lambda: receiver.aborted == receiver.opened, "the abort")
    assert two.recorder.snapshots == []
    assert list(tmp_path.iterdir()) == []


async def test_a_sender_that_pauses_too_long_is_given_up(make_node: MakeNode, tmp_path: Path) -> None:
    two, receiver = make_node(2, config=replace(CONFIG, snapshot_timeout_ms=200)), Files(tmp_path)
    await two.start(receiver=receiver)
    async with grpc.aio.insecure_channel(two.address) as channel:
        call = rpc.RaftServiceStub(channel).InstallSnapshot()
        await call.write(chunk(0, b"ab", 4))
        answer = await call
    assert answer.error == pb.TIMEOUT
    assert answer.position == 2
    await until(lambda: receiver.aborted == 1, "the abort")


async def test_a_chunk_size_that_fits_no_message_is_refused_at_once() -> None:
    with pytest.raises(TransportError, match="max_snapshot_chunk_size"):
        Node(1, config=replace(CONFIG, snapshot_chunk_bytes=64 << 20))
