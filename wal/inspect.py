"""Looks at the files of a stopped or running node: dump, verify, stats. Opens nothing for writing.

On a running node the last flush, and what lies behind a checkpoint's end in a segment, may be half written: that is told as a torn tail, not as
damage. Blocks; meant for the command line and for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from os import PathLike, fspath

from wal.checkpoint import Checkpoint, checkpoint_sequence, load_checkpoint, unpack_checkpoint
from wal.directory import read_salt
from wal.entry import EntryKind
from wal.errors import DamageError, WalError
from wal.filesystem import FileSystem, RealFileSystem, parent
from wal.frame import COPY_FLAG, BadFrame, FrameKind, Header, unpack_header
from wal.journal import journal_number
from wal.recovery import Block, ScannedFile, read_block, scan_file, scan_journal
from wal.segment import SegmentHeader, SegmentReader, check_index, index_name, parse_segment_name, unpack_segment_header
from wal.settings import BLOCK_BYTES
from wal.snapshot import load_snapshot, snapshot_index

Path = str | PathLike[str]
Progress = Callable[[int, int], None]
SIZE_BOUNDS_BYTES = (64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20)


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """One frame. `kind`: what the entry is (noop, data, …) or the frame's kind; `size`: bytes of the frame; `checksum`: "ok" or what is wrong."""

    segment: str
    position: int
    term: int
    index: int
    kind: str
    base_offset: int
    record_count: int
    size: int
    checksum: str
    topic_id: str
    partition: int
    flush: int  # number of the flush in the journal, 0 in segments


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong and where. `torn_tail`: as a crash leaves it, never acknowledged."""

    file: str
    position: int
    reason: str
    torn_tail: bool


@dataclass(slots=True)
class VerifyReport:
    files: int = 0
    frames: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)


@dataclass(slots=True)
class PartitionStats:
    """Entries of one partition's segments. -1: none."""

    topic: str
    partition: int
    segments: int = 0
    entries: int = 0
    records: int = 0
    bytes: int = 0
    first_index: int = -1
    last_index: int = -1
    first_term: int = -1
    last_term: int = -1
    first_offset: int = -1
    next_offset: int = -1


@dataclass(slots=True)
class WalStats:
    """`entry_sizes`: entries by size of their payload, the key is the upper bound."""

    segments: int = 0
    journal_files: int = 0
    entries: int = 0
    records: int = 0
    bytes: int = 0
    entry_sizes: dict[str, int] = field(default_factory=dict)
    partitions: list[PartitionStats] = field(default_factory=list)


def dump(path: Path, fs: FileSystem | None = None) -> Iterator[FrameInfo]:
    """Every frame of the segments and the journal at or below `path`, file by file. A damaged frame is a row that says so, and ends its file."""
    fs = fs or RealFileSystem()
    for file in find_files(fs, fspath(path)):
        if is_segment(file):
            yield from _dump_segment(fs, file)
        elif is_journal(file):
            yield from _dump_journal(fs, file)


def verify(path: Path, progress: Progress | None = None, fs: FileSystem | None = None) -> VerifyReport:
    """Every checksum and continuity rule of all files at or below `path`. `progress(bytes done, bytes in all)` is called per file."""
    fs = fs or RealFileSystem()
    root = fspath(path).rstrip("/")
    files = find_files(fs, root)
    sizes = {file: fs.size(file) for file in files}
    total, done = sum(sizes.values()), 0
    report = VerifyReport()
    checkpoints: dict[str, Checkpoint | None] = {}
    journals: dict[str, None] = {}
    for file in files:
        report.files += 1
        report.bytes += sizes[file]
        if is_segment(file):
            data = parent(parent(parent(file)))
            if data not in checkpoints:
                checkpoints[data] = load_checkpoint(fs, data).checkpoint
            _verify_segment(fs, file, checkpoints[data], report)
        elif is_journal(file):
            journals[parent(file)] = None
        else:
            _verify_other(fs, file, report)
        done += sizes[file]
        if progress is not None:
            progress(done, total)
    for folder in journals:
        _verify_journal(fs, folder, root, report)
    for data, checkpoint in checkpoints.items():
        if checkpoint is not None:
            _verify_presence(fs, data, root, checkpoint, report)
    return report


def stats(path: Path, fs: FileSystem | None = None) -> WalStats:
    """Counts and sizes of the segments and the journal at or below `path`."""
    fs = fs or RealFileSystem()
    found = WalStats()
    counts = [0] * (len(SIZE_BOUNDS_BYTES) + 1)
    partitions: dict[tuple[str, int], PartitionStats] = {}
    for file in find_files(fs, fspath(path)):
        if is_journal(file):
            found.journal_files += 1
        if not is_segment(file):
            continue
        found.segments += 1
        topic = parent(file).rpartition("/")[2]
        number = parse_segment_name(file.rpartition("/")[2]) or (0, 0)
        mine = partitions.setdefault((topic, number[0]), PartitionStats(topic, number[0]))
        mine.segments += 1
        mine.bytes += fs.size(file)
        for row in _dump_segment(fs, file):
            if row.checksum == "ok" and row.kind != "pad":
                _count(mine, row)
                counts[next((at for at, bound in enumerate(SIZE_BOUNDS_BYTES) if row.size - 64 <= bound), len(SIZE_BOUNDS_BYTES))] += 1
    found.partitions = sorted(partitions.values(), key=lambda one: (one.topic, one.partition))
    found.entries = sum(one.entries for one in found.partitions)
    found.records = sum(one.records for one in found.partitions)
    found.bytes = sum(one.bytes for one in found.partitions)
    names = [*(f"<= {bound}" for bound in SIZE_BOUNDS_BYTES), f"> {SIZE_BOUNDS_BYTES[-1]}"]
    found.entry_sizes = {name: count for name, count in zip(names, counts, strict=True) if count}
    return found


def _count(mine: PartitionStats, row: FrameInfo) -> None:
    mine.entries += 1
    mine.records += row.record_count
    if mine.first_index < 0:
        mine.first_index, mine.first_term, mine.first_offset = row.index, row.term, row.base_offset
    mine.last_index, mine.last_term, mine.next_offset = row.index, row.term, row.base_offset + row.record_count


# -- files ------------------------------------------------------------------------------------------------------------


def find_files(fs: FileSystem, path: str) -> list[str]:
    """All files of ours at or below `path`, in order."""
    name = path.rpartition("/")[2]
    if is_segment(path) or is_journal(path) or checkpoint_sequence(name) is not None or snapshot_index(name) is not None:
        return [path] if fs.exists(path) else []
    if parse_segment_name(name.replace(".idx", ".log")) is not None:
        return [path]
    return [found for child in fs.list(path) for found in find_files(fs, f"{path.rstrip('/')}/{child}")]


def is_segment(path: str) -> bool:
    return parse_segment_name(path.rpartition("/")[2]) is not None


def is_journal(path: str) -> bool:
    return journal_number(path.rpartition("/")[2]) is not None


def _row(path: str, position: int, header: Header, checksum: str, flush: int) -> FrameInfo:
    if header.kind == FrameKind.ENTRY:
        try:
            kind = EntryKind(header.flags & ~COPY_FLAG).name.lower() + (" (repeated)" if header.flags & COPY_FLAG else "")
        except ValueError:
            kind = f"entry of unknown kind {header.flags}"
    else:
        kind = FrameKind(header.kind).name.lower()
    return FrameInfo(
        path,
        position,
        header.term,
        header.index,
        kind,
        header.base_offset,
        header.record_count,
        header.length,
        checksum,
        header.topic_id.hex(),
        header.partition,
        flush,
    )


def _bad_row(path: str, position: int, reason: str) -> FrameInfo:
    return FrameInfo(path, position, 0, 0, "unreadable", 0, 0, 0, reason, "", 0, 0)


# -- segments ---------------------------------------------------------------------------------------------------------


def _dump_segment(fs: FileSystem, path: str) -> Iterator[FrameInfo]:
    file = fs.open(path)
    try:
        size = file.size()
        try:
            head = unpack_segment_header(file.pread(BLOCK_BYTES, 0))
        except BadFrame as error:
            yield _bad_row(path, 0, str(error))
            return
        position = BLOCK_BYTES
        try:
            for at, header, _ in SegmentReader(file, path, (head.topic_id, head.partition)).frames(BLOCK_BYTES, size):
                yield _row(path, at, header, "ok", 0)
                position = at + header.length
        except DamageError as error:
            yield _bad_row(path, position, reason_of(error))
    finally:
        file.close()


def reason_of(error: WalError) -> str:
    """What is behind file and position in the text of a DamageError."""
    return str(error).partition(": position ")[2].partition(": ")[2] or str(error)


def _known_end(path: str, head: SegmentHeader, checkpoint: Checkpoint | None) -> tuple[int, bool]:
    """(end position that the checkpoint vouches for, whether the checkpoint knows the group at all)."""
    if checkpoint is None:
        return BLOCK_BYTES, False
    for group in checkpoint.groups:
        if (group.topic_id, group.partition) == (head.topic_id, head.partition):
            for segment in group.segments:
                if segment.number == head.number:
                    return segment.end_position, True
            return BLOCK_BYTES, True
    return BLOCK_BYTES, False


def _verify_segment(fs: FileSystem, path: str, checkpoint: Checkpoint | None, report: VerifyReport) -> None:
    """Frame by frame; after damage it goes on at the next block that holds a frame of the partition."""
    file = fs.open(path)
    try:
        size = file.size()
        try:
            head = unpack_segment_header(file.pread(BLOCK_BYTES, 0))
        except BadFrame as error:
            report.problems.append(Problem(path, 0, str(error), size < BLOCK_BYTES))
            return
        name = parse_segment_name(path.rpartition("/")[2])
        if name != (head.partition, head.number):
            report.problems.append(Problem(path, 0, f"the header is of partition {head.partition}, segment {head.number}", False))
        end, _ = _known_end(path, head, checkpoint)
        index, term, offset = head.first_index, head.previous_term, head.first_offset
        position = BLOCK_BYTES
        reader = SegmentReader(file, path, (head.topic_id, head.partition))
        while position < size:
            try:
                for at, header, _ in reader.frames(position, size):
                    position = at
                    if header.kind != FrameKind.PAD:
                        if (header.index, header.base_offset) != (index, offset) or header.term < term:
                            raise DamageError(
                                f"{path}: position {at}: entry {header.term}/{header.index} at offset {header.base_offset} does not follow "
                                f"{term}/{index - 1} at {offset}"
                            )
                        index, term, offset = index + 1, header.term, offset + header.record_count
                    report.frames += 1
                    position = at + header.length
            except DamageError as error:
                follow = _next_frame(reader, position, size)
                torn = position >= end and (follow is None or checkpoint is not None)
                report.problems.append(Problem(path, position, reason_of(error), torn))
                if torn or follow is None:
                    break
                position = follow[0]
                index, term, offset = follow[1].index, follow[1].term, follow[1].base_offset
    finally:
        file.close()


def _next_frame(reader: SegmentReader, position: int, size: int) -> tuple[int, Header] | None:
    """The next block behind `position` that begins with a whole entry frame of the partition."""
    for start in range((position // BLOCK_BYTES + 1) * BLOCK_BYTES, size, BLOCK_BYTES):
        try:
            at, header, _ = next(reader.frames(start, size))
        except (DamageError, StopIteration):
            continue
        if header.kind == FrameKind.ENTRY:
            return at, header
    return None


def _verify_presence(fs: FileSystem, data: str, root: str, checkpoint: Checkpoint, report: VerifyReport) -> None:
    """Segments that the checkpoint knows and that are not there, or too short."""
    for group in checkpoint.groups:
        for segment in group.segments:
            path = f"{data}/wal/{group.topic}/wal_{group.partition}_{segment.number:08d}.log"
            if not path.startswith(root) or segment.last_index < group.first_index:
                continue
            if not fs.exists(path):
                report.problems.append(Problem(path, 0, "the file is missing, the checkpoint knows it", False))
            elif (size := fs.size(path)) < segment.end_position:
                report.problems.append(Problem(path, size, f"the file has {size} bytes, the checkpoint knows {segment.end_position}", False))


# -- journal ----------------------------------------------------------------------------------------------------------


def _read_scanned(fs: FileSystem, path: str, salt: int, oldest_generation: int) -> ScannedFile:
    file = fs.open(path)
    try:
        data = memoryview(file.pread(file.size(), 0))
    finally:
        file.close()
    return ScannedFile(path, data, scan_file(data, path, salt, oldest_generation))


def _dump_journal(fs: FileSystem, path: str) -> Iterator[FrameInfo]:
    scanned = _read_scanned(fs, path, 0, 0)
    for place in scanned.blocks:
        block = read_block(scanned.data, place.header, path, place.position)
        yield from _block_rows(block, scanned.data)


def _block_rows(block: Block, data: memoryview) -> Iterator[FrameInfo]:
    position, end = block.position + 64, block.position + block.header.length
    by_position = {reason.rpartition(": ")[0]: reason for _, reason in block.bad_frames}
    while position < end:
        try:
            header = unpack_header(data, position, end - position)
        except BadFrame as error:
            yield _bad_row(block.path, position, str(error))
            return
        reason = by_position.get(f"{block.path}: position {position}", "")
        yield _row(block.path, position, header, reason.rpartition(": ")[2] or "ok", block.header.number)
        position += header.length


def _verify_journal(fs: FileSystem, folder: str, root: str, report: VerifyReport) -> None:
    """The whole journal as recovery sees it; a single file by itself when only that was asked for."""
    data = parent(folder)
    loaded = load_checkpoint(fs, data)
    checkpoint = loaded.checkpoint
    salt = read_salt(fs, data)
    oldest = checkpoint.replay_generation if checkpoint is not None else 0
    files = [f"{folder}/{name}" for name in fs.list(folder) if is_journal(name)]
    if is_journal(root):
        files = [root]
    scanned = [found for file in files if (found := _read_scanned(fs, file, salt, oldest)).blocks]
    whole = checkpoint is not None and not is_journal(root)
    flush = checkpoint.flush_number if whole and checkpoint is not None else 0
    if not whole and scanned:
        flush = min(file.blocks[0].header.number for file in scanned) - 1
    must = whole and checkpoint is not None and checkpoint.flush_generation >= checkpoint.replay_generation
    scan = scan_journal(scanned, flush, must)
    for block in scan.blocks:
        report.frames += len(block.frames)
        for _, reason in block.bad_frames:
            report.problems.append(_problem(reason, False))
        if block.problem:
            report.problems.append(_problem(block.problem, False))
    for _, reason in scan.gaps:
        report.problems.append(_problem(reason, False, folder))
    if scan.torn:
        report.problems.append(_problem(scan.torn, True))


def _problem(text: str, torn: bool, folder: str = "") -> Problem:
    """A reason of recovery ("file: position n: why") taken apart."""
    file, found, rest = text.partition(": position ")
    if not found:
        return Problem(folder, 0, text, torn)
    position, _, reason = rest.partition(": ")
    return Problem(file, int(position), reason, torn)


# -- other files ------------------------------------------------------------------------------------------------------


def _verify_other(fs: FileSystem, path: str, report: VerifyReport) -> None:
    name = path.rpartition("/")[2]
    try:
        if checkpoint_sequence(name) is not None:
            file = fs.open(path)
            try:
                unpack_checkpoint(file.pread(file.size(), 0), path)
            finally:
                file.close()
        elif snapshot_index(name) is not None:
            load_snapshot(fs, path, False)
        elif name.endswith(".idx"):
            reason = check_index(fs, path)
            if reason and fs.exists(index_name(path)[:-4] + ".log"):
                report.problems.append(Problem(path, 0, f"{reason}: it is rebuilt from the segment when it is needed", True))
    except DamageError as error:
        report.problems.append(_problem(str(error), False))
