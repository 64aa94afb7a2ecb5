"""Which transactions are open on a partition, and which were aborted: the last stable offset and what read_committed consumers skip (KIP-98).

A pure function of the log, equal on all replicas, part of the partition's state. Bounded by the log: what ended below the log start is forgotten. An
aborted transaction costs 32 bytes, in memory and in the state; its two batches take at least 146 in the log.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from sys import byteorder

from wal.errors import DamageError

_FIELDS = 4
_LAST_OFFSET = 2
ENTRY_BYTES = 8 * _FIELDS
_NO_LIMIT = 1 << 62


class AbortedIndex:
    """Aborted transactions in the order of their markers: (producer id, first offset, last offset = the marker's, last stable offset behind it).

    `_rows`: four numbers each, one after the other. Invariant: last offsets ascend strictly, and so does (weakly) the last stable offset.
    """

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows = array("q")

    def __len__(self) -> int:
        return len(self._rows) // _FIELDS

    def add(self, producer_id: int, first_offset: int, last_offset: int, stable_offset: int) -> None:
        self._rows.extend((producer_id, first_offset, last_offset, stable_offset))

    def overlapping(self, start_offset: int, end_offset: int) -> list[tuple[int, int]]:
        """(producer id, first offset) of those with records in [start_offset, end_offset), by first offset."""
        found: list[tuple[int, int]] = []
        rows = self._rows
        for at in range(_FIELDS * self._ended_below(start_offset), len(rows), _FIELDS):
            producer_id, first_offset, _, stable_offset = rows[at : at + _FIELDS]
            if first_offset < end_offset:
                found.append((producer_id, first_offset))
            if stable_offset >= end_offset:
                break  # all that ended later began at or behind this
        found.sort(key=_by_first_offset)
        return found

    def trim(self, log_start_offset: int) -> None:
        """Forget what ended below the log start."""
        del self._rows[: _FIELDS * self._ended_below(log_start_offset)]

    def _ended_below(self, offset: int) -> int:
        """How many ended below `offset`."""
        rows = self._rows
        return bisect_left(range(len(self)), offset, key=lambda place: rows[_FIELDS * place + _LAST_OFFSET])

    def encode(self) -> bytes:
        """Little-endian rows."""
        if byteorder == "little":
            return self._rows.tobytes()
        swapped = self._rows[:]
        swapped.byteswap()
        return swapped.tobytes()

    @staticmethod
    def decode(data: bytes) -> AbortedIndex:
        if len(data) % ENTRY_BYTES:
            raise DamageError(f"{len(data)} bytes are no index of aborted transactions")
        index = AbortedIndex()
        index._rows.frombytes(data)
        if byteorder == "big":
            index._rows.byteswap()
        return index


def _by_first_offset(item: tuple[int, int]) -> int:
    return item[1]


class TransactionIndex:
    """Open and aborted transactions of one partition.

    Invariant: `open` holds producer id → first offset, ascending in the first offset (transactions open in log order).
    """

    __slots__ = ("aborted", "open")

    def __init__(self, open_: Iterable[tuple[int, int]] = (), aborted: AbortedIndex | None = None) -> None:
        self.open: dict[int, int] = dict(sorted(open_, key=_by_first_offset))
        self.aborted = aborted if aborted is not None else AbortedIndex()

    def opened(self, producer_id: int, first_offset: int) -> None:
        self.open[producer_id] = first_offset

    def ended(self, producer_id: int, marker_offset: int, commit: bool) -> None:
        """The marker at `marker_offset` ends the producer's transaction, if one is open."""
        first_offset = self.open.pop(producer_id, None)
        if first_offset is not None and not commit:
            self.aborted.add(producer_id, first_offset, marker_offset, min(self.first_unstable_offset, marker_offset + 1))

    @property
    def first_unstable_offset(self) -> int:
        """Where the oldest open transaction begins; beyond every offset when none is open."""
        for first_offset in self.open.values():
            return first_offset
        return _NO_LIMIT
