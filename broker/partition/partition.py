"""One replica of one partition: the state machine that the replication layer drives, and what the handlers ask.

Owns the watermarks, the producers' state and who waits. The log belongs to the group. An index counts entries, an offset records; only this package
converts, and what it derives is a pure function of the log. Loop thread only; knows no asyncio, no threads, no wall clock in a decision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from broker.api import AppendResult, ReadResult
from broker.errors import ErrorCode
from broker.partition.appending import Appender
from broker.partition.config import TopicConfig
from broker.partition.context import PartitionContext, Watermarks
from broker.partition.isr import members
from broker.partition.lookup import Found, Newest, TimestampLookup, Wanted
from broker.partition.observer import join_state, split_state
from broker.partition.producers import ProducerDescription, ProducerTable
from broker.partition.reading import Cursors, gather
from broker.partition.state import LogStart, PartitionState, StateEncoder, decode_command, decode_state, empty_state
from broker.partition.verification import Then, TransactionGate, Verification, produce_error
from broker.partition.waiters import FetchWaiters
from broker.records.batch import ATTRIBUTES_POSITION, CONTROL_BIT, HEADER_BYTES, TRANSACTIONAL_BIT, producer_of, stored_batches
from broker.records.control import Marker, MarkerEnd, markers_of
from raft.api import Group, Proposal
from wal.api import AppliedState, ReadJob
from wal.entry import Entry, EntryKind, GroupId, group_id
from wal.errors import check

__all__ = ["Partition", "PartitionContext", "TopicConfig"]

LATEST = -1
EARLIEST = -2
MAX_TIMESTAMP = -3
EARLIEST_LOCAL = -4
LATEST_TIERED = -5
_GUESSED_RECORD_BYTES = 100
_INTERNAL = AppendResult(ErrorCode.INVALID_TOPIC_EXCEPTION, message="the topic belongs to the brokers; clients do not write to it")


class Partition:
    """Fulfils `raft.api.StateMachine` and `broker.api.Partition`.

    Invariants: log_start_offset ≤ high_watermark ≤ log_end_offset; high_watermark = committed and applied, and never goes back; state changes only in
    `apply`, `restore` and `install`; callbacks run only after the state is whole.
    """

    __slots__ = (
        "_appender",
        "_applied_bytes",
        "_applied_from",
        "_applied_index",
        "_captured",
        "_context",
        "_cursors",
        "_encoder",
        "_gate",
        "_group",
        "_marks",
        "_max_timestamp",
        "_max_timestamp_offset",
        "_observer",
        "_producers",
        "_waiters",
        "group_id",
        "index",
        "topic",
        "topic_id",
    )

    _group: Group

    def __init__(self, group: Group | None, topic: str, index: int, topic_id: bytes, context: PartitionContext) -> None:
        """`group` may be attached later, but before anything but `restore` and `configure` is called."""
        self.topic = topic
        self.index = index
        self.topic_id = topic_id
        self.group_id: GroupId = group_id(topic_id, index)
        self._context = context
        self._marks = Watermarks()
        self._producers = ProducerTable()
        self._gate = TransactionGate(self._producers, context.verify, topic, index)
        self._appender = Appender(context, self._marks, self._producers, self._gate)
        self._waiters = FetchWaiters()
        self._cursors = Cursors()
        self._encoder = StateEncoder()
        self._captured: AppliedState | None = None
        self._applied_index = 0
        self._applied_bytes = 0
        self._applied_from = 0  # high watermark at which we began to count _applied_bytes
        self._max_timestamp = -1
        self._max_timestamp_offset = -1
        self._observer = context.observe(topic, index) if context.observe is not None else None
        if group is not None:
            self.attach(group)

    def attach(self, group: Group) -> None:
        self._group = group
        self._appender.group = group
        if self._observer is not None:
            self._observer.attach(self)

    def configure(self, config: TopicConfig) -> None:
        """Obey `config` from the next request on."""
        self._appender.config = config

    # -- what others look at --------------------------------------------------------------------------------------

    @property
    def config(self) -> TopicConfig:
        return self._appender.config

    @property
    def high_watermark(self) -> int:
        return self._marks.high_watermark

    @property
    def last_stable_offset(self) -> int:
        """Where the oldest open transaction begins, the high watermark when none is open; never below the log's start."""
        marks = self._marks
        return max(marks.log_start_offset, min(self._producers.transactions.first_unstable_offset, marks.high_watermark))

    @property
    def log_start_offset(self) -> int:
        return self._marks.log_start_offset

    @property
    def log_end_offset(self) -> int:
        return self._appender.end_offset

    @property
    def leader_epoch(self) -> int:
        return self._group.term

    @property
    def pending_bytes(self) -> int:
        """Bytes that are accepted but not handed to replication yet."""
        return self._appender.pending_bytes

    @property
    def waiting_appends(self) -> int:
        return self._appender.waiting

    @property
    def producers(self) -> ProducerTable:
        """For DescribeProducers and tests; not to be changed."""
        return self._producers

    def isr(self) -> tuple[int, ...]:
        """Broker ids in sync as the leader sees them, the leader first."""
        return tuple(members(self._group, self._context.clock.now_ms(), self._appender.config.replica_lag_time_max_ms))

    # -- raft.api.StateMachine ------------------------------------------------------------------------------------

    def collect(self, max_bytes: int) -> Proposal | None:
        return self._appender.collect(max_bytes)

    def apply(self, entries: Sequence[Entry]) -> None:
        """Cost: one step per batch. Raises InvariantError when entries or batches do not continue the log."""
        before = self._marks.high_watermark
        for entry in entries:
            if entry.base_offset != self._marks.high_watermark:
                check(False, f"{self.topic}-{self.index}: {entry!r} does not follow {self._marks.high_watermark}")
            if entry.kind == EntryKind.DATA:
                self._apply_data(entry)
            elif entry.kind == EntryKind.COMMAND:
                self._apply_command(entry)
        if entries:
            self._applied_index = entries[-1].index
        self._appender.on_applied(self._applied_index)
        if self._marks.high_watermark > before:
            self._waiters.wake()

    def _apply_data(self, entry: Entry) -> None:
        offset = entry.base_offset
        newest_of_entry = -1
        producers = self._producers
        markers: dict[int, MarkerEnd] | None = None
        for base_offset, _, attributes, delta, newest, producer_id, epoch, sequence in stored_batches(entry.chunks):
            if base_offset != offset:
                check(False, f"{self.topic}-{self.index}: {entry!r} holds a batch at {base_offset}, expected {offset}")
            offset += delta + 1
            if newest > newest_of_entry:
                newest_of_entry = newest
                if newest > self._max_timestamp:
                    self._max_timestamp = newest
                    self._max_timestamp_offset = base_offset
            if producer_id >= 0:
                if attributes & CONTROL_BIT:
                    markers = markers_of(entry.chunks) if markers is None else markers
                    end = markers.get(base_offset)
                    if end is not None:
                        producers.apply_marker(producer_id, epoch, end, base_offset)
                else:
                    producers.apply(producer_id, epoch, sequence, base_offset, offset - 1, newest, attributes & TRANSACTIONAL_BIT)
        if offset != entry.base_offset + entry.record_count:
            check(False, f"{self.topic}-{self.index}: the batches of {entry!r} end at {offset}")
        entry.max_timestamp = newest_of_entry
        self._applied_bytes += entry.size
        self._marks.high_watermark = offset
        if self._observer is not None:
            self._observer.on_data(entry.chunks)

    def _apply_command(self, entry: Entry) -> None:
        command = decode_command(entry.payload())
        if not isinstance(command, LogStart):
            self._producers.expire(command.producer_ids)
            return
        marks = self._marks
        marks.log_start_offset = max(marks.log_start_offset, min(command.offset, marks.high_watermark))
        self._producers.transactions.aborted.trim(marks.log_start_offset)
        if self._max_timestamp_offset < marks.log_start_offset:
            self._max_timestamp_offset = -1  # its batch is gone; the timestamp stays as an upper bound of what is left

    def on_leadership(self, leader: bool) -> None:
        if leader:
            self._appender.lead()
            if self._observer is not None:
                self._observer.on_leadership(True)
        else:
            if self._observer is not None:
                self._observer.on_leadership(False)  # it takes nothing more before it hears what became of its appends
            self._appender.depose()
            self._waiters.wake()

    def on_leader_change(self, leader_node: int, term: int) -> None:
        """Fetches that wait here are answered with the new leader's epoch in mind."""
        self._waiters.wake()

    def on_flushed(self) -> None:
        """The driver's flush covered this group: acks=1 may be due."""
        self._appender.on_flushed()

    def on_progress(self) -> None:
        self._appender.on_progress()

    def tick(self, now_ms: int) -> None:
        """Coarse timer (a second or slower), `now_ms` on the driver's clock."""
        self._appender.tick(now_ms)

    def restore(self, state: AppliedState | None) -> int:
        if state is None:
            self._take(empty_state(), b"", 0)
        else:
            own, observed = split_state(state.data)
            self._take(decode_state(own), observed, state.index)
        return self._applied_index

    def capture(self) -> AppliedState | None:
        if self._captured is None or self._captured.index != self._applied_index:
            self._captured = AppliedState(self._applied_index, self.snapshot())
        return self._captured

    def snapshot(self) -> bytes:
        marks = self._marks
        own = self._encoder.encode(
            PartitionState(
                marks.high_watermark,
                marks.log_start_offset,
                self._max_timestamp,
                self._max_timestamp_offset,
                self._producers.applied,
                self._producers.transactions,
            )
        )
        return own if self._observer is None else join_state(own, self._observer.capture())

    def install(self, index: int, data: bytes) -> None:
        """Replace the whole state; only a replica that does not lead gets a snapshot."""
        check(not self._appender.leading, f"{self.topic}-{self.index}: a leader was sent a snapshot")
        own, observed = split_state(data)
        self._take(decode_state(own), observed, index)
        self._waiters.wake()

    def _take(self, state: PartitionState, observed: bytes, index: int) -> None:
        check(
            state.high_watermark >= self._marks.high_watermark,
            f"{self.topic}-{self.index}: the high watermark would go back to {state.high_watermark}",
        )
        self._marks.high_watermark = state.high_watermark
        self._marks.log_start_offset = state.log_start_offset
        self._max_timestamp = state.max_timestamp
        self._max_timestamp_offset = state.max_timestamp_offset
        self._producers.restore(state.producers, state.transactions)
        self._cursors.clear()
        self._captured = None
        self._applied_index = index
        self._applied_bytes = 0
        self._applied_from = state.high_watermark
        if self._observer is not None:
            self._observer.restore(observed)

    # -- broker.api.Partition -------------------------------------------------------------------------------------

    def append(self, records: memoryview, acks: int, done: Callable[[AppendResult], None]) -> None:
        if self._observer is not None:
            done(_INTERNAL)
            return
        self._appender.append(records, acks, done)

    def append_transactional(self, records: memoryview, acks: int, transactional_id: str, add: bool, done: Callable[[AppendResult], None]) -> None:
        """As `append`, for a request with a transactional id: the coordinator is asked first when the transaction is not open here yet (KIP-890).

        `add`: the partition becomes part of the transaction if it is not (Produce v12 and later).
        """
        size = len(records)
        if size < HEADER_BYTES or not records[ATTRIBUTES_POSITION + 1] & TRANSACTIONAL_BIT or not (self._appender.leading and self._group.serving):
            self._appender.append(records, acks, done)
            return

        def then(error: ErrorCode, message: str, verification: Verification | None) -> None:
            self._context.pending_bytes_changed(-size)
            if error:
                done(AppendResult(produce_error(error, add), message=message))
            else:
                self._appender.append(records, acks, done, verification)

        self._context.pending_bytes_changed(size)  # what waits for a coordinator is counted with what waits for the log
        self._gate.enter(transactional_id, producer_of(records), add, then)

    def enter_transaction(self, transactional_id: str, producer: tuple[int, int], add: bool, then: Then) -> None:
        """Call `then` once this partition is known to belong to the transaction of `producer` = (id, epoch): its records may come."""
        self._gate.enter(transactional_id, producer, add, then)

    def describe_producers(self) -> Sequence[ProducerDescription] | ErrorCode:
        error = self._fenced(-1)
        return self._producers.describe() if error is ErrorCode.NONE else error

    def append_marker(self, marker: Marker, done: Callable[[AppendResult], None]) -> None:
        """The coordinator's request to end a transaction here. `done` as for `append_prepared`."""
        self._appender.append_marker(marker, done)

    def append_prepared(self, batches: Sequence[bytearray], done: Callable[[AppendResult], None]) -> None:
        """For the broker's own records (coordinators, markers): whole sealed batches of any kind, past the checks for clients' batches.

        `done` once: NONE when committed and applied, REQUEST_TIMED_OUT when that is unknown, any other code when certainly not appended.
        """
        self._appender.append_prepared(batches, done)

    def leadership(self) -> tuple[bool, bool]:
        """(whether we lead or are about to, whether we may answer from our own state alone: see `Group.lease_valid`)."""
        group = self._group
        return group.leader == self._context.node_id, self._appender.leading and group.serving and group.lease_valid()

    def advance_log_start(self, offset: int, done: Callable[[ErrorCode, int], None]) -> None:
        """DeleteRecords: delete what is below `offset` (-1: everything committed); done(error, new log start offset) once that is committed."""
        self._appender.advance_log_start(offset, done)

    def read(
        self, offset: int, max_bytes: int, current_leader_epoch: int, read_committed: bool, min_one: bool, done: Callable[[ReadResult], None]
    ) -> None:
        error = self._fenced(current_leader_epoch)
        if error is ErrorCode.NONE:
            marks = self._marks
            if offset < marks.log_start_offset or (offset > marks.high_watermark and offset > self.log_end_offset):
                error = ErrorCode.OFFSET_OUT_OF_RANGE
        if error is not ErrorCode.NONE:
            done(self._result(error))
            return
        visible = self.last_stable_offset if read_committed else self._marks.high_watermark
        if offset >= visible or (max_bytes <= 0 and not min_one):
            done(self._result(ErrorCode.NONE))
            return
        log = self._group.log
        wanted = offset, max_bytes, read_committed, min_one
        index = log.index_of_offset(offset)
        entries: Sequence[Entry] | None = log.memory_slice(index, max(max_bytes, 1)) if index is not None else None
        if entries is not None:
            done(self._gather(entries, *wanted)[0])
            return
        cache = self._context.read_cache
        cached = cache.find(self.group_id, offset) if cache is not None else None
        if cached is None:
            self._read_disk((), log.read_job_at_offset(offset, max(max_bytes, 1)), wanted, done)
            return
        result, reached = self._gather((cached,), *wanted)
        if reached >= visible or reached < cached.base_offset + cached.record_count or 2 * result.size >= max_bytes:
            done(result)
        else:  # little was left of it: what comes behind it is read along
            self._read_disk((cached,), log.read_job_at_offset(reached, max_bytes - result.size), wanted, done)

    def _read_disk(self, head: Sequence[Entry], job: ReadJob, wanted: tuple[int, int, bool, bool], done: Callable[[ReadResult], None]) -> None:
        """Answer with `head`, which is at hand, and what `job` reads behind it."""
        term, offset = self._group.term, wanted[0]

        def finish(error: BaseException | None) -> None:
            # Time has passed: we may have been deposed, or the records deleted, meanwhile.
            fenced = self._fenced(term)
            if fenced is not ErrorCode.NONE:
                done(self._result(ErrorCode.NOT_LEADER_OR_FOLLOWER))
            elif offset < self._marks.log_start_offset:
                done(self._result(ErrorCode.OFFSET_OUT_OF_RANGE))
            elif error is not None or not job.entries:
                done(self._result(ErrorCode.KAFKA_STORAGE_ERROR))
            else:
                result, reached = self._gather((*head, *job.entries), *wanted)
                self._keep_rest(job.entries[-1], reached)
                done(result)

        self._group.read(job, finish)

    def _keep_rest(self, last: Entry, reached: int) -> None:
        """Keep the last entry that was read when a part of it is left for the next fetch."""
        cache, behind = self._context.read_cache, last.base_offset + last.record_count
        if cache is not None and reached < behind <= self._marks.high_watermark:
            cache.put(self.group_id, last)

    def _gather(self, entries: Sequence[Entry], offset: int, max_bytes: int, read_committed: bool, min_one: bool) -> tuple[ReadResult, int]:
        """What of `entries` may be answered, and the offset behind it."""
        marks, stable = self._marks, self.last_stable_offset
        end = stable if read_committed else marks.high_watermark
        chunks, size, reached = gather(entries, offset, end, max_bytes, min_one, self._cursors)
        aborted = self._producers.transactions.aborted.overlapping(offset, reached) if read_committed and size else ()
        return ReadResult(ErrorCode.NONE, chunks, size, marks.high_watermark, stable, marks.log_start_offset, aborted), reached

    def _result(self, error: ErrorCode) -> ReadResult:
        """Nothing was read. With an error no offsets, as Kafka: those of a replica that does not lead may be older than what the client has seen."""
        if error is not ErrorCode.NONE:
            return ReadResult(error)
        marks = self._marks
        return ReadResult(error, (), 0, marks.high_watermark, self.last_stable_offset, marks.log_start_offset)

    def _fenced(self, current_leader_epoch: int) -> ErrorCode:
        """KIP-320, then whether we may answer as the leader at all."""
        group = self._group
        if current_leader_epoch >= 0 and current_leader_epoch != group.term:
            return ErrorCode.FENCED_LEADER_EPOCH if current_leader_epoch < group.term else ErrorCode.UNKNOWN_LEADER_EPOCH
        return ErrorCode.NONE if group.serving and group.lease_valid() else ErrorCode.NOT_LEADER_OR_FOLLOWER

    def available_bytes(self, offset: int) -> int:
        """Records times the mean size of what was applied since the start; 1 at least when there is anything."""
        records = self._marks.high_watermark - offset
        if records <= 0:
            return 0
        counted = self._marks.high_watermark - self._applied_from
        return max(records, records * self._applied_bytes // counted if counted else records * _GUESSED_RECORD_BYTES)

    def add_waiter(self, waiter: Callable[[], None]) -> None:
        self._waiters.add(waiter)

    def remove_waiter(self, waiter: Callable[[], None]) -> None:
        self._waiters.remove(waiter)

    def list_offset(
        self, timestamp_ms: int, current_leader_epoch: int, read_committed: bool, done: Callable[[ErrorCode, int, int, int], None]
    ) -> None:
        """Never offset 0 from a leader that does not know its high watermark yet: OFFSET_NOT_AVAILABLE (KIP-207)."""
        error = self._fenced(current_leader_epoch)
        group, marks = self._group, self._marks
        if error is ErrorCode.NOT_LEADER_OR_FOLLOWER and not group.serving and group.leader == self._context.node_id:
            error = ErrorCode.OFFSET_NOT_AVAILABLE
        if error is not ErrorCode.NONE:
            done(error, -1, -1, -1)
        elif timestamp_ms == LATEST:
            done(ErrorCode.NONE, -1, self.last_stable_offset if read_committed else marks.high_watermark, group.term)
        elif timestamp_ms in (EARLIEST, EARLIEST_LOCAL):
            done(ErrorCode.NONE, -1, marks.log_start_offset, self._epoch_at(marks.log_start_offset))
        elif timestamp_ms == MAX_TIMESTAMP:
            self._lookup_newest(read_committed, done)
        elif timestamp_ms == LATEST_TIERED:
            done(ErrorCode.NONE, -1, -1, -1)
        elif timestamp_ms < 0:
            done(ErrorCode.INVALID_REQUEST, -1, -1, -1)
        elif timestamp_ms > self._max_timestamp:
            done(ErrorCode.NONE, -1, -1, -1)
        else:
            self._lookup(timestamp_ms, -1, read_committed, done)

    def _lookup(self, timestamp_ms: int, start_offset: int, read_committed: bool, done: Callable[[ErrorCode, int, int, int], None]) -> None:
        """The first record from `start_offset` on (-1: the log's start, found by the time index) with a timestamp ≥ `timestamp_ms`."""
        marks = self._marks
        term = self._group.term

        def finish(error: ErrorCode, found: Found | None) -> None:
            if self._fenced(term) is not ErrorCode.NONE:
                done(ErrorCode.NOT_LEADER_OR_FOLLOWER, -1, -1, -1)
            elif error is not ErrorCode.NONE or found is None:
                done(error, -1, -1, -1)
            else:
                done(ErrorCode.NONE, found.timestamp, found.offset, found.leader_epoch)

        end = self.last_stable_offset if read_committed else marks.high_watermark
        if end <= max(start_offset, marks.log_start_offset):
            done(ErrorCode.NONE, -1, -1, -1)
            return
        wanted = Wanted(timestamp_ms, max(start_offset, marks.log_start_offset), end, self._context.max_decompressed_bytes)
        lookup = TimestampLookup(self._group, wanted, finish)
        if start_offset < 0:
            lookup.by_time()
        else:
            lookup.at_offset(wanted.start_offset)

    def _lookup_newest(self, read_committed: bool, done: Callable[[ErrorCode, int, int, int], None]) -> None:
        """The record with the largest timestamp (read_committed: if stable). When the known one was deleted, what is left is looked through."""
        marks = self._marks
        if marks.high_watermark == marks.log_start_offset or self._max_timestamp_offset >= 0:
            self._lookup(self._max_timestamp, self._max_timestamp_offset, read_committed, done)
            return
        newest = Newest()

        def finish(error: ErrorCode, _: Found | None) -> None:
            if error is not ErrorCode.NONE or newest.base_offset < 0:
                done(error, -1, -1, -1)
            else:
                self._lookup(newest.timestamp, newest.base_offset, read_committed, done)

        wanted = Wanted(0, marks.log_start_offset, marks.high_watermark, self._context.max_decompressed_bytes)
        TimestampLookup(self._group, wanted, finish, newest.search).at_offset(marks.log_start_offset)

    def _epoch_at(self, offset: int) -> int:
        epoch = -1
        for term, _, first_offset in self._group.log.term_runs():
            if first_offset > offset:
                break
            epoch = term
        return epoch

    def end_of_epoch(self, current_leader_epoch: int, leader_epoch: int) -> tuple[ErrorCode, int, int]:
        """KIP-320. The present epoch ends at the high watermark, not at the log's end: nothing above it is shown to anyone. (-1, -1) = unknown."""
        error = self._fenced(current_leader_epoch)
        if error is not ErrorCode.NONE:
            return error, -1, -1
        if leader_epoch == self._group.term:
            return ErrorCode.NONE, leader_epoch, self._marks.high_watermark
        if leader_epoch < 0 or leader_epoch > self._group.term:
            return ErrorCode.NONE, -1, -1
        found = leader_epoch
        for term, _, first_offset in self._group.log.term_runs():
            if term > leader_epoch:
                return ErrorCode.NONE, found, min(first_offset, self._marks.high_watermark)
            found = term
        return ErrorCode.NONE, found, self._marks.high_watermark
