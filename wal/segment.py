"""Segments: committed entries of one partition, written behind in large aligned pieces and never rewritten.

Owns the bytes of segment files and of their sparse index (one record per piece). The index is derived: it is believed only as far as the segment
agrees.
`PieceTask.run` and everything that takes a FileSystem blocks and runs on a disk thread. See docs/formats/segment.md and index.md.
"""

from __future__ import annotations

import errno
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from crc32c import crc32c

from wal.entry import Buffer, Entry, EntryKind
from wal.errors import DamageError, check
from wal.filesystem import File, FileSystem
from wal.frame import BadFrame, FrameKind, Header, check_payload, entry_of, pack_pad, pad_length, unpack_header
from wal.region import RegionWriter
from wal.settings import BLOCK_BYTES

SEGMENT_MAGIC = b"CHRNSEGM"
INDEX_MAGIC = b"CHRNINDX"
SEGMENT_VERSION = 1
"""To change the format follow the numbered guide in docs/formats/README.md."""

_SEGMENT = struct.Struct("<8sHH16sIIQqIH")
_CRC = struct.Struct("<I")
_INDEX = struct.Struct("<8sHHII")
_RECORD = struct.Struct("<QqQqII")
INDEX_HEADER_BYTES = _INDEX.size + _CRC.size
RECORD_BYTES = _RECORD.size + _CRC.size
READ_WINDOW_BYTES = 256 << 10
FIRST_WINDOW_BYTES = 16 << 10
"""What is read before it is known whether the frames are small; doubled while they turn out to be, up to the reader's window."""

Describe = Callable[[Sequence[Buffer]], int]
"""Largest timestamp (ms) in the payload of a DATA entry, -1 unknown."""

GroupKey = tuple[bytes, int]
"""(topic id, partition) as they stand in a frame."""


def segment_name(partition: int, number: int) -> str:
    return f"wal_{partition}_{number:08d}.log"


def index_name(segment_path: str) -> str:
    """The sidecar of a segment file."""
    return segment_path[:-4] + ".idx"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """(partition, number) of a segment file's name, None for other files."""
    parts = name.removesuffix(".log").split("_")
    if name.endswith(".log") and len(parts) == 3 and parts[0] == "wal" and parts[1].isdecimal() and parts[2].isdecimal():
        return int(parts[1]), int(parts[2])
    return None


@dataclass(slots=True)
class SegmentHeader:
    """First block of a segment file."""

    topic_id: bytes
    partition: int
    number: int
    first_index: int
    first_offset: int
    previous_term: int
    topic: str


def pack_segment_header(header: SegmentHeader) -> bytes:
    """One block."""
    name = header.topic.encode()
    head = _SEGMENT.pack(
        SEGMENT_MAGIC,
        SEGMENT_VERSION,
        0,
        header.topic_id,
        header.partition,
        header.number,
        header.first_index,
        header.first_offset,
        header.previous_term,
        len(name),
    )
    data = head + name
    data += _CRC.pack(crc32c(data))
    return data + bytes(BLOCK_BYTES - len(data))


def unpack_segment_header(data: Buffer) -> SegmentHeader:
    """The header in the first block; BadFrame tells what is wrong."""
    if len(data) < BLOCK_BYTES or data[:8] != SEGMENT_MAGIC:
        raise BadFrame("no segment header")
    _, version, _, topic_id, partition, number, first_index, first_offset, previous_term, name_bytes = _SEGMENT.unpack_from(data)
    end = _SEGMENT.size + name_bytes
    if end + _CRC.size > BLOCK_BYTES or crc32c(data[:end]) != _CRC.unpack_from(data, end)[0]:
        raise BadFrame("checksum of the segment header is wrong")
    if version != SEGMENT_VERSION:
        raise BadFrame(f"segment version {version} is not known (this program knows {SEGMENT_VERSION})")
    return SegmentHeader(topic_id, partition, number, first_index, first_offset, previous_term, bytes(data[_SEGMENT.size : end]).decode())


@dataclass(slots=True)
class PieceRecord:
    """One record of the sparse index: the first entry of a piece, its place, and the largest timestamp in it."""

    first_index: int
    base_offset: int
    position: int
    max_timestamp: int
    term: int
    size: int

    def pack(self) -> bytes:
        data = _RECORD.pack(self.first_index, self.base_offset, self.position, self.max_timestamp, self.term, self.size)
        return data + _CRC.pack(crc32c(data))


def pack_index_header(number: int) -> bytes:
    data = _INDEX.pack(INDEX_MAGIC, SEGMENT_VERSION, 0, number, RECORD_BYTES)
    return data + _CRC.pack(crc32c(data))


class PieceIndex:
    """The sparse index of one segment in columns. Invariant: pieces are consecutive, from the first block behind the header to `end_position`."""

    __slots__ = ("end_position", "first_indexes", "max_timestamps", "offsets", "positions")

    def __init__(self, records: Sequence[PieceRecord]) -> None:
        self.first_indexes = array("Q", (record.first_index for record in records))
        self.offsets = array("q", (record.base_offset for record in records))
        self.positions = array("Q", (record.position for record in records))
        self.max_timestamps = array("q", (record.max_timestamp for record in records))
        self.end_position = records[-1].position + records[-1].size if records else BLOCK_BYTES


@dataclass(slots=True)
class SegmentInfo:
    """What is known of one segment file without reading it. `recent`: pieces written since the store was opened (of the segment that is written to).

    Invariant: [BLOCK_BYTES, end_position) holds `pieces` whole pieces with the entries first_index … last_index.
    """

    number: int
    first_index: int
    first_offset: int
    last_index: int
    end_position: int
    max_timestamp: int
    pieces: int
    recent: list[PieceRecord] = field(default_factory=list)


class Segments:
    """All segments of one group, as far as they are written.

    Invariants: `sealed` and then `active` hold consecutive entries up to `written_index`; `runs` are the (term, first index, first offset) of
    entries up to there; only committed entries that are flushed in the journal get here. Numbers are never used again.
    """

    __slots__ = ("active", "next_number", "obsolete", "resume", "runs", "sealed", "written_index", "written_offset", "written_term")

    def __init__(self, index: int, term: int, next_offset: int) -> None:
        self.sealed: list[SegmentInfo] = []
        self.active: SegmentInfo | None = None
        self.next_number = 1
        self.obsolete: list[int] = []  # numbers of files to remove behind the next checkpoint
        self.runs: list[tuple[int, int, int]] = [(term, index, next_offset)] if index else []
        self.written_index = index
        self.written_term = term
        self.written_offset = next_offset
        self.resume = False  # bytes behind the active segment's end may be left over from before a crash

    def all(self) -> list[SegmentInfo]:
        return self.sealed if self.active is None else [*self.sealed, self.active]

    def reset(self, index: int, term: int, next_offset: int) -> None:
        """Forget all segments: the log goes on behind `index`."""
        self.obsolete.extend(info.number for info in self.all())
        self.sealed = []
        self.active = None
        self.runs = [(term, index, next_offset)] if index else []
        self.written_index, self.written_term, self.written_offset = index, term, next_offset

    def drop_before(self, index: int) -> None:
        """Sealed segments whose entries are all below `index` become obsolete."""
        while self.sealed and self.sealed[0].last_index < index:
            self.obsolete.append(self.sealed.pop(0).number)

    def size_bytes(self) -> int:
        return sum(info.end_position for info in self.all())


def entry_frames_bytes(entries: Sequence[Entry]) -> int:
    """Bytes of a piece that holds `entries`, padding included."""
    length = sum(entry.size for entry in entries) + 64 * len(entries)
    return length + pad_length(length)


class PieceTask:
    """Write one piece: planned on the loop thread, `run` on the background thread, then `record` tells what was written.

    Invariant: shares nothing that changes with the loop thread; `entries` are immutable.
    """

    __slots__ = ("directory", "entries", "generation", "group", "header", "path", "place", "record", "resume", "size")

    def __init__(self, directory: str, group: GroupKey, entries: Sequence[Entry], place: tuple[int, int, int], header: SegmentHeader | None) -> None:
        """`place` = (segment number, position of the piece, its ordinal in the segment); `header` is given for the first piece of a new segment."""
        self.directory = directory
        self.group = group
        self.entries = entries
        self.place = place
        self.header = header
        self.path = f"{directory}/{segment_name(group[1], place[0])}"
        self.size = entry_frames_bytes(entries)
        self.generation = 0
        self.resume = False
        self.record: PieceRecord | None = None

    def run(self, fs: FileSystem, writer: RegionWriter, describe: Describe, direct: bool) -> None:
        number, position, ordinal = self.place
        if self.header is not None:
            self._start_segment(fs)
        file = fs.open(self.path, write=True, create=self.header is not None, direct=direct)
        try:
            if self.header is not None:
                file.truncate(0)
                writer.begin(file, 0)
                writer.put(pack_segment_header(self.header))
            else:
                if self.resume and file.size() > position:
                    file.truncate(position)
                writer.begin(file, position)
            writer.put_frames(self.group[0], self.group[1], self.generation, self.entries)
            length = sum(entry.size for entry in self.entries) + 64 * len(self.entries)
            pad = pad_length(length)
            if pad:
                writer.put(pack_pad(pad, self.generation, self.group))
            end = writer.finish()
            check(end == position + self.size, f"piece of {self.path} ended at {end}, not at {position + self.size}")
            if not file.direct:
                file.fdatasync()
        finally:
            file.close()
        self.record = self._describe(position, describe)
        self._write_index(fs, number, ordinal, self.record)

    def _describe(self, position: int, describe: Describe) -> PieceRecord:
        first = self.entries[0]
        stamp = -1
        for entry in self.entries:
            if entry.kind == EntryKind.DATA:
                known = entry.max_timestamp
                stamp = max(stamp, known if known >= 0 else describe(entry.chunks))
        return PieceRecord(first.index, first.base_offset, position, stamp, first.term, self.size)

    def _start_segment(self, fs: FileSystem) -> None:
        fs.mkdir(self.directory)
        if fs.exists(self.path):
            header = read_segment_header(fs, self.path)
            if header is not None and (header.topic_id, header.partition) != self.group:
                fs.rename(self.path, f"{self.path}.foreign_{header.topic_id.hex()}")
        if fs.exists(index_name(self.path)):
            fs.remove(index_name(self.path))

    def _write_index(self, fs: FileSystem, number: int, ordinal: int, record: PieceRecord) -> None:
        file = fs.open(index_name(self.path), write=True, create=True)
        try:
            if ordinal == 0:
                file.pwrite(pack_index_header(number) + record.pack(), 0)
            else:
                file.pwrite(record.pack(), INDEX_HEADER_BYTES + ordinal * RECORD_BYTES)
        finally:
            file.close()


def read_segment_header(fs: FileSystem, path: str) -> SegmentHeader | None:
    """The header of a segment file, None when it has no valid one."""
    file = fs.open(path)
    try:
        return unpack_segment_header(file.pread(BLOCK_BYTES, 0))
    except BadFrame:
        return None
    finally:
        file.close()


class SegmentReader:
    """Frames of one segment file from a position on. Raises DamageError naming file, position and reason.

    Reads in windows; payloads are views of them. A frame larger than the window is read by itself, with the header behind it, so that hardly a byte
    is read twice or in vain.
    """

    __slots__ = ("_file", "_group", "_path", "_window")

    def __init__(self, file: File, path: str, group: GroupKey | None, window_bytes: int = READ_WINDOW_BYTES) -> None:
        self._file = file
        self._path = path
        self._group = group
        self._window = window_bytes

    def frames(self, position: int, end: int, skip_below: int = 0) -> Iterator[tuple[int, Header, memoryview]]:
        """(position, header, payload) of each frame in [position, end), pad frames included. Payloads of entries with an index below `skip_below`
        are not looked at (an empty view is given)."""
        data = memoryview(b"")
        start = position  # position in the file of data[0]
        window = min(FIRST_WINDOW_BYTES, self._window) >> 1
        while position < end:
            at = position - start
            if len(data) - at < 64:
                if at <= len(data):
                    window = min(2 * window, self._window)  # all of the last one was of use
                data, start, at = self._read(position, end, 64, window), position, 0
            try:
                header = unpack_header(data, at, end - position)
                if self._group is not None and (header.topic_id, header.partition) != self._group:
                    raise BadFrame("frame of another partition")
                if header.kind == FrameKind.PAD or header.index < skip_below:
                    yield position, header, memoryview(b"")
                else:
                    if len(data) - at < header.length:
                        data, start, at = self._read(position, end, header.length + 64, window), position, 0
                    payload = data[at + 64 : at + header.length]
                    check_payload(header, payload)
                    yield position, header, payload
            except BadFrame as error:
                raise DamageError(f"{self._path}: position {position}: {error}") from error
            position += header.length

    def _read(self, position: int, end: int, need: int, window: int) -> memoryview:
        length = min(end - position, max(need, window))
        data = self._file.pread(length, position)
        if len(data) < min(need, end - position):
            raise BadFrame(f"the file ends at {position + len(data)}")
        return memoryview(data)


def load_index(fs: FileSystem, path: str, group: GroupKey, end_position: int, describe: Describe) -> PieceIndex:
    """The sparse index of the segment `path` up to `end_position`: from the sidecar when it is whole, else rebuilt from the segment."""
    records = _read_index(fs, index_name(path), end_position)
    if records is None:
        return rebuild_index(fs, path, group, end_position, describe)
    return PieceIndex(records)


def _read_index(fs: FileSystem, path: str, end_position: int) -> list[PieceRecord] | None:
    if not fs.exists(path):
        return None
    file = fs.open(path)
    try:
        data = file.pread(file.size(), 0)
    finally:
        file.close()
    if data[:8] != INDEX_MAGIC or len(data) < INDEX_HEADER_BYTES or crc32c(data[: _INDEX.size]) != _CRC.unpack_from(data, _INDEX.size)[0]:
        return None
    _, version, _, _, record_bytes = _INDEX.unpack_from(data)
    if version != SEGMENT_VERSION or record_bytes != RECORD_BYTES:
        return None
    records: list[PieceRecord] = []
    expected = BLOCK_BYTES
    for at in range(INDEX_HEADER_BYTES, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
        if expected >= end_position:
            break
        if crc32c(data[at : at + _RECORD.size]) != _CRC.unpack_from(data, at + _RECORD.size)[0]:
            return None
        record = PieceRecord(*_RECORD.unpack_from(data, at))
        if record.position != expected or (records and record.first_index <= records[-1].first_index):
            return None
        records.append(record)
        expected += record.size
    return records if expected == end_position else None


def check_index(fs: FileSystem, path: str) -> str:
    """Why the records of the sidecar `path` can not be used, "" when they can."""
    end = BLOCK_BYTES
    file = fs.open(path)
    try:
        data = file.pread(file.size(), 0)
    finally:
        file.close()
    for at in range(INDEX_HEADER_BYTES, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
        end += _RECORD.unpack_from(data, at)[5]
    return "" if _read_index(fs, path, end) is not None else "the sparse index is damaged"


def rebuild_index(fs: FileSystem, path: str, group: GroupKey, end_position: int, describe: Describe) -> PieceIndex:
    """Scan a segment and make its index again: a piece begins behind each pad frame and wherever a frame begins on a block boundary."""
    records: list[PieceRecord] = []
    file = fs.open(path)
    try:
        for position, header, payload in SegmentReader(file, path, group, 4 * READ_WINDOW_BYTES).frames(BLOCK_BYTES, end_position):
            if header.kind == FrameKind.PAD:
                continue
            if position % BLOCK_BYTES == 0:
                if records:
                    records[-1].size = position - records[-1].position
                records.append(PieceRecord(header.index, header.base_offset, position, -1, header.term, end_position - position))
            if header.flags == EntryKind.DATA:
                records[-1].max_timestamp = max(records[-1].max_timestamp, describe((payload,)))
    finally:
        file.close()
    return PieceIndex(records)


def read_entries(
    reader: SegmentReader, position: int, end: int, low: int, stop: int, max_bytes: int, whole_last: bool = False
) -> tuple[list[Entry], int]:
    """Consecutive entries with low ≤ index < stop from the piece at `position` on, and the position behind the last of them.

    At least one, then up to `max_bytes` of payload; with `whole_last` the entry that crosses `max_bytes` too.
    """
    entries: list[Entry] = []
    size = behind = 0
    expected = -1
    for at, header, payload in reader.frames(position, end, low):
        if header.kind == FrameKind.PAD:
            continue
        if header.kind != FrameKind.ENTRY or (expected >= 0 and header.index != expected):
            raise DamageError(f"{reader._path}: position {at}: index {header.index} where {expected} should be")
        expected = header.index + 1
        if header.index < low:
            continue
        if header.index >= stop or (entries and not whole_last and size + header.payload_bytes > max_bytes):
            break
        entries.append(entry_of(header, payload))
        size += header.payload_bytes
        behind = at + header.length
        if whole_last and size >= max_bytes:
            break
    return entries, behind


def is_disk_full(error: OSError) -> bool:
    """Whether `error` says that there is no space (or quota) left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
