"""What a worker's driver asks of the disk: one flush at a time for all groups, and background work beside it.

Durability in one place: messages that are true only after an fsync wait in `_waiting` until the flush that took what was staged before them
is done, and are dropped if they stopped being true meanwhile (RaftCore.still_true). A flush that fails is fatal; background work that finds no
space is tried again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.api import Clock, Disk
from raft.core.message import Message, MessageType
from raft.liveness import Peer
from wal.api import Flush, Job, WalStore
from wal.entry import GroupId
from wal.errors import DiskFullError

if TYPE_CHECKING:
    from raft.driver import Driver
    from raft.group import RaftGroup

DISK_FULL_RETRY_MS = 500
SEAL_AFTER_MS = 200
"""The journal is sealed when nothing was flushed for this long, so that damage in the last flush is not taken for a torn tail."""
SLOW_FLUSH_MS = 20
"""What arrives while a flush is out usually waits for its end, and becomes one entry; behind a slow disk of ours, others may be quicker."""

Promises = list[tuple["RaftGroup", Message]]


def is_covered(group: RaftGroup, message: Message) -> bool:
    """Whether a flush that left entries behind still makes `message` true: every flush takes all hard states, and frames in order."""
    if message.type == MessageType.APPEND_RESPONSE and not message.reject:
        return message.index <= group.log.flushed_index
    return not group.log.controls_staged()


class Flushing:
    """One per driver.

    Invariant: at most one flush job and one background job are out; `staged_by` holds every group whose log may have something staged.
    """

    __slots__ = (
        "_background",
        "_behind",
        "_clock",
        "_disk",
        "_driver",
        "_job",
        "_retry_at_ms",
        "_sealed",
        "_started_ms",
        "_store",
        "_waiting",
        "staged_by",
    )

    def __init__(self, driver: Driver, store: WalStore, clock: Clock, disk: Disk) -> None:
        self._driver = driver
        self._store = store
        self._clock = clock
        self._disk = disk
        self.staged_by: dict[GroupId, RaftGroup] = {}
        self._job: Flush | None = None
        self._started_ms = 0
        self._sealed = False
        self._background: Job | None = None
        self._retry_at_ms = 0
        self._waiting: Promises = []  # for the next flush
        self._behind: Promises = []  # for the flush that is out

    @property
    def busy(self) -> bool:
        """Whether a flush is out that new entries should wait for."""
        return self._job is not None and self._clock.now_ms() - self._started_ms < SLOW_FLUSH_MS

    @property
    def out(self) -> bool:
        return self._job is not None

    def promise(self, group: RaftGroup, messages: list[Message]) -> None:
        """Send `messages` when everything staged so far is durable."""
        self._waiting.extend([(group, message) for message in messages])

    def start(self) -> None:
        """Take what is staged as one flush, if none is out."""
        if self._job is not None:
            return
        driver, store = self._driver, self._store
        if not store.has_staged():
            for peer in driver.peers.values():
                if peer.data_flushed != peer.data_seen:
                    peer.data_flushed = peer.data_seen
                    driver.schedule_turn()
            if self._waiting:
                # Nothing has to be written for these: they are true already.
                waiting, self._waiting = self._waiting, []
                self._release(waiting, True)
            return
        job = store.next_flush()
        if job is None:
            return  # no room in the journal yet; background work makes some
        self._job = job
        self._sealed = self._sealed and not job.size_bytes  # the seal itself is a flush of nothing
        self._started_ms = self._clock.now_ms()
        self._behind, self._waiting = self._waiting, []
        flushed, self.staged_by = self.staged_by, {}
        complete = not store.has_staged()
        if not complete:
            self.staged_by.update(flushed)
        seen = [(peer, peer.data_seen) for peer in driver.peers.values()]
        self._disk.submit_flush(job, lambda error: self._done(job, flushed, seen, complete, error))

    def _done(self, job: Flush, flushed: dict[GroupId, RaftGroup], seen: list[tuple[Peer, int]], complete: bool, error: BaseException | None) -> None:
        driver, store = self._driver, self._store
        if driver.stopped:
            return
        try:
            if error is not None:
                raise error
            job.complete()
            self._job = None
            driver.events.on_flush(self._clock.now_ms() - self._started_ms, job.size_bytes)
            # A node whose memory is full takes no more data from its peers before it has room again: they wait for these numbers.
            for peer, number in seen if complete or store.memory_bytes <= store.memory_limit_bytes else ():
                peer.data_flushed = max(peer.data_flushed, min(number, peer.data_seen))
            waiting, self._behind = self._behind, []
            self._release(waiting, complete)
            for group in flushed.values():
                if driver.groups.get(group.group_id) is group:
                    group.core.on_flushed()
                    group.machine.on_flushed()
                    driver.look_at(group)
            driver.schedule_turn()
        except BaseException as surprise:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            driver.fatal(surprise)

    def _release(self, waiting: Promises, complete: bool) -> None:
        """Hand on messages whose fsync is done; `complete`: the flush took everything that was staged."""
        driver = self._driver
        for group, message in waiting:
            if driver.groups.get(group.group_id) is not group or not group.core.still_true(message):
                continue
            if not complete and not is_covered(group, message):
                self._waiting.append((group, message))
            elif message.receiver == group.core.replica:
                group.core.step(message, False)  # to itself: so the core learns that its own vote is durable
                driver.touch(group)
            else:
                driver.post.route(group, message)
        if waiting:
            driver.schedule_turn()

    def maybe_seal(self, now_ms: int) -> None:
        """Ask for a seal block when the journal has been idle for a while."""
        if not self._sealed and self._job is None and now_ms - self._started_ms > SEAL_AFTER_MS:
            self._sealed = True
            self._store.note_idle()
            self._driver.schedule_turn()

    # -- background -----------------------------------------------------------------------------------------------

    def start_background(self) -> None:
        """Begin the next piece of background work, if there is any and none is out."""
        if self._background is not None or (self._retry_at_ms and self._clock.now_ms() < self._retry_at_ms):
            return
        job = self._store.next_background()
        if job is not None:
            self._background = job
            self._retry_at_ms = 0
            self._disk.submit_background(job, lambda error: self._background_done(job, error))

    def _background_done(self, job: Job, error: BaseException | None) -> None:
        driver = self._driver
        if driver.stopped:
            return
        self._background = None
        if isinstance(error, DiskFullError):
            self._retry_at_ms = self._clock.now_ms() + DISK_FULL_RETRY_MS
            return
        try:
            if error is not None:
                raise error
            job.complete()
        except BaseException as surprise:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            driver.fatal(surprise)
            return
        driver.schedule_turn()
