"""`broker.api.Controller` on every node: a change goes to the leader of `__meta`, wherever it is, and is answered once this node's own image has it.

An attempt whose answer is lost is repeated under the same request id until the caller's time is up; the state machine recognises the repetition, so
that a topic is never "already there" because of ourselves. What is not answered in time is unknown: REQUEST_TIMED_OUT, never a definite failure.
The edge to asyncio of this package: everything it waits for is a future that the machine or the clock completes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from broker.api import NewTopic, TopicResult
from broker.errors import ErrorCode, KafkaError
from broker.metadata.builder import topic_image
from broker.metadata.draft import ItemResult, OperationResult
from broker.metadata.image import MetadataImage, TopicImage
from broker.metadata.machine import MetadataMachine, PendingOperation
from broker.metadata.operations import (
    PRODUCER_ID_BLOCK_SIZE,
    AllocateProducerIds,
    AlterReassignments,
    AssignReplicas,
    BumpGeneration,
    ConfigChange,
    ConfirmDeletion,
    ConfirmRemovals,
    CreateCluster,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    Operation,
    PartitionsSpec,
    Reassignment,
    RegisterBroker,
    SetConfigs,
    SettleReassignment,
    TopicKey,
    TopicSpec,
    UnregisterBroker,
)
from raft.api import Clock

METHOD_SUBMIT = "meta.submit"
ANONYMOUS = "User:ANONYMOUS"

ATTEMPT_MS_MAX = 3_000
"""One attempt; a leader that hangs must not eat up the caller's whole time. Repeating is safe."""
BACKOFF_MS_MIN, BACKOFF_MS_MAX = 20, 500
TIMEOUT_MS_MIN = 100
OWN_TIMEOUT_MS = 10_000
"""For what the broker itself asks for."""

Call = Callable[[int, str, bytes, int], Awaitable[bytes]]
"""(node id, method, payload, timeout_ms) -> answer. Raises OSError (ConnectionError, TimeoutError) when there is none."""

_RETRIED = frozenset({ErrorCode.NOT_CONTROLLER, ErrorCode.REQUEST_TIMED_OUT, ErrorCode.THROTTLING_QUOTA_EXCEEDED})


class SubmitRequest(msgspec.Struct, frozen=True):
    request_id: bytes
    principal: str
    operation: Operation


class SubmitResponse(msgspec.Struct, frozen=True):
    """`version`: an image at least this new shows the result."""

    result: OperationResult
    version: int


_encode = msgspec.msgpack.encode
_request_decoder = msgspec.msgpack.Decoder(SubmitRequest)
_response_decoder = msgspec.msgpack.Decoder(SubmitResponse)
_NO_LEADER = SubmitResponse(OperationResult(int(ErrorCode.NOT_CONTROLLER), "no leader of __meta is known"), 0)
_NO_ANSWER = SubmitResponse(OperationResult(int(ErrorCode.REQUEST_TIMED_OUT), "the leader of __meta did not answer"), 0)


async def sleep(clock: Clock, delay_ms: int) -> None:
    """Wait on `clock`, real or simulated."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    clock.call_later(delay_ms, lambda: _complete(future))
    await future


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Controller:
    """See the module. `new_id` gives 16 random bytes. All methods raise KafkaError(REQUEST_TIMED_OUT) when the outcome is unknown, except those that
    answer per topic, which tell it there.

    Invariant: `_producer_id` < `_producer_id_end` are ids of a block that only this node has.
    """

    __slots__ = (
        "_call",
        "_clock",
        "_machine",
        "_new_id",
        "_node_id",
        "_producer_fetch",
        "_producer_id",
        "_producer_id_end",
        "_waiters",
        "controller_id",
    )

    def __init__(self, node_id: int, machine: MetadataMachine, call: Call, clock: Clock, new_id: Callable[[], bytes]) -> None:
        self._node_id = node_id
        self._machine = machine
        self._call = call
        self._clock = clock
        self._new_id = new_id
        self._producer_id = 0
        self._producer_id_end = 0
        self._producer_fetch: asyncio.Future[KafkaError | None] | None = None
        self._waiters: dict[asyncio.Future[None], int] = {}
        self.controller_id = machine.leader_node or -1  # broker id of the leader of __meta, -1 unknown
        machine.add_listener(self._on_image)
        machine.add_leader_listener(self._on_leader)

    def _on_leader(self) -> None:
        self.controller_id = self._machine.leader_node or -1

    async def create_topics(
        self, topics: Sequence[NewTopic], timeout_ms: int, validate_only: bool, principal: str = ANONYMOUS
    ) -> Sequence[TopicResult]:
        specs = tuple(
            TopicSpec(
                topic.name,
                self._new_id(),
                topic.partitions,
                topic.replication_factor,
                {partition: tuple(replicas) for partition, replicas in topic.assignments.items()},
                dict(topic.configs),
            )
            for topic in topics
        )
        result = await self._submit_items(CreateTopics(specs, validate_only), timeout_ms, principal)
        return self._topic_results(result, len(specs))

    async def delete_topics(self, topics: Sequence[str | bytes], timeout_ms: int, principal: str = ANONYMOUS) -> Sequence[TopicResult]:
        """Names or 16-byte ids. A result's topic has name and id only."""
        keys = tuple(TopicKey(name=topic) if isinstance(topic, str) else TopicKey(topic_id=bytes(topic)) for topic in topics)
        result = await self._submit_items(DeleteTopics(keys), timeout_ms, principal)
        return self._topic_results(result, len(keys))

    async def create_partitions(
        self,
        topics: Sequence[tuple[str, int, Sequence[Sequence[int]] | None]],
        timeout_ms: int,
        validate_only: bool,
        principal: str = ANONYMOUS,
    ) -> Sequence[TopicResult]:
        specs = tuple(
            PartitionsSpec(name, count, None if assignments is None else tuple(tuple(replicas) for replicas in assignments))
            for name, count, assignments in topics
        )
        result = await self._submit_items(CreatePartitions(specs, validate_only), timeout_ms, principal)
        return self._topic_results(result, len(specs))

    async def allocate_producer_id(self) -> int:
        """A producer id that nobody has had. Ids of a block that was not used up before a restart are lost."""
        while self._producer_id == self._producer_id_end:
            if self._producer_fetch is None:
                await self._fetch_producer_ids()
            elif (error := await asyncio.shield(self._producer_fetch)) is not None:
                raise KafkaError(error.code, error.message)
        self._producer_id += 1
        return self._producer_id - 1

    async def _fetch_producer_ids(self) -> None:
        """Take a block; who asks meanwhile waits for `_producer_fetch`, which tells an error if there was one."""
        fetch: asyncio.Future[KafkaError | None] = asyncio.get_running_loop().create_future()
        self._producer_fetch = fetch
        failure: KafkaError | None = None
        try:
            first = (await self.submit(AllocateProducerIds(), OWN_TIMEOUT_MS)).value
            self._producer_id, self._producer_id_end = first, first + PRODUCER_ID_BLOCK_SIZE
        except KafkaError as error:
            failure = error
            raise
        finally:
            self._producer_fetch = None
            fetch.set_result(failure)

    async def create_cluster(self, cluster_id: str) -> None:
        """Idempotent; for the node that bootstraps."""
        await self.submit(CreateCluster(cluster_id), OWN_TIMEOUT_MS)

    async def register_broker(self, registration: RegisterBroker, timeout_ms: int = OWN_TIMEOUT_MS) -> int:
        """Returns the broker's generation. Raises KafkaError(INVALID_REQUEST) when the broker is refused for good."""
        return (await self.submit(registration, timeout_ms)).value

    async def unregister_broker(self, node_id: int, timeout_ms: int = OWN_TIMEOUT_MS) -> None:
        await self.submit(UnregisterBroker(node_id), timeout_ms)

    async def confirm_deletion(self, topic_ids: Sequence[bytes], timeout_ms: int = OWN_TIMEOUT_MS) -> None:
        """This node holds no data of these topics any more."""
        await self.submit(ConfirmDeletion(self._node_id, tuple(topic_ids)), timeout_ms)

    async def set_configs(
        self, resource_type: int, name: str, changes: Sequence[tuple[str, str | None]], timeout_ms: int, validate_only: bool = False
    ) -> None:
        """`resource_type` 2 topic, 4 broker (`name` "" = all brokers); a value of None removes the setting."""
        await self.submit(SetConfigs(resource_type, name, tuple(ConfigChange(key, value) for key, value in changes), validate_only), timeout_ms)

    async def alter_configs(
        self, resource_type: int, name: str, changes: Sequence[tuple[str, str | None, int]], timeout_ms: int, validate_only: bool, replace: bool
    ) -> None:
        """As `set_configs`, each change with its operation (`ConfigOp`); `replace` removes every setting that is not named."""
        operation = SetConfigs(resource_type, name, tuple(ConfigChange(*change) for change in changes), validate_only, replace)
        await self.submit(operation, timeout_ms)

    async def alter_reassignments(
        self, items: Sequence[tuple[str, int, Sequence[int] | None]], timeout_ms: int, change_factor: bool = True
    ) -> Sequence[TopicResult]:
        """(topic, partition, wished replicas or None to cancel); one result each."""
        wishes = tuple(Reassignment(topic, number, None if replicas is None else tuple(replicas)) for topic, number, replicas in items)
        result = await self._submit_items(AlterReassignments(wishes, change_factor), timeout_ms, ANONYMOUS)
        if result.error:
            return [TopicResult(ErrorCode(result.error), result.message)] * len(wishes)
        return [TopicResult(ErrorCode(item.error), item.message) for item in result.items]

    async def settle_reassignment(self, topic_id: bytes, partition: int, replicas: Sequence[int], timeout_ms: int = OWN_TIMEOUT_MS) -> None:
        """The group that this node leads has exactly the wished replicas."""
        await self.submit(SettleReassignment(topic_id, partition, tuple(replicas)), timeout_ms)

    async def confirm_removals(self, groups: Sequence[bytes], timeout_ms: int = OWN_TIMEOUT_MS) -> None:
        """This node holds nothing any more of its former replicas of these groups."""
        await self.submit(ConfirmRemovals(self._node_id, tuple(groups)), timeout_ms)

    async def assign_replicas(self, topic: str, partition: int, replicas: Sequence[int], timeout_ms: int) -> None:
        await self.submit(AssignReplicas(topic, partition, tuple(replicas)), timeout_ms)

    async def bump_generation(self, group: bytes, lost_generation: int, timeout_ms: int = OWN_TIMEOUT_MS) -> int:
        """A new generation for this node's replica of `group`, whose vote is not known any more."""
        return (await self.submit(BumpGeneration(self._node_id, group, lost_generation), timeout_ms)).value

    async def submit(self, operation: Operation, timeout_ms: int, principal: str = ANONYMOUS) -> OperationResult:
        """Carry out one operation; returns when the own image shows it. Raises KafkaError when it was refused or is unknown."""
        deadline_ms = self._clock.now_ms() + max(timeout_ms, TIMEOUT_MS_MIN)
        request = SubmitRequest(self._new_id(), principal, operation)
        backoff_ms = BACKOFF_MS_MIN
        while True:
            response = await self._attempt(request, deadline_ms)
            if response.result.error not in _RETRIED:
                break
            remaining_ms = deadline_ms - self._clock.now_ms()
            if remaining_ms <= 0:
                text = f"the change was not confirmed within {timeout_ms} ms ({response.result.message}); it may or may not have happened"
                raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, text)
            await sleep(self._clock, min(backoff_ms, remaining_ms))
            backoff_ms = min(2 * backoff_ms, BACKOFF_MS_MAX)
        response.result.raise_error()
        await self._wait_for(response.version, deadline_ms)
        return response.result

    async def _attempt(self, request: SubmitRequest, deadline_ms: int) -> SubmitResponse:
        """One try at whoever leads now; errors of the way there become an error of the response."""
        timeout_ms = min(deadline_ms - self._clock.now_ms(), ATTEMPT_MS_MAX)
        if timeout_ms <= 0:
            return _NO_ANSWER
        if self._machine.serving:
            return await self._submit_here(request, timeout_ms)
        leader = self._machine.leader_node
        if leader in (0, self._node_id):
            return _NO_LEADER
        try:
            answer = await self._call(leader, METHOD_SUBMIT, _encode(request), timeout_ms)
        except OSError as error:
            return SubmitResponse(OperationResult(int(ErrorCode.REQUEST_TIMED_OUT), f"broker {leader} did not answer: {type(error).__name__}"), 0)
        return _response_decoder.decode(answer)

    async def _submit_here(self, request: SubmitRequest, timeout_ms: int) -> SubmitResponse:
        future: asyncio.Future[SubmitResponse] = asyncio.get_running_loop().create_future()

        def answer(response: SubmitResponse) -> None:
            if not future.done():
                future.set_result(response)

        pending = PendingOperation(
            request.operation, lambda result, version: answer(SubmitResponse(result, version)), request.request_id, request.principal
        )
        self._machine.submit(pending)
        self._clock.call_later(timeout_ms, lambda: answer(_NO_ANSWER))
        try:
            return await future
        finally:
            pending.cancelled = True  # if nobody began it yet, nobody does

    async def handle_submit(self, payload: bytes, timeout_ms: int) -> bytes:
        """The peer's side of METHOD_SUBMIT. A payload that can not be decoded is answered INVALID_REQUEST (a peer of another version)."""
        try:
            request = _request_decoder.decode(payload)
        except msgspec.MsgspecError as error:
            text = f"the controller does not understand the request: {error}"
            return _encode(SubmitResponse(OperationResult(int(ErrorCode.INVALID_REQUEST), text), 0))
        return _encode(await self._submit_here(request, min(max(timeout_ms, 1), ATTEMPT_MS_MAX)))

    async def _wait_for(self, version: int, deadline_ms: int) -> None:
        if self._machine.image.version >= version:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[future] = version
        self._clock.call_later(max(deadline_ms - self._clock.now_ms(), 1), lambda: _complete(future))
        try:
            await future
        finally:
            self._waiters.pop(future, None)
        if self._machine.image.version < version:
            text = "the change is committed, but this broker has not learned of it in time"
            raise KafkaError(ErrorCode.REQUEST_TIMED_OUT, text)

    def _on_image(self, _old: MetadataImage, new: MetadataImage) -> None:
        for future, version in list(self._waiters.items()):
            if version <= new.version:
                _complete(future)

    async def _submit_items(self, operation: Operation, timeout_ms: int, principal: str) -> OperationResult:
        try:
            return await self.submit(operation, timeout_ms, principal)
        except KafkaError as error:
            return OperationResult.of(error)

    def _topic_results(self, result: OperationResult, count: int) -> list[TopicResult]:
        if result.error:
            return [TopicResult(ErrorCode(result.error), result.message)] * count
        return [self._topic_result(item) for item in result.items]

    def _topic_result(self, item: ItemResult) -> TopicResult:
        if item.error:
            topic = TopicImage(item.name, item.topic_id, ()) if item.name or item.topic_id else None
            return TopicResult(ErrorCode(item.error), item.message, topic)
        if item.topic is not None:
            return TopicResult(ErrorCode.NONE, None, topic_image(item.topic))
        return TopicResult(ErrorCode.NONE, None, self._machine.image.topics_by_id.get(item.topic_id) or TopicImage(item.name, item.topic_id, ()))
