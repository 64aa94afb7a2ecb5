"""The serving side of Exchange: checks who calls, then runs the session until either side ends it. Runs on the loop thread."""

from __future__ import annotations

from typing import Any

import grpc

from raft.api import Lane
from raft.transport.options import KEY_CLUSTER, KEY_INCARNATION, KEY_LANE, KEY_SENDER, KEY_TARGET, NetworkConfig
from raft.transport.registry import Registry
from raft.transport.session import Session


class ExchangeService:
    """Invariant: a peer that dials again replaces its earlier session of the lane; the handler hears the loss before the new opening."""

    __slots__ = ("_config", "_registry")

    def __init__(self, registry: Registry, config: NetworkConfig) -> None:
        self._registry = registry
        self._config = config

    async def exchange(self, _requests: Any, context: Any) -> None:
        """The grpc method. `_requests` is unused: the context's read and write cost less than an iterator."""
        registry = self._registry
        metadata = {str(key): value for key, value in (context.invocation_metadata() or ())}
        try:
            sender, target = int(metadata[KEY_SENDER]), int(metadata[KEY_TARGET])
            incarnation, lane = int(metadata[KEY_INCARNATION]), Lane(int(metadata[KEY_LANE]))
            cluster_id = bytes(metadata[KEY_CLUSTER])
        except (KeyError, ValueError, TypeError):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "Exchange is spoken between nodes only: the call's metadata must name cluster, sender and lane"
            )
            return
        if registry.handler is None or registry.stopping:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"node {registry.identity.node_id} is starting or stopping; try again later")
            return
        refusal = registry.refusal(cluster_id, sender, target, incarnation)
        if refusal:
            registry.note_refusal(sender, refusal)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal)
            return
        reason = await self._serve(context, sender, lane, incarnation)
        await context.abort(grpc.StatusCode.UNAVAILABLE, reason)

    async def _serve(self, context: Any, sender: int, lane: Lane, incarnation: int) -> str:
        registry = self._registry
        identity = registry.identity
        try:
            await context.send_initial_metadata(((KEY_SENDER, str(identity.node_id)), (KEY_INCARNATION, str(identity.incarnation))))
        except grpc.aio.BaseError as error:
            return f"the caller went away: {error}"
        try:
            registry.observe(sender, incarnation)
            earlier = registry.incoming[lane].get(sender)
            if earlier is not None:
                earlier.end("the peer has connected again")
                registry.lost(earlier, "the peer has connected again", False)
            session = Session(sender, lane, False, incarnation, self._config.queue_bytes(lane))
            registry.opened(session)
            reason = "the connection broke"
            try:
                reason = await session.run(context.read, context.write, registry.deliver(session))
            finally:
                # A session that was replaced has been reported by the one that took its place.
                if registry.incoming[lane].get(sender) is session:
                    registry.lost(session, reason, False)
        except Exception as error:
            registry.fatal(error)
            raise
        return reason
