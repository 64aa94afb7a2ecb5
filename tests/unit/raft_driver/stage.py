"""One node's driver with its real log on a disk in memory, in a world that the test moves by hand: clock, flushes, and what the peers 2 and 3 say."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from crc32c import crc32c

from raft.api import Lane, Proposal
from raft.core.core import Role
from raft.core.membership import encode, simple
from raft.core.message import CONTROL_TYPES, Message, MessageType
from raft.driver import Driver, DriverSettings, Identity, World
from raft.wire import Batch, Envelope, decode_batch, encode_batch
from tests.unit.raft_core.cluster import show
from tests.unit.wal.helpers import SMALL
from wal.api import AppliedState
from wal.entry import Buffer, Entry, EntryKind, GroupId, group_id
from wal.memory_filesystem import MemoryFileSystem
from wal.settings import WalSettings
from wal.store import WalStore

CLUSTER = b"c" * 16
GROUP = group_id(b"t" * 16, 0)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[int, int, Callable[[], None]]] = []

    def now_ms(self) -> int:
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        heapq.heappush(self.later, (self.now + delay_ms, len(self.later) + self.now, callback))


class Disk:
    """A flush waits for `Stage.flush`; other work is done by the next turn."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.flushes: list[tuple[Any, Callable[[BaseException | None], None]]] = []

    def submit_flush(self, job: Any, done: Callable[[BaseException | None], None]) -> None:
        self.flushes.append((job, done))

    def submit_background(self, job: Any, done: Callable[[BaseException | None], None]) -> None:
        def run() -> None:
            job.run()
            done(None)

        self._clock.call_soon(run)

    submit_read = submit_background


class Network:
    """Keeps what is sent, by peer and in order, and which of the peers' sessions were ended."""

    def __init__(self) -> None:
        self.sent: dict[int, list[Batch]] = {}
        self.ended: list[tuple[int, Lane]] = []

    def send_request(self, peer: int, lane: Lane, parts: Sequence[Buffer]) -> bool:
        self.sent.setdefault(peer, []).append(decode_batch(memoryview(b"".join(parts)))[1])
        return True

    def send_answer(self, peer: int, lane: Lane, parts: Sequence[Buffer]) -> bool:
        return self.send_request(peer, lane, parts)

    def ready(self, peer: int, lane: Lane, outgoing: bool) -> bool:
        return True

    def end_incoming(self, peer: int, lane: Lane) -> None:
        self.ended.append((peer, lane))

    def send_snapshot(self, peer: int, group: GroupId, index: int, term: int, done: Callable[[bool], None]) -> None:
        raise AssertionError("not needed here")


class Machine:
    """A state machine of strings: what is in `waiting` is proposed as one entry each."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.applied: list[bytes] = []
        self.leads = False

    def collect(self, max_bytes: int) -> Proposal | None:
        if not self.waiting:
            return None
        payload = self.waiting.pop(0)
        return Proposal(EntryKind.DATA, (payload,), len(payload), crc32c(payload), 1)

    def apply(self, entries: Sequence[Entry]) -> None:
        self.applied += [entry.payload() for entry in entries if entry.kind == EntryKind.DATA]

    def on_leadership(self, leader: bool) -> None:
        self.leads = leader

    def on_leader_change(self, leader_node: int, term: int) -> None: ...

    def on_flushed(self) -> None: ...

    def on_progress(self) -> None: ...

    def restore(self, state: AppliedState | None) -> int:
        return 0

    def capture(self) -> AppliedState | None:
        return None


class Events:
    def __init__(self) -> None:
        self.fatals: list[BaseException] = []
        self.snapshots_needed: list[int] = []
        self.silence: list[tuple[int, bool]] = []

    def on_fatal(self, error: BaseException) -> None:
        self.fatals.append(error)

    def on_snapshot_needed(self, group: object, replica: int, index: int, term: int) -> None:
        self.snapshots_needed.append(replica)

    def on_peer_silent(self, peer: int, silent: bool) -> None:
        self.silence.append((peer, silent))

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class Stage:
    """Node 1 of the voters 1, 2, 3, connected to both peers on both lanes."""

    def __init__(self, settings: DriverSettings | None = None, wal: WalSettings = SMALL) -> None:
        self.clock, self.network, self.machine, self.events = Clock(), Network(), Machine(), Events()
        self.disk = Disk(self.clock)
        fs = MemoryFileSystem(Random(1))
        fs.mkdir("/")
        self.store = WalStore.open(fs, "/d", wal)
        world = World(self.clock, self.disk, self.network, Random(1))
        self.driver = Driver(Identity(1, CLUSTER, 1), self.store, world, settings or DriverSettings(), self.events)
        self.driver.set_peers({1, 2, 3})
        self.log = self.store.create_group(GROUP, "t", encode(simple((1, 2, 3))))
        self.group = self.driver.open_group(self.log, self.machine, 1)
        self.core = self.group.core
        self.driver.start()
        for peer in (2, 3):
            for lane in Lane:
                for outgoing in (True, False):
                    self.driver.on_session_open(peer, lane, outgoing, 1)
        self.settle()

    # -- moving the world -----------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Everything that the loop has to do now."""
        while self.clock.soon:
            callbacks, self.clock.soon = self.clock.soon, []
            for callback in callbacks:
                callback()
        assert not self.events.fatals, self.events.fatals

    def flush(self) -> None:
        """The flush that is out is done, and what follows from it."""
        (job, done), *self.disk.flushes = self.disk.flushes
        job.run()
        done(None)
        self.turn()

    def settle(self) -> None:
        self.turn()
        while self.disk.flushes:
            self.flush()

    def advance(self, milliseconds: int) -> None:
        end = self.clock.now + milliseconds
        while self.clock.later and self.clock.later[0][0] <= end:
            at, _, callback = heapq.heappop(self.clock.later)
            self.clock.now = max(self.clock.now, at)
            callback()
            self.turn()
        self.clock.now = end

    def hear(self, peer: int, *messages: Message, beat: int = 0, number: int = 0) -> None:
        """The peer says something on its own sessions; what follows waits for a turn. `number`: of the data message."""
        for lane, data in self._lanes(peer, messages, beat, number):
            self.driver.on_request(peer, lane, data)

    def answered(self, peer: int, *messages: Message, beat: int = 0) -> None:
        """The peer answers on our sessions; it has flushed all data that it was sent."""
        for lane, data in self._lanes(peer, messages, beat, self.driver.peers[peer].data_sent):
            self.driver.on_answer(peer, lane, data)

    def _lanes(self, peer: int, messages: Sequence[Message], beat: int, flushed: int) -> list[tuple[Lane, memoryview]]:
        found = []
        for lane, number in ((Lane.CONTROL, beat), (Lane.DATA, flushed)):
            some = [(GROUP, message) for message in messages if (message.type in CONTROL_TYPES) == (lane == Lane.CONTROL)]
            if some:
                found.append((lane, memoryview(b"".join(encode_batch(Envelope(CLUSTER, peer, 1), Batch(some, number, []))))))
        return found

    def batches(self, peer: int) -> list[Batch]:
        """What was sent to the peer since the last time."""
        return self.network.sent.pop(peer, [])

    def said(self, peer: int) -> list[str]:
        """The same as lines, one for each message."""
        return [show(message) for batch in self.batches(peer) for _, message in batch.messages]

    # -- short forms ----------------------------------------------------------------------------------------------

    def lead(self) -> None:
        """Win an election in the next term with the vote of 2, and serve. 3 has answered nothing."""
        self.core.campaign()
        self.driver.touch(self.group)
        self.turn()
        term = self.core.term + 1
        self.answered(2, Message(MessageType.PRE_VOTE_RESPONSE, 2, 1, term))
        self.settle()
        self.answered(2, Message(MessageType.VOTE_RESPONSE, 2, 1, term))
        self.settle()
        self.answered(2, Message(MessageType.HEARTBEAT_RESPONSE, 2, 1, term), beat=self.driver.peers[2].beat)
        self.acknowledge(2)
        assert self.core.role == Role.LEADER and self.group.serving and self.machine.leads
        self.network.sent.clear()

    def acknowledge(self, peer: int, index: int = 0) -> None:
        """The peer holds everything (or up to `index`)."""
        index = index or self.log.last_index
        self.answered(peer, Message(MessageType.APPEND_RESPONSE, peer, 1, self.core.term, index, self.core.term))
        self.settle()

    def propose(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.machine.waiting.append(payload)
            self.group.mark_dirty()
            self.turn()
