"""What is known of producers: their last five batches, with the original offsets, and the transaction that is open (KIP-98, KIP-360, KIP-890).

`applied` and `transactions` are pure functions of the log: data entries add batches and markers, expiry commands remove producers. `overlay` holds,
on the leader only, producers with batches or markers that are appended but not applied; it is always `applied` plus those in log order. A new leader
begins with an empty overlay, because it serves only after everything before its own no-op is applied; a deposed one forgets it. Knows no clock, no
raft, no disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from broker.errors import ErrorCode, KafkaError
from broker.partition.transactions import TransactionIndex
from broker.records.batch import CONTROL_BIT, MAX_SEQUENCE, TRANSACTIONAL_BIT, BatchInfo, last_sequence, stored_batches
from broker.records.control import Marker, MarkerEnd, markers_of
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
    """One producer in its newest epoch; `batches` ascending, at most five, none when a marker began the epoch.

    `first_offset` is where its open transaction begins, -1 when none is open; `coordinator_epoch` that of its last marker, -1 for none;
    `last_offset` that of its last batch or marker.
    """

    epoch: int
    batches: tuple[AppendedBatch, ...]
    last_offset: int
    first_offset: int = -1
    coordinator_epoch: int = -1

    def find(self, base_sequence: int, last: int) -> AppendedBatch | None:
        for batch in reversed(self.batches):
            if batch.base_sequence == base_sequence and batch.last_sequence == last:
                return batch
        return None


class SequenceGapError(KafkaError):
    """Batches of the producer between what is known of it and this one have not come."""


def advance(entry: ProducerEntry | None, epoch: int, batch: AppendedBatch, transactional: int = 0) -> ProducerEntry:
    """The producer after `batch`; a new epoch forgets the batches of the old one, but not the transaction that is open.

    A batch without a sequence (a coordinator's own) can not be repeated by a client and is not remembered.
    """
    batches = entry.batches if entry is not None and entry.epoch == epoch else ()
    if batch.base_sequence >= 0:
        batches = (*batches[1 - REMEMBERED_BATCHES :], batch)
    if entry is None:
        return ProducerEntry(epoch, batches, batch.last_offset, batch.base_offset if transactional else -1)
    first_offset = batch.base_offset if transactional and entry.first_offset < 0 else entry.first_offset
    return ProducerEntry(epoch, batches, batch.last_offset, first_offset, entry.coordinator_epoch)


def end_transaction(entry: ProducerEntry | None, epoch: int, coordinator_epoch: int, offset: int) -> ProducerEntry:
    """The producer after a marker at `offset`. A new epoch forgets the batches of the old one: the next begins at sequence 0 (KIP-890)."""
    batches = entry.batches if entry is not None and entry.epoch == epoch else ()
    return ProducerEntry(epoch, batches, offset, -1, coordinator_epoch)


class ProducerDescription(NamedTuple):
    """A producer for DescribeProducers; -1 for what there is not."""

    producer_id: int
    epoch: int
    last_sequence: int
    last_timestamp: int
    coordinator_epoch: int
    first_offset: int


class Verdict(NamedTuple):
    """What became of a request's batches: all new (then `changes` goes to `appended`), or all repeated (then first and last original batch)."""

    changes: dict[int, ProducerEntry]
    duplicate: tuple[AppendedBatch, AppendedBatch] | None = None


class ProducerTable:
    """Producers of one partition. Invariant: overlay[p] ends at or above the applied end; without one, applied is all there is. A producer has an
    open transaction in `transactions` exactly if its entry in `applied` says so.
    """

    __slots__ = ("applied", "overlay", "transactions")

    def __init__(self) -> None:
        self.applied: dict[int, ProducerEntry] = {}
        self.overlay: dict[int, ProducerEntry] = {}
        self.transactions = TransactionIndex()

    def find(self, producer_id: int) -> ProducerEntry | None:
        """The producer as the leader knows it, what is appended and not applied included."""
        return self.overlay.get(producer_id) or self.applied.get(producer_id)

    def describe(self) -> list[ProducerDescription]:
        """All producers, as applied."""
        found: list[ProducerDescription] = []
        for producer_id, entry in self.applied.items():
            sequence, timestamp = (entry.batches[-1].last_sequence, entry.batches[-1].timestamp) if entry.batches else (-1, -1)
            found.append(ProducerDescription(producer_id, entry.epoch, sequence, timestamp, entry.coordinator_epoch, entry.first_offset))
        return found

    def is_open(self, producer_id: int, epoch: int) -> bool:
        """Whether the producer has a transaction open here, in this epoch."""
        known = self.find(producer_id)
        return known is not None and known.first_offset >= 0 and known.epoch == epoch

    def check(self, batches: Sequence[BatchInfo], base_offset: int, verified: int = -1, missing: bool = False) -> Verdict:
        """Judge one request's batches as if appended at `base_offset`. Changes nothing. `verified` = the producer whose coordinator has said that
        this partition belongs to its transaction (KIP-890). `missing`: earlier batches of the producer may just have been refused.

        Raises KafkaError: INVALID_PRODUCER_EPOCH for a fenced producer, OUT_OF_ORDER_SEQUENCE_NUMBER for a gap (SequenceGapError), or for a request
        that repeats some batches and adds others, INVALID_TXN_STATE for a transactional batch outside a transaction and for a plain one inside. The
        first batch of an unknown producer may have any sequence, as in Kafka since 2.5, but not while earlier ones may be missing.
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
                known = changes.get(producer_id) or self.find(producer_id)
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
                elif missing and batch.base_sequence > 0:
                    raise _gap(batch, 0)
                transactional = batch.attributes & TRANSACTIONAL_BIT
                if transactional or (known is not None and known.first_offset >= 0):
                    _check_transaction(known, batch, producer_id == verified)
                appended = AppendedBatch(batch.base_sequence, last, offset, offset + batch.record_count - 1, batch.max_timestamp)
                changes[producer_id] = advance(known, batch.producer_epoch, appended, transactional)
            offset += batch.record_count
        return Verdict(changes, (first, repeated) if first is not None and repeated is not None else None)

    def check_marker(self, marker: Marker) -> None:
        """Raises KafkaError for a marker of a fenced producer (INVALID_PRODUCER_EPOCH) or coordinator (TRANSACTION_COORDINATOR_FENCED)."""
        known = self.find(marker.producer_id)
        if known is None:
            return
        if marker.producer_epoch < known.epoch:
            text = f"producer {marker.producer_id} has epoch {known.epoch}; a marker of epoch {marker.producer_epoch} comes too late"
            raise KafkaError(ErrorCode.INVALID_PRODUCER_EPOCH, text)
        if marker.coordinator_epoch < known.coordinator_epoch:
            text = f"a coordinator of epoch {known.coordinator_epoch} has ended a transaction of producer {marker.producer_id} here; "
            raise KafkaError(ErrorCode.TRANSACTION_COORDINATOR_FENCED, text + f"epoch {marker.coordinator_epoch} is fenced")

    def check_prepared(self, batch: BatchInfo, verified: bool) -> None:
        """As `check`, for a transactional batch that a coordinator has built: there is no sequence, only the epoch and the transaction count."""
        known = self.find(batch.producer_id)
        if known is not None and batch.producer_epoch < known.epoch:
            raise KafkaError(
                ErrorCode.INVALID_PRODUCER_EPOCH, f"producer {batch.producer_id} has epoch {known.epoch}; {batch.producer_epoch} is fenced"
            )
        _check_transaction(known, batch, verified)

    def prepared_appended(self, batch: BatchInfo, base_offset: int) -> None:
        made = AppendedBatch(-1, -1, base_offset, base_offset + batch.record_count - 1, batch.max_timestamp)
        self.overlay[batch.producer_id] = advance(self.find(batch.producer_id), batch.producer_epoch, made, batch.attributes & TRANSACTIONAL_BIT)

    def appended(self, changes: dict[int, ProducerEntry]) -> None:
        self.overlay.update(changes)

    def marker_appended(self, marker: Marker, offset: int) -> None:
        self.overlay[marker.producer_id] = end_transaction(self.find(marker.producer_id), marker.producer_epoch, marker.coordinator_epoch, offset)

    def forget_appended(self) -> None:
        """Leadership is lost: what was appended is unknown, and tells itself by being applied or truncated."""
        self.overlay.clear()

    def rebuild_overlay(self, chunks: Iterable[Sequence[Buffer]]) -> None:
        """Make the overlay anew from the payloads of data entries that are appended but not applied, in log order."""
        self.overlay.clear()
        for payload in chunks:
            markers: dict[int, MarkerEnd] | None = None
            for base_offset, _, attributes, delta, newest, producer_id, epoch, sequence in stored_batches(payload):
                if producer_id < 0:
                    continue
                known = self.find(producer_id)
                if attributes & CONTROL_BIT:
                    markers = markers_of(payload) if markers is None else markers
                    end = markers.get(base_offset)
                    if end is not None:
                        self.overlay[producer_id] = end_transaction(known, epoch, end.coordinator_epoch, base_offset)
                else:
                    last = (sequence + delta) & MAX_SEQUENCE if sequence >= 0 else -1
                    batch = AppendedBatch(sequence, last, base_offset, base_offset + delta, newest)
                    self.overlay[producer_id] = advance(known, epoch, batch, attributes & TRANSACTIONAL_BIT)

    def apply(
        self, producer_id: int, epoch: int, base_sequence: int, base_offset: int, last_offset: int, timestamp: int, transactional: int = 0
    ) -> None:
        last = (base_sequence + last_offset - base_offset) & MAX_SEQUENCE if base_sequence >= 0 else -1
        batch = AppendedBatch(base_sequence, last, base_offset, last_offset, timestamp)
        known = self.applied.get(producer_id)
        self.applied[producer_id] = advance(known, epoch, batch, transactional)
        if transactional and (known is None or known.first_offset < 0):
            self.transactions.opened(producer_id, base_offset)
        if self.overlay:
            self._shrink_overlay(producer_id, last_offset)

    def apply_marker(self, producer_id: int, epoch: int, end: MarkerEnd, offset: int) -> None:
        known = self.applied.get(producer_id)
        self.applied[producer_id] = end_transaction(known, epoch, end.coordinator_epoch, offset)
        self.transactions.ended(producer_id, offset, end.commit)
        if self.overlay:
            self._shrink_overlay(producer_id, offset)

    def _shrink_overlay(self, producer_id: int, applied_offset: int) -> None:
        ahead = self.overlay.get(producer_id)
        if ahead is not None and ahead.last_offset <= applied_offset:
            del self.overlay[producer_id]

    def expire(self, producer_ids: Iterable[int]) -> None:
        """A producer with an open transaction stays: without it nobody could tell where the transaction began."""
        for producer_id in producer_ids:
            if producer_id not in self.transactions.open:
                self.applied.pop(producer_id, None)

    def restore(self, producers: dict[int, ProducerEntry], transactions: TransactionIndex) -> None:
        self.applied = producers
        self.transactions = transactions
        self.overlay.clear()


def _check_sequence(known: ProducerEntry, batch: BatchInfo) -> None:
    if batch.producer_epoch < known.epoch:
        raise KafkaError(ErrorCode.INVALID_PRODUCER_EPOCH, f"producer {batch.producer_id} has epoch {known.epoch}; {batch.producer_epoch} is fenced")
    fresh = batch.producer_epoch > known.epoch or not known.batches
    expected = 0 if fresh else (known.batches[-1].last_sequence + 1) & MAX_SEQUENCE
    if batch.base_sequence != expected:
        raise _gap(batch, expected)


def _check_transaction(known: ProducerEntry | None, batch: BatchInfo, verified: bool) -> None:
    opened = known is not None and known.first_offset >= 0
    if not batch.attributes & TRANSACTIONAL_BIT:
        text = f"producer {batch.producer_id} has a transaction open on this partition; a batch outside it is refused"
        raise KafkaError(ErrorCode.INVALID_TXN_STATE, text)
    if not (verified or (opened and known is not None and known.epoch == batch.producer_epoch)):
        text = f"producer {batch.producer_id} has no transaction open on this partition, and its coordinator has confirmed none"
        raise KafkaError(ErrorCode.INVALID_TXN_STATE, text)


def _gap(batch: BatchInfo, expected: int) -> KafkaError:
    text = f"producer {batch.producer_id} epoch {batch.producer_epoch} sent sequence {batch.base_sequence}, expected {expected}"
    ahead = (batch.base_sequence - expected) & MAX_SEQUENCE < MAX_SEQUENCE // 2
    return (SequenceGapError if ahead else KafkaError)(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, text)


def _mixed(batch: BatchInfo) -> KafkaError:
    return KafkaError(
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, f"producer {batch.producer_id}: a request repeats some batches and adds others; nothing was appended"
    )
