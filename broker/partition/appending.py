"""The leader's write side of a partition: from a produce request to a proposal, and from commit back to the answer.

What a request is told, and why:
- NOT_LEADER_OR_FOLLOWER only when its batches were certainly never appended: we do not lead, or they were still waiting to be proposed when we lost
  leadership, or the core refused the proposal.
- REQUEST_TIMED_OUT when they were proposed and leadership was lost before the answer was due. They may commit or not: even an entry that is
  truncated here may live on another replica and win (Raft, figure 8), so that truncation proves nothing. Idempotent producers repeat the batch and
  are answered with its original offset; others decide for themselves. (Kafka says NOT_LEADER_OR_FOLLOWER here, which reads as "not written".)
- A repeated batch gets its original offset, whatever its acks, only once the original is committed.
- NOT_LEADER_OR_FOLLOWER for a batch ahead of the producer's sequence while the batches before it may just have been refused here, for a few
  seconds after we began to lead, or after another refusal. Kafka says OUT_OF_ORDER_SEQUENCE_NUMBER at once; librdkafka then begins a new epoch and
  sends again, as new, what is in the log already (its issue 4953).
All batches of a request are appended or none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import crc32c

from broker.api import AppendResult
from broker.errors import ErrorCode, KafkaError
from broker.partition.config import MAX_ENTRY_BYTES, TopicConfig
from broker.partition.context import PartitionContext, Watermarks
from broker.partition.expiry import ProducerExpiry
from broker.partition.isr import InSyncReplicas, majority, stored_on
from broker.partition.producers import AppendedBatch, ProducerEntry, ProducerTable, SequenceGapError
from broker.partition.state import ExpireProducers, LogStart, encode_command
from broker.partition.verification import TransactionGate, Verification
from broker.partition.waiters import AppendQueue, WaitingAppend
from broker.records.batch import BatchInfo, check_batches, prepared_batches, stamp, stamp_log_append_time
from broker.records.builder import recompress
from broker.records.compression import CompressionError
from broker.records.control import Marker, marker_batch
from raft.api import Group, Proposal
from wal.entry import Buffer, EntryKind
from wal.errors import check

MAX_RECORDS_PER_ENTRY = 0x7FFFFFFF
GAP_GRACE_MS = 5_000
"""A client has several requests on their way when the first is refused; the others follow within milliseconds, its repetition a little later."""
_SLICE_BYTES = 16 * 1024 * 1024

NOT_LEADER = AppendResult(ErrorCode.NOT_LEADER_OR_FOLLOWER, message="this broker does not lead the partition; nothing was appended")
_UNKNOWN = AppendResult(
    ErrorCode.REQUEST_TIMED_OUT, message="leadership was lost before the records were known to be committed; they may or may not be"
)
_EARLIER_MISSING = AppendResult(
    ErrorCode.NOT_LEADER_OR_FOLLOWER, message="an earlier batch of the producer was refused a moment ago; nothing was appended, send both again"
)
_DISK_FULL = AppendResult(ErrorCode.KAFKA_STORAGE_ERROR, message="the disk is full; nothing was appended, try again when there is room")
_TOO_MUCH_PENDING = AppendResult(ErrorCode.REQUEST_TIMED_OUT, message="too many bytes wait to be written; nothing was appended, try again")


class _Pending(NamedTuple):
    """A request's batches that are stamped but not proposed."""

    records: Buffer
    base_offset: int
    record_count: int


class Appender:
    """Invariants: pending batches carry consecutive offsets that begin at the log's end, and the term in which we lead; `proposed_end` is the offset
    behind everything that was handed to the core; pending_bytes is the sum of the pending sizes and what `pending_bytes_changed` was told.
    """

    __slots__ = (
        "_context",
        "_expired",
        "_expiry",
        "_flush_bounds",
        "_gate",
        "_isr",
        "_log_start_proposed",
        "_log_start_waiting",
        "_log_start_wanted",
        "_marks",
        "_pending",
        "_pending_records",
        "_producers",
        "_proposed_end",
        "_refused_ms",
        "_term",
        "_waiting_commit",
        "_waiting_flush",
        "_waiting_isr",
        "config",
        "group",
        "leading",
        "pending_bytes",
    )

    group: Group

    def __init__(self, context: PartitionContext, marks: Watermarks, producers: ProducerTable, gate: TransactionGate) -> None:
        self.config = TopicConfig()
        self.leading = False
        self.pending_bytes = 0
        self._context = context
        self._marks = marks
        self._producers = producers
        self._gate = gate
        self._term = 0
        self._pending: deque[_Pending] = deque()
        self._pending_records = 0
        self._proposed_end = 0
        self._refused_ms = -GAP_GRACE_MS
        self._waiting_commit = AppendQueue()
        self._waiting_flush = AppendQueue()
        self._waiting_isr: deque[tuple[int, WaitingAppend]] = deque()
        self._flush_bounds: deque[int] = deque()
        self._isr = InSyncReplicas()
        self._expiry = ProducerExpiry()
        self._expired: list[int] = []
        self._log_start_wanted = 0
        self._log_start_proposed = 0
        self._log_start_waiting: list[tuple[int, Callable[[ErrorCode, int], None]]] = []

    @property
    def end_offset(self) -> int:
        return self.group.log.next_offset + self._pending_records

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return len(self._waiting_commit) + len(self._waiting_flush) + len(self._waiting_isr)

    # -- requests -------------------------------------------------------------------------------------------------

    def append(self, records: memoryview, acks: int, done: Callable[[AppendResult], None], verification: Verification | None = None) -> None:
        """See `broker.api.Partition.append`. `verification`: what the coordinator said of the producer's transaction."""
        result = self._refusal(len(records), acks)
        if result is None:
            verified = verification.producer_id if verification is not None and verification.valid else -1
            try:
                result = self._accept(records, acks, done, verified)
            except SequenceGapError as error:
                result = _EARLIER_MISSING if self._may_be_missing() else self._verdict(error)
            except KafkaError as error:
                result = self._verdict(error)
            except CompressionError as error:
                result = AppendResult(ErrorCode.INVALID_RECORD, message=str(error))
        elif self.leading:
            self._note_refusal()
        if result is not None:
            done(result)

    def _verdict(self, error: KafkaError) -> AppendResult:
        # A leader that may be deposed knows an old state of the producers: its verdict could be wrong, and producers take it as final.
        return AppendResult(error.code, message=error.message) if self.group.lease_valid() else NOT_LEADER

    def _note_refusal(self) -> None:
        self._refused_ms = self._context.clock.now_ms()

    def _may_be_missing(self) -> bool:
        """Whether batches that are not known here may just have been refused."""
        return self._context.clock.now_ms() - self._refused_ms < GAP_GRACE_MS

    def append_prepared(self, batches: Sequence[bytearray], done: Callable[[AppendResult], None]) -> None:
        """See `Partition.append_prepared`. What is pending of it is bounded by its callers, not by the limit for clients."""
        if not (self.leading and self.group.serving):
            done(NOT_LEADER)
            return
        self._maybe_drop_refused()
        if self._context.disk_full():
            done(_DISK_FULL)
            return
        records = memoryview(batches[0] if len(batches) == 1 else bytearray().join(batches))
        base_offset = self.end_offset
        found = list(prepared_batches(records))
        try:
            for batch in found:
                if batch.producer_id >= 0:
                    self._producers.check_prepared(batch, self._gate.is_verified(batch.producer_id, batch.producer_epoch))
        except KafkaError as error:
            done(AppendResult(error.code, message=error.message))
            return
        next_offset = stamp(records, found, base_offset, self._term)
        offset = base_offset
        for batch in found:
            if batch.producer_id >= 0:
                self._producers.prepared_appended(batch, offset)
            offset += batch.record_count
        self._push(_Pending(records, base_offset, next_offset - base_offset))
        self._waiting_commit.add(WaitingAppend(next_offset, base_offset, -1, done))

    def append_marker(self, marker: Marker, done: Callable[[AppendResult], None]) -> None:
        """End a transaction here. A marker that is here already is not written again; it is answered once it is committed."""
        records = memoryview(marker_batch(marker, self._context.wall_time_ms()))
        refusal = self._refusal(len(records), -1)
        if refusal is not None:
            done(refusal)
            return
        try:
            self._producers.check_marker(marker)
        except KafkaError as error:
            done(AppendResult(error.code, message=error.message))
            return
        self._gate.ended(marker.producer_id, marker.producer_epoch)
        known = self._producers.find(marker.producer_id)
        if (
            known is not None
            and known.first_offset < 0
            and (known.epoch, known.coordinator_epoch) == (marker.producer_epoch, marker.coordinator_epoch)
        ):
            offset = known.last_offset
            if offset < self._marks.high_watermark:
                done(AppendResult(ErrorCode.NONE, offset, self._marks.log_start_offset))
            else:
                self._waiting_commit.add_repeated(WaitingAppend(offset + 1, offset, -1, done))
            return
        base_offset = self.end_offset
        next_offset = stamp(records, list(prepared_batches(records)), base_offset, self._term)
        self._producers.marker_appended(marker, base_offset)
        self._expiry.heard((marker.producer_id,))
        self._push(_Pending(records, base_offset, 1))
        self._waiting_commit.add(WaitingAppend(next_offset, base_offset, -1, done))

    def _refusal(self, size: int, acks: int) -> AppendResult | None:
        """Why nothing can be appended now, before the records are looked at."""
        group = self.group
        if not (self.leading and group.serving):
            return NOT_LEADER
        self._maybe_drop_refused()
        if self._context.disk_full():
            return _DISK_FULL
        if self.pending_bytes and self.pending_bytes + size > self._context.max_pending_bytes:
            return _TOO_MUCH_PENDING
        if acks == -1:
            wanted = self.config.min_insync_replicas
            if wanted > 1:
                have = self._isr.count(group, self._context.clock.now_ms(), self.config.replica_lag_time_max_ms)
                if have < wanted:
                    text = f"{have} replicas are in sync, min.insync.replicas is {wanted}; nothing was appended"
                    return AppendResult(ErrorCode.NOT_ENOUGH_REPLICAS, message=text)
        elif not group.lease_valid():
            return NOT_LEADER  # an answer that waits for no majority needs the proof that nobody else leads
        return None

    def _accept(self, records: memoryview, acks: int, done: Callable[[AppendResult], None], verified: int) -> AppendResult | None:
        config = self.config
        batches = check_batches(records, config.max_message_bytes, MAX_ENTRY_BYTES)
        now_ms = self._context.wall_time_ms()
        count = 0
        idempotent = False
        for batch in batches:
            count += batch.record_count
            if batch.producer_id >= 0:
                idempotent = True
            if not config.log_append_time and (
                batch.max_timestamp - now_ms > config.timestamp_after_max_ms or 0 <= batch.base_timestamp < now_ms - config.timestamp_before_max_ms
            ):
                _refuse_timestamp(batch, now_ms)
        if count > MAX_RECORDS_PER_ENTRY:
            raise KafkaError(ErrorCode.INVALID_RECORD, f"{count} records in one request")
        append_time_ms = -1
        if config.log_append_time:
            append_time_ms = now_ms
            batches = [batch._replace(max_timestamp=now_ms) for batch in batches]
        base_offset = self.end_offset
        changes: dict[int, ProducerEntry] = {}
        if idempotent:
            changes, duplicate = self._producers.check(batches, base_offset, verified, self._may_be_missing())
            if duplicate is not None:
                return self._answer_repeated(duplicate, acks, done)
        if config.compression_codec >= 0 and any(batch.codec != config.compression_codec for batch in batches):
            records, batches = recompress(records, batches, config.compression_codec, self._context.max_decompressed_bytes)
            _check_recompressed(records, batches, config.max_message_bytes)
        if config.log_append_time:
            stamp_log_append_time(records, batches, now_ms)
        next_offset = stamp(records, batches, base_offset, self._term)
        if changes:
            self._producers.appended(changes)
            self._expiry.heard(changes)
        self._push(_Pending(records, base_offset, count))
        if acks == 0:
            return AppendResult(ErrorCode.NONE, base_offset, self._marks.log_start_offset, append_time_ms)
        queue = self._waiting_commit if acks == -1 else self._waiting_flush
        queue.add(WaitingAppend(next_offset, base_offset, append_time_ms, done))
        return None

    def _push(self, pending: _Pending) -> None:
        size = len(pending.records)
        self._pending.append(pending)
        self._pending_records += pending.record_count
        self.pending_bytes += size
        self._context.pending_bytes_changed(size)
        self.group.mark_dirty()

    def _answer_repeated(
        self, originals: tuple[AppendedBatch, AppendedBatch], acks: int, done: Callable[[AppendResult], None]
    ) -> AppendResult | None:
        first, last = originals
        append_time_ms = first.timestamp if self.config.log_append_time else -1
        if acks == 0 or last.last_offset < self._marks.high_watermark:
            return AppendResult(ErrorCode.NONE, first.base_offset, self._marks.log_start_offset, append_time_ms)
        self._waiting_commit.add_repeated(WaitingAppend(last.last_offset + 1, first.base_offset, append_time_ms, done))
        return None

    # -- proposals ------------------------------------------------------------------------------------------------

    def collect(self, max_bytes: int) -> Proposal | None:
        """One entry of what is pending: a command first, else the batches of at least one request and at most `max_bytes`."""
        if not self.leading:
            return None
        self._maybe_drop_refused()
        command = self._next_command()
        if command is not None:
            if self._pending:
                self.group.mark_dirty()
            return Proposal(EntryKind.COMMAND, (command,), len(command), crc32c.crc32c(command), 0)
        if not self._pending:
            return None
        return self._next_data(min(max_bytes, MAX_ENTRY_BYTES))

    def _next_data(self, max_bytes: int) -> Proposal:
        base_offset = self._pending[0].base_offset
        if base_offset != self.group.log.next_offset or self._term != self.group.term:
            text = (
                f"pending batches begin at {base_offset} in term {self._term}, the log ends at {self.group.log.next_offset} in term {self.group.term}"
            )
            check(False, text)
        chunks: list[Buffer] = []
        size = count = crc = 0
        pending = self._pending
        while pending:
            records, _, record_count = pending[0]
            if chunks and (size + len(records) > max_bytes or count + record_count > MAX_RECORDS_PER_ENTRY):
                self.group.mark_dirty()
                break
            pending.popleft()
            chunks.append(records)
            size += len(records)
            count += record_count
            crc = crc32c.crc32c(records, crc)
        self._pending_records -= count
        self.pending_bytes -= size
        self._context.pending_bytes_changed(-size)
        self._proposed_end = base_offset + count
        if len(self._waiting_flush):
            self._flush_bounds.append(self._proposed_end)
        return Proposal(EntryKind.DATA, chunks, size, crc, count)

    def _maybe_drop_refused(self) -> None:
        """The core did not take what `collect` gave it (it is handing leadership over): forget it and what was stamped behind it."""
        if self.leading and self._proposed_end > self.group.log.next_offset:
            self._drop_refused(self.group.log.next_offset)

    def _drop_refused(self, end_offset: int) -> None:
        dropped = [*self._waiting_commit.take_above(end_offset), *self._waiting_flush.take_above(end_offset)]
        self._clear_pending()
        self._proposed_end = end_offset
        while self._flush_bounds and self._flush_bounds[-1] > end_offset:
            self._flush_bounds.pop()
        self._producers.rebuild_overlay(self._unapplied())
        self._note_refusal()
        for waiting in dropped:
            waiting.done(NOT_LEADER)

    def _unapplied(self) -> list[Sequence[Buffer]]:
        """Payloads of the data entries above the high watermark; they are not committed and therefore in memory."""
        found: list[Sequence[Buffer]] = []
        log = self.group.log
        index = log.index_of_offset(self._marks.high_watermark)
        while index is not None and (entries := log.memory_slice(index, _SLICE_BYTES)):
            found.extend(entry.chunks for entry in entries if entry.kind == EntryKind.DATA)
            index = entries[-1].index + 1
        return found

    def _next_command(self) -> bytes | None:
        if self._log_start_wanted > self._log_start_proposed:
            self._log_start_proposed = self._log_start_wanted
            return encode_command(LogStart(self._log_start_wanted))
        if self._expired:
            overlay = self._producers.overlay
            opened = self._producers.transactions.open
            silent = tuple(p for p in self._expiry.still_silent(self._expired) if p not in overlay and p not in opened)
            self._expired = []
            if silent:
                return encode_command(ExpireProducers(silent))
        return None

    def advance_log_start(self, offset: int, done: Callable[[ErrorCode, int], None]) -> None:
        """Delete the records below `offset` (-1: below the high watermark). `done(error, log start offset)` when that is committed and applied."""
        if not (self.leading and self.group.serving):
            done(ErrorCode.NOT_LEADER_OR_FOLLOWER, -1)
            return
        if offset == -1:
            offset = self._marks.high_watermark
        if not 0 <= offset <= self._marks.high_watermark:
            done(ErrorCode.OFFSET_OUT_OF_RANGE, -1)
        elif offset <= self._marks.log_start_offset:
            done(ErrorCode.NONE, self._marks.log_start_offset)
        else:
            self._log_start_wanted = max(self._log_start_wanted, offset)
            self._log_start_waiting.append((offset, done))
            self.group.mark_dirty()

    def tick(self, now_ms: int) -> None:
        """Leader: producers that expired, and a log start whose command got lost."""
        if not self.leading:
            return
        self._maybe_drop_refused()
        self._log_start_proposed = min(self._log_start_proposed, self._marks.log_start_offset)
        self._expired = self._expiry.due(now_ms, self._producers.applied.keys(), self.config.producer_id_expiration_ms)
        if self._expired or self._log_start_wanted > self._marks.log_start_offset:
            self.group.mark_dirty()

    # -- outcomes -------------------------------------------------------------------------------------------------

    def on_applied(self, index: int) -> None:
        """The watermarks have moved; `index` is the last applied entry."""
        end_offset = self._marks.high_watermark
        while self._flush_bounds and self._flush_bounds[0] <= end_offset:
            self._flush_bounds.popleft()
        ready = self._waiting_commit.take(end_offset)
        if ready and self._needs_more_replicas(index):
            self._waiting_isr.extend((index, waiting) for waiting in ready)
            ready = []
        ready += self._waiting_flush.take(end_offset)
        if self._log_start_waiting:
            self._answer_log_start()
        self._succeed(ready)

    def on_flushed(self) -> None:
        """acks=1: what the leader has on disk now is done, while nobody else can lead."""
        self._maybe_drop_refused()
        if self._flush_bounds and self.group.lease_valid():
            log = self.group.log
            flushed = -1
            while self._flush_bounds:
                index = log.index_of_offset(self._flush_bounds[0] - 1)
                if index is not None and index > log.flushed_index:
                    break
                flushed = self._flush_bounds.popleft()
            if flushed >= 0:
                self._succeed(self._waiting_flush.take(flushed))
        if self._waiting_isr:
            self._settle_isr()

    def on_progress(self) -> None:
        self._maybe_drop_refused()
        self._isr.invalidate()
        if self._waiting_isr:
            self._settle_isr()

    def _needs_more_replicas(self, index: int) -> bool:
        wanted = self.config.min_insync_replicas
        return wanted > 1 and wanted > majority(self.group) and stored_on(self.group, index) < wanted

    def _settle_isr(self) -> None:
        ready: list[WaitingAppend] = []
        settled = -1
        while self._waiting_isr and (self._waiting_isr[0][0] <= settled or not self._needs_more_replicas(self._waiting_isr[0][0])):
            settled, waiting = self._waiting_isr.popleft()
            ready.append(waiting)
        self._succeed(ready)

    def _succeed(self, ready: Sequence[WaitingAppend]) -> None:
        log_start_offset = self._marks.log_start_offset
        for _, base_offset, append_time_ms, done in ready:
            done(AppendResult(ErrorCode.NONE, base_offset, log_start_offset, append_time_ms))

    def _answer_log_start(self) -> None:
        reached = self._marks.log_start_offset
        ready = [done for offset, done in self._log_start_waiting if offset <= reached]
        self._log_start_waiting = [item for item in self._log_start_waiting if item[0] > reached]
        for done in ready:
            done(ErrorCode.NONE, reached)

    def lead(self) -> None:
        """Our own no-op is applied, and with it everything before: nothing is appended and not applied."""
        self._term = self.group.term
        self._proposed_end = self.group.log.next_offset
        self._log_start_wanted = self._log_start_proposed = self._marks.log_start_offset
        self._producers.forget_appended()
        self._expiry.clear()
        self._isr.invalidate()
        self._note_refusal()  # until now everything was refused
        self.leading = True

    def depose(self) -> None:
        """We do not lead any more: answer everybody (see the module's head)."""
        if not self.leading:
            return
        self.leading = False
        self._gate.clear()
        never_proposed = self._pending[0].base_offset if self._pending else self._proposed_end
        waiting = [*self._waiting_commit.take_all(), *self._waiting_flush.take_all(), *(item[1] for item in self._waiting_isr)]
        starts, self._log_start_waiting = self._log_start_waiting, []
        self._waiting_isr.clear()
        self._flush_bounds.clear()
        self._expired = []
        self._clear_pending()
        self._producers.forget_appended()
        for item in waiting:
            item.done(NOT_LEADER if item.base_offset >= never_proposed else _UNKNOWN)
        for _, done in starts:
            done(ErrorCode.REQUEST_TIMED_OUT, -1)

    def _clear_pending(self) -> None:
        if self.pending_bytes:
            self._context.pending_bytes_changed(-self.pending_bytes)
        self._pending.clear()
        self._pending_records = 0
        self.pending_bytes = 0


def _refuse_timestamp(batch: BatchInfo, now_ms: int) -> None:
    text = f"timestamps {batch.base_timestamp} to {batch.max_timestamp} are outside what the topic allows around now ({now_ms})"
    raise KafkaError(ErrorCode.INVALID_TIMESTAMP, text)


def _check_recompressed(records: memoryview, batches: Sequence[BatchInfo], max_batch_bytes: int) -> None:
    if len(records) > MAX_ENTRY_BYTES:
        raise KafkaError(ErrorCode.RECORD_LIST_TOO_LARGE, f"{len(records)} bytes in the topic's compression; the limit is {MAX_ENTRY_BYTES}")
    largest = max(batch.size for batch in batches)
    if largest > max_batch_bytes:
        raise KafkaError(ErrorCode.MESSAGE_TOO_LARGE, f"batch of {largest} bytes in the topic's compression; max.message.bytes is {max_batch_bytes}")
