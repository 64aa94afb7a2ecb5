"""One transactional id: what is known of it, and which states may follow which.

Values are Kafka's (TransactionState), since they stand in `__transaction_state`. Pure.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

NO_PRODUCER_ID = -1
NO_EPOCH = -1
EPOCH_MAX = 32_767
EPOCH_EXHAUSTED = EPOCH_MAX - 1
"""The last epoch that a producer is given: the one behind it is for fencing it."""
VERSION_EPOCH_BUMP = 2
"""transaction.version from which the end of every transaction bumps the epoch (KIP-890 part 2)."""

TopicPartition = tuple[str, int]


class TransactionState(IntEnum):
    """Rules (`NEXT`): a transaction is Ongoing from its first partition on; Prepare* is the decision, which nothing revokes; Complete* says that
    every partition has its marker. A fencing (new producer, time-out) is decided and written in one step: PrepareEpochFence is never stored.
    """

    EMPTY = 0
    ONGOING = 1
    PREPARE_COMMIT = 2
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5
    DEAD = 6
    PREPARE_EPOCH_FENCE = 7

    @property
    def text(self) -> str:
        """As Kafka's tools write it."""
        return "".join(word.capitalize() for word in self.name.split("_"))


_S = TransactionState
RESTING = frozenset({_S.EMPTY, _S.COMPLETE_COMMIT, _S.COMPLETE_ABORT})
DECIDED = frozenset({_S.PREPARE_COMMIT, _S.PREPARE_ABORT})
NEXT: dict[TransactionState, frozenset[TransactionState]] = {
    # KIP-890 lets a producer abort a transaction to which nothing was added, hence the ways from a resting state to PREPARE_ABORT.
    _S.EMPTY: frozenset({_S.EMPTY, _S.ONGOING, _S.PREPARE_ABORT}),
    _S.ONGOING: frozenset({_S.ONGOING, _S.PREPARE_COMMIT, _S.PREPARE_ABORT}),
    _S.PREPARE_COMMIT: frozenset({_S.COMPLETE_COMMIT}),
    _S.PREPARE_ABORT: frozenset({_S.COMPLETE_ABORT}),
    _S.COMPLETE_COMMIT: frozenset({_S.EMPTY, _S.ONGOING, _S.PREPARE_ABORT}),
    _S.COMPLETE_ABORT: frozenset({_S.EMPTY, _S.ONGOING, _S.PREPARE_ABORT}),
    _S.DEAD: frozenset(),
    _S.PREPARE_EPOCH_FENCE: frozenset({_S.PREPARE_ABORT}),
}


class Transaction(NamedTuple):
    """A transactional id and the present or last transaction of its producer.

    `last_epoch` is the epoch before the present one if the producer that has it was given the present one: so its repetition is recognised.
    `previous_producer_id` and `next_producer_id` are set around a change of the producer id by exhaustion. Times are wall clock, for people.
    Invariant: partitions are empty outside ONGOING and DECIDED.
    """

    transactional_id: str
    producer_id: int
    epoch: int
    state: TransactionState
    timeout_ms: int
    partitions: frozenset[TopicPartition] = frozenset()
    last_epoch: int = NO_EPOCH
    previous_producer_id: int = NO_PRODUCER_ID
    next_producer_id: int = NO_PRODUCER_ID
    client_version: int = 0
    started_ms: int = -1
    updated_ms: int = -1

    @property
    def exhausted(self) -> bool:
        return self.epoch >= EPOCH_EXHAUSTED
