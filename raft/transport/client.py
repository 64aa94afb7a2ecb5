"""The dialling side: keeps one session per peer and lane open, each on a TCP connection of its own.

Every attempt starts with a plain TCP connect: it tells a refused connection (the process is gone) from silence within a round trip, and it keeps
grpc's own reconnect timers out of play, since a channel is made only where something listens. Runs on the loop thread.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from random import Random
from typing import Any

import grpc

from raft.api import Lane
from raft.transport.options import (
    EXCHANGE_METHOD,
    KEY_CLUSTER,
    KEY_INCARNATION,
    KEY_LANE,
    KEY_SENDER,
    KEY_TARGET,
    NetworkConfig,
    make_channel,
    same_bytes,
    split_address,
)
from raft.transport.registry import Registry
from raft.transport.session import Session

logger = logging.getLogger("chronik_raft")

_PROBE_TIMEOUT_MS = 300  # a lost session is reported at the latest after this
_PROBES_AFTER_MS = (0, 15, 45)  # a dying process may close its connections a moment before its port
_STABLE_MS = 1000  # a session that lived shorter than this does not reset the back-off


async def probe(address: str, timeout_ms: int) -> str:
    """Try a TCP connection: "" when accepted, "refused" when the port is closed, otherwise what happened."""
    try:
        host, port = split_address(address)
        async with asyncio.timeout(timeout_ms / 1000):
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port)
    except TimeoutError:
        return f"no answer within {timeout_ms} ms"
    except OSError as error:
        return "refused" if _is_refusal(error) else f"{type(error).__name__}: {error}"
    transport.abort()
    return ""


def _is_refusal(error: OSError) -> bool:
    """Also when the loop folded the errors of several addresses of one name into one text."""
    text, mark = str(error), f"[Errno {errno.ECONNREFUSED}]"
    return error.errno == errno.ECONNREFUSED or (mark in text and text.count(mark) == text.count("[Errno "))


class PeerLink:
    """Our connection to one peer on one lane. `run` is its only task: dial, serve, report the loss, wait, again."""

    __slots__ = ("_address", "_attempt", "_complaint", "_config", "_lane", "_peer", "_registry", "_rng")

    def __init__(self, registry: Registry, config: NetworkConfig, rng: Random, peer: int, lane: Lane, address: str) -> None:
        self._registry = registry
        self._config = config
        self._rng = rng
        self._peer = peer
        self._lane = lane
        self._address = address
        self._attempt = 0
        self._complaint = ""

    async def run(self) -> None:
        """Until cancelled. Raises only what is nobody's fault but ours."""
        loop = asyncio.get_running_loop()
        while True:
            trouble = await probe(self._address, self._config.connect_timeout_ms)
            if not trouble:
                opened_s = loop.time()
                trouble = await self._dial()
                if not trouble and loop.time() - opened_s >= _STABLE_MS / 1000:
                    self._attempt = 0
                    continue
            if trouble:
                self._complain(trouble)
            await asyncio.sleep(self._delay_ms() / 1000)

    def _delay_ms(self) -> float:
        """50 ms, doubling to 1 s, each between half and the whole; nothing before the first repetition."""
        attempt = self._attempt
        self._attempt += 1
        longest = min(self._config.backoff_max_ms, self._config.backoff_min_ms << min(attempt, 10))
        return longest * (0.5 + 0.5 * self._rng.random())

    def _complain(self, trouble: str) -> None:
        """One line when a peer turns unreachable, or for another reason than before; never one per attempt."""
        text = "ConnectionRefused" if trouble == "refused" else trouble
        if text != self._complaint:
            self._complaint = text
            if self._lane == Lane.CONTROL:  # the other lane would say the same
                logger.info("node %d at %s unreachable: %s; trying again", self._peer, self._address, text)

    async def _dial(self) -> str:
        """Open a session and serve it to its end: "" when there was one, otherwise why there was none."""
        channel = make_channel(self._address, self._config)
        session: Session | None = None
        try:
            exchange: Any = channel.stream_stream(EXCHANGE_METHOD, request_serializer=same_bytes, response_deserializer=same_bytes)
            call = exchange(metadata=self._metadata())
            try:
                async with asyncio.timeout(self._config.connect_timeout_ms / 1000):
                    answer = await call.initial_metadata()
                    if KEY_INCARNATION not in answer:
                        return f"{(await call.code()).name}: {await call.details()}"
            except TimeoutError:
                return f"no answer within {self._config.connect_timeout_ms} ms"
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name}: {error.details()}"
            incarnation = int(str(answer[KEY_INCARNATION]))
            if incarnation < self._registry.incarnation_of(self._peer):
                return f"an older incarnation ({incarnation}) of the node answers"
            self._registry.observe(self._peer, incarnation)
            session = Session(self._peer, self._lane, True, incarnation, self._config.queue_bytes(self._lane))
            self._complaint = ""
            self._registry.opened(session)
            reason = await session.run(call.read, call.write, self._registry.deliver(session))
            self._registry.closed(session)
            call.cancel()
            refused = await self._refuses_now()
            ended, session = session, None
            self._registry.lost(ended, reason, refused)
            return ""
        finally:
            if session is not None:
                self._registry.lost(session, "the connection to the peer is given up", False)
            await channel.close(None)

    async def _refuses_now(self) -> bool:
        """Whether the peer's port is closed, as it is when its process was killed."""
        for delay_ms in _PROBES_AFTER_MS:
            await asyncio.sleep(delay_ms / 1000)
            trouble = await probe(self._address, _PROBE_TIMEOUT_MS)
            if trouble:
                return trouble == "refused"
        return False

    def _metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        identity = self._registry.identity
        return (
            (KEY_CLUSTER, identity.cluster_id),
            (KEY_SENDER, str(identity.node_id)),
            (KEY_TARGET, str(self._peer)),
            (KEY_INCARNATION, str(identity.incarnation)),
            (KEY_LANE, str(int(self._lane))),
        )
