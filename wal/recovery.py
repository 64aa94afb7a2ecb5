"""Recovery: the checkpoint, then the journal frame by frame; tells a torn tail from damage.

Reads everything, changes nothing; the store fsyncs what was accepted and goes on in a fresh file. The rules (docs/formats/journal.md): flushes are
numbered for the life of the directory and one starts only after the fsync of the one before. An invalid flush with nothing later is a torn tail and
ignored whole; everything else is damage, and every group that is not proven whole is quarantined with what is proven.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wal.api import AppliedState, HardState
from wal.checkpoint import Checkpoint, GroupRecord, Removal
from wal.durable import Configurations, DurableLog, keep_last_base, raise_hard_state
from wal.entry import Entry, EntryKind, GroupId, group_id
from wal.frame import (
    COPY_FLAG,
    NEEDS_STATE_FLAG,
    BadFrame,
    FrameKind,
    Header,
    check_payload,
    entry_of,
    unpack_created,
    unpack_header,
)
from wal.journal import BLOCK_HEADER_BYTES, BlockHeader, BlockKind, padded, unpack_block
from wal.segment import SegmentInfo
from wal.settings import BLOCK_BYTES

VOTE_UNKNOWN = "vote unknown"
"""A quarantine reason that begins so means that a hard state may be lost: the replica must come back under a new id."""


@dataclass(slots=True)
class Block:
    """A block found in a journal file. `problem` is "" when all its frames are right."""

    header: BlockHeader
    path: str
    position: int
    frames: list[tuple[Header, memoryview]] = field(default_factory=list)
    bad_frames: list[tuple[Header, str]] = field(default_factory=list)  # their headers are right, their payloads are not
    problem: str = ""  # why not all frames could be walked: any group may have lost something

    @property
    def whole(self) -> bool:
        return not self.problem and not self.bad_frames


def read_block(data: memoryview, header: BlockHeader, path: str, position: int) -> Block:
    """All frames of the block at `position` of a journal file."""
    block = Block(header, path, position)
    at, end = position + BLOCK_HEADER_BYTES, position + header.length
    if end > len(data):
        block.problem = f"{path}: position {position}: flush of {header.length} bytes goes beyond the file"
        return block
    count = 0
    while at < end:
        try:
            frame = unpack_header(data, at, end - at)
            if frame.generation != header.generation:
                raise BadFrame(f"frame of generation {frame.generation} in a flush of generation {header.generation}")
        except BadFrame as error:
            block.problem = f"{path}: position {at}: {error}"
            return block
        payload = data[at + 64 : at + frame.length]
        try:
            check_payload(frame, payload)
            block.frames.append((frame, payload))
        except BadFrame as error:
            block.bad_frames.append((frame, f"{path}: position {at}: {error}"))
        at += frame.length
        count += 1
    if count != header.frame_count:
        block.problem = f"{path}: position {position}: {count} frames where {header.frame_count} were written"
    return block


def scan_file(data: memoryview, path: str, salt: int, oldest_generation: int) -> list[BlockHeaderAt]:
    """Places of all blocks of the newest generation in one journal file, in the order of the file; nothing if it is older than `oldest_generation`.

    Bodies are skipped while the chain holds; behind a break every 4 KiB is looked at, because what is found there tells damage from a torn tail.
    """
    found: list[BlockHeaderAt] = []
    position = 0
    size = len(data)
    generation = 0
    while position < size:
        header = unpack_block(data, position, salt)
        if header is None or header.generation < max(generation, oldest_generation):
            position += BLOCK_BYTES
            continue
        if header.generation > generation:
            generation = header.generation
            found.clear()
        found.append(BlockHeaderAt(header, position))
        position += padded(header.length) if position + header.length <= size else BLOCK_BYTES
    return found


@dataclass(slots=True)
class BlockHeaderAt:
    header: BlockHeader
    position: int


@dataclass(slots=True)
class ScannedFile:
    """One journal file that holds something to replay."""

    path: str
    data: memoryview
    blocks: list[BlockHeaderAt]

    @property
    def generation(self) -> int:
        return self.blocks[0].header.generation


@dataclass(slots=True)
class JournalScan:
    """All flushes to replay, in order. `gaps`: (flush number behind which something is missing, reason)."""

    blocks: list[Block] = field(default_factory=list)
    gaps: list[tuple[int, str]] = field(default_factory=list)
    generation: int = 0  # highest seen, torn ones included
    last_number: int = 0  # of the last accepted flush
    sealed: bool = True
    torn: str = ""  # what was found torn at the end, "" nothing


def scan_journal(files: list[ScannedFile], checkpoint_flush: int, must_reach_checkpoint: bool) -> JournalScan:
    """Put the blocks of all files in order and find what is missing.

    `checkpoint_flush`: number of the flush that the checkpoint includes. Flushes up to it need not exist, unless entries are needed from them (the
    groups tell), or unless the checkpoint knows that this very flush is in a generation to be replayed (`must_reach_checkpoint`).
    """
    scan = JournalScan(last_number=checkpoint_flush)
    files = sorted(files, key=lambda file: file.generation)
    places = [(file, place) for file in files for place in file.blocks]
    last_number = max((place.header.number for _, place in places), default=0)
    expected = 0
    for at, (file, place) in enumerate(places):
        header = place.header
        scan.generation = max(scan.generation, header.generation)
        if at + 1 < len(places):
            following = places[at + 1][1].header
            if following.generation > header.generation and following.number <= header.number:
                continue  # torn, and cut by an earlier recovery, which went on behind it in a new generation
        block = read_block(file.data, header, file.path, place.position)
        if not block.whole and header.number == last_number and header.number > checkpoint_flush:
            scan.torn = block.problem or block.bad_frames[0][1]
            break
        if header.number != (expected or min(header.number, checkpoint_flush + 1)):
            scan.gaps.append(
                (header.number - 1, f"{file.path}: position {place.position}: flush {header.number} follows flush {max(expected - 1, 0)}")
            )
        scan.blocks.append(block)
        expected = header.number + 1
        scan.last_number = max(scan.last_number, header.number)
        scan.sealed = header.kind == BlockKind.SEAL
    if must_reach_checkpoint and expected <= checkpoint_flush:
        scan.gaps.append((checkpoint_flush + 1, f"the journal file with flush {checkpoint_flush} is missing or damaged"))
    return scan


@dataclass(slots=True)
class RecoveredGroup:
    """A group while the journal is replayed. `raw`: entries above the segments by index, with the generation that holds them."""

    group_id: GroupId
    topic: str
    durable: DurableLog
    raw: dict[int, tuple[Entry, int]] = field(default_factory=dict)
    last_index: int = 0
    last_term: int = 0
    next_offset: int = 0
    expected: tuple[int, int] | None = None  # (last index, term) at the checkpoint's flush; None once that is passed
    broken: str = ""
    vote_unknown: str = ""
    damaged: bool = False  # found in this recovery
    entries: list[Entry] = field(default_factory=list)

    @property
    def group_id_partition(self) -> int:
        return int.from_bytes(self.group_id[16:], "big")

    def settle(self) -> None:
        """The checkpoint's flush is passed: what should be there must be there."""
        if self.expected is None:
            return
        last, term = self.expected
        self.expected = None
        segments = self.durable.segments
        index, last_term, offset = segments.written_index, segments.written_term, segments.written_offset
        whole = True
        while index < last:
            found = self.raw.get(index + 1)
            if found is None or found[0].term < last_term or found[0].base_offset != offset:
                whole = False
                break
            index += 1
            last_term, offset = found[0].term, found[0].base_offset + found[0].record_count
        self.raw = {key: value for key, value in self.raw.items() if segments.written_index < key <= index}
        self.last_index, self.last_term, self.next_offset = index, last_term, offset
        if not whole or (last > segments.written_index and last_term != term):
            self.broken = self.broken or f"entries {index + 1}..{last} should be in the journal and are not"
        else:
            self.broken = ""

    def cut(self, index: int) -> None:
        """Remove entries ≥ index above the segments."""
        segments = self.durable.segments
        index = max(index, segments.written_index + 1)
        for key in [key for key in self.raw if key >= index]:
            del self.raw[key]
        if self.last_index >= index:
            self.last_index = index - 1
            found = self.raw.get(index - 1)
            if found is not None:
                self.last_term, self.next_offset = found[0].term, found[0].base_offset + found[0].record_count
            else:
                self.last_term, self.next_offset = segments.written_term, segments.written_offset

    def add(self, header: Header, payload: memoryview, generation: int) -> None:
        """One entry frame."""
        index = header.index
        if index <= self.durable.segments.written_index:
            return
        if self.expected is not None:
            self.raw[index] = (entry_of(header, bytes(payload)), generation)
            return
        if self.broken:
            return
        if header.flags & COPY_FLAG:
            found = self.raw.get(index)
            if found is None or found[0].term != header.term:
                self.broken = f"repeated entry {header.term}/{index} is not in the log"
            else:
                self.raw[index] = (found[0], generation)
            return
        if index != self.last_index + 1 or header.term < self.last_term or header.base_offset != self.next_offset:
            self.broken = (
                f"entry {header.term}/{index} at offset {header.base_offset} does not follow {self.last_term}/{self.last_index} at {self.next_offset}"
            )
            return
        self.raw[index] = (entry_of(header, bytes(payload)), generation)
        self.last_index, self.last_term, self.next_offset = index, header.term, header.base_offset + header.record_count

    def reset(self, index: int, term: int, next_offset: int, configuration: bytes) -> None:
        """snapshot_installed."""
        durable = self.durable
        durable.segments.reset(index, term, next_offset)
        durable.first_index, durable.start_offset, durable.needs_state = index + 1, next_offset, False
        durable.configurations = [(index, configuration)]
        self.raw.clear()
        self.last_index, self.last_term, self.next_offset = index, term, next_offset
        durable.applied = None
        self.broken = ""

    def finish(self) -> None:
        """Turn what was replayed into the durable log and the entries in memory."""
        self.settle()
        durable = self.durable
        durable.exists = True
        durable.last_index, durable.last_term = self.last_index, self.last_term
        durable.ranges = []
        for index in range(durable.segments.written_index + 1, self.last_index + 1):
            entry, generation = self.raw[index]
            self.entries.append(entry)
            if not durable.ranges or durable.ranges[-1][1] != generation:
                durable.ranges.append((index, generation))
            if entry.kind == EntryKind.CONFIGURATION:
                durable.configurations.append((index, entry.payload()))
        if durable.applied is not None and durable.applied.index > self.last_index:
            self.broken = self.broken or f"the state in the checkpoint is at index {durable.applied.index}, the log ends at {self.last_index}"
            durable.applied = None
        if durable.needs_state:
            durable.first_index = min(durable.first_index, (durable.applied.index if durable.applied else 0) + 1)
        durable.first_index = min(durable.first_index, self.last_index + 1)
        keep_last_base(durable.configurations, durable.first_index)
        self.damaged = bool(self.vote_unknown or self.broken)
        if self.vote_unknown:
            durable.quarantined = f"{VOTE_UNKNOWN}: {self.vote_unknown}"
        elif self.broken and not durable.quarantined:
            durable.quarantined = self.broken


def group_from_record(record: GroupRecord) -> RecoveredGroup:
    """A group as the checkpoint has it."""
    durable = DurableLog()
    durable.hard_state = HardState(record.term, record.vote)
    durable.first_index = record.first_index
    durable.start_offset = record.start_offset
    durable.needs_state = record.needs_state
    durable.quarantined = record.quarantined
    configurations: Configurations = [(index, data) for index, data in record.configurations]
    durable.configurations = configurations
    segments = durable.segments
    segments.next_number = record.next_number
    segments.written_index, segments.written_term, segments.written_offset = record.written_index, record.written_term, record.written_offset
    segments.runs = [(term, index, offset) for term, index, offset in record.runs]
    infos = [SegmentInfo(s.number, s.first_index, s.first_offset, s.last_index, s.end_position, s.max_timestamp, s.pieces) for s in record.segments]
    if infos:
        segments.sealed, segments.active = infos[:-1], infos[-1]
        segments.resume = True
    group = RecoveredGroup(group_id(record.topic_id, record.partition), record.topic, durable)
    durable.applied = AppliedState(*record.applied) if record.applied is not None else None
    group.expected = (record.last_index, record.last_term)
    group.last_index, group.last_term, group.next_offset = record.written_index, record.written_term, record.written_offset
    return group


class Replay:
    """Applies the journal to the groups of a checkpoint. Use: `run`, then `groups` and `removals`."""

    __slots__ = ("_checkpoint_flush", "groups", "removals")

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint_flush = checkpoint.flush_number
        self.groups: dict[GroupId, RecoveredGroup] = {}
        for record in checkpoint.groups:
            group = group_from_record(record)
            self.groups[group.group_id] = group
        self.removals: list[Removal] = list(checkpoint.removals)

    def run(self, scan: JournalScan) -> None:
        gaps = list(scan.gaps)
        settled = False
        for block in scan.blocks:
            number = block.header.number
            while gaps and gaps[0][0] < number:
                lost, reason = gaps.pop(0)
                self._lose_all(lost, reason)
            if number > self._checkpoint_flush and not settled:
                settled = True
                self._settle()
            self._apply_block(block)
        for lost, reason in gaps:
            self._lose_all(lost, reason)
        for group in self.groups.values():
            group.finish()

    def _settle(self) -> None:
        for group in self.groups.values():
            group.settle()

    def _lose_all(self, number: int, reason: str) -> None:
        """A flush up to `number` is lost, with frames of whatever groups."""
        if number <= self._checkpoint_flush:
            return  # groups that needed something from it will see that when they settle
        self._settle()
        for group in self.groups.values():
            group.broken = group.broken or reason
            group.vote_unknown = group.vote_unknown or reason

    def _apply_block(self, block: Block) -> None:
        late = block.header.number > self._checkpoint_flush
        for header, payload in block.frames:
            self._apply_frame(header, payload, block.header.generation, late)
        if not late:
            return
        for header, reason in block.bad_frames:
            name = group_id(header.topic_id, header.partition)
            group = self.groups.get(name) or self._placeholder(name, reason)
            group.broken = group.broken or reason
        if block.problem:
            self._lose_all(block.header.number, block.problem)

    def _apply_frame(self, header: Header, payload: memoryview, generation: int, late: bool) -> None:
        name = group_id(header.topic_id, header.partition)
        group = self.groups.get(name)
        kind = header.kind
        if kind == FrameKind.GROUP_CREATED and late:
            self._create(name, payload)
            return
        if group is None:
            if not late or kind == FrameKind.GROUP_DELETED:
                return
            group = self._placeholder(name, "frames of a group whose creation is lost")
        if kind == FrameKind.ENTRY:
            group.add(header, payload, generation)
        elif kind == FrameKind.TRUNCATE_SUFFIX:
            if group.expected is not None or not group.broken:
                group.cut(header.index)
        elif not late:
            if kind in (FrameKind.GROUP_CREATED, FrameKind.GROUP_DELETED, FrameKind.SNAPSHOT_INSTALLED):
                group.raw.clear()
            elif kind == FrameKind.QUARANTINED:
                group.cut(header.index + 1)
        elif kind == FrameKind.GROUP_DELETED:
            del self.groups[name]
            self.removals.append(Removal(group.topic, header.topic_id, header.partition, [], True))
        else:
            self._apply_state(group, header, payload)

    def _apply_state(self, group: RecoveredGroup, header: Header, payload: memoryview) -> None:
        durable = group.durable
        kind = header.kind
        if kind == FrameKind.HARD_STATE:
            durable.hard_state = raise_hard_state(durable.hard_state, header.term, header.index)
        elif kind == FrameKind.LOG_START:
            durable.first_index = max(durable.first_index, header.index)
            durable.start_offset = max(durable.start_offset, header.base_offset)
            durable.needs_state = bool(header.flags & NEEDS_STATE_FLAG)
        elif kind == FrameKind.SNAPSHOT_INSTALLED:
            group.reset(header.index, header.term, header.base_offset, bytes(payload))
        elif kind == FrameKind.QUARANTINED:
            durable.quarantined = bytes(payload).decode()
            if group.broken:
                group.cut(header.index + 1)
                group.broken = group.vote_unknown = ""

    def _placeholder(self, name: GroupId, reason: str) -> RecoveredGroup:
        """A group of which only frames are left: it must not come back as an empty voter."""
        group = RecoveredGroup(name, f"unknown_{name.hex()}", DurableLog())
        group.broken = group.vote_unknown = reason
        group.durable.configurations = [(0, b"")]
        self.groups[name] = group
        return group

    def _create(self, name: GroupId, payload: memoryview) -> None:
        topic, configuration = unpack_created(payload)
        group = RecoveredGroup(name, topic, DurableLog())
        group.durable.configurations = [(0, configuration)]
        before = self.groups.get(name)
        if before is not None:
            group.broken = group.vote_unknown = before.vote_unknown or "created twice"
        self.groups[name] = group
