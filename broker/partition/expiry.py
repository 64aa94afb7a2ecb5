"""Which producers the leader has not heard of for producer.id.expiration.ms, and which are too many.

Time is the driver's clock and counts from when this leader first saw the producer, not from record timestamps (a client's clock) or the wall clock:
to forget a producer too early would let its late repetition in twice. The decision is replicated as a command.
"""

from __future__ import annotations

from collections.abc import Collection

CHECK_INTERVAL_MS = 600_000
MAX_PRODUCERS = 100_000
MAX_EXPIRED_AT_ONCE = 10_000


class ProducerExpiry:
    """Leader only; a new leader starts afresh. Precision is one check interval. Use: `heard` at each idempotent append, `due` from the tick."""

    __slots__ = ("_checked_at_ms", "_heard", "_heard_at_ms")

    def __init__(self) -> None:
        self._heard: set[int] = set()
        self._heard_at_ms: dict[int, int] = {}
        self._checked_at_ms = -1

    def clear(self) -> None:
        self._heard.clear()
        self._heard_at_ms.clear()
        self._checked_at_ms = -1

    def heard(self, producer_ids: Collection[int]) -> None:
        self._heard.update(producer_ids)

    def due(self, now_ms: int, known: Collection[int], expiration_ms: int) -> list[int]:
        """Producers to forget; at most once per interval, else nothing. `known` = those in the applied state."""
        interval_ms = min(CHECK_INTERVAL_MS, expiration_ms)
        if self._checked_at_ms >= 0 and now_ms - self._checked_at_ms < interval_ms and len(known) <= MAX_PRODUCERS:
            return []
        self._checked_at_ms = now_ms
        heard_at_ms = {producer_id: now_ms if producer_id in self._heard else self._heard_at_ms.get(producer_id, now_ms) for producer_id in known}
        self._heard_at_ms = heard_at_ms
        self._heard.clear()
        expired = [producer_id for producer_id, at_ms in heard_at_ms.items() if now_ms - at_ms >= expiration_ms]
        if len(known) - len(expired) > MAX_PRODUCERS:
            expired = sorted(heard_at_ms, key=heard_at_ms.__getitem__)[: len(known) - MAX_PRODUCERS]
        return expired[:MAX_EXPIRED_AT_ONCE]

    def still_silent(self, producer_ids: Collection[int]) -> tuple[int, ...]:
        """Those of `producer_ids` that were not heard since `due` named them."""
        return tuple(producer_id for producer_id in producer_ids if producer_id not in self._heard)
