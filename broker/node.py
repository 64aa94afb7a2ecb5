"""The composition root: one node from its configuration to its last message.

Owns the order of start and stop and nothing else; each part keeps its own rules. Start: data directory and recovery, Raft listener, bootstrap or
join, `__meta`, partitions, registration, Kafka listener, admin. Until the node knows its cluster no session with a peer is opened. A fatal error
anywhere (a failed fsync, a broken invariant) acknowledges nothing more and ends the process with its cause.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from broker.administration import METHOD_QUORUM, Administration
from broker.config import NodeConfig
from broker.coordinator.coordination import Coordination
from broker.coordinator.internal_topics import TRANSACTIONS_TOPIC
from broker.errors import ErrorCode, KafkaError
from broker.handlers.registry import register_all
from broker.housekeeping import METHOD_CHANGE, Housekeeping
from broker.inspector import Inspector
from broker.links import Links
from broker.meta_group import MetaGroup
from broker.metadata.controller import METHOD_SUBMIT, Controller
from broker.metadata.draft import ControllerPolicy
from broker.metadata.identity import Identity, IdentityStore, as_member
from broker.metadata.image import MetadataImage
from broker.metadata.joiner import METHOD_INFO, METHOD_JOIN, BootstrapResult, Joiner, JoinHandler, refusal_of
from broker.metadata.leaders import LeaderTable
from broker.metadata.machine import MetadataMachine
from broker.metadata.operations import RegisterBroker, disowned_text
from broker.network.connection import ConnectionLimits
from broker.network.dispatcher import Dispatcher
from broker.network.listener import KafkaListener
from broker.network.pressure import Pressure
from broker.network.stats import NetworkStats
from broker.partition.config import TopicConfig
from broker.partition.context import PartitionContext
from broker.partition.read_cache import ReadCache
from broker.reassignments import METHOD_IS_MEMBER, Reassignments
from broker.records.reader import max_timestamp
from broker.replicas import Replicas
from broker.runtime import LoopClock, NodeDisk
from broker.settings import BROKER_SETTINGS, TOPIC_SETTINGS, without_effect
from broker.settings.live import LiveSettings
from broker.transactions import Transactions
from broker.view import NodeView
from raft.core.core import CoreLimits
from raft.core.membership import encode, simple
from raft.driver import Driver, DriverSettings, World
from raft.driver import Identity as DriverIdentity
from raft.group import RaftGroup
from raft.liveness import Timing
from raft.wire import LeaderNews
from wal.entry import META_GROUP, META_TOPIC, Buffer
from wal.errors import DamageError, DataDirectoryError
from wal.faults import file_system
from wal.filesystem import write_durably
from wal.metrics import Histogram
from wal.settings import WalSettings, profile_limits
from wal.store import WalStore

log = logging.getLogger("chronik_server")

ServeAdmin = Callable[[NodeView, str, int], Awaitable[Any]]
REGISTER_TIMEOUT_MS = 3_000
INCARNATION_FILE = "incarnation"
STOP_GRACE_MS = 3_000
ASK_SEEDS_S, SEEDS_ANSWER_S = 1.0, 0.2
DISK_GRACE_S = 5.0
FAREWELL_S = 0.3
FLUSH_BUCKETS_MS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def newest_timestamp(chunks: Sequence[Buffer]) -> int:
    """For the log's time index: largest timestamp in ms of a stored payload, -1 for one that holds no record batches (those of `__meta`)."""
    try:
        return max_timestamp(chunks)
    except DamageError:
        return -1


def _random_id() -> bytes:
    return os.urandom(16)


class Node:
    """One running node. Fulfils `broker.api.Broker` for the handlers and `raft.driver.DriverEvents` for the driver."""

    def __init__(self, config: NodeConfig, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.node_id = config.node_id
        self.static_settings: Mapping[str, object] = config.kafka_settings()
        self.settings = LiveSettings(self.static_settings, self.node_id)
        self.clock = LoopClock(loop)
        self.disk = NodeDisk(loop)
        self.random = Random(os.urandom(16))
        self.files = file_system()
        self.directory = str(config.data_dir)
        self.started_ms = self.clock.now_ms()
        self.stats = NetworkStats()
        self.flush_ms = Histogram(FLUSH_BUCKETS_MS)
        self.pressure = Pressure()
        self.leaders = LeaderTable()
        self.machine = MetadataMachine(self._policy())
        self.failure: asyncio.Future[BaseException] = loop.create_future()
        self.stage = "not_initialized"
        self.reasons: tuple[str, ...] = ()
        self.identity: Identity | None = None
        self.incarnation = 0
        self.identities = IdentityStore(self.files, self.directory)
        self.store: Any = None
        self.driver: Any = None
        self.partitions: Any = None
        self.meta: Any = None
        self.listener: Any = None
        self.links = Links(config, self.random, self.fatal)
        self.controller = Controller(self.node_id, self.machine, self.links.call, self.clock, _random_id)
        self.housekeeping = Housekeeping(self)
        self.reassignments = Reassignments(self)
        self.administration = Administration(self)
        self.transacting = Transactions(self)
        self.transactions = self.transacting.service
        self.coordination = Coordination(self, lambda: len(self.links.seeds))
        self.coordination.add(TRANSACTIONS_TOPIC, self.transacting.observe)
        self._without_effect: set[str] = set()
        self.view = NodeView(self)
        self._admin: Any = None
        self._first_peers: dict[int, str] = {}

    # -- broker.api.Broker ----------------------------------------------------------------------------------------

    @property
    def image(self) -> MetadataImage:
        return self.machine.image

    def wall_time_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # -- raft.driver.DriverEvents ---------------------------------------------------------------------------------

    def on_fatal(self, error: BaseException) -> None:
        self.fatal(error)

    def fatal(self, error: BaseException) -> None:
        """Acknowledge nothing more; `run_node` ends with the error."""
        if self.driver is not None:
            self.driver.stop()
        if not self.failure.done():
            self.failure.set_result(error)

    def on_news(self, sender: int, news: LeaderNews) -> None:
        self.leaders.observe(sender, ((news.group, news.term, news.isr),))

    def on_flush(self, milliseconds: int, size_bytes: int) -> None:
        self.flush_ms.observe(milliseconds)
        self.housekeeping.watch_pressure()

    def on_snapshot_needed(self, group: RaftGroup, replica: int, index: int, term: int) -> None:
        if group.group_id == META_GROUP:
            self.meta.send_snapshot(group, replica, index)
        else:
            self.partitions.refuse_snapshot(group, replica, index)

    def on_snapshot_received(self, group: RaftGroup, index: int, term: int, path: str) -> None:
        self.meta.on_received(group, index, path)

    def on_peer_lost(self, peer: int) -> None:
        self.leaders.node_gone(peer)

    def on_peer_silent(self, peer: int, silent: bool) -> None:
        if silent:
            self.leaders.node_silent(peer)
        else:
            self.leaders.node_heard(peer)

    def on_leader(self, group: RaftGroup) -> None:
        if group.group_id == META_GROUP:
            self.leaders.set(META_GROUP, group.term, group.leader or -1, None)
            self.meta.update_isr()
        else:
            self.partitions.on_leader(group)

    # -- start ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Everything up to the open Kafka port. Raises what `cli.exits` explains to the user."""
        data_exists = self.identities.data_exists(("lock", "LOCK", "incarnation"))
        self.store = WalStore.open(self.files, self.directory, self._wal_settings(), newest_timestamp)
        self.incarnation = self._next_incarnation()
        self.identity = self.identities.load()
        await self.links.start(self.incarnation)
        self._serve_peers()
        joiner = Joiner(self._registration(), self.links.seeds, self.identities, self.links.call_address, self.clock, _random_id)
        waiting = asyncio.get_running_loop().call_later(1.0, self._watch_joiner, joiner)
        self.stage = "joining"
        found = await joiner.run(data_exists)
        waiting.cancel()
        self.reasons = ()
        self._open_meta(found)
        self.stage = "catching_up"
        await self._register(found.identity, joiner)
        await self._listen()
        self.stage = "ready"
        self._know_peers(self.image)
        self.housekeeping.start()
        self.transacting.start()

    def _watch_joiner(self, joiner: Joiner) -> None:
        self.reasons = joiner.reasons
        if self.stage == "joining":
            asyncio.get_running_loop().call_later(0.5, self._watch_joiner, joiner)

    def _open_meta(self, found: BootstrapResult) -> None:
        """From here on the node takes part: `__meta` is on disk before anything of it is said."""
        config, identity = self.config, found.identity
        if META_GROUP not in self.store.groups:
            if identity.state == "member":
                raise DataDirectoryError(
                    f"the data directory belongs to a member of the cluster, but the log of {META_TOPIC} is missing in it; restore its files from a "
                    f"copy, or remove broker {self.node_id} from the cluster (unregister it) and start it with an empty data directory"
                )
            own = self.node_id + (identity.generation << 32)
            voters = {own} if identity.state == "creating" else {member.replica_id for member in found.voters}
            learners = {member.replica_id for member in found.learners} - voters if identity.state != "creating" else set()
            self.store.create_group(META_GROUP, META_TOPIC, encode(simple(voters, learners)))
            self._flush_now()
        if identity.state != "member":
            identity = as_member(identity)
            self.identities.save(identity)
        self.identity = identity
        self._continue_incarnations(identity.generation)
        cluster_id = bytes.fromhex(identity.cluster_id)
        raft = config.raft
        timing = Timing(raft.heartbeat_interval_ms, raft.election_timeout_ms, raft.election_timeout_ms_max)
        limits = CoreLimits(
            config.network.max_message_size_bytes, raft.max_in_flight if raft.enable_pipeline else 1, 64 << 20, raft.max_payload_entries
        )
        world = World(self.clock, self.disk, self.links, self.random)
        settings = DriverSettings(timing, limits, max_message_bytes=config.network.max_message_size_bytes)
        self.driver = Driver(DriverIdentity(self.node_id, cluster_id, self.incarnation), self.store, world, settings, self)
        self.partitions = Replicas(
            self.node_id, self.store, self.driver, self.leaders, self._partition_context(), self._topic_config, self.housekeeping.confirm_deletion
        )
        self.partitions.generation = identity.generation
        self.meta = MetaGroup(self)
        self._first_peers = {node_id: address for node_id, address in _addresses(found).items() if node_id != self.node_id}
        self.meta.open(identity.generation)
        refusal = disowned_text(self.machine.image, identity)
        if refusal:
            raise DataDirectoryError(refusal)
        self.partitions.open_recovered()
        self.machine.add_listener(self._on_image)  # only now: a restored image names replicas that recovery has found
        self._know_peers(self.machine.image)
        self._on_image(MetadataImage(), self.machine.image)
        self.driver.start()
        self.links.attach(self.driver, Inspector(self), self.meta.files.source, self.meta.files.receiver, cluster_id)

    def _flush_now(self) -> None:
        """Only while starting: nothing else runs yet."""
        while (job := self.store.next_flush()) is not None:
            job.run()
            job.complete()

    def _on_image(self, old: MetadataImage, new: MetadataImage) -> None:
        if old.brokers is not new.brokers:
            self._know_peers(new)
        if old.broker_configs is not new.broker_configs:
            self._on_broker_configs(new)
        self.partitions.on_image(old, new)
        self.coordination.on_image(old, new)
        if old.topics is not new.topics or old.broker_configs is not new.broker_configs:
            self._warn_of_settings(old, new)

    def _on_broker_configs(self, image: MetadataImage) -> None:
        """Dynamic settings of brokers act at once: as defaults of topics, and on new connections."""
        if self.settings.update(image.broker_configs):
            self.partitions.configure_all(image)
            if self.listener is not None:
                self.listener.max_connections = _number(self.settings, "max.connections", 2**31 - 1)

    def _warn_of_settings(self, old: MetadataImage, image: MetadataImage) -> None:
        """Once for each setting that a user has stored and that does not act."""
        changed = [t for name, t in image.topics.items() if t.configs and old.topics.get(name) is not t and not name.startswith("__")]
        stored = {name for topic in changed for name in without_effect(topic.configs, TOPIC_SETTINGS)}
        for configs in image.broker_configs.values():
            stored.update(without_effect(configs, BROKER_SETTINGS))
        for name in sorted(stored - self._without_effect):
            log.warning("setting %s is stored, but does not act yet (docs/kafka-apis.md)", name)
        self._without_effect |= stored

    def _know_peers(self, image: MetadataImage) -> None:
        """The registered brokers. Until we have caught up, the image may be older than the brokers that it does not name: then also the seeds, those
        that took us in, and those that the seeds tell of; otherwise a node that comes back would wait for peers that it never dials."""
        known = {b.node_id: b.raft_address for b in image.brokers.values()}
        if self.stage != "ready":
            known = {seed.node_id: seed.address for seed in self.links.seeds} | self._first_peers | known
        known.pop(self.node_id, None)
        self.links.know(known)
        self.driver.set_peers(set(self.links.peers))

    async def _register(self, identity: Identity, joiner: Joiner) -> None:
        """Tell the cluster where we are, until it knows; a single or first node makes the cluster's first records."""
        registration = self._registration(identity)
        asking = asyncio.ensure_future(joiner.voters(identity.cluster_id))
        try:
            while not await self._registered(identity, registration):
                if asking.done():
                    self._first_peers |= asking.result()
                    self._know_peers(self.image)
                    asking = asyncio.ensure_future(self._ask_again(joiner, identity, registration))
                await self._pause(0.02)
            await asyncio.wait([asking], timeout=SEEDS_ANSWER_S)
            if asking.done():
                asking.result()  # a directory of another cluster could serve by itself, if it was a cluster of one
        finally:
            asking.cancel()

    async def _ask_again(self, joiner: Joiner, identity: Identity, registration: RegisterBroker) -> dict[int, str]:
        await self._pause(ASK_SEEDS_S)
        await self._ask_for_refusal(registration)
        return await joiner.voters(identity.cluster_id)

    async def _registered(self, identity: Identity, registration: RegisterBroker) -> bool:
        """One attempt to tell the cluster where we are."""
        try:
            if not self.machine.image.cluster_id and self.meta.group.serving:
                await self.controller.create_cluster(identity.cluster_id)
            if self.machine.image.cluster_id:
                await self.controller.register_broker(registration, REGISTER_TIMEOUT_MS)
                return True
        except KafkaError as error:
            if error.code == ErrorCode.INVALID_REQUEST:
                raise DataDirectoryError(error.message) from error
            self.reasons = (f"this broker is not registered yet: {error}",)
        return False

    async def _ask_for_refusal(self, registration: RegisterBroker) -> None:
        """Whoever was removed, or comes with a disk that was given up, is told so by nobody: no leader speaks to it any more."""
        addresses = [*self.links.peers.values(), *(seed.address for seed in self.links.seeds if seed.node_id != self.node_id)]
        refusal = await refusal_of(self.links.call_address, addresses, registration)
        if refusal:
            raise DataDirectoryError(refusal)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not beyond a fatal error."""
        await asyncio.wait([self.failure], timeout=seconds)
        if self.failure.done():
            raise self.failure.result()

    async def _listen(self) -> None:
        config = self.config
        dispatcher = Dispatcher(self.stats)
        register_all(self, dispatcher)
        limits = ConnectionLimits(
            frame_bytes=_number(self.settings, "socket.request.max.bytes", 100 << 20),
            idle_ms=_number(self.settings, "connections.max.idle.ms", 600_000),
        )
        connections = _number(self.settings, "max.connections", 2**31 - 1)
        self.listener = KafkaListener(dispatcher.dispatch, self.clock, self.stats, self.pressure, limits, connections)
        dispatcher.complain = self.listener.complain
        self.dispatcher = dispatcher
        await self.listener.start(config.kafka_host, config.kafka_port)

    async def serve_admin(self, serve: ServeAdmin) -> None:
        self._admin = await serve(self.view, self.config.admin_host, self.config.admin_port)

    async def stop(self) -> None:
        """Hand over what we lead, answer what is in flight, close. Everything acknowledged is on disk already. After a failure nothing will be
        answered any more: clients are sent away at once."""
        self.stage = "stopping"
        failed = self.failure.done()
        if failed and self.listener is not None:
            await self.listener.stop(0)
        self.housekeeping.stop()
        self.transacting.stop()
        if self.driver is not None and not self.driver.stopped and self.meta is not None:
            await self.housekeeping.hand_over()
            if self.listener is not None and self.listener.connections:
                # Clients that are told the new leader go on at once; those whose connection breaks wait for a second before they ask.
                await asyncio.sleep(FAREWELL_S)
        if self._admin is not None:
            await self._admin.stop()
        if self.listener is not None:
            await self.listener.stop(0 if failed else STOP_GRACE_MS)
            await self.dispatcher.stop()
        if self.driver is not None:
            self.driver.stop()
        await self.links.stop()
        self.disk.stop(0.2 if failed else DISK_GRACE_S)
        if self.store is not None:
            self.store.close()

    # -- small parts ----------------------------------------------------------------------------------------------

    def _policy(self) -> ControllerPolicy:
        return ControllerPolicy(
            default_partitions=_number(self.settings, "num.partitions", 1),
            default_replication_factor=_number(self.settings, "default.replication.factor", 1),
            available=lambda: self.housekeeping.alive() if self.driver is not None else frozenset([self.node_id]),
        )

    def _registration(self, identity: Identity | None = None) -> RegisterBroker:
        config = self.config
        rack = self.settings.get("broker.rack")
        return RegisterBroker(
            node_id=self.node_id,
            host=config.advertised_host,
            port=config.kafka_port,
            raft_address=self.links.own_address,
            directory_id=identity.directory_id if identity is not None else "",
            admin_port=config.admin_port,
            rack=str(rack) if rack else None,
            incarnation=self.incarnation,
            generation=identity.generation if identity is not None else -1,
            cluster_id=identity.cluster_id if identity is not None else "",
        )

    def _serve_peers(self) -> None:
        handler = JoinHandler(self.machine, self.controller, lambda: self.identity, self.links.seeds, self._members, self._add_learner)

        async def info(_sender: int, _payload: bytes) -> bytes:
            return handler.info(self.node_id)

        async def join(_sender: int, payload: bytes) -> bytes:
            return await handler.join(payload)

        async def submit(_sender: int, payload: bytes) -> bytes:
            return await self.controller.handle_submit(payload, REGISTER_TIMEOUT_MS)

        self.links.serve(METHOD_INFO, info, open_to_joiners=True)
        self.links.serve(METHOD_JOIN, join, open_to_joiners=True)
        self.links.serve(METHOD_SUBMIT, submit)
        self.links.serve(METHOD_CHANGE, self.housekeeping.serve_transfer)
        self.links.serve(METHOD_IS_MEMBER, self.reassignments.serve_is_member)
        self.links.serve(METHOD_QUORUM, self.administration.serve_quorum)
        self.transacting.serve()

    def _members(self) -> Any:
        return self.meta.members() if self.meta is not None else ((), ())

    async def _add_learner(self, replica: int, address: str) -> bool:
        return bool(self.meta is not None and await self.meta.add_learner(replica, address))

    def _partition_context(self) -> PartitionContext:
        return PartitionContext(
            clock=self.clock,
            wall_time_ms=self.wall_time_ms,
            disk_full=lambda: bool(self.store.disk_full),
            pending_bytes_changed=self.housekeeping.pending_bytes_changed,
            node_id=self.node_id,
            read_cache=ReadCache(),
            observe=self.coordination.observe,
            verify=self.transactions.verifier.verify,
        )

    def _topic_config(self, configs: Mapping[str, str]) -> TopicConfig:
        return TopicConfig.parse(configs, self.settings)

    def _wal_settings(self) -> WalSettings:
        storage = self.config.storage
        entries, size = profile_limits(storage.profile)
        return WalSettings(segment_bytes=storage.segment_size_bytes, flush_entries_max=entries, flush_bytes_max=size)

    def _next_incarnation(self) -> int:
        """Larger at each start, without a clock: a number in a file of its own."""
        path = Path(self.directory, INCARNATION_FILE)
        return self._save_incarnation(int(path.read_text()) + 1 if path.exists() else 1)

    def _save_incarnation(self, incarnation: int) -> int:
        write_durably(self.files, f"{self.directory}/{INCARNATION_FILE}", str(incarnation).encode())
        return incarnation

    def _continue_incarnations(self, generation: int) -> None:
        """A directory that replaces a lost one counts its starts anew, but peers have seen more of the former: its generation comes first."""
        if self.incarnation >> 32 < generation:
            self.incarnation = self._save_incarnation((generation << 32) + (self.incarnation & 0xFFFFFFFF))
            self.links.set_incarnation(self.incarnation)


def _addresses(found: BootstrapResult) -> dict[int, str]:
    return {member.replica_id & 0xFFFFFFFF: member.address for member in (*found.voters, *found.learners) if member.address}


def _number(settings: Mapping[str, object], name: str, default: int) -> int:
    value = settings.get(name)
    return value if isinstance(value, int) else default


async def run_node(config: NodeConfig, on_ready: Callable[[], None] | None = None, serve_admin: ServeAdmin | None = None) -> int:
    """Run one node until it is cancelled (0) or fails (raises the cause).

    Args:
        on_ready: called once, when the Kafka port accepts requests and this node is part of its cluster.
        serve_admin: starts the admin interface over the node's view; injected, because the layer is above this one.
    """
    node = Node(config, asyncio.get_running_loop())
    try:
        starting = asyncio.ensure_future(node.start())
        ending: list[asyncio.Future[Any]] = [starting, node.failure]
        admin: asyncio.Task[None] | None = None
        if serve_admin is not None:
            # Health must answer while a node waits for its cluster; its heavy imports must not slow an ordinary start.
            await asyncio.wait(ending, timeout=3.0, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                admin = asyncio.ensure_future(node.serve_admin(serve_admin))
        await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        if node.failure.done():
            starting.cancel()
            raise node.failure.result()
        await starting
        if on_ready is not None:
            on_ready()
        if serve_admin is not None and admin is None:
            admin = asyncio.ensure_future(node.serve_admin(serve_admin))
        if admin is not None:
            await admin
        raise await asyncio.shield(node.failure)  # a cancelled run is no failure of the node
    except asyncio.CancelledError:
        return 0
    finally:
        await asyncio.shield(node.stop())
