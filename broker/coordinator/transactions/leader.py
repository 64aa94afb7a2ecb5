"""What only the leader of a coordinator's partition does: carry out decisions, abort what is too old, forget ids that nobody uses.

Nothing here is replicated: a new leader is told by its machine of every transaction that is not at rest, and begins anew. The age of a transaction is
counted on the driver's clock from when this leader first saw it, so that no wall clock aborts one early. Loop thread only; knows no asyncio.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from broker.coordinator.transactions.machine import Producer, TransactionMachine
from broker.coordinator.transactions.markers import MarkerJob, MarkerSender
from broker.coordinator.transactions.state import DECIDED, RESTING, Transaction, TransactionState
from broker.errors import ErrorCode, KafkaError
from raft.api import Clock

log = logging.getLogger("chronik_cluster")

RETRY_MS = 100
EXPIRED_AT_ONCE = 1_000


class _Open(NamedTuple):
    producer: Producer
    deadline_ms: int


class Leader:
    """One per replica of `__transaction_state`. Invariant: while we lead, `_open` are the transactions in ONGOING, `_jobs` those in DECIDED."""

    __slots__ = ("_clock", "_jobs", "_open", "_rested", "_sender", "_wall_time_ms", "machine")

    def __init__(self, clock: Clock, wall_time_ms: Callable[[], int], sender: Callable[[], MarkerSender]) -> None:
        self._clock = clock
        self._wall_time_ms = wall_time_ms
        self._sender = sender
        self._open: dict[str, _Open] = {}
        self._jobs: dict[str, MarkerJob] = {}
        self._rested: dict[str, list[Callable[[], None]]] = {}
        self.machine = TransactionMachine(self._changed, self._clear, self._clear)

    def _clear(self) -> None:
        """A term begins or ends."""
        self._open.clear()
        for job in self._jobs.values():
            job.cancelled = True
        self._jobs.clear()
        rested, self._rested = self._rested, {}
        for waiting in rested.values():
            _call_all(waiting)

    def _changed(self, transaction: Transaction) -> None:
        """The log has changed it, and we lead."""
        name, state = transaction.transactional_id, transaction.state
        if state is not TransactionState.ONGOING:
            self._open.pop(name, None)
        elif name not in self._open or self._open[name].producer != (transaction.producer_id, transaction.epoch):
            deadline_ms = self._clock.now_ms() + transaction.timeout_ms
            self._open[name] = _Open((transaction.producer_id, transaction.epoch), deadline_ms)
        if state in DECIDED and name not in self._jobs:
            job = self._jobs[name] = MarkerJob(transaction, self.machine.term, partial(self._complete, transaction))
            self._sender().begin(job)
        elif state in RESTING:
            self._jobs.pop(name, None)
            waiting = self._rested.pop(name, None)
            if waiting is not None:
                _call_all(waiting)

    def _complete(self, transaction: Transaction) -> None:
        """Every partition has its marker."""
        name, producer = transaction.transactional_id, (transaction.producer_id, transaction.epoch)
        machine = self.machine

        def failed(error: KafkaError) -> None:
            if error.code not in (ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS) or machine.shard.leading:
                self._clock.call_later(RETRY_MS, again)

        def again() -> None:
            job = self._jobs.get(name)
            if job is not None and job.transaction is transaction:
                self._complete(transaction)

        machine.shard.submit(name, lambda: machine.complete(name, producer, self._wall_time_ms()), lambda done: None, failed)

    def when_rested(self, transactional_id: str, limit_ms: int, then: Callable[[], None]) -> None:
        """Call `then` once, when the decision that is being carried out is complete, we do not lead any more, or after `limit_ms`."""
        waiting = self._rested.setdefault(transactional_id, [])
        waiting.append(then)

        def time_limit() -> None:
            if then in waiting:
                waiting.remove(then)
                then()

        self._clock.call_later(limit_ms, time_limit)

    def abort_old(self) -> None:
        """From a timer: abort the transactions whose time is up (transaction.timeout.ms of their producers)."""
        machine, now_ms = self.machine, self._clock.now_ms()
        for name, opened in [item for item in self._open.items() if item[1].deadline_ms <= now_ms]:
            self._open[name] = opened._replace(deadline_ms=now_ms + 10 * RETRY_MS)  # when this attempt fails
            log.info("%s: transaction of producer %d epoch %d is aborted: it was open for too long", name, *opened.producer)
            run = partial(machine.abort_timed_out, name, opened.producer, self._wall_time_ms())
            machine.shard.submit(name, run, lambda done: None, partial(_told, name))

    def expire(self, expiration_ms: int) -> None:
        """From a timer: forget ids that rest for longer than `expiration_ms` (transactional.id.expiration.ms)."""
        machine = self.machine
        idle_since_ms = self._wall_time_ms() - expiration_ms
        idle = [t.transactional_id for t in machine.transactions.values() if t.state in RESTING and t.updated_ms < idle_since_ms]
        for name in idle[:EXPIRED_AT_ONCE]:
            machine.shard.submit(name, partial(machine.expire, name, idle_since_ms), lambda done: None, partial(_told, name))


def _call_all(waiting: list[Callable[[], None]]) -> None:
    """Call and forget, so that no time limit calls again."""
    called, waiting[:] = list(waiting), []
    for then in called:
        then()


def _told(name: str, error: KafkaError) -> None:
    """The next timer tries again."""
    log.debug("%s: not changed now: %s", name, error)
