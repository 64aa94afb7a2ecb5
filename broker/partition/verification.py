"""Verification of transactional writes (KIP-890): before the first record of a transaction is appended to this partition, its coordinator must know
that the partition takes part, or else no marker would ever end it here.

Leader only. A producer's requests wait in the order of their arrival while the coordinator is asked; afterwards, and while the transaction is open
here, they pass at once. A marker invalidates what was verified before it when it may have ended the very transaction that was asked about: one of a
newer epoch always, one of the same epoch only if transactions share epochs. With the epoch bump, the marker of the transaction before carries the
epoch of the next, whose first batches may be here already; they are confirmed only when the one before is complete.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from broker.errors import ErrorCode
from broker.partition.producers import ProducerTable

MAX_WAITING = 1_000
"""Requests of one producer that wait for one answer; a client has five in flight."""
MAX_VERIFICATIONS = 10_000


class TransactionQuestion(NamedTuple):
    """Does the partition belong to the producer's ongoing transaction? `add` = make it so (Produce v12, TxnOffsetCommit v5)."""

    transactional_id: str
    producer_id: int
    producer_epoch: int
    topic: str
    partition: int
    add: bool


Verify = Callable[[TransactionQuestion, Callable[[ErrorCode, str], None]], None]
"""Ask the coordinator; the callback is called exactly once, with the coordinator's error."""

Then = Callable[[ErrorCode, str, "Verification | None"], None]
"""What goes on after verification: with an error, or with what to show to `append` (None when the transaction is open here already)."""


class Verification:
    """What the coordinator has confirmed, or is being asked. `valid` until a marker ends it, or leadership goes. `bumped`: the producer has a new
    epoch in each transaction."""

    __slots__ = ("bumped", "epoch", "producer_id", "valid", "waiting")

    def __init__(self, producer_id: int, epoch: int, bumped: bool) -> None:
        self.producer_id = producer_id
        self.epoch = epoch
        self.bumped = bumped
        self.valid = True
        self.waiting: list[Then] | None = []  # None once answered


class TransactionGate:
    """Invariant: at most one verification per producer; `waiting` requests are answered exactly once."""

    __slots__ = ("_index", "_known", "_producers", "_topic", "_verify")

    def __init__(self, producers: ProducerTable, verify: Verify | None, topic: str, index: int) -> None:
        self._producers = producers
        self._verify = verify
        self._topic = topic
        self._index = index
        self._known: dict[int, Verification] = {}

    def enter(self, transactional_id: str, producer: tuple[int, int], add: bool, then: Then) -> None:
        """Call `then` once the partition is known to belong to the transaction of `producer` = (id, epoch)."""
        producer_id, epoch = producer
        known = self._known.get(producer_id)
        if known is not None and known.epoch == epoch:
            if known.waiting is None:
                then(ErrorCode.NONE, "", known)
            elif len(known.waiting) < MAX_WAITING:
                known.waiting.append(then)
            else:
                then(ErrorCode.NOT_ENOUGH_REPLICAS, "too many requests wait for the transaction's coordinator; nothing was appended", None)
            return
        if self._producers.is_open(producer_id, epoch):
            then(ErrorCode.NONE, "", None)
        elif known is not None and known.epoch > epoch:
            then(ErrorCode.INVALID_PRODUCER_EPOCH, f"producer {producer_id} has epoch {known.epoch}; {epoch} is fenced", None)
        elif self._verify is None:
            then(ErrorCode.INVALID_TXN_STATE, "the batch belongs to a transaction that is not open on this partition", None)
        else:
            self._drop(producer_id)
            verification = self._known[producer_id] = Verification(producer_id, epoch, add)
            if verification.waiting is not None:
                verification.waiting.append(then)
            while len(self._known) > MAX_VERIFICATIONS:
                self._drop(next(iter(self._known)))
            question = TransactionQuestion(transactional_id, producer_id, epoch, self._topic, self._index, add)
            self._verify(question, partial(self._answered, verification))

    def _answered(self, verification: Verification, error: ErrorCode, message: str) -> None:
        if verification.waiting is None:
            return
        if not error and not verification.valid:
            error, message = ErrorCode.INVALID_TXN_STATE, "the transaction was ended while the batch was on its way"
        waiting, verification.waiting = verification.waiting, None
        if error and self._known.get(verification.producer_id) is verification:
            del self._known[verification.producer_id]
        for then in waiting:
            then(error, message, None if error else verification)

    def is_verified(self, producer_id: int, epoch: int) -> bool:
        """Whether the coordinator has confirmed, and no marker came since."""
        known = self._known.get(producer_id)
        return known is not None and known.epoch == epoch and known.waiting is None

    def ended(self, producer_id: int, marker_epoch: int) -> None:
        """A marker of the producer is appended."""
        verification = self._known.get(producer_id)
        if verification is not None and (marker_epoch > verification.epoch or not verification.bumped):
            self._drop(producer_id)

    def _drop(self, producer_id: int) -> None:
        verification = self._known.pop(producer_id, None)
        if verification is not None:
            verification.valid = False

    def clear(self) -> None:
        """We do not lead any more."""
        known, self._known = self._known, {}
        for verification in known.values():
            verification.valid = False
            waiting, verification.waiting = verification.waiting, None
            for then in waiting or ():
                then(ErrorCode.NOT_LEADER_OR_FOLLOWER, "leadership was lost before anything was appended", None)


_TRY_AGAIN = frozenset(
    {
        ErrorCode.NETWORK_EXCEPTION,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
        ErrorCode.REQUEST_TIMED_OUT,
    }
)


def produce_error(error: ErrorCode, add: bool) -> ErrorCode:
    """What a producer is told about `error` of its coordinator: codes that a client takes as those of a partition (as in Kafka)."""
    if error in _TRY_AGAIN or (error == ErrorCode.CONCURRENT_TRANSACTIONS and not add):
        return ErrorCode.NOT_ENOUGH_REPLICAS
    return ErrorCode.INVALID_PRODUCER_EPOCH if error == ErrorCode.PRODUCER_FENCED else error
