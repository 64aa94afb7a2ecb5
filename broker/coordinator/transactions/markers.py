"""Markers on their way from a coordinator to the partitions of a transaction, and their reception there.

The sender repeats until every partition has its marker: nobody can revoke a decision, and a partition without its marker would hold back its readers
for ever. One request per node is out at a time. The receiver appends; its answer means committed. Loop thread only; knows no asyncio.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import msgspec

from broker.api import AppendResult, LeaderTable
from broker.coordinator.transactions.state import TopicPartition, Transaction, TransactionState
from broker.coordinator.transactions.wire import (
    METHOD_MARKERS,
    MarkerItem,
    MarkerRequest,
    Send,
    decode_errors,
    decode_markers,
    encode_errors,
    encode_markers,
)
from broker.errors import ErrorCode
from broker.metadata.image import MetadataImage
from broker.records.control import Marker
from raft.api import Clock
from wal.entry import GroupId

log = logging.getLogger("chronik_cluster")

MARKERS_PER_REQUEST = 1_000
BACKOFF_MS_MIN, BACKOFF_MS_MAX = 20, 1_000
ANSWER_MS_MAX = 500
"""What is not committed by then is asked for again, so that one slow partition does not hold up the others of its node."""


class SenderParts(NamedTuple):
    """What the sender needs of its node. `topic_exists(name, done)` asks the controller: True or False, None when there is no answer."""

    clock: Clock
    leaders: LeaderTable
    image: Callable[[], MetadataImage]
    send: Send
    topic_exists: Callable[[str, Callable[[bool | None], None]], None]


class MarkerJob:
    """All markers of one decision. `remaining` = partitions that have not confirmed; `done` is called when there is none, unless `cancelled`."""

    __slots__ = ("cancelled", "coordinator_epoch", "done", "remaining", "transaction")

    def __init__(self, transaction: Transaction, coordinator_epoch: int, done: Callable[[], None]) -> None:
        self.transaction = transaction
        self.coordinator_epoch = coordinator_epoch
        self.remaining = set(transaction.partitions)
        self.done = done
        self.cancelled = False

    def item(self, group: GroupId, leader_epoch: int) -> MarkerItem:
        decided = self.transaction
        commit = decided.state is TransactionState.PREPARE_COMMIT
        return MarkerItem(group, leader_epoch, decided.producer_id, decided.epoch, self.coordinator_epoch, commit)


_Errand = tuple[MarkerJob, TopicPartition]


class MarkerSender:
    """One per node. Bounded by the transactions that this node coordinates: each of their partitions is in exactly one queue, request or pause."""

    __slots__ = ("_asking", "_backoff_ms", "_busy", "_incarnation", "_later", "_parts", "_pumping", "_queues", "_sequence", "_timer")

    def __init__(self, parts: SenderParts, incarnation: int) -> None:
        self._parts = parts
        self._incarnation = incarnation
        self._sequence = 0
        self._queues: dict[int, deque[_Errand]] = {}
        self._busy: set[int] = set()
        self._later: list[_Errand] = []
        self._asking: dict[str, list[_Errand]] = {}  # topics that our image does not have
        self._backoff_ms = BACKOFF_MS_MIN
        self._timer = False
        self._pumping = False

    def begin(self, job: MarkerJob) -> None:
        if not job.remaining:
            self._parts.clock.call_soon(partial(self._maybe_done, job))
        for partition in sorted(job.remaining):
            self._route((job, partition))

    def _route(self, errand: _Errand) -> None:
        job, (topic, partition) = errand
        if job.cancelled:
            return
        image = self._parts.image().partition(topic, partition)
        if image is None:
            self._ask(topic, errand)
            return
        node, _ = self._parts.leaders.leader_of(image.group_id)
        if node < 0:
            self._again(errand)
            return
        self._queues.setdefault(node, deque()).append(errand)
        if not self._pumping:
            self._pumping = True
            self._parts.clock.call_soon(self._pump_all)

    def _pump_all(self) -> None:
        self._pumping = False
        for node in list(self._queues):
            self._pump(node)

    def _pump(self, node: int) -> None:
        queue = self._queues.get(node)
        if not queue or node in self._busy:
            return
        taken: list[_Errand] = []
        items: list[MarkerItem] = []
        moved: list[_Errand] = []
        while queue and len(taken) < MARKERS_PER_REQUEST:
            errand = queue.popleft()
            job, (topic, partition) = errand
            image = self._parts.image().partition(topic, partition)
            leader, term = self._parts.leaders.leader_of(image.group_id) if image is not None else (-1, -1)
            if job.cancelled:
                continue
            if image is None or leader != node:
                moved.append(errand)
                continue
            taken.append(errand)
            items.append(job.item(image.group_id, term))
        if not queue:
            del self._queues[node]
        for errand in moved:
            self._route(errand)
        if not taken:
            return
        self._busy.add(node)
        self._sequence += 1
        payload = encode_markers(MarkerRequest(self._incarnation, self._sequence, items))
        self._parts.send(node, METHOD_MARKERS, payload, partial(self._answered, node, taken))

    def _answered(self, node: int, taken: list[_Errand], payload: bytes | None) -> None:
        self._busy.discard(node)
        errors = decode_errors(payload, len(taken))
        for place, errand in enumerate(taken):
            self._settle(errand, ErrorCode.NETWORK_EXCEPTION if errors is None else errors[place])
        self._pump(node)

    def _settle(self, errand: _Errand, error: int) -> None:
        job, partition = errand
        if job.cancelled:
            return
        if error == ErrorCode.TRANSACTION_COORDINATOR_FENCED:
            # Somebody newer coordinates this id; it carries on from the log.
            log.info("%s: a newer coordinator than term %d ends the transaction", job.transaction.transactional_id, job.coordinator_epoch)
            job.cancelled = True
            return
        if error == ErrorCode.INVALID_PRODUCER_EPOCH:
            # Ended there already in the name of a newer epoch (an administrator's marker): nothing of this epoch is open or can come.
            log.warning("%s: %s-%d knows a newer epoch than %d", job.transaction.transactional_id, *partition, job.transaction.epoch)
        elif error:
            self._again(errand)
            return
        self._backoff_ms = BACKOFF_MS_MIN
        job.remaining.discard(partition)
        self._maybe_done(job)

    def _maybe_done(self, job: MarkerJob) -> None:
        if not job.remaining and not job.cancelled:
            job.cancelled = True  # there is nothing left to do for it
            job.done()

    # -- what does not work now -----------------------------------------------------------------------------------

    def _again(self, errand: _Errand) -> None:
        self._later.append(errand)
        if not self._timer:
            self._timer = True
            self._parts.clock.call_later(self._backoff_ms, self._retry)
            self._backoff_ms = min(2 * self._backoff_ms, BACKOFF_MS_MAX)

    def _retry(self) -> None:
        self._timer = False
        errands, self._later = self._later, []
        for errand in errands:
            self._route(errand)

    def _ask(self, topic: str, errand: _Errand) -> None:
        """Our image has no such partition: it may be old, so that only the controller can say that the topic is deleted."""
        asking = self._asking.get(topic)
        if asking is not None:
            asking.append(errand)
            return
        self._asking[topic] = [errand]
        self._parts.topic_exists(topic, partial(self._told, topic))

    def _told(self, topic: str, exists: bool | None) -> None:
        for errand in self._asking.pop(topic, ()):
            job, partition = errand
            if exists is not False:
                self._again(errand)
            elif not job.cancelled:
                log.info("%s: %s-%d is deleted and needs no marker", job.transaction.transactional_id, *partition)
                job.remaining.discard(partition)
                self._maybe_done(job)


class MarkerPartition(Protocol):
    """What the receiver needs of a partition."""

    @property
    def leader_epoch(self) -> int: ...

    def append_marker(self, marker: Marker, done: Callable[[AppendResult], None]) -> None: ...


class MarkerReceiver:
    """One per node. `find(group)` gives our replica. Remembers one (incarnation, sequence) per node."""

    __slots__ = ("_clock", "_find", "_last")

    def __init__(self, clock: Clock, find: Callable[[GroupId], MarkerPartition | None]) -> None:
        self._clock = clock
        self._find = find
        self._last: dict[int, tuple[int, int]] = {}

    def receive(self, sender: int, payload: bytes, reply: Callable[[bytes], None]) -> None:
        """Append what `sender` asks for; `reply` once, when each marker is committed or refused, or a while has passed."""
        try:
            request = decode_markers(payload)
        except msgspec.MsgspecError as error:
            log.warning("node %d sent markers that can not be read: %s", sender, error)
            reply(encode_errors([]))
            return
        number = (request.incarnation, request.sequence)
        if number <= self._last.get(sender, (-1, -1)):
            reply(encode_errors([]))
            return
        self._last[sender] = number
        errors = [int(ErrorCode.REQUEST_TIMED_OUT)] * len(request.markers)
        waiting = 1 + len(errors)

        def settled(place: int, result: AppendResult) -> None:
            nonlocal waiting
            if place >= 0:
                errors[place] = result.error
            waiting -= 1
            if waiting == 0:
                reply(encode_errors(errors))

        def time_limit() -> None:
            nonlocal waiting
            if waiting > 0:
                waiting = -1  # below 0 from now on: what comes later is told to the repetition
                reply(encode_errors(errors))

        for place, item in enumerate(request.markers):
            partition = self._find(GroupId(item.group))
            if partition is None or partition.leader_epoch != item.leader_epoch:
                settled(place, AppendResult(ErrorCode.NOT_LEADER_OR_FOLLOWER))
                continue
            marker = Marker(item.producer_id, item.producer_epoch, item.coordinator_epoch, item.commit)
            partition.append_marker(marker, partial(settled, place))
        settled(-1, AppendResult(ErrorCode.NONE))
        if waiting > 0:
            self._clock.call_later(ANSWER_MS_MAX, time_limit)
