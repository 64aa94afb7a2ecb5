"""Server reflection (`grpcurl list`) and the standard health service. Their libraries take 120 ms to import: at the first question, on a thread."""

from __future__ import annotations

from collections.abc import AsyncIterator
from operator import methodcaller
from typing import Any

import grpc

from raft.transport.options import same_bytes
from raft.transport.protobuf import CLUSTER, RAFT, load, parse

SERVICES = ("chronik.raft.RaftService", "chronik.cluster.ClusterService")
HEALTH_SERVICE = "grpc.health.v1.Health"
REFLECTION_SERVICES = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")  # the same messages under both names

_serialize = methodcaller("SerializeToString")


class Introspection:
    """Health says SERVING from the start of the server until `shut_down`."""

    __slots__ = ("_health", "_reflection")

    def __init__(self) -> None:
        self._health: Any = None
        self._reflection: Any = None

    def handlers(self) -> list[Any]:
        reflection = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                self._reflect, request_deserializer=same_bytes, response_serializer=_serialize
            )
        }
        health = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, request_deserializer=same_bytes, response_serializer=_serialize),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, request_deserializer=same_bytes, response_serializer=_serialize),
        }
        return [
            *(grpc.method_handlers_generic_handler(name, reflection) for name in REFLECTION_SERVICES),
            grpc.method_handlers_generic_handler(HEALTH_SERVICE, health),
        ]

    async def shut_down(self) -> None:
        """Tell those who watch that we are going."""
        if self._health is not None:
            await self._health.enter_graceful_shutdown()

    async def _reflect(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        if self._reflection is None:
            for name in (RAFT, CLUSTER, "grpc_health.v1.health_pb2"):
                await load(name)  # reflection shows what is in the descriptor pool
            library = await load("grpc_reflection.v1alpha.reflection")
            self._reflection = library.aio.ReflectionServicer((*SERVICES, HEALTH_SERVICE, REFLECTION_SERVICES[0]))
        messages = await load("grpc_reflection.v1alpha.reflection_pb2")

        async def parsed() -> AsyncIterator[Any]:
            async for data in requests:
                try:
                    yield parse(messages.ServerReflectionRequest, data)
                except ValueError as error:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

        async for answer in self._reflection.ServerReflectionInfo(parsed(), context):
            yield answer

    async def _check(self, data: bytes, context: Any) -> Any:
        health = await self._load_health()
        return await health.Check(await self._health_request(data, context), context)

    async def _watch(self, data: bytes, context: Any) -> None:
        health = await self._load_health()
        await health.Watch(await self._health_request(data, context), context)

    async def _health_request(self, data: bytes, context: Any) -> Any:
        messages = await load("grpc_health.v1.health_pb2")
        try:
            return parse(messages.HealthCheckRequest, data)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _load_health(self) -> Any:
        if self._health is None:
            library = await load("grpc_health.v1._async")
            messages = await load("grpc_health.v1.health_pb2")
            if self._health is None:
                health = library.HealthServicer()
                for service in SERVICES:
                    await health.set(service, messages.HealthCheckResponse.SERVING)
                self._health = health
        return self._health
