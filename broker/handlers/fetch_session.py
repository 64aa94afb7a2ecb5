"""Fetch sessions (KIP-227): the broker remembers what a client fetches, so that the client names only what changed and is told only what changed.

Session id and epoch of a request: epoch -1 = no session, and forget the one named; 0 = make a new session, forgetting the one named; above 0 = the
next request of an existing one. Knows neither partitions nor the network. Time (ms) and ids are passed in. Runs on the loop thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from broker.errors import ErrorCode
from broker.protocol.fetch import FetchedPartition, FetchPartition, FetchRequest
from broker.protocol.produce import TopicKey

FINAL_EPOCH = -1
INITIAL_EPOCH = 0
EPOCH_MAX = 2**31 - 1


class CachedPartition:
    """One partition of a session: what the client wants, and what it was last told."""

    __slots__ = ("asked", "high_watermark", "log_start_offset")

    def __init__(self, asked: FetchPartition) -> None:
        self.asked = asked
        self.high_watermark = -1
        self.log_start_offset = -1

    def tell(self, result: FetchedPartition) -> bool:
        """Remember what an answer says; True when it differs from what the client knows, so that an incremental answer has to carry it."""
        changed = bool(result.size) or result.error != 0
        if result.high_watermark != self.high_watermark:
            changed = True
        if result.log_start_offset != self.log_start_offset:
            changed = True
        # After an error the next good answer is told even if it says nothing new, so that the client knows that the error is over.
        self.high_watermark = -1 if result.error else result.high_watermark
        self.log_start_offset = result.log_start_offset
        return changed


class FetchSession:
    """`epoch` is the one that the next request must carry. `partitions` are in the order in which they are served: what got data moves to the end."""

    __slots__ = ("epoch", "last_used_ms", "partitions", "session_id", "uses_ids")

    def __init__(self, session_id: int, uses_ids: bool, now_ms: int) -> None:
        self.session_id = session_id
        self.uses_ids = uses_ids
        self.epoch = 1
        self.last_used_ms = now_ms
        self.partitions: OrderedDict[tuple[TopicKey, int], CachedPartition] = OrderedDict()

    def advance(self) -> None:
        self.epoch = self.epoch + 1 if self.epoch < EPOCH_MAX else 1

    def update(self, request: FetchRequest) -> None:
        """Take what the request adds, changes and forgets."""
        for asked in request.partitions:
            key = (asked.topic, asked.partition)
            cached = self.partitions.get(key)
            if cached is None:
                self.partitions[key] = CachedPartition(asked)
            else:
                cached.asked = asked
        for key in request.forgotten:
            self.partitions.pop(key, None)


class FetchContext:
    """How to serve one Fetch: which partitions, and what of the answers to send. `session` None = without a session."""

    __slots__ = ("error", "incremental", "partitions", "session", "session_id")

    def __init__(
        self, error: ErrorCode, partitions: Sequence[FetchPartition], session: FetchSession | None = None, incremental: bool = False
    ) -> None:
        self.error = error
        self.partitions = partitions
        self.session = session
        self.session_id = session.session_id if session is not None else 0
        self.incremental = incremental

    def select(self, results: Sequence[FetchedPartition]) -> list[tuple[TopicKey, list[FetchedPartition]]]:
        """The results (in the order of `partitions`) that go into the answer, neighbours of one topic together; the session learns what is told."""
        session = self.session
        topics: list[tuple[TopicKey, list[FetchedPartition]]] = []
        last: TopicKey | None = None
        for asked, result in zip(self.partitions, results, strict=True):
            if session is not None:
                key = (asked.topic, asked.partition)
                cached = session.partitions.get(key)
                if cached is not None:
                    changed = cached.tell(result)
                    if result.size:
                        session.partitions.move_to_end(key)
                    if self.incremental and not changed:
                        continue
            if asked.topic != last:
                last = asked.topic
                topics.append((last, []))
            topics[-1][1].append(result)
        return topics


class FetchSessionCache:
    """All sessions of the node, at most `slots` of them with at most `partitions_max` partitions together.

    A full cache gives no session (the client goes on without one) unless the one that was not used for longest is older than `eviction_ms`.
    Invariant: `_sessions` is in the order of last use; `_partitions` is the sum over all sessions.
    """

    __slots__ = ("_eviction_ms", "_new_id", "_now_ms", "_partitions", "_partitions_max", "_sessions", "_slots", "evictions")

    def __init__(
        self, now_ms: Callable[[], int], new_id: Callable[[], int], slots: int = 1000, eviction_ms: int = 120_000, partitions_max: int = 1_000_000
    ) -> None:
        """`new_id()` gives an unpredictable number from 1 to 2^31-1."""
        self._now_ms = now_ms
        self._new_id = new_id
        self._slots = slots
        self._eviction_ms = eviction_ms
        self._partitions_max = partitions_max
        self._partitions = 0
        self._sessions: OrderedDict[int, FetchSession] = OrderedDict()
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def partitions(self) -> int:
        return self._partitions

    def open(self, request: FetchRequest, uses_ids: bool) -> FetchContext:
        """What `request` means: without a session, the first of a new one, or the next of one that is known."""
        session_id, epoch = request.session_id, request.session_epoch
        if epoch in (FINAL_EPOCH, INITIAL_EPOCH):
            if session_id:
                self._remove(session_id)
            if epoch == FINAL_EPOCH:
                return FetchContext(ErrorCode.NONE, request.partitions)
            return FetchContext(ErrorCode.NONE, request.partitions, self._make(request, uses_ids))
        session = self._sessions.get(session_id)
        if session is None:
            return FetchContext(ErrorCode.FETCH_SESSION_ID_NOT_FOUND, ())
        if epoch != session.epoch:
            return FetchContext(ErrorCode.INVALID_FETCH_SESSION_EPOCH, ())
        if uses_ids != session.uses_ids:
            return FetchContext(ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR, ())
        before = len(session.partitions)
        session.update(request)
        self._partitions += len(session.partitions) - before
        if not session.partitions or self._partitions > self._partitions_max:
            empty = not session.partitions
            self._remove(session_id)
            return FetchContext(ErrorCode.NONE if empty else ErrorCode.FETCH_SESSION_ID_NOT_FOUND, ())
        session.advance()
        session.last_used_ms = self._now_ms()
        self._sessions.move_to_end(session_id)
        return FetchContext(ErrorCode.NONE, [cached.asked for cached in session.partitions.values()], session, incremental=True)

    def _make(self, request: FetchRequest, uses_ids: bool) -> FetchSession | None:
        now_ms = self._now_ms()
        if self._slots <= 0 or self._partitions + len(request.partitions) > self._partitions_max:
            return None
        if len(self._sessions) >= self._slots:
            oldest = next(iter(self._sessions.values()))
            if now_ms - oldest.last_used_ms < self._eviction_ms:
                return None
            self._remove(oldest.session_id)
            self.evictions += 1
        session_id = self._new_id()
        while session_id in self._sessions:
            session_id = self._new_id()
        session = FetchSession(session_id, uses_ids, now_ms)
        session.update(request)
        self._partitions += len(session.partitions)
        self._sessions[session_id] = session
        return session

    def _remove(self, session_id: int) -> None:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            self._partitions -= len(session.partitions)
