"""The simulated world of the driver: clock, network and disk, all decided by the scheduler's seed.

The network delivers in order within a session, as TCP does. Losing, delaying, duplicating and cutting are faults that the schedule switches on; a message that is
lost takes its session with it after a while, also as TCP does. A cut is one-way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raft.api import Lane
from raft.wire import WireError
from wal.errors import check

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.scheduler import Scheduler

RECONNECT_US = 50_000
CONNECT_TIMEOUT_US = 500_000
DEAD_SESSION_US = 2_000_000


class SimClock:
    """One process's clock. While the process is stopped (SIGSTOP) its timers wait; time goes on."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.alive = True
        self.stopped = False
        self._waiting: list[Callable[[], None]] = []

    def now_ms(self) -> int:
        return self._scheduler.now_us // 1000

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        self._scheduler.at(delay_ms * 1000, lambda: self.run(callback))

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._scheduler.at(self._scheduler.random.randrange(1, 60), lambda: self.run(callback))

    def run(self, callback: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.stopped:
            self._waiting.append(callback)
        else:
            callback()

    def resume(self) -> None:
        self.stopped = False
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            self._scheduler.at(1, lambda c=callback: self.run(c))  # type: ignore[misc]


class SimDisk:
    """Disk threads: a job runs whole at the end of a drawn delay. A stopped process finishes the job that its thread is in, nothing more."""

    def __init__(self, scheduler: Scheduler, clock: SimClock) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self.slow_us = 0  # fault: added to every flush
        self.flush_out: Any = None  # what a crash may tear

    def submit_flush(self, job: Any, done: Callable[[BaseException | None], None]) -> None:
        check(self.flush_out is None, "two flushes at a time")
        self.flush_out = job
        self._submit(job, done, self._scheduler.random.randrange(100, 3000) + self.slow_us, is_flush=True)

    def submit_background(self, job: Any, done: Callable[[BaseException | None], None]) -> None:
        self._submit(job, done, self._scheduler.random.randrange(200, 8000))

    def submit_read(self, job: Any, done: Callable[[BaseException | None], None]) -> None:
        self._submit(job, done, self._scheduler.random.randrange(100, 2000))

    def _submit(self, job: Any, done: Callable[[BaseException | None], None], delay_us: int, is_flush: bool = False) -> None:
        def work() -> None:
            if not self._clock.alive:
                return
            if self._clock.stopped:
                self._clock.run(lambda: self._scheduler.at(delay_us, work))
                return
            error: BaseException | None = None
            try:
                job.run()
            except Exception as caught:  # noqa: BLE001 - handed to the driver, as a thread would
                error = caught
            if is_flush:
                self.flush_out = None
            self._scheduler.at(self._scheduler.random.randrange(1, 100), lambda: self._clock.run(lambda: done(error)))

        self._scheduler.at(delay_us, work)


@dataclass
class Session:
    """One connection: dialled by `dialler` to `acceptor`, for one lane."""

    dialler: int
    acceptor: int
    lane: Lane
    dialler_clock: SimClock
    acceptor_clock: SimClock
    open: bool = True
    last_us: tuple[int, int] = (0, 0)  # delivery time of the last message, forth and back: order is kept
    doomed: bool = False


class SimNetwork:
    """All connections of the cluster. Each node sees it through a `Port`."""

    def __init__(self, scheduler: Scheduler, counts: Counter[str]) -> None:
        self.scheduler = scheduler
        self.counts = counts
        self.nodes: dict[int, SimNode] = {}
        self.sessions: dict[tuple[int, int, Lane], Session] = {}
        self.cuts: set[tuple[int, int]] = set()  # (from, to): bytes in this direction vanish
        self.delay_us = (100, 1500)
        self.loss = 0.0
        self.duplication = 0.0

    # -- connections ----------------------------------------------------------------------------------------------

    def dial(self, dialler: SimNode, peer: int, lane: Lane) -> None:
        """Keep one session to `peer` while both processes live."""
        clock, driver = dialler.clock, dialler.driver

        def attempt() -> None:
            if not clock.alive or dialler.clock is not clock:
                return
            if (dialler.id, peer, lane) in self.sessions:
                return
            target = self.nodes[peer]
            if (dialler.id, peer) in self.cuts or (peer, dialler.id) in self.cuts or target.clock.stopped or clock.stopped:
                self.scheduler.at(CONNECT_TIMEOUT_US, attempt)
                return
            if not target.up:
                clock.run(lambda: driver.on_session_lost(peer, lane, True, True))
                self.scheduler.at(self.scheduler.random.randrange(RECONNECT_US, 6 * RECONNECT_US), attempt)
                return
            session = Session(dialler.id, peer, lane, clock, target.clock)
            self.sessions[dialler.id, peer, lane] = session
            incarnation, target_incarnation = dialler.incarnation, target.incarnation
            target.clock.run(lambda: session.open and target.driver.on_session_open(dialler.id, lane, False, incarnation))
            self.scheduler.at(self._delay(), lambda: clock.run(lambda: session.open and driver.on_session_open(peer, lane, True, target_incarnation)))

        self.scheduler.at(self.scheduler.random.randrange(100, 2000), attempt)

    def close(self, session: Session, reason: str) -> None:
        """Both ends learn of it, each after a delay of its own; the dialler dials again."""
        if not session.open:
            return
        session.open = False
        self.counts[f"session_{reason}"] += 1
        self.sessions.pop((session.dialler, session.acceptor, session.lane), None)
        dialler, acceptor, lane = self.nodes[session.dialler], self.nodes[session.acceptor], session.lane
        dialler_driver, acceptor_driver = dialler.driver, acceptor.driver
        self.scheduler.at(
            self._delay(), lambda: session.acceptor_clock.run(lambda: acceptor_driver.on_session_lost(session.dialler, lane, False, False))
        )

        def tell_dialler() -> None:
            session.dialler_clock.run(lambda: dialler_driver.on_session_lost(session.acceptor, lane, True, False))
            if dialler.clock is session.dialler_clock:
                self.dial(dialler, session.acceptor, lane)

        self.scheduler.at(self._delay(), tell_dialler)

    def node_died(self, node: int) -> None:
        """kill -9: the system closes the connections at once."""
        for session in list(self.sessions.values()):
            if node in (session.dialler, session.acceptor):
                self.close(session, "reset")

    # -- messages -------------------------------------------------------------------------------------------------

    def _delay(self) -> int:
        return self.scheduler.random.randrange(*self.delay_us)

    def carry(self, session: Session, forth: bool, data: bytes) -> bool:
        if not session.open:
            return False
        sender, receiver = (session.dialler, session.acceptor) if forth else (session.acceptor, session.dialler)
        if session.doomed or (sender, receiver) in self.cuts or (self.loss and self.scheduler.random.random() < self.loss):
            # What TCP can not deliver in order it does not deliver at all; in the end the connection dies.
            self.counts["message_lost"] += 1
            if not session.doomed:
                session.doomed = True
                self.scheduler.at(DEAD_SESSION_US, lambda: self.close(session, "timed_out"))
            return True
        due = max(self.scheduler.now_us + self._delay(), session.last_us[not forth] + 1)
        session.last_us = (due, session.last_us[1]) if forth else (session.last_us[0], due)
        self.scheduler.at(due - self.scheduler.now_us, lambda: self._deliver(session, forth, data))
        if self.duplication and session.lane == Lane.DATA and self.scheduler.random.random() < self.duplication:
            self.counts["message_duplicated"] += 1
            self.scheduler.at(due - self.scheduler.now_us + self._delay() * 3, lambda: self._deliver(session, forth, data))
        return True

    def _deliver(self, session: Session, forth: bool, data: bytes) -> None:
        receiver = self.nodes[session.acceptor if forth else session.dialler]
        clock = session.acceptor_clock if forth else session.dialler_clock
        sender = session.dialler if forth else session.acceptor
        driver = receiver.driver

        def receive() -> None:
            if not session.open or receiver.clock is not clock:
                return
            try:
                if forth:
                    driver.on_request(sender, session.lane, memoryview(data))
                else:
                    driver.on_answer(sender, session.lane, memoryview(data))
            except WireError as error:
                raise AssertionError(f"a message between nodes does not decode: {error}") from error

        clock.run(receive)


class Port:
    """One node's view of the network: `raft.api.Network`."""

    def __init__(self, network: SimNetwork, node: int) -> None:
        self._network = network
        self._node = node

    def send_request(self, peer: int, lane: Lane, parts: Sequence[Any]) -> bool:
        session = self._network.sessions.get((self._node, peer, lane))
        return session is not None and self._network.carry(session, True, b"".join(parts))

    def send_answer(self, peer: int, lane: Lane, parts: Sequence[Any]) -> bool:
        session = self._network.sessions.get((peer, self._node, lane))
        return session is not None and self._network.carry(session, False, b"".join(parts))

    def send_snapshot(self, peer: int, group: Any, index: int, term: int, done: Callable[[bool], None]) -> None:
        done(False)
