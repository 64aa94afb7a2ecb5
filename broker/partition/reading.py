"""Cutting what a client gets out of entries: whole batches, from the one that holds the asked offset, bounded in bytes and by the high watermark.

Entries may lie in memory (many chunks) or come from disk (one chunk); a batch may span chunks. Positions are bytes in an entry's whole payload, so
that they mean the same in both. Nothing is joined: the result are views. Knows no roles and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from broker.records.batch import HEADER_BYTES, WALK_BYTES, walk_header
from wal.entry import Buffer, Entry, EntryKind
from wal.errors import DamageError

_CURSORS = 64


class Cursors:
    """Where in an entry the next batches of recent readers begin, so that reading a large entry in pieces does not walk it anew from its start.

    A hint only: a position is used when the batch there has the base offset that was remembered.
    """

    __slots__ = ("_positions",)

    def __init__(self) -> None:
        self._positions: dict[tuple[int, int], int] = {}

    def find(self, index: int, offset: int) -> int:
        return self._positions.get((index, offset), 0)

    def remember(self, index: int, offset: int, position: int) -> None:
        positions = self._positions
        positions[(index, offset)] = position
        if len(positions) > _CURSORS:
            del positions[next(iter(positions))]

    def clear(self) -> None:
        self._positions.clear()


def gather(entries: Sequence[Entry], offset: int, end_offset: int, max_bytes: int, min_one: bool, cursors: Cursors) -> tuple[list[Buffer], int, int]:
    """(chunks, bytes, offset behind them) of whole batches from the one that holds `offset` on, below `end_offset`, where a batch begins.

    At most `max_bytes`; with `min_one` the first batch is returned even if it is larger.
    """
    chunks: list[Buffer] = []
    size = 0
    reached = offset
    for entry in entries:
        if entry.kind != EntryKind.DATA or entry.base_offset + entry.record_count <= offset:
            continue
        if entry.base_offset >= end_offset:
            break
        start = _locate(entry, offset, cursors) if entry.base_offset < offset else 0
        left = max_bytes - size
        whole = entry.base_offset + entry.record_count <= end_offset
        if whole and entry.size - start <= left:
            chunks.extend(slice_chunks(entry.chunks, start, entry.size) if start else entry.chunks)
            size += entry.size - start
            reached = entry.base_offset + entry.record_count
            continue
        stop, next_offset = _cut(entry, start, end_offset, left, min_one and not size)
        if stop > start:
            chunks.extend(slice_chunks(entry.chunks, start, stop))
            size += stop - start
            reached = next_offset
            if stop < entry.size:
                cursors.remember(entry.index, next_offset, stop)
        break
    return chunks, size, reached


def slice_chunks(chunks: Sequence[Buffer], start: int, stop: int) -> list[Buffer]:
    """Views of the payload's bytes [start, stop)."""
    found: list[Buffer] = []
    at = 0
    for chunk in chunks:
        end = at + len(chunk)
        if end > start:
            if at >= stop:
                break
            found.append(chunk if start <= at and end <= stop else memoryview(chunk)[max(start - at, 0) : min(stop, end) - at])
        at = end
    return found


def headers(chunks: Sequence[Buffer], size: int, position: int) -> Iterator[tuple[int, int, int, int]]:
    """(position, base_offset, whole size, last_offset) of the batches from `position` on, where a batch must begin."""
    start = 0
    for chunk in chunks:
        end = start + len(chunk)
        while position < end:
            if size - position < HEADER_BYTES:
                raise DamageError(f"payload of {size} bytes ends inside a batch at {position}")
            if end - position >= WALK_BYTES:
                base_offset, batch_size, last_offset = walk_header(chunk, position - start)
            else:
                base_offset, batch_size, last_offset = walk_header(b"".join(slice_chunks(chunks, position, position + WALK_BYTES)), 0)
            yield position, base_offset, batch_size, last_offset
            position += batch_size
        start = end


def _locate(entry: Entry, offset: int, cursors: Cursors) -> int:
    """Position of the batch that holds `offset`."""
    hint = cursors.find(entry.index, offset)
    if 0 < hint <= entry.size - HEADER_BYTES:
        for position, base_offset, _, _ in headers(entry.chunks, entry.size, hint):
            if base_offset == offset:
                return position
            break
    for position, _, _, last_offset in headers(entry.chunks, entry.size, 0):
        if last_offset >= offset:
            return position
    raise DamageError(f"entry {entry!r} does not hold offset {offset}")


def _cut(entry: Entry, start: int, end_offset: int, max_bytes: int, min_one: bool) -> tuple[int, int]:
    """(position, offset) behind the last whole batch that begins below `end_offset` and fits."""
    stop, next_offset = start, -1
    for position, base_offset, size, last_offset in headers(entry.chunks, entry.size, start):
        if base_offset >= end_offset:
            break
        if position + size - start > max_bytes and not (min_one and position == start):
            break
        stop, next_offset = position + size, last_offset + 1
    return stop, next_offset
