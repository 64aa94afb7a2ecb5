"""The simulated world of a driver: clocks, network and disk threads, all decided by the scheduler's seed.

A connection delivers in order, as TCP does, and each end learns of its end at a time of its own; what was on its way is delivered until then. Losing,
delaying, duplicating (appends and votes) and cutting are faults that the schedule switches on. What a cut holds back arrives late and in order when
the cut ends in time, and kills the connection otherwise.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from raft.api import Lane
from raft.core.message import Message, MessageType
from raft.wire import Batch, Envelope, WireError, decode_batch, encode_batch
from wal.entry import GroupId
from wal.errors import check

if TYPE_CHECKING:
    from tests.simulation.files import SimFileSystem
    from tests.simulation.node import SimNode
    from tests.simulation.scheduler import Scheduler

CLUSTER_ID = b"simulated-cluste"
RECONNECT_US = 50_000
CONNECT_TIMEOUT_US = 500_000
VOTES = frozenset((MessageType.VOTE, MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE))
DEAD_SESSION_US = 2_000_000
RETRANSMIT_US = 200_000
QUEUE_BYTES = 64 << 10
"""What may wait in one direction of a session that is not ready before sending is refused."""


class SimClock:
    """One process's clock, with an origin of its own. While the process is stopped (SIGSTOP) its timers wait; time goes on."""

    def __init__(self, scheduler: Scheduler, origin_ms: int = 0) -> None:
        self._scheduler = scheduler
        self._origin_ms = origin_ms
        self.alive = True
        self.stopped = False
        self._waiting: list[Callable[[], object]] = []

    def now_ms(self) -> int:
        return self._origin_ms + self._scheduler.now_us // 1000

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        self._scheduler.at(delay_ms * 1000, lambda: self.run(callback))

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._scheduler.at(self._scheduler.random.randrange(1, 60), lambda: self.run(callback))

    def run(self, callback: Callable[[], object]) -> None:
        """Run something on this process's loop: now, or when it goes on."""
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


class KernelFlush:
    """A flush that the kernel does: with the bytes as they were given to it at the start, and a number as its answer."""

    def __init__(self, job: Any, files: SimFileSystem) -> None:
        self._job = job
        self._files = files
        self._place = job.place()

    def run(self) -> None:
        number, data, position = self._place
        file = self._files.numbered[number]
        try:
            file.pwrite(data, position)
            file.fdatasync()
        except OSError as error:
            self._job.ended(-(error.errno or errno.EIO))
        else:
            self._job.ended(len(data))


class SimDisk:
    """Disk threads: a job runs whole at the end of a drawn delay. A stopped process runs nothing until it goes on.

    Every other flush is the kernel's.
    """

    def __init__(self, scheduler: Scheduler, clock: SimClock, files: SimFileSystem, counts: Counter[str]) -> None:
        self._files = files
        self._counts = counts
        self._scheduler = scheduler
        self._clock = clock
        self.slow_us = 0  # fault: added to every flush
        self.out: dict[str, Any] = {}  # kind -> job that is out, what a crash may tear

    def submit_flush(self, job: Any, done: Callable[[BaseException | None], None]) -> None:
        check("flush" not in self.out, "two flushes at a time")
        if job.number % 2 == 0 and job.place() is not None:
            job = KernelFlush(job, self._files)
            self._counts["kernel_flushes"] += 1
        self._submit("flush", job, done, self._scheduler.random.randrange(100, 3000) + self.slow_us)

    def submit_background(self, job: Any, done: Callable[[BaseException | None], None]) -> None:
        check("background" not in self.out, "two background jobs at a time")
        self._submit("background", job, done, self._scheduler.random.randrange(200, 8000) + self.slow_us // 4)

    def submit_read(self, job: Any, done: Callable[[BaseException | None], None]) -> None:
        self._submit("", job, done, self._scheduler.random.randrange(100, 2000))

    def _submit(self, kind: str, job: Any, done: Callable[[BaseException | None], None], delay_us: int) -> None:
        if kind:
            self.out[kind] = job

        def work() -> None:
            error: BaseException | None = None
            try:
                job.run()
            except Exception as caught:  # noqa: BLE001 - handed to the driver, as a thread would
                error = caught
            self.out.pop(kind, None)
            self._scheduler.at(self._scheduler.random.randrange(1, 100), lambda: self._clock.run(lambda: done(error)))

        self._scheduler.at(delay_us, lambda: self._clock.run(work))


class End:
    """One end of a session: the process that holds it, and whether that process believes it to be open."""

    __slots__ = ("busy_until_us", "clock", "driver", "last_us", "node", "open", "queued", "stuck", "stuck_since", "wanted")

    def __init__(self, node: SimNode) -> None:
        self.node = node.id
        self.clock = node.clock
        self.driver = node.driver
        self.open = True
        self.busy_until_us = 0  # when the message that this end writes has left
        self.wanted = False  # it was asked whether it is ready, in vain
        self.queued = 0  # bytes on their way to this end
        self.last_us = 0  # when the last of them arrives
        self.stuck: list[bytes] = []  # held back by a cut
        self.stuck_since = 0


class Session:
    """One connection for one lane: `ends[0]` dialled, `ends[1]` accepted."""

    __slots__ = ("broken", "ends", "lane")

    def __init__(self, dialler: SimNode, acceptor: SimNode, lane: Lane) -> None:
        self.ends = (End(dialler), End(acceptor))
        self.lane = lane
        self.broken = False  # nothing is carried any more; the ends hear of it in their own time

    @property
    def key(self) -> tuple[int, int, Lane]:
        return self.ends[0].node, self.ends[1].node, self.lane


class SimNetwork:
    """All connections of the cluster. Each node sees it through a `Port`."""

    def __init__(self, scheduler: Scheduler, counts: Counter[str]) -> None:
        self.scheduler = scheduler
        self.counts = counts
        self.nodes: dict[int, SimNode] = {}
        self.sessions: dict[tuple[int, int, Lane], Session] = {}  # as the dialler sees them
        self.accepted: dict[tuple[int, int, Lane], Session] = {}  # as the acceptor sees them
        self.cuts: Counter[tuple[int, int]] = Counter()  # (from, to): bytes in this direction do not arrive
        self.delay_us = (100, 1500)
        self.answer_delay_us = 0
        self.loss = 0.0
        self.duplication = 0.0

    # -- connections ----------------------------------------------------------------------------------------------

    def dial(self, dialler: SimNode, peer: int, lane: Lane) -> None:
        """Keep one session to `peer` while both processes live."""
        clock, driver = dialler.clock, dialler.driver

        def attempt() -> None:
            if not clock.alive or (dialler.id, peer, lane) in self.sessions:
                return
            if clock.stopped:
                clock.run(attempt)
                return
            target = self.nodes[peer]
            if self.cuts[dialler.id, peer] or self.cuts[peer, dialler.id] or target.clock.stopped:
                self.scheduler.at(CONNECT_TIMEOUT_US, attempt)
            elif not target.up:
                driver.on_session_lost(peer, lane, True, True)
                self.scheduler.at(self.scheduler.random.randrange(RECONNECT_US, 6 * RECONNECT_US), attempt)
            else:
                self._connect(dialler, target, lane)

        self.scheduler.at(self.scheduler.random.randrange(100, 2000), attempt)

    def _connect(self, dialler: SimNode, target: SimNode, lane: Lane) -> None:
        session = Session(dialler, target, lane)
        near, far = session.ends
        earlier = self.accepted.get(session.key)
        if earlier is not None:
            self._tell(earlier, 1)  # a loss is always heard of before the next session opens
        self.sessions[session.key] = self.accepted[session.key] = session
        far.driver.on_session_open(near.node, lane, False, dialler.incarnation)
        incarnation = target.incarnation
        near.last_us = self.scheduler.now_us + self._delay()

        def opened() -> None:
            if near.open:
                near.driver.on_session_open(far.node, lane, True, incarnation)

        self.scheduler.at(near.last_us - self.scheduler.now_us, lambda: near.clock.run(opened))

    def close(self, session: Session, reason: str) -> None:
        """Both ends learn of it, each after a delay of its own; the dialler dials again."""
        if session.broken:
            return
        session.broken = True
        self.counts[f"session_{reason}"] += 1
        for side in (0, 1):
            self.scheduler.at(self._delay(), lambda side=side: session.ends[side].clock.run(lambda: self._tell(session, side)))  # type: ignore[misc]

    def _tell(self, session: Session, side: int) -> None:
        end, other = session.ends[side], session.ends[1 - side]
        if not end.open:
            return
        end.open = False
        table = self.accepted if side else self.sessions
        if table.get(session.key) is session:
            del table[session.key]
        if end.clock.alive:
            end.driver.on_session_lost(other.node, session.lane, side == 0, False)
            node = self.nodes[end.node]
            if side == 0 and node.clock is end.clock:
                self.dial(node, other.node, session.lane)

    def node_died(self, node: int) -> None:
        """kill -9: the system closes the connections at once."""
        for table, side in ((self.sessions, 0), (self.accepted, 1)):
            for key, session in list(table.items()):
                if session.ends[side].node == node and not session.ends[side].clock.alive:
                    session.ends[side].open = False
                    del table[key]
                    self.close(session, "reset")

    def deliver_again(self, sender: SimNode, receiver: SimNode, group: GroupId, message: Message) -> None:
        """An answer that was given long ago turns up once more."""
        envelope = Envelope(CLUSTER_ID, sender.id, sender.incarnation)
        data = b"".join(encode_batch(envelope, Batch([(group, message)], 0, [])))
        session = self.sessions.get((receiver.id, sender.id, Lane.CONTROL))
        if session is not None and not session.broken:
            self.counts["vote_delivered_again"] += 1
            near = session.ends[0]
            self.scheduler.at(self.scheduler.random.randrange(1, 500), lambda: near.clock.run(lambda: self._receive(session, 1, data, False)))

    # -- messages -------------------------------------------------------------------------------------------------

    def _delay(self) -> int:
        return self.scheduler.random.randrange(*self.delay_us)

    def carry(self, session: Session, side: int, data: bytes) -> bool:
        """Send `data` from the end `side`. False when its queue is full."""
        near, far = session.ends[side], session.ends[1 - side]
        waits = self.scheduler.now_us < near.busy_until_us or bool(far.stuck)
        if waits and far.queued + len(data) > QUEUE_BYTES:
            self.counts["queue_full"] += 1
            return False
        if session.broken:
            self.counts["message_lost"] += 1
            return True
        if self.loss and self.scheduler.random.random() < self.loss:
            # What TCP can not deliver in order it does not deliver at all.
            self.counts["message_lost"] += 1
            self.close(session, "lost")
            return True
        far.queued += len(data)
        if self.scheduler.random.random() < 0.2:
            near.busy_until_us = self.scheduler.now_us + self.scheduler.random.randrange(50, 3000)
        if self.cuts[near.node, far.node] or far.stuck:
            if not far.stuck:
                far.stuck_since = self.scheduler.now_us
                self.scheduler.at(RETRANSMIT_US, lambda: self._retransmit(session, side))
            far.stuck.append(data)
            self.counts["message_held_back"] += 1
            return True
        self._send(session, side, data)
        return True

    def _send(self, session: Session, side: int, data: bytes) -> None:
        far = session.ends[1 - side]
        now = self.scheduler.now_us
        extra = self.scheduler.random.randrange(self.answer_delay_us) if side == 1 and self.answer_delay_us else 0
        far.last_us = max(now + self._delay() + extra, far.last_us + 1)
        self.scheduler.at(far.last_us - now, lambda: far.clock.run(lambda: self._receive(session, side, data, True)))
        if self.duplication and self.scheduler.random.random() < self.duplication:
            later = self._delay() * 3
            if session.lane == Lane.CONTROL:
                if not only_votes(data):
                    return
                later = self.scheduler.random.randrange(50_000, 3_000_000)
                self.counts["vote_duplicated"] += 1
            self.counts["message_duplicated"] += 1
            self.scheduler.at(far.last_us - now + later, lambda: far.clock.run(lambda: self._receive(session, side, data, False)))

    def ready(self, session: Session, side: int) -> bool:
        """Whether a message of the end `side` would leave at once; `on_ready` follows otherwise."""
        near, far = session.ends[side], session.ends[1 - side]
        if self.scheduler.now_us >= near.busy_until_us and not far.stuck:
            return True
        if not near.wanted:
            near.wanted = True
            self.counts["not_ready"] += 1
            self._when_ready(session, side)
        return False

    def _when_ready(self, session: Session, side: int) -> None:
        near, far = session.ends[side], session.ends[1 - side]

        def look() -> None:
            if not near.open or not near.wanted:
                return
            if far.stuck and not session.broken:
                self._when_ready(session, side)
            else:
                near.wanted = False
                near.clock.run(near.driver.on_ready)

        self.scheduler.at(max(near.busy_until_us - self.scheduler.now_us, 1) + (RETRANSMIT_US // 4 if far.stuck else 0), look)

    def _retransmit(self, session: Session, side: int) -> None:
        near, far = session.ends[side], session.ends[1 - side]
        if session.broken:
            return
        if self.cuts[near.node, far.node]:
            if self.scheduler.now_us - far.stuck_since > DEAD_SESSION_US:
                self.counts["message_lost"] += len(far.stuck)
                self.close(session, "timed_out")
            else:
                self.scheduler.at(RETRANSMIT_US, lambda: self._retransmit(session, side))
            return
        stuck, far.stuck = far.stuck, []
        for data in stuck:
            self._send(session, side, data)

    def _receive(self, session: Session, side: int, data: bytes, first: bool) -> None:
        near, far = session.ends[side], session.ends[1 - side]
        if first:
            far.queued -= len(data)
        if not far.open:
            self.counts["message_lost"] += first
            return
        try:
            if side == 0:
                far.driver.on_request(near.node, session.lane, memoryview(data))
            else:
                far.driver.on_answer(near.node, session.lane, memoryview(data))
        except WireError as error:
            raise AssertionError(f"a message between nodes does not decode: {error}") from error


def only_votes(data: bytes) -> bool:
    """Whether a message holds nothing but votes, which may come late and twice (beats and notices of leaders rest on the order of their session)."""
    batch = decode_batch(memoryview(data))[1]
    return not batch.beat and not batch.news and all(message.type in VOTES for _, message in batch.messages)


class Port:
    """One node's view of the network: `raft.api.Network`. Snapshots are the node's own matter."""

    def __init__(self, network: SimNetwork, node: int) -> None:
        self._network = network
        self._node = node

    def send_request(self, peer: int, lane: Lane, parts: Sequence[Any]) -> bool:
        session = self._network.sessions.get((self._node, peer, lane))
        return session is not None and self._network.carry(session, 0, b"".join(parts))

    def send_answer(self, peer: int, lane: Lane, parts: Sequence[Any]) -> bool:
        session = self._network.accepted.get((peer, self._node, lane))
        return session is not None and self._network.carry(session, 1, b"".join(parts))

    def end_incoming(self, peer: int, lane: Lane) -> None:
        session = self._network.accepted.get((peer, self._node, lane))
        if session is not None:
            self._network.close(session, "ended")

    def ready(self, peer: int, lane: Lane, outgoing: bool) -> bool:
        network = self._network
        if outgoing:
            session = network.sessions.get((self._node, peer, lane))
            return session is None or network.ready(session, 0)
        session = network.accepted.get((peer, self._node, lane))
        return session is None or network.ready(session, 1)

    def send_snapshot(self, peer: int, group: Any, index: int, term: int, done: Callable[[bool], None]) -> None:
        done(False)
