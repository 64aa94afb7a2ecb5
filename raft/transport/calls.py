"""ClusterService: calls between nodes that are not Raft's (forwarding to the controller or a coordinator, joining).

Owns the envelope and the channels; knows no method's payload. A call is answered once, never repeated here: whether repeating is safe only the caller
knows. Runs on the loop thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from raft.transport.options import (
    BUSY_CODE,
    CALL_METHOD,
    FAILED_CODE,
    TOO_LARGE_CODE,
    UNKNOWN_METHOD_CODE,
    WRONG_CLUSTER_CODE,
    NetworkConfig,
    RemoteError,
    UnreachableError,
    make_channel,
    same_bytes,
)
from raft.transport.protobuf import cluster_classes, parse
from raft.transport.registry import Registry

logger = logging.getLogger("chronik_cluster")

Method = Callable[[int, bytes], Awaitable[bytes]]

CHANNELS_MAX = 128
RUNNING_MAX = 1024
"""Calls that are executed at the same time; more are refused as busy."""


class CallServer:
    """The methods that other nodes may call. An error that is not a RemoteError is our own: logged, and answered without details of it."""

    __slots__ = ("_methods", "_registry", "_running")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._methods: dict[str, tuple[Method, bool]] = {}
        self._running = 0

    def serve(self, method: str, handler: Method, open_to_joiners: bool) -> None:
        if method in self._methods:
            raise ValueError(f"the method {method!r} is served already")
        self._methods[method] = (handler, open_to_joiners)

    async def execute(self, method: str, sender: int, cluster_id: bytes, payload: bytes) -> bytes:
        """Run one call. RemoteError for everything that went wrong."""
        known = self._methods.get(method)
        if known is None:
            raise RemoteError(UNKNOWN_METHOD_CODE, f"node {self._registry.identity.node_id} serves no method {method!r}")
        handler, open_to_joiners = known
        ours = self._registry.identity.cluster_id
        if not (cluster_id == ours if cluster_id and ours else open_to_joiners):
            raise RemoteError(
                WRONG_CLUSTER_CODE,
                f"node {self._registry.identity.node_id} belongs to cluster {ours.hex() or 'none'}, the caller to {cluster_id.hex() or 'none'}",
            )
        if sender in self._registry.removed:
            raise RemoteError(WRONG_CLUSTER_CODE, f"node {sender} was removed from the cluster")
        if self._running >= RUNNING_MAX:
            raise RemoteError(BUSY_CODE, f"node {self._registry.identity.node_id} executes {RUNNING_MAX} calls already")
        self._running += 1
        try:
            return await handler(sender, payload)
        finally:
            self._running -= 1

    async def call(self, data: bytes, context: Any) -> bytes:
        """The grpc method."""
        classes = await cluster_classes()
        try:
            request = parse(classes.CallRequest, data)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return b""
        identity = self._registry.identity
        answer = classes.CallResponse(node_id=identity.node_id, cluster_id=identity.cluster_id)
        try:
            answer.payload = await self.execute(request.method, request.sender, request.cluster_id, request.payload)
        except RemoteError as error:
            answer.error_code, answer.error = error.code, error.text
        except Exception:
            logger.exception("the call %s of node %d failed", request.method, request.sender)
            answer.error_code, answer.error = FAILED_CODE, f"{request.method} failed on node {identity.node_id}; its log says why"
        return bytes(answer.SerializeToString())


class CallClient:
    """One channel per address, made at the first call; the one that was not used for the longest time is closed when there are too many."""

    __slots__ = ("_channels", "_config", "_registry")

    def __init__(self, registry: Registry, config: NetworkConfig) -> None:
        self._registry = registry
        self._config = config
        self._channels: OrderedDict[str, grpc.aio.Channel] = OrderedDict()

    async def call(self, address: str, method: str, payload: bytes, timeout_ms: int) -> bytes:
        """The answer's payload. RemoteError when the other side answered with an error, UnreachableError when it did not answer."""
        classes = await cluster_classes()
        identity = self._registry.identity
        request = classes.CallRequest(
            method=method, sender=identity.node_id, cluster_id=identity.cluster_id, incarnation=identity.incarnation, payload=payload
        ).SerializeToString()
        channel = await self._channel(address)
        try:
            data = await channel.unary_unary(CALL_METHOD, request_serializer=same_bytes, response_deserializer=same_bytes)(
                request, timeout=timeout_ms / 1000
            )
        except grpc.aio.AioRpcError as error:
            raise _translated(error, address, method, timeout_ms) from None
        try:
            answer = parse(classes.CallResponse, data)
        except ValueError as error:
            raise UnreachableError(f"{address} answered {method} with something else: {error}", unknown=True) from None
        if answer.error_code:
            raise RemoteError(answer.error_code, answer.error)
        return bytes(answer.payload)

    async def close(self) -> None:
        channels = list(self._channels.values())
        self._channels.clear()
        await asyncio.gather(*(channel.close(None) for channel in channels))

    async def _channel(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = make_channel(address, self._config)
            if len(self._channels) > CHANNELS_MAX:
                _, oldest = self._channels.popitem(last=False)
                await oldest.close(self._config.request_timeout_ms / 1000)
        else:
            self._channels.move_to_end(address)
        return channel


def _translated(error: grpc.aio.AioRpcError, address: str, method: str, timeout_ms: int) -> RemoteError | UnreachableError:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnreachableError(f"{address} did not answer {method} within {timeout_ms} ms", unknown=True)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return RemoteError(TOO_LARGE_CODE, f"{method} at {address}: {details}")
    # Only a connection that was never made proves that nothing was executed.
    return UnreachableError(f"{address} is unreachable for {method}: {details}", unknown="failed to connect" not in details.lower())
