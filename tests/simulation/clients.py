"""Simulated clients as generators: a script yields what it waits for (`Rest`, `Ask`) and goes on with the answer, None when there was none in time.

Between a client and a node a request or its answer may be lost, and a request that is marked so may arrive long after its client has given it up. No
answer means unknown, as it does for every client of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from broker.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from random import Random

    from tests.simulation.cluster import Cluster

RETRY_US = 40_000
TIMEOUTS_US = (150_000, 150_000, 1_000_000)
LATE_US = (50_000, 3_000_000)

R = TypeVar("R")


class Rest(NamedTuple):
    us: int


class Refused(NamedTuple):
    """The answer to a request that was refused as a whole."""

    error: ErrorCode


Request = Callable[[Any, Callable[[Any], None]], None]
"""(the node, answer): runs on the node's loop; may raise KafkaError."""


class Ask(NamedTuple):
    """`timeout_us` 0: drawn. `late`: how much more often than it is lost it arrives after it was given up. `promise`: its answer is one that must not
    be forgotten, so that faults look for the moment in which it is given."""

    node: int
    request: Request
    timeout_us: int = 0
    late: int = 0
    promise: bool = False


Steps = Generator[Rest | Ask, Any, R]


class Client:
    """Runs one script at a time. Invariant: at most one resumption of the present step counts; those of earlier steps are void."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.random: Random = cluster.random
        self.running = False
        self._script: Steps[None] | None = None
        self._number = 0

    def begin(self, script: Steps[None], delay_us: int = 0) -> None:
        self._number += 1
        self._script = script
        self.running = True
        self._resume_later(delay_us, self._number, None)

    def kill(self) -> None:
        """The process is gone; what it has sent is on its way. Not from within its own script."""
        self._number += 1
        self.running = False
        if self._script is not None:
            self._script.close()
            self._script = None

    def _resume_later(self, delay_us: int, number: int, value: Any) -> None:
        self.cluster.scheduler.at(delay_us, lambda: self._resume(number, value))

    def _resume(self, number: int, value: Any) -> None:
        if number != self._number or self._script is None:
            return
        self._number += 1
        try:
            step = self._script.send(value)
        except StopIteration:
            self.running = False
            self._script = None
            return
        if isinstance(step, Rest):
            self._resume_later(step.us, self._number, None)
        else:
            self._ask(step, self._number)

    def _ask(self, step: Ask, number: int) -> None:
        random, counts = self.random, self.cluster.counts
        if not self.cluster.nodes[step.node].up:
            self._resume_later(RETRY_US, number, None)
            return
        self._resume_later(step.timeout_us or random.choice(TIMEOUTS_US), number, None)
        chance, loss = random.random(), self.cluster.workload.client_loss

        def answered(answer: Any) -> None:
            if step.promise:
                self.cluster.on_promise(step.node)
            if 1.0 - loss < chance:
                counts["answer_lost"] += 1
            else:
                self._resume_later(random.randrange(50, 500), number, answer)

        if chance < loss:
            counts["request_lost"] += 1
        elif chance < (1 + step.late) * loss:
            counts["request_late"] += 1
            self.cast(step.node, step.request, answered, random.randrange(*LATE_US))
        else:
            self.cast(step.node, step.request, answered, random.randrange(50, 500))

    def cast(self, node: int, request: Request, answered: Callable[[Any], None], delay_us: int) -> None:
        """Send a request to the process that runs on `node` now, and do not wait."""
        target = self.cluster.nodes[node]
        clock = target.clock

        def run() -> None:
            try:
                request(target, answered)
            except KafkaError as error:
                answered(Refused(error.code))

        self.cluster.scheduler.at(delay_us, lambda: clock.run(run))
