"""What is known of idempotent producers: the last five batches of each, with their original offsets (KIP-98, KIP-360).

`applied` is a pure function of the log: data entries add batches, expiry commands remove producers. `overlay` holds, on the leader only, producers
with batches that are appended but not applied; it is always `applied` plus those batches in log order. A new leader begins with an empty overlay,
because it serves only after everything before its own no-op is applied; a deposed one forgets it. Knows no clock, no raft, no disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from broker.errors import ErrorCode, KafkaError
from broker.records.batch import MAX_SEQUENCE, BatchInfo, last_sequence, stored_batches
from wal.entry import Buffer

REMEMBERED_BATCHES = 5
"""A client has at most five requests in flight per connection, so that a repeated batch is one of the last five."""


class AppendedBatch(NamedTuple):
    """A batch in the log. `timestamp` is its largest, in ms."""

    base_sequence: int
    last_sequence: int
    base_offset: int
    last_offset: int
    timestamp: int


class ProducerEntry(NamedTuple):
    """One producer in its newest epoch; `batches` ascending, at least one, at most five."""

    epoch: int
    batches: tuple[AppendedBatch, ...]

    def find(self, base_sequence: int, last: int) -> AppendedBatch | None:
        for batch in reversed(self.batches):
            if batch.base_sequence == base_sequence and batch.last_sequence == last:
                return batch
        return None


def advance(entry: ProducerEntry | None, epoch: int, batch: AppendedBatch) -> ProducerEntry:
    """The producer after `batch`; a new epoch forgets the batches of the old one."""
    if entry is None or entry.epoch != epoch:
        return ProducerEntry(epoch, (batch,))
    return ProducerEntry(epoch, (*entry.batches[1 - REMEMBERED_BATCHES :], batch))


class Verdict(NamedTuple):
    """What became of a request's batches: all new (then `changes` goes to `appended`), or all repeated (then first and last original batch)."""

    changes: dict[int, ProducerEntry]
    duplicate: tuple[AppendedBatch, AppendedBatch] | None = None


class ProducerTable:
    """Producers of one partition. Invariant: overlay[p] ends with a batch at or above the applied end; without one, applied is all there is."""

    __slots__ = ("applied", "overlay")

    def __init__(self) -> None:
        self.applied: dict[int, ProducerEntry] = {}
        self.overlay: dict[int, ProducerEntry] = {}

    def check(self, batches: Sequence[BatchInfo], base_offset: int) -> Verdict:
        """Judge one request's batches as if appended at `base_offset`. Changes nothing.

        Raises KafkaError: INVALID_PRODUCER_EPOCH for a fenced producer, OUT_OF_ORDER_SEQUENCE_NUMBER for a gap, or for a request that repeats some
        batches and adds others. The first batch of an unknown producer may have any sequence, as in Kafka since 2.5.
        """
        changes: dict[int, ProducerEntry] = {}
        first: AppendedBatch | None = None
        repeated: AppendedBatch | None = None
        offset = base_offset
        for number, batch in enumerate(batches):
            producer_id = batch.producer_id
            if producer_id < 0:
                if repeated is not None:
                    raise _mixed(batch)
            else:
                known = changes.get(producer_id) or self.overlay.get(producer_id) or self.applied.get(producer_id)
                last = last_sequence(batch.base_sequence, batch.record_count)
                original = known.find(batch.base_sequence, last) if known is not None and known.epoch == batch.producer_epoch else None
                if original is not None and not changes and (repeated is not None or number == 0):
                    first = first or original
                    repeated = original
                    continue
                if original is not None or repeated is not None:
                    raise _mixed(batch)
                if known is not None:
                    _check_sequence(known, batch)
                appended = AppendedBatch(batch.base_sequence, last, offset, offset + batch.record_count - 1, batch.max_timestamp)
                changes[producer_id] = advance(known, batch.producer_epoch, appended)
            offset += batch.record_count
        return Verdict(changes, (first, repeated) if first is not None and repeated is not None else None)

    def appended(self, changes: dict[int, ProducerEntry]) -> None:
        self.overlay.update(changes)

    def forget_appended(self) -> None:
        """Leadership is lost: what was appended is unknown, and tells itself by being applied or truncated."""
        self.overlay.clear()

    def rebuild_overlay(self, chunks: Iterable[Sequence[Buffer]]) -> None:
        """Make the overlay anew from the payloads of data entries that are appended but not applied, in log order."""
        self.overlay.clear()
        for payload in chunks:
            for base_offset, _, _, delta, newest, producer_id, epoch, sequence in stored_batches(payload):
                if producer_id >= 0:
                    known = self.overlay.get(producer_id) or self.applied.get(producer_id)
                    batch = AppendedBatch(sequence, (sequence + delta) & MAX_SEQUENCE, base_offset, base_offset + delta, newest)
                    self.overlay[producer_id] = advance(known, epoch, batch)

    def apply(self, producer_id: int, epoch: int, base_sequence: int, base_offset: int, last_offset: int, timestamp: int) -> None:
        batch = AppendedBatch(base_sequence, (base_sequence + last_offset - base_offset) & MAX_SEQUENCE, base_offset, last_offset, timestamp)
        self.applied[producer_id] = advance(self.applied.get(producer_id), epoch, batch)
        if self.overlay:
            ahead = self.overlay.get(producer_id)
            if ahead is not None and ahead.batches[-1].last_offset <= last_offset:
                del self.overlay[producer_id]

    def expire(self, producer_ids: Iterable[int]) -> None:
        for producer_id in producer_ids:
            self.applied.pop(producer_id, None)


def _check_sequence(known: ProducerEntry, batch: BatchInfo) -> None:
    if batch.producer_epoch < known.epoch:
        raise KafkaError(ErrorCode.INVALID_PRODUCER_EPOCH, f"producer {batch.producer_id} has epoch {known.epoch}; {batch.producer_epoch} is fenced")
    expected = 0 if batch.producer_epoch > known.epoch else (known.batches[-1].last_sequence + 1) & MAX_SEQUENCE
    if batch.base_sequence != expected:
        raise KafkaError(
            ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
            f"producer {batch.producer_id} epoch {batch.producer_epoch} sent sequence {batch.base_sequence}, expected {expected}",
        )


def _mixed(batch: BatchInfo) -> KafkaError:
    return KafkaError(
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, f"producer {batch.producer_id}: a request repeats some batches and adds others; nothing was appended"
    )
