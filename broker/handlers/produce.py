"""Produce (key 0), versions 3-13: append record batches and answer once they are as safe as `acks` asks.

v3 transactional id · v5 log start offset · v7 zstd · v8 error message · v9 flexible · v10 new leader in the answer (KIP-951) · v13 topic ids
(KIP-516). acks: -1 on disk on a majority, 1 on disk on the leader, 0 no answer at all (an error then closes the connection, so that the client
notices). Versions 0-2 are advertised and refused (KAFKA-18659). A time limit means that the outcome is unknown, hence REQUEST_TIMED_OUT and
nothing more definite. With a transactional id each partition must belong to the producer's transaction, which its coordinator confirms (KIP-890).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from broker.api import AppendResult, Partition
from broker.errors import ErrorCode
from broker.handlers.services import Services
from broker.metadata.builder import INTERNAL_TOPICS
from broker.network.dispatcher import Route
from broker.network.request import Request
from broker.network.timer_wheel import Expiry
from broker.protocol.api_keys import APIS
from broker.protocol.produce import LeaderHint, ProducedPartition, ProduceRequest, TopicKey, decode_produce_request, encode_produce_response

KEY = 0
VERSIONS = (3, 13)
ADVERTISED = (0, 13)
FIRST_VERSION_ADDS = 12  # a partition that is not in the transaction yet is added to it (KIP-890 part 2)

_ATTRIBUTES_LOW_BYTE = 22  # of a record batch, magic 2; its three lowest bits name the compression
_ZSTD = 4
_TIMED_OUT = AppendResult(ErrorCode.REQUEST_TIMED_OUT, message="The outcome is unknown: the records may still be committed.")
_NO_PARTITION = AppendResult(ErrorCode.NOT_LEADER_OR_FOLLOWER)


def route(services: Services) -> Route:
    return Route(KEY, APIS[KEY].name, VERSIONS, APIS[KEY].first_flexible_version, ProduceHandler(services).handle, ADVERTISED, pipelined=True)


Done = Callable[[AppendResult], None]


class ProduceHandler:
    """Hands batches to their partitions. Stateless: what waits is in `_Pending` objects, which the partitions hold."""

    __slots__ = ("_services",)

    def __init__(self, services: Services) -> None:
        self._services = services

    def handle(self, request: Request) -> None:
        buffer = request.buffer
        view = buffer if isinstance(buffer, memoryview) else memoryview(bytearray(buffer))
        body, _ = decode_produce_request(view, request.position, request.api_version)
        if not -1 <= body.acks <= 1:
            self._refuse(request, body)
            return
        if body.acks == 0:
            self._append_unacknowledged(request, body)
            return
        pending = _Pending(self._services, request, body)
        acks = body.acks
        topics = body.topics
        transactional_id = body.transactional_id
        if pending.is_single:
            key, parts = topics[0]
            self._append(key, parts[0], acks, request.api_version, transactional_id, pending.finish_only)
        else:
            for topic_place, (key, parts) in enumerate(topics):
                for place, part in enumerate(parts):
                    self._append(key, part, acks, request.api_version, transactional_id, partial(pending.finish, topic_place, place))
        pending.begin_waiting(body.timeout_ms)

    def _append(self, key: TopicKey, part: tuple[int, memoryview | None], acks: int, version: int, transactional_id: str | None, done: Done) -> None:
        index, records = part
        found = self._find(key, index)
        if found is None:
            done(_NO_PARTITION)
        elif found.topic in INTERNAL_TOPICS:
            done(AppendResult(ErrorCode.INVALID_TOPIC_EXCEPTION, message="Only coordinators write to the internal topics."))
        elif records is None or len(records) <= _ATTRIBUTES_LOW_BYTE:
            done(AppendResult(ErrorCode.INVALID_RECORD, message="The request holds no record batch for the partition."))
        elif version < 7 and records[_ATTRIBUTES_LOW_BYTE] & 7 == _ZSTD:
            done(AppendResult(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, message="zstd needs Produce version 7 or later (KIP-110)."))
        elif transactional_id:
            found.append_transactional(records, acks, transactional_id, version >= FIRST_VERSION_ADDS, done)
        else:
            found.append(records, acks, done)

    def _find(self, key: TopicKey, index: int) -> Partition | None:
        partitions = self._services.broker.partitions
        return partitions.get(key, index) if isinstance(key, str) else partitions.get_by_id(key, index)

    def _append_unacknowledged(self, request: Request, body: ProduceRequest) -> None:
        errors: list[AppendResult] = []

        def done(result: AppendResult) -> None:
            if result.error:
                errors.append(result)

        for key, parts in body.topics:
            for part in parts:
                self._append(key, part, 0, request.api_version, body.transactional_id, done)
        if errors:
            request.close()
        else:
            request.reply_nothing()

    def _refuse(self, request: Request, body: ProduceRequest) -> None:
        """Nothing is appended: acks has no meaning."""
        code, message = ErrorCode.INVALID_REQUIRED_ACKS, f"acks is {body.acks}; -1, 0 and 1 are allowed."
        topics = [
            (key, [ProducedPartition(index, code, -1, -1, -1, message if request.api_version >= 8 else None) for index, _ in parts])
            for key, parts in body.topics
        ]
        request.reply(encode_produce_response(request.api_version, topics))


class _Pending:
    """One request whose partitions have not all answered. Called as a function it is its own time limit.

    Invariant: `_remaining` = results that are still None; the request is answered exactly when it reaches 0 or the time limit comes.
    """

    __slots__ = ("_keys", "_remaining", "_request", "_results", "_services", "_single", "_slot", "is_single")

    def __init__(self, services: Services, request: Request, body: ProduceRequest) -> None:
        self._services = services
        self._request = request
        # The records belong to the partitions now; only the places remain here.
        self._keys = [(key, [index for index, _ in parts]) for key, parts in body.topics]
        self._remaining = sum(len(indexes) for _, indexes in self._keys)
        self._single: AppendResult | None = None
        self.is_single = len(self._keys) == 1 and self._remaining == 1
        self._results: list[list[AppendResult | None]] = [] if self.is_single else [[None] * len(indexes) for _, indexes in self._keys]
        self._slot: set[Expiry] | None = None

    def begin_waiting(self, timeout_ms: int) -> None:
        """All partitions have their records: set the time limit, unless the answer has gone out or there was nothing to append."""
        request = self._request
        if request.done:
            return
        if not self._remaining:
            self._answer()
            return
        self._slot = self._services.wheel.add(timeout_ms, self)
        request.on_disconnect = self._cancel

    def finish_only(self, result: AppendResult) -> None:
        """The one partition of a request with one partition."""
        if self._remaining:
            self._single = result
            self._remaining = 0
            self._answer()

    def finish(self, topic_place: int, place: int, result: AppendResult) -> None:
        results = self._results[topic_place]
        if results[place] is None and not self._request.done:
            results[place] = result
            self._remaining -= 1
            if not self._remaining:
                self._answer()

    def __call__(self) -> None:
        self._slot = None
        if self._remaining:
            self._remaining = 0
            self._answer()

    def _cancel(self) -> None:
        if self._slot is not None:
            self._slot.discard(self)
            self._slot = None
        self._remaining = 0

    def _answer(self) -> None:
        if self._slot is not None:
            self._slot.discard(self)
            self._slot = None
        request = self._request
        version = request.api_version
        leaders: set[int] = set()
        single = self._single
        if single is not None and not single.error:
            key, indexes = self._keys[0]
            produced = ProducedPartition(indexes[0], 0, single.base_offset, single.log_append_time_ms, single.log_start_offset)
            request.reply(encode_produce_response(version, ((key, (produced,)),)))
            return
        topics: list[tuple[TopicKey, list[ProducedPartition]]] = []
        places = self._results or [[single] * len(indexes) for _, indexes in self._keys]
        for (key, indexes), results in zip(self._keys, places, strict=True):
            topics.append(
                (key, [self._produced(key, index, result or _TIMED_OUT, version, leaders) for index, result in zip(indexes, results, strict=True)])
            )
        request.reply(encode_produce_response(version, topics, self._services.endpoints(leaders, request) if leaders else ()))

    def _produced(self, key: TopicKey, index: int, result: AppendResult, version: int, leaders: set[int]) -> ProducedPartition:
        if not result.error:
            return ProducedPartition(index, 0, result.base_offset, result.log_append_time_ms, result.log_start_offset)
        error = result.error
        leader: LeaderHint | None = None
        if error == ErrorCode.NOT_LEADER_OR_FOLLOWER:
            error, leader = self._services.not_here(key, index)
            if version < 10:
                leader = None
            elif leader is not None:
                leaders.add(leader.leader_id)
        message = result.message or None if version >= 8 else None
        return ProducedPartition(index, error, -1, -1, result.log_start_offset, message, leader)
