"""Snapshot files between nodes: in chunks, on a connection of their own, so that they never delay appends.

Owns the order, size and checksum of the chunks; knows nothing of the files but the protocols below, whose methods block and are called on one
thread of this module's own. A transfer that failed is cleanly started again from the beginning; at most one runs per group on the receiving side.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import Any, Protocol, TypeVar

import grpc
from crc32c import crc32c

from raft.transport.options import MESSAGE_SIZE_MAX_BYTES, SNAPSHOT_METHOD, NetworkConfig, make_channel, same_bytes
from raft.transport.protobuf import parse, raft_classes
from raft.transport.registry import Registry
from wal.entry import GroupId
from wal.errors import DiskFullError, InvariantError, WalError

logger = logging.getLogger("chronik_raft")

SENDING_MAX = 4
"""Transfers that run at the same time; more wait for their turn."""
WAITING_MAX = 1024
RECEIVING_MAX = 16

_T = TypeVar("_T")


class SnapshotReader(Protocol):
    """A snapshot file opened for sending."""

    size: int  # bytes

    def read(self, position: int, length: int) -> bytes: ...

    def close(self) -> None: ...


class SnapshotSource(Protocol):
    """Where snapshots are sent from. Errors are OSError or WalError."""

    def open(self, group: GroupId, index: int, term: int) -> SnapshotReader: ...


class SnapshotWriter(Protocol):
    """A snapshot file that is being received. Exactly one of finish and abort ends it."""

    def write(self, position: int, data: bytes) -> None: ...

    def finish(self) -> str:
        """Check and fsync the file, give it its name, and return its path."""

    def abort(self) -> None:
        """Remove what was written."""


class SnapshotReceiver(Protocol):
    """Where snapshots are received. Errors are OSError or WalError; DiskFullError and ENOSPC are told apart for the sender."""

    def open(self, group: GroupId, index: int, term: int, size: int) -> SnapshotWriter: ...


class SnapshotTransferError(Exception):
    """`kind` is a name of the protobuf enum SnapshotError; `position` the bytes that had been accepted."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class SnapshotService:
    """Both ends of a transfer. `source` and `receiver` are set before the first one."""

    __slots__ = ("_config", "_receiving", "_registry", "_sending", "_slots", "_threads", "receiver", "source")

    def __init__(self, registry: Registry, config: NetworkConfig) -> None:
        self.source: SnapshotSource | None = None
        self.receiver: SnapshotReceiver | None = None
        self._registry = registry
        self._config = config
        self._sending: set[tuple[int, GroupId]] = set()
        self._receiving: set[GroupId] = set()
        self._slots = asyncio.Semaphore(SENDING_MAX)
        # One thread: a writer's abort can never overtake the write it follows, and journal and segments never wait for a snapshot.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="snapshot-transfer")

    def close(self) -> None:
        self._threads.shutdown(wait=False)

    def may_send(self, peer: int, group: GroupId) -> bool:
        """Whether a transfer of `group` to `peer` may start: none runs, and not too many wait."""
        return (peer, group) not in self._sending and len(self._sending) < WAITING_MAX

    async def send(self, peer: int, address: str, group: GroupId, index: int, term: int) -> bool:
        """Send the snapshot and return whether it was installed; the reason of a failure is logged."""
        self._sending.add((peer, group))
        try:
            async with self._slots:
                size = await self._send(peer, address, group, index, term)
        except InvariantError:
            raise
        except (SnapshotTransferError, OSError, WalError) as error:
            kind = error.kind if isinstance(error, SnapshotTransferError) else type(error).__name__
            logger.warning(
                "Snapshot transfer failed: node=%d, group=%s, index=%d, error=%s: %s; it is tried again", peer, group.hex(), index, kind, error
            )
            return False
        finally:
            self._sending.discard((peer, group))
        logger.info("Snapshot transfer complete: node=%d, size=%d, group=%s, index=%d", peer, size, group.hex(), index)
        return True

    async def _send(self, peer: int, address: str, group: GroupId, index: int, term: int) -> int:
        if self.source is None:
            raise SnapshotTransferError("FAILED", "no snapshots are kept here")
        classes = await raft_classes()
        source = self.source
        reader = await self._blocking(lambda: source.open(group, index, term))
        try:
            size = reader.size
            logger.info("Sending snapshot to follower %d (size: %d), group=%s, index=%d, term=%d", peer, size, group.hex(), index, term)
            channel = make_channel(address, self._config)
            try:
                head = self._chunk_head(classes, group, index, term, size)
                await self._send_chunks(classes, channel, reader, head)
            finally:
                await channel.close(None)
            return size
        finally:
            self._threads.submit(reader.close)

    def _chunk_head(self, classes: ModuleType, group: GroupId, index: int, term: int, size: int) -> Any:
        identity = self._registry.identity
        return classes.SnapshotChunk(
            cluster_id=identity.cluster_id,
            topic_id=group[:16],
            partition=int.from_bytes(group[16:], "big"),
            node_id=identity.node_id,
            incarnation=identity.incarnation,
            index=index,
            term=term,
            total_size=size,
        )

    async def _send_chunks(self, classes: ModuleType, channel: grpc.aio.Channel, reader: SnapshotReader, chunk: Any) -> None:
        timeout_s = self._config.snapshot_timeout_ms / 1000
        call: Any = channel.stream_unary(SNAPSHOT_METHOD, request_serializer=same_bytes, response_deserializer=same_bytes)()  # type: ignore[call-arg]
        position = 0
        try:
            while True:
                length = min(self._config.snapshot_chunk_bytes, chunk.total_size - position)
                data = await self._blocking(partial(reader.read, position, length)) if length else b""
                if len(data) != length:
                    raise SnapshotTransferError("FAILED", f"the snapshot file ends at {position + len(data)} of {chunk.total_size} bytes")
                chunk.position, chunk.data, chunk.crc = position, data, crc32c(data)
                async with asyncio.timeout(timeout_s):
                    await call.write(chunk.SerializeToString())
                position += length
                if position == chunk.total_size:
                    break
            await call.done_writing()
        except TimeoutError:
            raise SnapshotTransferError(
                "TIMEOUT", f"the receiver took no chunk for {timeout_s:g} s, at position {position} of {chunk.total_size}"
            ) from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the call has ended early: its answer says why
        try:
            async with asyncio.timeout(timeout_s):
                answer = parse(classes.InstallSnapshotResponse, await call)
        except TimeoutError:
            raise SnapshotTransferError("TIMEOUT", f"the receiver did not confirm the snapshot within {timeout_s:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise SnapshotTransferError("FAILED", f"{error.code().name}: {error.details()}") from None
        except ValueError as error:
            raise SnapshotTransferError("FAILED", str(error)) from None
        if not answer.installed:
            raise SnapshotTransferError(classes.SnapshotError.Name(answer.error), f"{answer.error_text} (accepted {answer.position} bytes)")

    async def install_snapshot(self, _requests: Any, context: Any) -> bytes:
        """The grpc method: receive one snapshot and answer with how it went."""
        classes = await raft_classes()
        transfer = _Transfer(classes, self._config, self._registry)
        answer = classes.InstallSnapshotResponse(node_id=self._registry.identity.node_id, incarnation=self._registry.identity.incarnation)
        try:
            await self._receive(transfer, context)
            answer.installed = True
        except SnapshotTransferError as error:
            answer.error, answer.error_text = classes.SnapshotError.Value(error.kind), str(error)
            logger.warning("InstallSnapshot from node %d failed: group=%s, error=%s: %s", transfer.sender, transfer.group.hex(), error.kind, error)
        except Exception as error:
            self._registry.fatal(error)
            raise
        answer.cluster_id, answer.topic_id = self._registry.identity.cluster_id, transfer.group[:16]
        answer.partition, answer.position = int.from_bytes(transfer.group[16:], "big"), transfer.position
        return bytes(answer.SerializeToString())

    async def _receive(self, transfer: _Transfer, context: Any) -> None:
        chunk = await self._next_chunk(transfer, context)
        if chunk is None:
            raise SnapshotTransferError("DAMAGED", "the stream ended before the first chunk")
        transfer.begin(chunk)
        group, receiver, handler = transfer.group, self.receiver, self._registry.handler
        if receiver is None or handler is None:
            raise SnapshotTransferError("REFUSED", "this node takes no snapshots yet")
        if group in self._receiving or len(self._receiving) >= RECEIVING_MAX:
            raise SnapshotTransferError("REFUSED", "another transfer is running; try again when it has ended")
        self._receiving.add(group)
        writer: SnapshotWriter | None = None
        try:
            logger.info(
                "InstallSnapshot from node %d: group=%s, index=%d, term=%d, size=%d",
                transfer.sender,
                group.hex(),
                transfer.index,
                transfer.term,
                transfer.size,
            )
            writer = await self._open(receiver, transfer)
            while chunk is not None:
                transfer.check_chunk(chunk)
                if chunk.data:
                    await self._disk(partial(writer.write, chunk.position, chunk.data))
                transfer.position += len(chunk.data)
                chunk = await self._next_chunk(transfer, context)
            if transfer.position != transfer.size:
                raise SnapshotTransferError("DAMAGED", f"the stream ended at {transfer.position} of {transfer.size} bytes")
            path = await self._disk(writer.finish)
            writer = None
        finally:
            self._receiving.discard(group)
            if writer is not None:
                self._threads.submit(_quietly, writer.abort)
        handler.on_snapshot(transfer.sender, group, transfer.index, transfer.term, path)

    async def _open(self, receiver: SnapshotReceiver, transfer: _Transfer) -> SnapshotWriter:
        """Open the file; when the transfer is cancelled meanwhile, the file is removed as soon as it is open."""
        opening = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: receiver.open(transfer.group, transfer.index, transfer.term, transfer.size)
        )
        try:
            return await _translated(asyncio.shield(opening))
        except asyncio.CancelledError:
            opening.add_done_callback(lambda done: self._threads.submit(_quietly, done.result().abort) if done.exception() is None else None)
            raise

    async def _next_chunk(self, transfer: _Transfer, context: Any) -> Any:
        timeout_s = self._config.snapshot_timeout_ms / 1000
        try:
            async with asyncio.timeout(timeout_s):
                data = await context.read()
        except TimeoutError:
            raise SnapshotTransferError("TIMEOUT", f"no chunk came for {timeout_s:g} s at position {transfer.position} of {transfer.size}") from None
        except grpc.aio.BaseError as error:
            raise SnapshotTransferError("DAMAGED", f"the stream broke at position {transfer.position} of {transfer.size}: {error}") from None
        if data is grpc.aio.EOF:  # type: ignore[attr-defined]
            return None
        try:
            return parse(transfer.classes.SnapshotChunk, data)
        except ValueError as error:
            raise SnapshotTransferError("DAMAGED", str(error)) from None

    async def _blocking(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _disk(self, work: Callable[[], _T]) -> _T:
        return await _translated(self._blocking(work))


class _Transfer:
    """What one stream has said so far. Every chunk must say the same of cluster, group, sender and size."""

    __slots__ = ("_config", "_registry", "classes", "group", "incarnation", "index", "position", "sender", "size", "term")

    def __init__(self, classes: ModuleType, config: NetworkConfig, registry: Registry) -> None:
        self.classes = classes
        self._config = config
        self._registry = registry
        self.group = GroupId(b"")
        self.sender = self.incarnation = self.index = self.term = self.size = self.position = 0

    def begin(self, chunk: Any) -> None:
        if len(chunk.topic_id) != 16 or chunk.partition < 0:
            raise SnapshotTransferError("REFUSED", "the chunk names no group")
        self.sender, self.incarnation = chunk.node_id, chunk.incarnation
        identity = self._registry.identity
        refusal = self._registry.refusal(chunk.cluster_id, chunk.node_id, identity.node_id, chunk.incarnation)
        if refusal:
            raise SnapshotTransferError("REFUSED", refusal)
        self.group = GroupId(chunk.topic_id + chunk.partition.to_bytes(4, "big"))
        self.index, self.term, self.size = chunk.index, chunk.term, chunk.total_size
        if self.size > self._config.snapshot_size_bytes_max:
            raise SnapshotTransferError("TOO_LARGE", f"the snapshot has {self.size} bytes, at most {self._config.snapshot_size_bytes_max} are taken")

    def check_chunk(self, chunk: Any) -> None:
        group = chunk.topic_id + chunk.partition.to_bytes(4, "big", signed=True)
        if (group, chunk.node_id, chunk.incarnation, chunk.index, chunk.term, chunk.total_size, chunk.cluster_id) != (
            self.group,
            self.sender,
            self.incarnation,
            self.index,
            self.term,
            self.size,
            self._registry.identity.cluster_id,
        ):
            raise SnapshotTransferError("REFUSED", "a chunk belongs to another snapshot than the first one")
        if chunk.position != self.position:
            raise SnapshotTransferError("OUT_OF_ORDER", f"a chunk for position {chunk.position} came, {self.position} was expected")
        if chunk.position + len(chunk.data) > self.size:
            raise SnapshotTransferError("TOO_LARGE", f"the chunk at {chunk.position} goes beyond the {self.size} bytes that were announced")
        if crc32c(chunk.data) != chunk.crc:
            raise SnapshotTransferError("DAMAGED", f"the chunk at {chunk.position} does not match its checksum")


async def _translated(work: Awaitable[_T]) -> _T:
    """Await disk work; its errors become the answer to the sender."""
    try:
        return await work
    except DiskFullError as error:
        raise SnapshotTransferError("DISK_FULL", f"the receiver's disk is full: {error}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SnapshotTransferError("DISK_FULL", f"the receiver's disk is full: {error}") from None
        raise SnapshotTransferError("FAILED", f"the receiver can not write the snapshot: {error}") from None
    except InvariantError:
        raise
    except WalError as error:
        raise SnapshotTransferError("DAMAGED", f"the receiver does not accept the snapshot: {error}") from None


def _quietly(abort: Callable[[], None]) -> None:
    """Runs on the thread, where nobody waits for the result; a file that could not be removed is removed at the next start."""
    try:
        abort()
    except (OSError, WalError) as error:
        logger.warning("an unfinished snapshot file could not be removed: %s", error)


def chunk_limit_bytes() -> int:
    """The largest `snapshot_chunk_bytes` that fits into a message with its headers."""
    return MESSAGE_SIZE_MAX_BYTES - 4096
