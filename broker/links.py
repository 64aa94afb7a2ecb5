"""This node's links to other nodes: the gRPC network behind what the broker needs of it, or nothing at all for a node on its own.

Translates the transport's errors into OSError, which is what the callers of other nodes retry on. Imports gRPC only when there is a cluster.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from broker.config import NodeConfig
from broker.metadata.bootstrap import SeedNode
from raft.api import Lane, NetworkHandler
from wal.entry import Buffer, GroupId

if TYPE_CHECKING:
    from raft.transport.network import GrpcNetwork

Method = Callable[[int, bytes], Awaitable[bytes]]


class Links:
    """Fulfils `raft.api.Network`. `peers`: broker id -> "host:port" of the nodes we dial."""

    def __init__(self, config: NodeConfig, random: Random, fatal: Callable[[BaseException], None]) -> None:
        self.seeds = [SeedNode(seed.node_id, seed.address) for seed in config.seeds]
        self.peers: dict[int, str] = {}
        self._config = config
        self._random = random
        self._fatal = fatal
        self._methods: list[tuple[str, Method, bool]] = []
        self._network: GrpcNetwork | None = None

    @property
    def own_address(self) -> str:
        """Where peers reach us."""
        config = self._config
        if config.advertised_raft_address:
            return config.advertised_raft_address
        for seed in self.seeds:
            if seed.node_id == config.node_id:
                return seed.address
        host = config.raft_host if config.raft_host not in ("", "0.0.0.0", "::") else config.advertised_host or "127.0.0.1"
        return f"{host}:{config.raft_port}"

    async def start(self, incarnation: int) -> None:
        """Bind the Raft listener, if this node belongs to a cluster."""
        config = self._config
        if not config.cluster_enabled:
            return
        from raft.transport.network import GrpcNetwork
        from raft.transport.options import Identity, NetworkConfig

        network = config.network
        settings = NetworkConfig(
            listen=f"{config.raft_host}:{config.raft_port}",
            connect_timeout_ms=network.connect_timeout_ms,
            request_timeout_ms=network.request_timeout_ms,
            snapshot_timeout_ms=network.install_snapshot_timeout_s * 1000,
            snapshot_chunk_bytes=config.raft.max_snapshot_chunk_size_bytes,
            keepalive_time_ms=network.keepalive_interval_ms,
            keepalive_timeout_ms=network.keepalive_timeout_ms,
        )
        self._network = GrpcNetwork(Identity(b"", config.node_id, incarnation), settings, self._random, self._fatal)
        for method, handler, open_to_joiners in self._methods:
            self._network.serve(method, handler, open_to_joiners)
        await self._network.start()

    def serve(self, method: str, handler: Method, open_to_joiners: bool = False) -> None:
        self._methods.append((method, handler, open_to_joiners))
        if self._network is not None:
            self._network.serve(method, handler, open_to_joiners)

    def know(self, addresses: Mapping[int, str]) -> None:
        """The other nodes; a node that is missing here is not dialled any more."""
        self.peers = dict(addresses)
        if self._network is not None:
            self._network.set_peers(self.peers)

    def attach(self, handler: NetworkHandler, inspector: Any, source: Any, receiver: Any, cluster_id: bytes) -> None:
        """Sessions may open from now on."""
        if self._network is not None:
            self._network.attach(handler, inspector, source, receiver)
            self._network.set_cluster_id(cluster_id)

    def set_incarnation(self, incarnation: int) -> None:
        if self._network is not None:
            self._network.set_incarnation(incarnation)

    async def stop(self) -> None:
        if self._network is not None:
            await self._network.stop()

    # -- raft.api.Network -----------------------------------------------------------------------------------------

    def send_request(self, peer: int, lane: Lane, parts: Sequence[Buffer]) -> bool:
        return self._network is not None and self._network.send_request(peer, lane, parts)

    def send_answer(self, peer: int, lane: Lane, parts: Sequence[Buffer]) -> bool:
        return self._network is not None and self._network.send_answer(peer, lane, parts)

    def ready(self, peer: int, lane: Lane, outgoing: bool) -> bool:
        return self._network is None or self._network.ready(peer, lane, outgoing)

    def end_incoming(self, peer: int, lane: Lane) -> None:
        if self._network is not None:
            self._network.end_incoming(peer, lane)

    def send_snapshot(self, peer: int, group: GroupId, index: int, term: int, done: Callable[[bool], None]) -> None:
        if self._network is None:
            done(False)
        else:
            self._network.send_snapshot(peer, group, index, term, done)

    # -- calls ----------------------------------------------------------------------------------------------------

    async def call(self, node: int, method: str, payload: bytes, timeout_ms: int) -> bytes:
        """Call a method of a node. Raises OSError when there is no answer."""
        return await self._call(node, method, payload, timeout_ms)

    async def call_address(self, address: str, method: str, payload: bytes, timeout_ms: int) -> bytes:
        """As `call`, by "host:port"."""
        return await self._call(address, method, payload, timeout_ms)

    async def _call(self, target: int | str, method: str, payload: bytes, timeout_ms: int) -> bytes:
        if self._network is None:
            raise ConnectionError("this node is not part of a cluster (cluster.enabled is false)")
        from raft.transport.options import WRONG_CLUSTER_CODE, RemoteError, UnreachableError

        try:
            return await self._network.call(target, method, payload, timeout_ms)
        except UnreachableError as error:
            if error.unknown:
                raise TimeoutError(str(error)) from error
            raise ConnectionRefusedError(str(error)) from error
        except RemoteError as error:
            raise (ConnectionAbortedError if error.code == WRONG_CLUSTER_CODE else ConnectionError)(error.text) from error
