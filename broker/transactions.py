"""The node's part in transactions: its coordinators, its partitions' questions, and the way between nodes for both.

The edge to asyncio of `broker.coordinator.transactions`: calls to other nodes are tasks of this object, and a surprise in one ends the node with its
cause. What is said to this node itself does not leave it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.api import NewTopic
from broker.coordinator.runtime import Shard
from broker.coordinator.transactions.markers import MarkerPartition, MarkerReceiver, SenderParts
from broker.coordinator.transactions.service import ServiceParts, TransactionService
from broker.coordinator.transactions.wire import METHOD_MARKERS, METHOD_VERIFY, Reply
from broker.errors import ErrorCode, KafkaError
from wal.entry import GroupId

if TYPE_CHECKING:
    from broker.node import Node

CALL_TIMEOUT_MS = 3_000
EXISTS_TIMEOUT_MS = 3_000


class Transactions:
    """One per node. Use: `serve` before the links start, `start` when the node serves, `stop` before it stops."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tasks: set[asyncio.Task[None]] = set()
        sender = SenderParts(node.clock, node.leaders, lambda: node.image, self.send, self._topic_exists)
        parts = ServiceParts(node.node_id, sender, node.wall_time_ms, node.settings, self._allocate)
        self.service = TransactionService(parts, MarkerReceiver(node.clock, self._find))

    def observe(self, partition: int) -> Shard:
        """A replica of `__transaction_state` is opened here."""
        self.service.set_incarnation(self._node.incarnation)
        return self.service.observe(partition)

    def serve(self) -> None:
        for method in (METHOD_MARKERS, METHOD_VERIFY):
            self._node.links.serve(method, partial(self._serve, method))

    def start(self) -> None:
        self.service.start()

    def stop(self) -> None:
        self.service.stop()
        for task in self._tasks:
            task.cancel()

    def _find(self, group: GroupId) -> MarkerPartition | None:
        found: MarkerPartition | None = self._node.partitions.by_id.get(group)
        return found

    # -- from node to node ----------------------------------------------------------------------------------------

    def send(self, node: int, method: str, payload: bytes, reply: Reply) -> None:
        """Fulfils `broker.coordinator.transactions.wire.Send`."""
        if node != self._node.node_id:
            self._spawn(self._call(node, method, payload, reply))
        else:
            self.service.serve(node, method, payload, reply)

    async def _call(self, node: int, method: str, payload: bytes, reply: Reply) -> None:
        try:
            answer = await self._node.links.call(node, method, payload, CALL_TIMEOUT_MS)
        except OSError:
            reply(None)
            return
        reply(answer)

    async def _serve(self, method: str, sender: int, payload: bytes) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.service.serve(sender, method, bytes(payload), lambda answer: _complete(future, answer))
        return await future

    # -- the controller -------------------------------------------------------------------------------------------

    def _topic_exists(self, name: str, done: Callable[[bool | None], None]) -> None:
        self._spawn(self._ask_exists(name, done))

    async def _ask_exists(self, name: str, done: Callable[[bool | None], None]) -> None:
        """Whether a topic of this name could not be created: the controller says it from committed metadata, however old our image is."""
        try:
            result = (await self._node.controller.create_topics([NewTopic(name, 1, 1)], EXISTS_TIMEOUT_MS, True))[0]
        except KafkaError:
            done(None)
            return
        if result.error == ErrorCode.TOPIC_ALREADY_EXISTS:
            done(True)
        else:
            done(False if result.error == ErrorCode.NONE else None)

    def _allocate(self, done: Callable[[int | None], None]) -> None:
        self._spawn(self._allocate_id(done))

    async def _allocate_id(self, done: Callable[[int | None], None]) -> None:
        try:
            producer_id = await self._node.controller.allocate_producer_id()
        except KafkaError:
            done(None)
            return
        done(producer_id)

    # -- tasks ----------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                self._node.fatal(error)


def _complete(future: asyncio.Future[bytes], answer: bytes) -> None:
    if not future.done():
        future.set_result(answer)
