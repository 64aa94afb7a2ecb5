"""Unary calls between simulated nodes, as `broker.links` makes them: each for itself, in no order, answered, lost, late, or there twice.

The network's faults act on them as on sessions: a cut holds the request or its answer back, loss takes it away (or brings it much later), a process
that dies breaks the calls that it was to answer. The caller hears None when there is no answer within the time limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.coordinator.transactions.wire import Reply
from broker.transactions import CALL_TIMEOUT_MS

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.node import SimNode

HELD_US = 200_000
HELD_US_MAX = 2_000_000
LATE_US = (50_000, 4_000_000)
AGAIN_US = ((1_000, 60_000), LATE_US)

Serve = Callable[["SimNode", bytes, Callable[[bytes], None]], None]
"""(the node that is asked, payload, answer)."""


class Calls:
    """All calls of the cluster. Bounded by the callers, which have a few out at a time."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._out: dict[int, dict[int, Callable[[bytes | None], None]]] = {node: {} for node in cluster.node_ids}  # by who is asked
        self._number = 0

    def call(self, sender: SimNode, to: int, payload: bytes, serve: Serve, reply: Reply) -> None:
        scheduler, near, target = self.cluster.scheduler, sender.clock, self.cluster.nodes[to]
        self._number += 1
        number, out = self._number, self._out[to]

        def settle(answer: bytes | None) -> None:
            if out.pop(number, None) is not None:
                near.run(lambda: reply(answer))

        out[number] = settle
        near.call_later(CALL_TIMEOUT_MS, lambda: settle(None))
        if not target.up:
            scheduler.at(1000, lambda: settle(None))
            return
        far = target.clock

        def deliver() -> None:
            far.run(lambda: serve(target, payload, answer))

        def answer(data: bytes) -> None:
            self._carry(to, sender.id, lambda: settle(data))

        self._carry(sender.id, to, deliver)

    def _carry(self, source: int, target: int, deliver: Callable[[], None], held_us: int = 0) -> None:
        """One message from node to node."""
        network, counts, random = self.cluster.network, self.cluster.counts, self.cluster.random
        scheduler = self.cluster.scheduler
        if network.cuts[source, target]:
            counts["call_held_back"] += not held_us
            if held_us < HELD_US_MAX:
                scheduler.at(HELD_US, lambda: self._carry(source, target, deliver, held_us + HELD_US))
            else:
                counts["call_lost"] += 1
            return
        delay_us = random.randrange(*network.delay_us)
        if network.answer_delay_us:
            delay_us += random.randrange(network.answer_delay_us)
        usual = self.cluster.workload.client_loss
        loss, duplication = max(network.loss, usual), max(network.duplication, 3 * usual)
        if loss and random.random() < loss:
            if random.random() < 0.5:
                counts["call_lost"] += 1
                return
            counts["call_late"] += 1
            delay_us += random.randrange(*LATE_US)
        scheduler.at(delay_us, deliver)
        if duplication and random.random() < duplication:
            counts["call_duplicated"] += 1
            scheduler.at(delay_us + random.randrange(*random.choice(AGAIN_US)), deliver)

    def node_died(self, node: int) -> None:
        """Its connections break: who waits for it hears of it."""
        for settle in list(self._out[node].values()):
            self.cluster.scheduler.at(self.cluster.random.randrange(100, 2000), lambda settle=settle: settle(None))  # type: ignore[misc]
