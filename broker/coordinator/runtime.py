"""A coordinator: a state machine replicated by an ordinary partition of an internal topic.

An operation returns (records, response); the response waits until the records are committed and applied; `Machine.replay` is the only thing that
changes replicated state. Operations are ordered per key (a group, a transactional id): the next one is validated when the records of the one before
are applied, or known to be lost. Only `shared` operations do not wait for each other: their validation reads nothing that a shared one writes. One
append per partition is out at a time; what gathers meanwhile is the next.

Followers replay as they apply, so that a new leader answers at once. Loss of leadership: what is out is unknown (LostError), what waits was never
written; both answer NOT_COORDINATOR, because a client's repetition must be right in either case. Loop thread only; no asyncio, no timers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from broker.api import AppendResult
from broker.errors import ErrorCode, KafkaError
from broker.records.batch import CONTROL_BIT, HEADER, HEADER_BYTES, LOG_OVERHEAD_BYTES, TRANSACTIONAL_BIT
from broker.records.builder import build_batch
from broker.records.reader import Record, read_batch
from raft.api import Clock
from wal.entry import Buffer
from wal.errors import DamageError, check

GATHER_BYTES = 1024 * 1024
OPERATION_BYTES_MAX = 15 * 1024 * 1024
"""One operation's records are one batch, and a batch must fit an entry of the log."""
WAITING_MAX = 100_000
"""Operations of one partition that wait; more are refused with a retriable error."""
NO_PRODUCER = (-1, -1)
WallTime = Callable[[], int]
"""Milliseconds for what others read (timestamps of records, retention that spans coordinators); decides nothing that safety needs."""
_RECORD_OVERHEAD_BYTES = 32

R = TypeVar("R")


class Write(NamedTuple):
    """A record to be written; value None deletes the key."""

    key: bytes
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


class Outcome(NamedTuple, Generic[R]):
    """What an operation decided. `producer` = (id, epoch) makes the records part of that producer's transaction.

    `exclusive`: although the operation is `shared`, no other runs on its key until these records are applied.
    """

    response: R
    records: Sequence[Write] = ()
    producer: tuple[int, int] = NO_PRODUCER
    exclusive: bool = False


class LostError(KafkaError):
    """Leadership was lost while the operation's records were on their way: they may be committed or not."""


class Applied(NamedTuple):
    """A record as it was committed. `producer_id` ≥ 0: it belongs to a transaction whose marker is still to come."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    producer_id: int
    producer_epoch: int


class Machine(Protocol):
    """Replicated state of one partition. Pure: no clock, no random source, no I/O. `lead` and `depose` bracket the time in which operations run."""

    def replay(self, record: Applied) -> None: ...

    def replay_marker(self, producer_id: int, producer_epoch: int, committed: bool) -> None:
        """The end of a producer's transaction on this partition."""

    def capture(self) -> bytes:
        """All state, for snapshots; cheap when little has changed."""

    def restore(self, data: bytes) -> None:
        """Replace all state; b"" is the empty one."""

    def lead(self, term: int) -> None:
        """We are the coordinator now; everything committed before is applied."""

    def depose(self) -> None:
        """We are not any more: forget what only a leader knows, and answer who waits for it with NOT_COORDINATOR."""


class Log(Protocol):
    """What a shard needs of its partition; `broker.partition.partition.Partition` fulfils it."""

    @property
    def leader_epoch(self) -> int: ...

    def leadership(self) -> tuple[bool, bool]:
        """(whether this broker leads, whether it may answer without asking anybody: its no-op is applied and its lease is valid)."""

    def append_prepared(self, batches: Sequence[bytearray], done: Callable[[AppendResult], None]) -> None:
        """Append whole batches (base offset 0, sealed) past the checks for clients. `done` once: NONE when they are committed and applied,
        REQUEST_TIMED_OUT when that is unknown, any other code when they were certainly not appended."""


class _Operation(NamedTuple):
    key: str
    run: Callable[[], Outcome[Any]]
    done: Callable[[Any], None]
    failed: Callable[[KafkaError], None]
    shared: bool


class _Gathered(NamedTuple):
    operation: _Operation
    outcome: Outcome[Any]
    size: int


class _Lock:
    """One key: how many operations' records are on their way, whether the last of them admits no other, and what waits. Records are applied in the
    order in which they were gathered, so that an exclusive operation ends after all that were on their way before it."""

    __slots__ = ("draining", "exclusive", "queue", "writing")

    def __init__(self) -> None:
        self.writing = 0
        self.exclusive = False
        self.draining = False
        self.queue: deque[_Operation] = deque()

    def admits(self, shared: bool) -> bool:
        return self.writing == 0 or (shared and not self.exclusive)


class Shard:
    """One coordinator partition on this broker, leading or not. Also the partition's observer (`broker.partition.observer.Observer`).

    Invariant: operations run, and anything is gathered or out, only between `lead` and `depose` of the machine.
    """

    __slots__ = (
        "_clock",
        "_gathered",
        "_leading",
        "_locks",
        "_log",
        "_out",
        "_scheduled",
        "_waiting",
        "_wall_time_ms",
        "index",
        "machine",
    )

    def __init__(self, index: int, machine: Machine, clock: Clock, wall_time_ms: WallTime) -> None:
        self.index = index
        self.machine = machine
        self._clock = clock
        self._wall_time_ms = wall_time_ms
        self._log: Log | None = None
        self._leading = False
        self._locks: dict[str, _Lock] = {}
        self._gathered: deque[_Gathered] = deque()
        self._out: list[_Gathered] = []
        self._waiting = 0
        self._scheduled = False

    # -- the partition's observer ---------------------------------------------------------------------------------

    def attach(self, log: Log) -> None:
        self._log = log

    def on_data(self, chunks: Sequence[Buffer]) -> None:
        """A committed data entry, in the order of the log."""
        data = memoryview(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        position = 0
        while position < len(data):
            if len(data) - position < HEADER_BYTES:
                raise DamageError(f"coordinator partition {self.index}: {len(data) - position} bytes behind the last batch are no batch")
            fields = HEADER.unpack_from(data, position)
            size = fields[1] + LOG_OVERHEAD_BYTES
            if not HEADER_BYTES <= size <= len(data) - position:
                raise DamageError(f"coordinator partition {self.index}: a batch of {size} bytes in the {len(data) - position} that are left")
            self._replay_batch(data[position : position + size], fields[5], fields[9], fields[10])
            position += size

    def _replay_batch(self, batch: memoryview, attributes: int, producer_id: int, producer_epoch: int) -> None:
        machine = self.machine
        if attributes & CONTROL_BIT:
            for record in read_batch(batch):
                if record.key is not None and len(record.key) >= 4 and record.key[2:4] in (b"\x00\x00", b"\x00\x01"):
                    machine.replay_marker(producer_id, producer_epoch, record.key[2:4] == b"\x00\x01")
            return
        if not attributes & TRANSACTIONAL_BIT:
            producer_id = producer_epoch = -1
        for offset, timestamp_ms, key, value, headers in read_batch(batch):
            machine.replay(Applied(offset, timestamp_ms, key, value, headers, producer_id, producer_epoch))

    def on_leadership(self, leading: bool) -> None:
        """After `lead` operations run; before the partition gives up what is out, they stop."""
        if leading == self._leading:
            return
        self._leading = leading
        if leading:
            check(not self._out, f"coordinator partition {self.index} leads while an earlier append is out")
            check(self._log is not None, f"coordinator partition {self.index} leads without its log")
            self.machine.lead(self._log.leader_epoch if self._log is not None else 0)
            return
        never_written = [item.operation for item in self._gathered]
        for lock in self._locks.values():
            never_written.extend(lock.queue)
        self._locks.clear()
        self._gathered.clear()
        self._waiting = 0
        self.machine.depose()
        for operation in never_written:
            operation.failed(KafkaError(ErrorCode.NOT_COORDINATOR, "this broker is not the coordinator any more; nothing was written"))

    def capture(self) -> bytes:
        return self.machine.capture()

    def restore(self, data: bytes) -> None:
        self.machine.restore(data)

    # -- the coordinator ------------------------------------------------------------------------------------------

    def refusal(self) -> ErrorCode:
        """Why nothing can be asked here now: NOT_COORDINATOR (ask for it again), COORDINATOR_LOAD_IN_PROGRESS (wait for this one), or NONE."""
        leads, serves = self._log.leadership() if self._log is not None else (False, False)
        if serves and self._leading:
            return ErrorCode.NONE
        return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS if leads else ErrorCode.NOT_COORDINATOR

    @property
    def leading(self) -> bool:
        """Between `lead` and `depose`; whether an answer may be given is `refusal`."""
        return self._leading

    def submit(
        self, key: str, run: Callable[[], Outcome[R]], done: Callable[[R], None], failed: Callable[[KafkaError], None], shared: bool = False
    ) -> None:
        """Run an operation when its turn comes, then call `done(response)` when its records are applied, or `failed`, exactly once.

        `run` may raise KafkaError, which goes to `failed`; it changes nothing but through its records (or what only the leader knows). An operation
        without records ends at once: its answer rests on what is applied.
        """
        error = self.refusal()
        if error is not ErrorCode.NONE:
            failed(KafkaError(error))
            return
        operation = _Operation(key, run, done, failed, shared)
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = _Lock()
        elif lock.draining or lock.queue or not lock.admits(shared):
            if self._waiting >= WAITING_MAX:
                failed(KafkaError(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, "too many requests wait for this coordinator; try again"))
                return
            self._waiting += 1
            lock.queue.append(operation)
            return
        lock.draining = True
        self._run(lock, operation)
        self._drain(key, lock)

    def _run(self, lock: _Lock, operation: _Operation) -> None:
        try:
            outcome = operation.run()
            size = sum(_RECORD_OVERHEAD_BYTES + len(w.key) + len(w.value or b"") for w in outcome.records)
            if size > OPERATION_BYTES_MAX:
                raise KafkaError(
                    ErrorCode.MESSAGE_TOO_LARGE, f"the change needs {size} bytes in one batch; at most {OPERATION_BYTES_MAX} are possible"
                )
        except KafkaError as error:
            operation.failed(error)
            return
        if not outcome.records:
            operation.done(outcome.response)
            return
        lock.writing += 1
        lock.exclusive = not operation.shared or outcome.exclusive
        self._gathered.append(_Gathered(operation, outcome, size))
        self._maybe_append()

    def _drain(self, key: str, lock: _Lock) -> None:
        """Run what may run now. `lock.draining` is set by who calls, and keeps what is submitted meanwhile behind what waits."""
        while lock.queue and self._leading and lock.admits(lock.queue[0].shared):
            self._waiting -= 1
            self._run(lock, lock.queue.popleft())
        lock.draining = False
        if not lock.queue and not lock.writing and self._locks.get(key) is lock:
            del self._locks[key]

    # -- the log --------------------------------------------------------------------------------------------------

    def _maybe_append(self) -> None:
        if self._gathered and not self._out and not self._scheduled:
            self._scheduled = True
            self._clock.call_soon(self._append)  # the rest of this turn's requests come along

    def _append(self) -> None:
        self._scheduled = False
        log = self._log
        if self._out or not self._gathered or not self._leading or log is None:
            return
        taken: list[_Gathered] = []
        size = 0
        while self._gathered and (not taken or size + self._gathered[0].size <= GATHER_BYTES):
            item = self._gathered.popleft()
            taken.append(item)
            size += item.size
        self._out = taken
        log.append_prepared(self._batches(taken), self._appended)

    def _batches(self, taken: Sequence[_Gathered]) -> list[bytearray]:
        """One batch for neighbours outside transactions, one for each operation inside one."""
        now_ms = self._wall_time_ms()
        batches: list[bytearray] = []
        plain: list[Record] = []
        for _, outcome, _ in taken:
            records = [Record(0, now_ms, write.key, write.value, write.headers) for write in outcome.records]
            if outcome.producer == NO_PRODUCER:
                plain += records
                continue
            if plain:
                batches.append(build_batch(plain))
                plain = []
            batches.append(build_batch(records, producer=(*outcome.producer, -1), attributes=TRANSACTIONAL_BIT))
        if plain:
            batches.append(build_batch(plain))
        return batches

    def _appended(self, result: AppendResult) -> None:
        taken, self._out = self._out, []
        error = _error_of(result)
        for operation, outcome, _ in taken:
            lock = self._locks.get(operation.key)  # none: leadership was lost
            if lock is not None:
                lock.writing -= 1
                if lock.writing == 0:
                    lock.exclusive = False
                lock.draining = True
            if error is None:
                operation.done(outcome.response)
            else:
                operation.failed(error)
            if lock is not None:
                self._drain(operation.key, lock)
        self._maybe_append()


def _error_of(result: AppendResult) -> KafkaError | None:
    """Kafka's codes for a coordinator's log (CoordinatorRuntime's mapping): what is retriable stays so."""
    match result.error:
        case ErrorCode.NONE:
            return None
        case ErrorCode.REQUEST_TIMED_OUT:
            return LostError(ErrorCode.NOT_COORDINATOR, "leadership was lost before the change was known to be committed; it may or may not be")
        case ErrorCode.NOT_LEADER_OR_FOLLOWER:
            return KafkaError(ErrorCode.NOT_COORDINATOR, "this broker is not the coordinator any more; nothing was written")
        case _:
            return KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE, result.message or result.error.name)
