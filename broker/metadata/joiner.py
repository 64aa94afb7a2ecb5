"""Carries out the bootstrap decision: asks the seeds, joins or creates, and keeps trying for ever. Also the controller's side of joining.

Cancellable at every await; a node that was interrupted finds its directory id again and repeats the request, which the controller recognises.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from broker.errors import ErrorCode, KafkaError
from broker.metadata.bootstrap import (
    Answer,
    BootstrapDecision,
    ClusterInfo,
    CreateCluster,
    JoinVia,
    Member,
    Refuse,
    SeedNode,
    StartExisting,
    Unreachable,
    Wait,
)
from broker.metadata.controller import Controller, sleep
from broker.metadata.identity import Identity, IdentityStore, new_identity
from broker.metadata.machine import MetadataMachine
from broker.metadata.operations import RegisterBroker
from raft.api import Clock
from raft.core.message import node_of
from wal.entry import META_GROUP
from wal.errors import DataDirectoryError

logger = logging.getLogger("chronik_cluster")

METHOD_INFO = "cluster.info"
METHOD_JOIN = "cluster.join"
INFO_TIMEOUT_MS = 1_000
JOIN_TIMEOUT_MS = 10_000
REFUSAL_TIMEOUT_MS = 2_000
BACKOFF_MS_MIN, BACKOFF_MS_MAX = 100, 2_000
LOG_AGAIN_MS = 10_000
"""A reason that lasts is logged again after this time."""

CallAddress = Callable[[str, str, bytes, int], Awaitable[bytes]]
"""(address, method, payload, timeout_ms) -> answer. Raises OSError when there is none, ConnectionAbortedError by another cluster."""


class JoinAnswer(msgspec.Struct, frozen=True):
    """`error` 0: taken in. NOT_CONTROLLER and REQUEST_TIMED_OUT: try again (at `leader_address`, if any); INVALID_REQUEST: refused for good."""

    error: int
    message: str = ""
    cluster_id: str = ""
    generation: int = -1
    leader_id: int = -1
    leader_address: str = ""
    voters: tuple[Member, ...] = ()
    learners: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class BootstrapResult:
    """How to start. `identity.state` "member": open what is there; a `__meta` that is missing is damage.

    "creating": make `__meta`, if it is not there, with this node as only voter; "joined": make it, if it is not there, with `voters`, `learners`.
    Then, when it is on disk and before anything of it is sent, `IdentityStore.save(as_member(identity))`.
    """

    identity: Identity
    voters: tuple[Member, ...] = ()
    learners: tuple[Member, ...] = ()


def short_reason(error: OSError) -> str:
    """ "ConnectionRefused" for ConnectionRefusedError, "Timeout" for TimeoutError."""
    return type(error).__name__.removesuffix("Error")


_encode = msgspec.msgpack.encode
_info_decoder = msgspec.msgpack.Decoder(ClusterInfo)
_join_decoder = msgspec.msgpack.Decoder(JoinAnswer)
_register_decoder = msgspec.msgpack.Decoder(RegisterBroker)


class Joiner:
    """`run` returns how to start, or raises DataDirectoryError with the reason why this node must not. `reasons` tells /health what it waits for."""

    __slots__ = ("_call", "_clock", "_logged_ms", "_new_id", "_registration", "_seeds", "_store", "reasons")

    def __init__(
        self,
        registration: RegisterBroker,
        seeds: Sequence[SeedNode],
        store: IdentityStore,
        call: CallAddress,
        clock: Clock,
        new_id: Callable[[], bytes],
    ) -> None:
        """`registration`: this node's id and addresses; directory, cluster and generation are filled in here. `new_id` gives 16 random bytes."""
        self._registration = registration
        self._seeds = tuple(seeds)
        self._store = store
        self._call = call
        self._clock = clock
        self._new_id = new_id
        self._logged_ms = 0
        self.reasons: tuple[str, ...] = ()

    async def run(self, data_exists: bool) -> BootstrapResult:
        """`data_exists`: the data directory holds more than `node.json`."""
        identity = self._store.load()
        if identity is None and not data_exists:
            identity = new_identity(self._registration.node_id, self._new_id().hex())
            self._store.save(identity)
        backoff_ms = BACKOFF_MS_MIN
        answers: dict[int, Answer] = {}
        while True:
            state = BootstrapDecision(self._registration.node_id, self._seeds, identity, data_exists)
            result = await self._carry_out(state, answers, identity)
            if result is not None:
                self.reasons = ()
                return result
            if answers:
                await sleep(self._clock, backoff_ms)
                backoff_ms = min(2 * backoff_ms, BACKOFF_MS_MAX)
            answers = await self._ask(state)

    async def _carry_out(self, state: BootstrapDecision, answers: dict[int, Answer], identity: Identity | None) -> BootstrapResult | None:
        decision = state.decide(answers)
        match decision:
            case Refuse(text):
                raise DataDirectoryError(text)
            case StartExisting(existing):
                return BootstrapResult(existing)
            case Wait(reasons):
                if answers:
                    self._report(reasons)
                return None
        if identity is None:
            raise DataDirectoryError("the data directory has no identity")
        if isinstance(decision, CreateCluster):
            return self._create(identity)
        return await self._join(decision, identity)

    async def _ask(self, state: BootstrapDecision) -> dict[int, Answer]:
        seeds = state.other_seeds()
        found = await asyncio.gather(*(self._info(seed) for seed in seeds))
        return {seed.node_id: answer for seed, answer in zip(seeds, found, strict=True)}

    async def _info(self, seed: SeedNode) -> Answer:
        try:
            return _info_decoder.decode(await self._call(seed.address, METHOD_INFO, b"", INFO_TIMEOUT_MS))
        except OSError as error:
            return Unreachable(short_reason(error))
        except msgspec.MsgspecError as error:
            return Unreachable(f"it answers in an unknown way: {error}")

    async def voters(self, cluster_id: str) -> dict[int, str]:
        """Broker id -> "host:port" of the voters of `__meta`, as the seeds that answer know them.

        Raises DataDirectoryError when all seeds that answer belong to another cluster than ours: this directory came from elsewhere.
        """
        foreign: list[str] = []

        async def ask(seed: SeedNode) -> ClusterInfo | None:
            try:
                return _info_decoder.decode(await self._call(seed.address, METHOD_INFO, b"", INFO_TIMEOUT_MS))
            except ConnectionAbortedError as error:
                foreign.append(str(error))
            except (OSError, msgspec.MsgspecError) as error:
                logger.debug("seed node %d did not tell who votes: %s", seed.node_id, error)
            return None

        answers = await asyncio.gather(*(ask(seed) for seed in self._seeds if seed.node_id != self._registration.node_id))
        found = [answer for answer in answers if answer is not None]
        if foreign and not found:
            text = f"this data directory belongs to cluster {cluster_id}, but {foreign[0]}; "
            raise DataDirectoryError(text + "correct seed_nodes or data_dir, or start with an empty data directory to join the other cluster")
        return {node_of(member.replica_id): member.address for answer in found for member in answer.voters if member.address}

    def _create(self, identity: Identity) -> BootstrapResult:
        if identity.state != "creating":
            identity = msgspec.structs.replace(identity, state="creating", cluster_id=self._new_id().hex(), generation=0)
            self._store.save(identity)
        return BootstrapResult(identity)

    async def _join(self, decision: JoinVia, identity: Identity) -> BootstrapResult | None:
        request = msgspec.structs.replace(self._registration, directory_id=identity.directory_id, cluster_id=decision.cluster_id, generation=-1)
        payload = _encode(request)
        reasons: list[str] = []
        addresses = list(decision.addresses)
        asked: set[str] = set()
        while addresses:
            address = addresses.pop(0)
            if address in asked:
                continue
            asked.add(address)
            try:
                answer = _join_decoder.decode(await self._call(address, METHOD_JOIN, payload, JOIN_TIMEOUT_MS))
            except OSError as error:
                reasons.append(f"Failed to join cluster: {short_reason(error)} ({address})")
                continue
            except msgspec.MsgspecError as error:
                reasons.append(f"Failed to join cluster: {address} answers in an unknown way ({error})")
                continue
            if answer.error == ErrorCode.NONE:
                joined = msgspec.structs.replace(identity, state="joined", cluster_id=answer.cluster_id, generation=answer.generation)
                self._store.save(joined)
                return BootstrapResult(joined, voters=answer.voters, learners=answer.learners)
            if answer.error == ErrorCode.INVALID_REQUEST:
                raise DataDirectoryError(answer.message)
            reasons.append(f"Failed to join cluster: {answer.message} ({address})")
            if answer.leader_address:
                addresses.insert(0, answer.leader_address)
        self._report(tuple(reasons))
        return None

    def _report(self, reasons: tuple[str, ...]) -> None:
        """Log each new reason at once, and all of them again from time to time."""
        now_ms = self._clock.now_ms()
        again = now_ms - self._logged_ms >= LOG_AGAIN_MS
        for reason in reasons:
            if again or reason not in self.reasons:
                logger.warning("%s", reason)
                self._logged_ms = now_ms
        self.reasons = reasons


async def refusal_of(call: CallAddress, addresses: Sequence[str], registration: RegisterBroker) -> str:
    """Why the cluster refuses this broker for good, asked at whoever answers; "" when nobody says so. Registers it when it is not refused."""
    payload = _encode(registration)
    waiting = list(dict.fromkeys(addresses))
    asked: set[str] = set()
    while waiting:
        address = waiting.pop(0)
        if address in asked:
            continue
        asked.add(address)
        try:
            answer = _join_decoder.decode(await call(address, METHOD_JOIN, payload, REFUSAL_TIMEOUT_MS))
        except (OSError, msgspec.MsgspecError) as error:
            logger.debug("%s does not say whether this broker may register: %s", address, error)
            continue
        if answer.error == ErrorCode.INVALID_REQUEST:
            return answer.message
        if answer.error == ErrorCode.NONE:
            return ""
        if answer.leader_address:
            waiting.insert(0, answer.leader_address)
    return ""


class JoinHandler:
    """Answers METHOD_INFO on every node and METHOD_JOIN on the leader of `__meta`.

    `members` tells voters and learners of `__meta` (replica ids with addresses); `add_learner(replica_id, address)` changes its membership and
    returns whether that is committed (True also when it is a member already).
    """

    __slots__ = ("_add_learner", "_controller", "_identity", "_machine", "_members", "_seeds")

    def __init__(
        self,
        machine: MetadataMachine,
        controller: Controller,
        identity: Callable[[], Identity | None],
        seeds: Sequence[SeedNode],
        members: Callable[[], tuple[Sequence[Member], Sequence[Member]]],
        add_learner: Callable[[int, str], Awaitable[bool]],
    ) -> None:
        self._machine = machine
        self._controller = controller
        self._identity = identity
        self._seeds = tuple(seed.node_id for seed in seeds)
        self._members = members
        self._add_learner = add_learner

    def info(self, node_id: int) -> bytes:
        leader_id, leader_address = self._leader()
        return _encode(ClusterInfo(self._cluster_id(), node_id, leader_id, leader_address, tuple(self._members()[0]), self._seeds))

    def _cluster_id(self) -> str:
        """Empty while creating: nobody may rely on a cluster before it is on disk."""
        identity = self._identity()
        return identity.cluster_id if identity is not None and identity.state in ("joined", "member") else ""

    def _leader(self) -> tuple[int, str]:
        broker = self._machine.image.brokers.get(self._machine.leader_node)
        return (broker.node_id, broker.raft_address) if broker is not None else (-1, "")

    async def join(self, payload: bytes) -> bytes:
        try:
            registration = _register_decoder.decode(payload)
        except msgspec.MsgspecError as error:
            return _encode(JoinAnswer(int(ErrorCode.INVALID_REQUEST), f"the cluster does not understand the request to join: {error}"))
        return _encode(await self._join(registration))

    async def _join(self, registration: RegisterBroker) -> JoinAnswer:
        leader_id, leader_address = self._leader()
        if not self._machine.serving or not self._cluster_id():
            elsewhere = leader_address if not self._machine.serving else ""
            return JoinAnswer(int(ErrorCode.NOT_CONTROLLER), "the node that was asked does not lead the cluster", "", -1, leader_id, elsewhere)
        try:
            generation = await self._controller.register_broker(registration, JOIN_TIMEOUT_MS // 2)
        except KafkaError as error:
            return JoinAnswer(int(error.code), error.message)
        replica = self._machine.image.replica_id(registration.node_id, META_GROUP)
        if replica is None or not await self._add_learner(replica, registration.raft_address):
            return JoinAnswer(int(ErrorCode.NOT_CONTROLLER), "the change of membership is not committed yet")
        voters, learners = self._members()
        return JoinAnswer(0, "", self._cluster_id(), generation, leader_id, leader_address, tuple(voters), tuple(learners))
