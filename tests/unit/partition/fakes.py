"""A group and its log in memory, driven by hand: what the driver and the disk do, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import crc32c

from broker.api import AppendResult, ReadResult
from broker.errors import ErrorCode
from broker.partition.appending import GAP_GRACE_MS
from broker.partition.config import TopicConfig
from broker.partition.partition import Partition, PartitionContext
from broker.partition.read_cache import ReadCache
from broker.partition.verification import Verify
from broker.records.builder import build_batch
from broker.records.reader import Record
from raft.api import Proposal, ReplicaStatus
from wal.entry import Entry, EntryKind, GroupId, group_id

TOPIC_ID = b"t" * 16


class FakeClock:
    def __init__(self) -> None:
        self.now = 1_000

    def now_ms(self) -> int:
        return self.now

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        raise AssertionError("a partition sets no timers")

    def call_soon(self, callback: Callable[[], None]) -> None:
        raise AssertionError("a partition defers nothing")


class FakeReadJob:
    def __init__(self, found: Sequence[Entry]) -> None:
        self._found = found
        self.entries: list[Entry] = []

    def run(self) -> None:
        for entry in self._found:
            copy = Entry(
                entry.term, entry.index, entry.kind, (entry.payload(),), entry.size, entry.payload_crc, entry.base_offset, entry.record_count
            )
            self.entries.append(copy)


class FakeLog:
    """Entries from index 1; those below `memory_from` are only "on disk"."""

    def __init__(self) -> None:
        self.group_id: GroupId = group_id(TOPIC_ID, 0)
        self.all: list[Entry] = []
        self.first_index = 1
        self.memory_from = 1
        self.flushed_index = 0

    @property
    def last_index(self) -> int:
        return len(self.all)

    @property
    def next_offset(self) -> int:
        return self.all[-1].base_offset + self.all[-1].record_count if self.all else 0

    def add(self, term: int, proposal: Proposal) -> Entry:
        kind, chunks, size, crc, count = proposal
        entry = Entry(term, self.last_index + 1, kind, tuple(chunks), size, crc, self.next_offset, count)
        self.all.append(entry)
        return entry

    def truncate(self, index: int) -> None:
        del self.all[index - 1 :]
        self.flushed_index = min(self.flushed_index, self.last_index)

    def term_runs(self) -> list[tuple[int, int, int]]:
        runs: list[tuple[int, int, int]] = []
        for entry in self.all:
            if not runs or runs[-1][0] != entry.term:
                runs.append((entry.term, entry.index, entry.base_offset))
        return runs

    def _bounded(self, low: int, max_bytes: int) -> list[Entry]:
        found: list[Entry] = []
        size = 0
        for entry in self.all[low - 1 :]:
            if found and size + entry.size > max_bytes:
                break
            found.append(entry)
            size += entry.size
        return found

    def memory_slice(self, low: int, max_bytes: int) -> list[Entry] | None:
        return None if low < self.memory_from else self._bounded(low, max_bytes)

    def _holder(self, offset: int) -> int | None:
        return next((e.index for e in self.all if e.base_offset <= offset < e.base_offset + e.record_count), None)

    def index_of_offset(self, offset: int) -> int | None:
        index = self._holder(offset)
        return index if index is not None and index >= self.memory_from else None

    def read_job(self, low: int, max_bytes: int) -> FakeReadJob:
        return FakeReadJob(self._bounded(low, max_bytes))

    def read_job_at_offset(self, offset: int, max_bytes: int) -> FakeReadJob:
        index = self._holder(offset)
        return FakeReadJob(self._bounded(index, max_bytes) if index is not None else ())

    def read_job_at_timestamp(self, timestamp_ms: int) -> FakeReadJob:
        """A time index that is exact about entries on disk, and gives one entry a piece."""
        on_disk = self.all[: self.memory_from - 1]
        return FakeReadJob(next(([e] for e in on_disk if e.max_timestamp >= timestamp_ms), ()))


class FakeGroup:
    """Broker 1 leads broker 2 and 3 unless told otherwise. `refusing`: the core takes no proposals."""

    def __init__(self, voters: Sequence[int] = (1, 2, 3)) -> None:
        self.group_id = group_id(TOPIC_ID, 0)
        self.log = FakeLog()
        self.term = 0
        self.leader = 0
        self.serving = False
        self.commit_index = 0
        self.applied_index = 0
        self.lease = True
        self.dirty = False
        self.refusing = False
        self.voters = voters
        self.match: dict[int, int] = dict.fromkeys(voters, 0)
        self.at_end: dict[int, int] = dict.fromkeys(voters, -1)
        self.delayed: list[Callable[[], None]] | None = None
        self.disk_reads = 0

    def mark_dirty(self) -> None:
        self.dirty = True

    def lease_valid(self) -> bool:
        return self.serving and self.lease

    def replicas(self) -> list[ReplicaStatus]:
        return [ReplicaStatus(n, True, self.log.flushed_index if n == self.leader else self.match[n], 0, self.at_end[n]) for n in self.voters]

    def read(self, job: FakeReadJob, done: Callable[[BaseException | None], None]) -> None:
        self.disk_reads += 1

        def finish() -> None:
            job.run()
            done(None)

        if self.delayed is None:
            finish()
        else:
            self.delayed.append(finish)


class Replica:
    """A partition with its fake group, and the driver's steps."""

    def __init__(self, config: TopicConfig | None = None, voters: Sequence[int] = (1, 2, 3)) -> None:
        self.clock = FakeClock()
        self.wall_ms = 1_700_000_000_000
        self.full = False
        self.pending_told = 0
        self.read_cache = ReadCache(1 << 20)
        self.group = FakeGroup(voters)
        self.partition = self.make_partition()
        self.partition.configure(config or TopicConfig())

    def make_partition(self) -> Partition:
        context = PartitionContext(
            clock=self.clock,
            wall_time_ms=lambda: self.wall_ms,
            disk_full=lambda: self.full,
            pending_bytes_changed=self._pending,
            node_id=1,
            read_cache=self.read_cache,
            verify=self.verify,
        )
        partition = Partition(None, "topic", 0, TOPIC_ID, context)
        partition.attach(self.group)  # type: ignore[arg-type]
        return partition

    verify: Verify | None = None
    """The coordinator of transactions; None = none is accepted."""

    def _pending(self, delta: int) -> None:
        self.pending_told += delta

    def lead(self, term: int = 1, settled: bool = True) -> None:
        """`settled`: it has led for a while."""
        group = self.group
        group.term, group.leader = term, 1
        group.log.add(term, Proposal(EntryKind.NOOP, (), 0, 0, 0))
        self.flush()
        self.commit()
        group.serving = True
        self.partition.on_leadership(True)
        if settled:
            self.clock.now += GAP_GRACE_MS

    def depose(self, term: int, leader: int = 2) -> None:
        self.group.term, self.group.leader = term, leader
        was, self.group.serving = self.group.serving, False
        if was:
            self.partition.on_leadership(False)
        self.partition.on_leader_change(leader, term)

    def collect(self, max_bytes: int = 16 << 20) -> list[Entry]:
        made: list[Entry] = []
        while self.group.dirty:
            self.group.dirty = False
            proposal = self.partition.collect(max_bytes)
            if proposal is not None and not self.group.refusing:
                assert proposal.size == sum(len(c) for c in proposal.chunks)
                assert proposal.payload_crc == crc32c.crc32c(b"".join(proposal.chunks))
                made.append(self.group.log.add(self.group.term, proposal))
        return made

    def flush(self) -> None:
        self.group.log.flushed_index = self.group.log.last_index
        self.partition.on_flushed()

    def commit(self, index: int | None = None) -> None:
        group = self.group
        index = group.log.last_index if index is None else index
        group.commit_index = max(group.commit_index, index)
        entries = group.log.all[group.applied_index : index]
        if entries:
            self.partition.apply(entries)
            group.applied_index = index

    def follow(self, entries: Sequence[Entry]) -> None:
        """As a follower: the same bytes, in one chunk as the wire brings them."""
        for e in entries:
            self.group.log.all.append(Entry(e.term, e.index, e.kind, (e.payload(),), e.size, e.payload_crc, e.base_offset, e.record_count))

    def append(self, records: bytes | bytearray, acks: int = -1) -> list[AppendResult]:
        answers: list[AppendResult] = []
        self.partition.append(memoryview(bytearray(records)), acks, answers.append)
        return answers

    def produce(self, records: bytes | bytearray) -> AppendResult:
        """Append, replicate and commit at once."""
        answers = self.append(records)
        self.collect()
        self.flush()
        self.commit()
        assert len(answers) == 1
        return answers[0]

    def read(self, offset: int, max_bytes: int = 1 << 20, epoch: int = -1, min_one: bool = True) -> ReadResult:
        answers: list[ReadResult] = []
        self.partition.read(offset, max_bytes, epoch, False, min_one, answers.append)
        assert len(answers) == 1
        return answers[0]

    def list_offset(self, timestamp: int, epoch: int = -1) -> tuple[ErrorCode, int, int, int]:
        answers: list[tuple[ErrorCode, int, int, int]] = []
        self.partition.list_offset(timestamp, epoch, False, lambda *found: answers.append(found))
        assert len(answers) == 1
        return answers[0]


def batch(
    count: int = 1, timestamp: int = 1_700_000_000_000, codec: int = 0, producer: tuple[int, int, int] = (-1, -1, -1), size: int = 10
) -> bytearray:
    """One batch as a client sends it; record i has timestamp + i."""
    return build_batch([Record(0, timestamp + i, b"k", b"v" * size) for i in range(count)], codec, producer)


def idempotent(sequence: int, count: int = 1, producer_id: int = 7, epoch: int = 0) -> bytearray:
    return batch(count, producer=(producer_id, epoch, sequence))
