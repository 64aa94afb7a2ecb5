"""Copies frames into an aligned buffer and writes it out: the hottest code of the log.

A region begins on a block boundary and is padded to one. It is written in pieces of the buffer's size, one after the other; the caller syncs.
One writer belongs to one thread of work at a time (flushes have one, background work another).
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

from crc32c import crc32c

from wal.entry import Buffer, Entry
from wal.errors import check
from wal.filesystem import File
from wal.frame import COPY_FLAG, FRAME_VERSION, HEAD, HEADER_BYTES, TAIL, Control, FrameKind, Item, pack_header
from wal.settings import BLOCK_BYTES


class RegionWriter:
    """Use: `begin`, `put`/`put_frames` any number of times, `finish`.

    Invariant: between `begin` and `finish`, `_used` bytes of the buffer are filled and belong to `_position` of the file; both are aligned whenever
    the buffer is written. The buffer is anonymous memory: pages never touched cost nothing.
    """

    __slots__ = ("_buffer", "_file", "_position", "_used", "_view", "capacity")

    def __init__(self, buffer_bytes: int) -> None:
        check(buffer_bytes % BLOCK_BYTES == 0, "buffer size is a multiple of the block size")
        self._buffer = mmap.mmap(-1, buffer_bytes)
        self._view = memoryview(self._buffer)
        self.capacity = buffer_bytes
        self._used = 0
        self._position = 0
        self._file: File | None = None

    def begin(self, file: File, position: int) -> None:
        """Start a region at `position` (aligned) of `file`."""
        check(position % BLOCK_BYTES == 0, f"a region begins on a block boundary, not at {position}")
        self._file = file
        self._position = position
        self._used = 0

    def put(self, data: Buffer) -> None:
        """Copy `data`, whatever its length."""
        length = len(data)
        used = self._used
        if length <= self.capacity - used:
            self._view[used : used + length] = data
            self._used = used + length
            return
        source = memoryview(data)
        start = 0
        while start < length:
            if self._used == self.capacity:
                self._write(self.capacity)
            used = self._used
            step = min(length - start, self.capacity - used)
            self._view[used : used + step] = source[start : start + step]
            self._used = used + step
            start += step

    def put_frames(self, topic_id: bytes, partition: int, generation: int, items: Sequence[Item]) -> None:
        """Copy the frames of one group."""
        view = self._view
        capacity = self.capacity
        pack_tail = TAIL.pack
        pack_into = HEAD.pack_into
        entry_kind = int(FrameKind.ENTRY)
        for item in items:
            if type(item) is Entry:
                entry = item
                flags = item.kind
            elif type(item) is Control:
                self._put_control(topic_id, partition, generation, item)
                continue
            else:
                entry = item.entry  # type: ignore[union-attr]
                flags = entry.kind | COPY_FLAG
            length = HEADER_BYTES + entry.size
            tail = pack_tail(
                entry.payload_crc,
                FRAME_VERSION,
                entry_kind,
                flags,
                generation,
                topic_id,
                partition,
                entry.term,
                entry.index,
                entry.base_offset,
                entry.record_count,
            )
            used = self._used
            end = used + length
            if end <= capacity:
                pack_into(view, used, length, crc32c(tail, length), tail)
                used += HEADER_BYTES
                for chunk in entry.chunks:
                    stop = used + len(chunk)
                    view[used:stop] = chunk
                    used = stop
                if used != end:
                    check(False, f"entry {entry!r} has {used - end + entry.size} bytes in its chunks")
                self._used = end
            else:
                self.put(HEAD.pack(length, crc32c(tail, length), tail))
                copied = 0
                for chunk in entry.chunks:
                    self.put(chunk)
                    copied += len(chunk)
                if copied != entry.size:
                    check(False, f"entry {entry!r} has {copied} bytes in its chunks")

    def finish(self) -> int:
        """Pad with zeros to the next block boundary, write what is left, return the position behind the region."""
        self._pad()
        if self._used:
            self._write(self._used)
        self._file = None
        return self._position

    def filled(self) -> Buffer:
        """Instead of `finish`, for a region that fits into the buffer: its bytes, padded, for somebody else to write. The next `begin` ends them."""
        self._pad()
        self._file = None
        return self._view[: self._used]

    def _pad(self) -> None:
        used = self._used
        rest = -used % BLOCK_BYTES
        if rest:
            self._view[used : used + rest] = bytes(rest)
            self._used = used + rest

    def _put_control(self, topic_id: bytes, partition: int, generation: int, item: Control) -> None:
        payload = item.payload
        crc = crc32c(payload)
        numbers = (item.term, item.index, item.base_offset, 0)
        self.put(pack_header(HEADER_BYTES + len(payload), crc, item.kind, item.flags, generation, (topic_id, partition), numbers))
        if payload:
            self.put(payload)

    def _write(self, length: int) -> None:
        file = self._file
        if file is None:
            check(False, "no region begun")
            return
        file.pwrite(self._view[:length], self._position)
        self._position += length
        self._used = 0
