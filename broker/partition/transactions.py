"""Which transactions are open on a partition, and which were aborted: the last stable offset and what read_committed consumers skip (KIP-98).

A pure function of the log, equal on all replicas, part of the partition's state. Bounded by the log: what ended below the log start is forgotten.
An aborted transaction costs 32 bytes, in memory and in the state; those that are old enough stand in pieces whose bytes are made once.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from sys import byteorder

from wal.errors import DamageError

_FIELDS = 4
ENTRY_BYTES = 8 * _FIELDS
_NO_LIMIT = 1 << 62


class AbortedIndex:
    """Aborted transactions in the order of their markers: (producer id, first offset, last offset = the marker's, last stable offset behind it).

    Invariant: last offsets ascend strictly, and so does (weakly) the last stable offset.
    """

    __slots__ = ("_encoded", "_encoded_count", "_first_offsets", "_last_offsets", "_producers", "_stable_offsets")

    def __init__(self) -> None:
        self._producers = array("q")
        self._first_offsets = array("q")
        self._last_offsets = array("q")
        self._stable_offsets = array("q")
        self._encoded = b""
        self._encoded_count = 0

    def __len__(self) -> int:
        return len(self._producers)

    def add(self, producer_id: int, first_offset: int, last_offset: int, stable_offset: int) -> None:
        self._producers.append(producer_id)
        self._first_offsets.append(first_offset)
        self._last_offsets.append(last_offset)
        self._stable_offsets.append(stable_offset)

    def overlapping(self, start_offset: int, end_offset: int) -> list[tuple[int, int]]:
        """(producer id, first offset) of those with records in [start_offset, end_offset), by first offset."""
        found: list[tuple[int, int]] = []
        for place in range(bisect_left(self._last_offsets, start_offset), len(self._producers)):
            if self._first_offsets[place] < end_offset:
                found.append((self._producers[place], self._first_offsets[place]))
            if self._stable_offsets[place] >= end_offset:
                break  # all that ended later began at or behind this
        found.sort(key=_by_first_offset)
        return found

    def trim(self, log_start_offset: int) -> None:
        """Forget what ended below the log start."""
        gone = bisect_left(self._last_offsets, log_start_offset)
        if gone:
            for column in (self._producers, self._first_offsets, self._last_offsets, self._stable_offsets):
                del column[:gone]
            self._encoded, self._encoded_count = b"", 0

    def encode(self) -> bytes:
        """Little-endian rows. Costs what was added since the last call, and one copy."""
        count = len(self)
        if count != self._encoded_count:
            new = array("q", bytes(ENTRY_BYTES * (count - self._encoded_count)))
            for place, column in enumerate((self._producers, self._first_offsets, self._last_offsets, self._stable_offsets)):
                new[place::_FIELDS] = column[self._encoded_count :]
            if byteorder == "big":
                new.byteswap()
            self._encoded += new.tobytes()
            self._encoded_count = count
        return self._encoded

    @staticmethod
    def decode(data: bytes) -> AbortedIndex:
        if len(data) % ENTRY_BYTES:
            raise DamageError(f"{len(data)} bytes are no index of aborted transactions")
        rows = array("q", data)
        if byteorder == "big":
            rows.byteswap()
        index = AbortedIndex()
        index._producers, index._first_offsets = rows[0::_FIELDS], rows[1::_FIELDS]
        index._last_offsets, index._stable_offsets = rows[2::_FIELDS], rows[3::_FIELDS]
        index._encoded, index._encoded_count = data, len(index)
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
