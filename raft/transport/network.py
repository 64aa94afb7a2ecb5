"""GrpcNetwork: raft.api.Network over gRPC, and the calls between nodes. Puts the parts of this package together; owns the server and all tasks.

Runs on one asyncio loop; all methods are called on its thread. No task fails silently: what is not a peer's fault goes to `fatal`, which stops the
worker.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any

import grpc

from raft.api import Lane, NetworkHandler
from raft.transport.calls import CallClient, CallServer, Method
from raft.transport.client import PeerLink
from raft.transport.exchange import ExchangeService
from raft.transport.introspection import SERVICES, Introspection
from raft.transport.options import Identity, NetworkConfig, TransportError, UnreachableError, same_bytes, server_options, split_address
from raft.transport.registry import Registry
from raft.transport.services import RaftInspector, UnaryServices
from raft.transport.snapshot import SnapshotReceiver, SnapshotService, SnapshotSource, chunk_limit_bytes
from wal.entry import Buffer, GroupId

logger = logging.getLogger("chronik_raft")


class GrpcNetwork:
    """Order of use: construct, `serve` methods, `start` (binds, and answers calls), `attach` (sessions may open now), `set_peers`, …, `stop`.

    Peers are dialled when the node is attached and has a cluster id.
    """

    __slots__ = (
        "_call_client",
        "_call_server",
        "_config",
        "_ending",
        "_introspection",
        "_links",
        "_peers",
        "_registry",
        "_rng",
        "_server",
        "_snapshots",
        "_tasks",
        "_unary",
        "port",
    )

    def __init__(self, identity: Identity, config: NetworkConfig, rng: Random, fatal: Callable[[BaseException], None]) -> None:
        """`fatal` is called with errors that must stop the worker. `rng` spreads the reconnect attempts."""
        self.port = 0
        self._config = config
        self._rng = rng
        self._registry = Registry(identity, fatal)
        self._peers: dict[int, str] = {}
        self._links: dict[int, list[asyncio.Task[None]]] = {}
        self._ending: dict[int, list[asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._snapshots = SnapshotService(self._registry, config)
        self._unary = UnaryServices(self._registry)
        self._call_server = CallServer(self._registry)
        self._call_client = CallClient(self._registry, config)
        self._introspection = Introspection()
        self._server: grpc.aio.Server | None = None
        if not 0 < config.snapshot_chunk_bytes <= chunk_limit_bytes():
            raise TransportError(f"max_snapshot_chunk_size is {config.snapshot_chunk_bytes}; it must be between 1 and {chunk_limit_bytes()} bytes")

    async def start(self) -> None:
        """Bind and serve. TransportError when the address can not be bound; `port` is the bound port afterwards."""
        host, port = split_address(self._config.listen)
        _check_bindable(host, port)
        server = grpc.aio.server(options=server_options(self._config))
        exchange = ExchangeService(self._registry, self._config).exchange
        raft_methods = {
            **self._unary.handlers(),
            "Exchange": grpc.stream_stream_rpc_method_handler(exchange, request_deserializer=same_bytes, response_serializer=same_bytes),
            "InstallSnapshot": grpc.stream_unary_rpc_method_handler(
                self._snapshots.install_snapshot, request_deserializer=same_bytes, response_serializer=same_bytes
            ),
        }
        call = grpc.unary_unary_rpc_method_handler(self._call_server.call, request_deserializer=same_bytes, response_serializer=same_bytes)
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICES[0], raft_methods),
                grpc.method_handlers_generic_handler(SERVICES[1], {"Call": call}),
                *self._introspection.handlers(),
            )
        )
        try:
            if self._config.server_credentials is not None:
                self.port = server.add_secure_port(self._config.listen, self._config.server_credentials)
            else:
                self.port = server.add_insecure_port(self._config.listen)
        except RuntimeError as error:
            raise TransportError(_bind_text(self._config.listen, str(error))) from None
        if not self.port:
            raise TransportError(_bind_text(self._config.listen, "the address is not available"))
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Close all sessions and the server. The handler hears nothing more."""
        self._registry.stopping = True
        await self._introspection.shut_down()
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        for sessions in self._registry.incoming:
            for session in [*sessions.values()]:
                session.end("the node stops")
        if tasks:
            await asyncio.wait(tasks)
        self._links.clear()
        await self._call_client.close()
        if self._server is not None:
            await self._server.stop(0.3)
            self._server = None
        self._snapshots.close()

    def attach(
        self,
        handler: NetworkHandler,
        inspector: RaftInspector | None = None,
        source: SnapshotSource | None = None,
        receiver: SnapshotReceiver | None = None,
    ) -> None:
        """Say who hears of sessions and messages, who answers the unary methods, and where snapshot files come from and go."""
        self._registry.handler = handler
        self._unary.inspector = inspector
        self._snapshots.source = source
        self._snapshots.receiver = receiver
        self._dial()

    def set_cluster_id(self, cluster_id: bytes) -> None:
        """The cluster was created or joined: 16 bytes. Peers are dialled from now on."""
        if len(cluster_id) != 16:
            raise ValueError("a cluster id has 16 bytes")
        self._registry.identity.cluster_id = cluster_id
        self._dial()

    def set_incarnation(self, incarnation: int) -> None:
        """Before the cluster id is set: a data directory that takes the place of a lost one goes on behind the runs that peers have seen of that."""
        self._registry.identity.incarnation = incarnation

    def set_peers(self, peers: Mapping[int, str], removed: frozenset[int] = frozenset()) -> None:
        """The other nodes as broker id → "host:port" (our own id is ignored), and the ids removed for ever. Sessions with peers that stay go on."""
        wanted = {peer: address for peer, address in peers.items() if peer != self._registry.identity.node_id and peer not in removed}
        for peer, address in self._peers.items():
            if wanted.get(peer) != address:
                links = self._links.pop(peer, [])
                self._ending[peer] = [task for task in self._ending.get(peer, []) if not task.done()] + links
                for task in links:
                    task.cancel()
        self._peers = wanted
        self._registry.removed = removed
        self._registry.forget(removed)
        self._dial()

    def send_request(self, peer: int, lane: Lane, parts: Sequence[Buffer]) -> bool:
        session = self._registry.outgoing[lane].get(peer)
        return session is not None and session.offer(parts)

    def send_answer(self, peer: int, lane: Lane, parts: Sequence[Buffer]) -> bool:
        session = self._registry.incoming[lane].get(peer)
        return session is not None and session.offer(parts)

    def ready(self, peer: int, lane: Lane, outgoing: bool) -> bool:
        session = (self._registry.outgoing if outgoing else self._registry.incoming)[lane].get(peer)
        return session is None or session.ready()

    def end_incoming(self, peer: int, lane: Lane) -> None:
        session = self._registry.incoming[lane].get(peer)
        if session is not None:
            session.end("answers were lost with our own session")

    def send_snapshot(self, peer: int, group: GroupId, index: int, term: int, done: Callable[[bool], None]) -> None:
        address = self._peers.get(peer)
        if address is None or not self._snapshots.may_send(peer, group):
            logger.warning(
                "no snapshot is sent to node %d: %s",
                peer,
                "its address is not known" if address is None else "a transfer is running or too many wait",
            )
            asyncio.get_running_loop().call_soon(done, False)
            return

        async def transfer() -> None:
            done(await self._snapshots.send(peer, address, group, index, term))

        self._spawn(transfer(), f"snapshot to node {peer}")

    async def call(self, node: int | str, method: str, payload: bytes, timeout_ms: int | None = None) -> bytes:
        """Call `method` of a peer, by broker id or "host:port". RemoteError when it answered with an error, UnreachableError when it did not."""
        if node == self._registry.identity.node_id:
            identity = self._registry.identity
            return await self._call_server.execute(method, identity.node_id, identity.cluster_id, payload)
        address = self._peers.get(node) if isinstance(node, int) else node
        if address is None:
            raise UnreachableError(f"the address of node {node} is not known", unknown=False)
        return await self._call_client.call(address, method, payload, self._config.request_timeout_ms if timeout_ms is None else timeout_ms)

    def serve(self, method: str, handler: Callable[[int, bytes], Awaitable[bytes]], open_to_joiners: bool = False) -> None:
        """Answer `method` by `handler(sender, payload)`; it raises RemoteError to answer with an error. Joiners may call without a cluster id."""
        typed: Method = handler
        self._call_server.serve(method, typed, open_to_joiners)

    def sessions(self) -> list[tuple[int, Lane, bool, int, int]]:
        """Open sessions as (peer, lane, outgoing, incarnation, queued bytes), for status pages."""
        tables = (*self._registry.outgoing, *self._registry.incoming)
        return [(s.peer, s.lane, s.outgoing, s.incarnation, s.queued_bytes) for table in tables for s in table.values()]

    def _dial(self) -> None:
        registry = self._registry
        if registry.handler is None or not registry.identity.cluster_id or registry.stopping:
            return
        for peer, address in self._peers.items():
            if peer not in self._links:
                earlier = [task for task in self._ending.pop(peer, []) if not task.done()]
                links = (PeerLink(registry, self._config, self._rng, peer, lane, address) for lane in Lane)
                self._links[peer] = [self._spawn(_run_after(earlier, link), f"link to node {peer}") for link in links]

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._registry.fatal(error)


async def _run_after(earlier: Sequence[asyncio.Task[None]], link: PeerLink) -> None:
    """The handler hears the loss of the sessions with a peer's former address before the first one with its new address opens."""
    if earlier:
        await asyncio.wait(earlier)
    await link.run()


def _check_bindable(host: str, port: int) -> None:
    """Try the address with a plain socket: grpc only says that it failed, and writes to stderr."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno is not None and error.errno in errno.errorcode else str(error)
        raise TransportError(_bind_text(f"{host}:{port}", reason)) from None


def _bind_text(address: str, reason: str) -> str:
    return f"can not listen for other nodes on {address}: {reason}; stop the process that holds the port, or set another node_addr in [cluster]"
