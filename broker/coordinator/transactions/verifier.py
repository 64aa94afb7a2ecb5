"""The partition leaders' side of verification (KIP-890): questions to the coordinators, gathered per coordinator and turn of the loop.

A question is repeated for a while when its coordinator is moving or the transaction before is still being completed; then the producer gets a
retriable error and repeats its batch. Loop thread only; knows no asyncio.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from broker.coordinator.transactions.wire import METHOD_VERIFY, Send, decode_errors, encode_questions
from broker.errors import ErrorCode
from broker.partition.verification import TransactionQuestion
from raft.api import Clock

PATIENCE_MS = 2_000
RETRY_MS = 20
QUESTIONS_PER_REQUEST = 1_000

_REPEATED = frozenset(
    {
        ErrorCode.NETWORK_EXCEPTION,
        ErrorCode.NOT_COORDINATOR,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.CONCURRENT_TRANSACTIONS,
    }
)
_TEXTS = {
    ErrorCode.TRANSACTION_ABORTABLE: "the partition was not added to the transaction; abort it",
    ErrorCode.PRODUCER_FENCED: "a newer producer has the same transactional id",
    ErrorCode.INVALID_PRODUCER_ID_MAPPING: "the transactional id belongs to another producer id",
    ErrorCode.CONCURRENT_TRANSACTIONS: "the transaction before is still being completed",
}


class _Asked(NamedTuple):
    question: TransactionQuestion
    deadline_ms: int
    done: Callable[[ErrorCode, str], None]


class Verifier:
    """One per node. `coordinator_of(transactional id)` = broker id, -1 unknown. Bounded by the producers that wait in the partitions' gates."""

    __slots__ = ("_asked", "_clock", "_coordinator_of", "_enabled", "_later", "_scheduled", "_send", "_timer")

    def __init__(self, clock: Clock, coordinator_of: Callable[[str], int], send: Send, enabled: Callable[[], bool]) -> None:
        """`enabled()`: transaction.partition.verification.enable; without it only what has to be added is asked for."""
        self._clock = clock
        self._coordinator_of = coordinator_of
        self._send = send
        self._enabled = enabled
        self._asked: list[_Asked] = []
        self._later: list[_Asked] = []
        self._scheduled = False
        self._timer = False

    def verify(self, question: TransactionQuestion, done: Callable[[ErrorCode, str], None]) -> None:
        """Fulfils `broker.partition.verification.Verify`."""
        if not question.add and not self._enabled():
            done(ErrorCode.NONE, "")
            return
        self._ask(_Asked(question, self._clock.now_ms() + PATIENCE_MS, done))

    def _ask(self, asked: _Asked) -> None:
        self._asked.append(asked)
        if not self._scheduled:
            self._scheduled = True
            self._clock.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        asked, self._asked = self._asked, []
        by_node: dict[int, list[_Asked]] = {}
        for one in asked:
            by_node.setdefault(self._coordinator_of(one.question.transactional_id), []).append(one)
        for node, batch in by_node.items():
            for start in range(0, len(batch), QUESTIONS_PER_REQUEST):
                part = batch[start : start + QUESTIONS_PER_REQUEST]
                if node < 0:
                    self._answered(part, None)
                else:
                    self._send(node, METHOD_VERIFY, encode_questions([one.question for one in part]), partial(self._answered, part))

    def _answered(self, batch: list[_Asked], payload: bytes | None) -> None:
        errors = decode_errors(payload, len(batch))
        now_ms = self._clock.now_ms()
        for place, asked in enumerate(batch):
            error = ErrorCode(errors[place]) if errors is not None else ErrorCode.COORDINATOR_NOT_AVAILABLE
            if error in _REPEATED and now_ms < asked.deadline_ms:
                self._later.append(asked)
                if not self._timer:
                    self._timer = True
                    self._clock.call_later(RETRY_MS, self._retry)
            else:
                asked.done(error, _TEXTS.get(error, f"the transaction's coordinator answered {error.name}") if error else "")

    def _retry(self) -> None:
        self._timer = False
        later, self._later = self._later, []
        for asked in later:
            self._ask(asked)
