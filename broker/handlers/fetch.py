"""Fetch (key 1), versions 4-18: read below the high watermark, and wait for more when there is too little.

v5 log start offset · v6 KAFKA_STORAGE_ERROR · v7 sessions (KIP-227) · v9 leader epoch (KIP-320) · v10 zstd · v11 rack · v12 flexible, current
leader · v13 topic ids (KIP-516) · v15 replica state as a tag · v16 endpoints (KIP-951) · v17, v18 only for followers. Followers replicate by Raft: a
replica id is ignored, and nobody reads above the high watermark. There is never a preferred read replica.
"""

from __future__ import annotations

from functools import partial

from broker.api import Partition, ReadResult
from broker.errors import ErrorCode
from broker.handlers.fetch_session import FetchContext
from broker.handlers.services import Services
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.network.timer_wheel import Expiry
from broker.protocol.api_keys import APIS
from broker.protocol.fetch import FetchedPartition, FetchPartition, FetchRequest, decode_fetch_request, encode_fetch_response
from broker.protocol.produce import LeaderHint

KEY = 1
VERSIONS = (4, 18)

_NOT_HERE = ReadResult(ErrorCode.NOT_LEADER_OR_FOLLOWER)
_MOVED = (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.FENCED_LEADER_EPOCH)


def route(services: Services) -> Route:
    return Route(KEY, APIS[KEY].name, VERSIONS, APIS[KEY].first_flexible_version, FetchHandler(services).handle, error_body=error_body)


def error_body(version: int, code: int) -> bytes | None:
    """An answer with nothing but an error, which has a place for it from v7 on."""
    return b"".join(encode_fetch_response(version, code, 0, ())[0]) if version >= 7 else None


class FetchHandler:
    """Decodes, opens the session, and starts a `_PendingFetch`."""

    __slots__ = ("_bytes_max", "_services")

    def __init__(self, services: Services) -> None:
        self._services = services
        limit = services.broker.settings.get("fetch.max.bytes")
        self._bytes_max = limit if isinstance(limit, int) else 57_671_680

    def handle(self, request: Request) -> None:
        version = request.api_version
        body, _ = decode_fetch_request(request.buffer, request.position, version)
        context = self._services.sessions.open(body, version >= 13)
        if context.error:
            parts, size = encode_fetch_response(version, context.error, 0, ())
            request.reply_parts(parts, size)
            return
        _PendingFetch(self._services, request, body, context, self._bytes_max).start()


class _PendingFetch:
    """One Fetch: a pass over its partitions, and as long as that is too little, waiting for a high watermark and another pass.

    Called as a function it is its own time limit. Invariants: `_outstanding` = reads of the running pass that have not called back, plus one while
    the pass is being started; waiters stand at the partitions only while no pass runs; the request is answered once.
    """

    __slots__ = (
        "_budget",
        "_context",
        "_expired",
        "_found",
        "_isolated",
        "_outstanding",
        "_partitions",
        "_request",
        "_results",
        "_services",
        "_slot",
        "_starting",
        "_wait_ms",
        "_waiting",
        "_went_to_disk",
        "_woken",
        "bytes_max",
        "bytes_min",
    )

    def __init__(self, services: Services, request: Request, body: FetchRequest, context: FetchContext, limit_bytes: int) -> None:
        self._services = services
        self._request = request
        self._context = context
        self._isolated = body.isolation_level == 1
        self._wait_ms = body.max_wait_ms
        self.bytes_max = max(min(body.max_bytes, limit_bytes), 0)
        self.bytes_min = min(body.min_bytes, self.bytes_max)
        get, get_by_id = services.broker.partitions.get, services.broker.partitions.get_by_id
        self._partitions: list[tuple[FetchPartition, Partition | None]] = [
            (asked, get(asked.topic, asked.partition) if isinstance(asked.topic, str) else get_by_id(asked.topic, asked.partition))
            for asked in context.partitions
        ]
        self._results: list[ReadResult | None] = []
        self._outstanding = 0
        self._starting = -1  # place of the partition whose read is being started
        self._budget = 0
        self._found = False
        self._went_to_disk = False
        self._expired = False
        self._waiting = False
        self._woken = False
        self._slot: set[Expiry] | None = None

    def start(self) -> None:
        self._request.on_disconnect = self._cancel
        self._pass()

    # One pass over all partitions

    def _pass(self) -> None:
        self._results = [None] * len(self._partitions)
        self._outstanding = len(self._partitions) + 1
        self._budget = self.bytes_max
        self._found = self._went_to_disk = False
        isolated = self._isolated
        for place, (asked, partition) in enumerate(self._partitions):
            self._starting = place
            done = partial(self._take, place)
            if partition is None:
                done(_NOT_HERE)
                continue
            limit = max(min(asked.max_bytes, self._budget), 0)
            # KIP-74: the first partition that has anything gives at least one batch, so that a large batch does not block its consumer for ever.
            partition.read(asked.fetch_offset, limit, asked.current_leader_epoch, isolated, not self._found, done)
            if self._results[place] is None:
                # It reads from disk. What it will find is not known yet, and must not be given away twice.
                self._went_to_disk = self._found = True
                self._budget -= min(limit, max(partition.available_bytes(asked.fetch_offset), 0))
        self._starting = -1
        self._outstanding -= 1
        if not self._outstanding:
            self._pass_is_over()

    def _take(self, place: int, result: ReadResult) -> None:
        if self._results[place] is not None:
            return
        self._results[place] = result
        if result.size and place == self._starting:
            self._found = True
            self._budget -= result.size
        self._outstanding -= 1
        if not self._outstanding:
            self._pass_is_over()

    def _pass_is_over(self) -> None:
        if self._request.done:
            return
        size = 0
        failed = False
        for result in self._results:
            if result is not None:
                size += result.size
                failed |= result.error != 0
        if size >= self.bytes_min or failed or self._expired or self._wait_ms <= 0 or not self._partitions:
            self._answer()
            return
        if size:
            self._results = []  # they are read again when there is enough; until then they keep no memory
        if self._slot is None:
            self._slot = self._services.wheel.add(self._wait_ms, self)
        if self._went_to_disk and self._available() >= self.bytes_min:
            # The high watermark moved while the disk was read, before anybody could be woken by it.
            self._wake()
            return
        self._wait()

    # Waiting

    def _wait(self) -> None:
        self._waiting = True
        for _, partition in self._partitions:
            if partition is not None:
                partition.add_waiter(self._wake)

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting = False
            for _, partition in self._partitions:
                if partition is not None:
                    partition.remove_waiter(self._wake)

    def _available(self) -> int:
        total = 0
        for asked, partition in self._partitions:
            if partition is None:
                continue
            available = partition.available_bytes(asked.fetch_offset)
            if self._isolated:
                available -= partition.available_bytes(max(asked.fetch_offset, partition.last_stable_offset))
            total += min(available, asked.max_bytes)
        return total

    def _wake(self) -> None:
        """A high watermark moved or a leader changed. What else moves in this turn of the loop goes into the same answer."""
        if not self._woken:
            self._woken = True
            self._services.broker.clock.call_soon(self._read_again)

    def _read_again(self) -> None:
        self._woken = False
        if not self._request.done and not self._outstanding:
            self._stop_waiting()
            self._pass()

    def __call__(self) -> None:
        """The time limit: answer with what there is."""
        self._slot = None
        if self._request.done:
            return
        self._expired = True
        if self._outstanding:
            return
        self._stop_waiting()
        if self._results and not self._woken:
            self._answer()  # the last pass found nothing, and nothing has happened since
        else:
            self._pass()

    def _cancel(self) -> None:
        if self._slot is not None:
            self._slot.discard(self)
            self._slot = None
        self._stop_waiting()
        self._partitions = []

    # The answer

    def _answer(self) -> None:
        if self._slot is not None:
            self._slot.discard(self)
            self._slot = None
        request = self._request
        version = request.api_version
        leaders: set[int] = set()
        results = [
            self._fetched(asked, result if result is not None else _NOT_HERE, leaders)
            for (asked, _), result in zip(self._partitions, self._results, strict=True)
        ]
        topics = self._context.select(results)
        endpoints = self._services.endpoints(leaders, request) if leaders and version >= 16 else ()
        parts, size = encode_fetch_response(version, 0, self._context.session_id, topics, endpoints)
        request.reply_parts(parts, size)

    def _fetched(self, asked: FetchPartition, result: ReadResult, leaders: set[int]) -> FetchedPartition:
        error = result.error
        if not error:
            return FetchedPartition(
                asked.partition,
                0,
                result.high_watermark,
                result.last_stable_offset,
                result.log_start_offset,
                result.aborted_transactions if self._isolated else None,
                result.chunks,
                result.size,
            )
        leader: LeaderHint | None = None
        if error in _MOVED:
            why, leader = self._services.not_here(asked.topic, asked.partition)
            if error == ErrorCode.NOT_LEADER_OR_FOLLOWER:
                error = why
            if self._request.api_version < 12:
                leader = None
            elif leader is not None:
                leaders.add(leader.leader_id)
        elif error == ErrorCode.KAFKA_STORAGE_ERROR and self._request.api_version < 6:
            error = ErrorCode.NOT_LEADER_OR_FOLLOWER  # an older client knows no other that makes it ask again
        aborted = () if self._isolated else None
        return FetchedPartition(
            asked.partition, error, result.high_watermark, result.last_stable_offset, result.log_start_offset, aborted, leader=leader
        )
