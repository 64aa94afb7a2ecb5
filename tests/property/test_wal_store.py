"""The store against a deliberately naive model: whatever is flushed is there after a crash, nothing is cut, nothing comes back, votes never go
back."""

from __future__ import annotations

from random import Random

import pytest
from crc32c import crc32c
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wal.api import AppliedState, HardState, Job
from wal.entry import Entry, GroupId, group_id
from wal.memory_filesystem import MemoryFileSystem
from wal.settings import WalSettings
from wal.store import WalStore

SETTINGS = WalSettings(
    journal_file_bytes=16 << 10,
    segment_bytes=32 << 10,
    segment_piece_bytes=4 << 10,
    segment_piece_bytes_max=8 << 10,
    buffer_bytes=8 << 10,
    cache_bytes=4 << 10,
    reserve_bytes=0,
)
GROUPS = [group_id(bytes([7]) * 15 + bytes([i]), i) for i in range(3)]


class Model:
    """One group: entries by index, and what a crash may take it back to."""

    def __init__(self) -> None:
        self.base = 0  # index in front of the first entry
        self.base_term = 0
        self.base_offset = 0
        self.entries: list[Entry] = []
        self.term, self.vote = 0, 0
        self.commit = 0
        self.first = 1

    def copy(self) -> Model:
        other = Model()
        other.__dict__.update(self.__dict__)
        other.entries = list(self.entries)
        return other

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    @property
    def next_offset(self) -> int:
        return self.entries[-1].base_offset + self.entries[-1].record_count if self.entries else self.base_offset

    def same_log(self, other: Model) -> bool:
        return self.signature() == other.signature()

    def signature(self) -> tuple[object, ...]:
        return (self.base, self.base_term, self.base_offset, [(e.term, e.payload_crc) for e in self.entries])


def signature(log: object, model: Model) -> tuple[object, ...]:
    """The recovered log in the same shape as the model's."""
    entries: list[Entry] = []
    low = max(model.first, log.first_index)  # type: ignore[attr-defined]
    while low <= log.last_index:  # type: ignore[attr-defined]
        job = log.read_job(low, 3000)  # type: ignore[attr-defined]
        job.run()
        assert job.entries and job.entries[0].index == low
        for entry in job.entries:
            assert crc32c(entry.payload()) == entry.payload_crc
        entries += job.entries
        low = job.entries[-1].index + 1
    return [(e.index, e.term, e.base_offset, e.record_count, e.payload()) for e in entries]  # type: ignore[return-value]


class WalMachine(RuleBasedStateMachine):
    """`durable`: state at the last completed flush; `flight`: at the flush that is out. After a crash each group is one of the two, whole."""

    def __init__(self) -> None:
        super().__init__()
        self.random = Random(1)
        self.live: dict[GroupId, Model] = {}
        self.history: dict[GroupId, list[Model]] = {}
        self.flush: Job | None = None
        self.background: Job | None = None
        self.laps = 0

    @initialize(seed=st.integers(0, 1 << 30))
    def start(self, seed: int) -> None:
        self.random = Random(seed)
        self.fs = MemoryFileSystem(Random(seed))
        self.fs.mkdir("/data")
        self.store = WalStore.open(self.fs, "/data/n", SETTINGS)
        for gid in GROUPS:
            self.make(gid)

    def make(self, gid: GroupId) -> None:
        log = self.store.create_group(gid, f"topic{gid[-1]}", b"voters")
        log.capture_state = lambda log=log: AppliedState(log.committed_index, b"x%d" % log.committed_index)
        self.live[gid] = Model()
        self.history[gid] = [Model()]
        self.note(gid)

    def note(self, gid: GroupId) -> None:
        """Every state that a flush could make durable is remembered; a completed flush forgets those before it."""
        self.history[gid].append(self.live[gid].copy())

    @rule(g=st.sampled_from(GROUPS), sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=4), newer=st.booleans())
    def append(self, g: GroupId, sizes: list[int], newer: bool) -> None:
        log, model = self.store.groups[g], self.live[g]
        if self.store.memory_bytes > 20_000:
            return
        term = max(model.entries[-1].term if model.entries else model.base_term, model.term) + newer
        for size in sizes:
            payload = self.random.randbytes(size)
            kind = self.random.choice([0, 1, 1, 1, 2])
            entry = Entry(term, model.last + 1, kind, [payload[:9], payload[9:]], size, crc32c(payload), model.next_offset, 3 if kind == 1 else 0)
            log.append([entry])
            model.entries.append(entry)
            self.note(g)

    @rule(g=st.sampled_from(GROUPS), back=st.integers(1, 6))
    def truncate(self, g: GroupId, back: int) -> None:
        log, model = self.store.groups[g], self.live[g]
        index = max(model.commit + 1, model.last + 1 - back)
        if index > model.last:
            return
        log.truncate_suffix(index)
        del model.entries[index - model.base - 1 :]
        self.note(g)

    @rule(g=st.sampled_from(GROUPS), to=st.floats(0, 1))
    def commit(self, g: GroupId, to: float) -> None:
        log, model = self.store.groups[g], self.live[g]
        index = model.commit + int((log.flushed_index - model.commit) * to + 0.5)
        if index > model.commit:
            log.advance_commit(index)
            model.commit = index

    @rule(g=st.sampled_from(GROUPS), vote=st.integers(1, 3))
    def vote(self, g: GroupId, vote: int) -> None:
        log, model = self.store.groups[g], self.live[g]
        model.term, model.vote = max(model.term, log.last_term) + 1, vote
        log.save_hard_state(model.term, vote)
        self.note(g)

    @rule(g=st.sampled_from(GROUPS), share=st.floats(0, 1))
    def trim(self, g: GroupId, share: float) -> None:
        log, model = self.store.groups[g], self.live[g]
        index = model.first + int((model.commit + 1 - model.first) * share)
        if index <= model.first:
            return
        offset = model.entries[index - model.base - 1].base_offset if index <= model.last else model.next_offset
        log.truncate_prefix(index, offset)
        model.first = index
        self.note(g)

    @rule(g=st.sampled_from(GROUPS), ahead=st.integers(1, 9))
    def install(self, g: GroupId, ahead: int) -> None:
        if self.random.random() < 0.7:
            return
        log, model = self.store.groups[g], self.live[g]
        term = max(log.last_term, model.term)
        index, offset = model.last + ahead, model.next_offset + 5
        log.install_snapshot(index, term, offset, b"snapshot voters")
        log.capture_state = lambda: AppliedState(log.committed_index, b"x%d" % log.committed_index)
        model.base, model.base_term, model.base_offset, model.entries = index, term, offset, []
        model.commit, model.first = index, index + 1
        self.note(g)

    @rule()
    def take_flush(self) -> None:
        if self.flush is None:
            self.flush = self.store.next_flush()
            if self.flush is not None:
                self.flush.run()

    @rule()
    def complete_flush(self) -> None:
        if self.flush is not None:
            self.flush.complete()
            self.flush = None

    @rule(count=st.integers(1, 5))
    def background_work(self, count: int) -> None:
        for _ in range(count):
            if self.background is None:
                self.background = self.store.next_background()
                if self.background is not None:
                    self.background.run()
            else:
                self.background.complete()
                self.background = None

    @rule()
    def seal(self) -> None:
        self.store.note_idle()

    @rule(rounds=st.integers(1, 20))
    def work(self, rounds: int) -> None:
        for _ in range(rounds):
            self.complete_flush()
            self.take_flush()
            self.complete_flush()
            self.background_work(2)

    @precondition(lambda self: self.store is not None)
    @rule(keep=st.sampled_from(["random", "random", "all", "none"]))
    def crash(self, keep: str) -> None:
        self.flush = self.background = None
        before = {g: (log.flushed_index, log.durable.hard_state, log.durable.start_offset) for g, log in self.store.groups.items()}
        self.fs.crash(self.random, keep)  # type: ignore[arg-type]
        self.reopen(before)

    @rule()
    def restart(self) -> None:
        self.complete_flush()
        if self.background is not None:
            self.background.complete()
            self.background = None
        before = {g: (log.flushed_index, log.durable.hard_state, log.durable.start_offset) for g, log in self.store.groups.items()}
        self.store.close()
        self.reopen(before)

    def reopen(self, before: dict[GroupId, tuple[int, HardState, int]]) -> None:
        self.store = WalStore.open(self.fs, "/data/n", SETTINGS)
        for gid in GROUPS:
            flushed, hard_state, start_offset = before[gid]
            log = self.store.groups.get(gid)
            if log is None:
                assert flushed == 0 and hard_state == HardState(0, 0), f"group {gid!r} is gone"
                self.make(gid)
                continue
            assert not log.quarantined, log.quarantined
            assert (log.hard_state.term, log.hard_state.vote) >= hard_state
            assert log.start_offset >= start_offset
            matching = [m for m in self.history[gid] if self.fits(log, m)]
            assert matching, f"{gid[-1]}: {log.first_index}..{log.last_index} is no state that ever was"
            model = matching[-1].copy()
            assert log.last_index >= min(flushed, self.live[gid].last) or model.base, "something flushed was cut"
            model.term, model.vote = log.hard_state
            model.commit = log.committed_index
            model.first = max(log.first_index, 1)
            log.capture_state = lambda log=log: AppliedState(log.committed_index, b"x%d" % log.committed_index)
            self.live[gid] = model
            self.history[gid] = [model.copy()]
            if log.applied_state is not None:
                assert log.applied_state.data == b"x%d" % log.applied_state.index
                assert log.first_index - 1 <= max(log.applied_state.index, model.base)

    @staticmethod
    def fits(log: object, model: Model) -> bool:
        if log.last_index != model.last or log.next_offset != model.next_offset:  # type: ignore[attr-defined]
            return False
        low = max(model.base + 1, log.first_index)  # type: ignore[attr-defined]
        want = [(e.index, e.term, e.base_offset, e.record_count, e.payload()) for e in model.entries[low - model.base - 1 :]]
        return signature(log, model_from(low)) == want

    @invariant()
    def readable(self) -> None:
        for gid, model in self.live.items():
            log = self.store.groups[gid]
            assert log.last_index == model.last
            assert log.flushed_index <= log.last_index
            assert log.next_offset == model.next_offset
            if model.entries:
                index = self.random.randrange(model.base, model.last) + 1
                entry = model.entries[index - model.base - 1]
                if index >= log.first_index:
                    assert log.term(index) == entry.term
                    got = log.memory_slice(index, 1)
                    if got is None:
                        job = log.read_job(index, 1)
                        job.run()
                        got = job.entries
                        if entry.record_count and entry.base_offset >= log.start_offset:
                            at_offset = log.read_job_at_offset(entry.base_offset + 1, 1)
                            at_offset.run()
                            assert at_offset.entries[0].index == index
                    assert got[0].payload() == entry.payload()
        unwritten = sum(
            entry.size
            for log in self.store.groups.values()
            for entry in log.memory_entries
            if log.reset_pending or entry.index > log.durable.segments.written_index
        )
        assert self.store.memory_bytes == unwritten


def model_from(first: int) -> Model:
    model = Model()
    model.first = first
    return model


def run_schedule(seed: int, steps: int) -> WalMachine:
    """The same machine without hypothesis: fast, many seeds. `seed` decides everything."""
    random = Random(seed)
    machine = WalMachine()
    machine.start(seed)
    for _ in range(steps):
        g = random.choice(GROUPS)
        match random.choices(range(12), (8, 3, 6, 2, 2, 0.5, 5, 5, 5, 1, 3, 1))[0]:
            case 0:
                machine.append(g, [random.randrange(5000) for _ in range(random.randint(1, 4))], random.random() < 0.2)
            case 1:
                machine.truncate(g, random.randint(1, 6))
            case 2:
                machine.commit(g, random.random())
            case 3:
                machine.vote(g, random.randint(1, 3))
            case 4:
                machine.trim(g, random.random() ** 2)
            case 5:
                machine.install(g, random.randint(1, 9))
            case 6:
                machine.take_flush()
            case 7:
                machine.complete_flush()
            case 8:
                machine.background_work(random.randint(1, 5))
            case 9:
                machine.seal()
            case 10:
                machine.work(random.randint(1, 20))
            case _:
                if random.random() < 0.7:
                    machine.crash(random.choice(["random", "random", "all", "none"]))
                else:
                    machine.restart()
        machine.readable()
    return machine


@pytest.mark.parametrize("seed", range(40))
def test_any_schedule_keeps_what_was_flushed(seed: int) -> None:
    run_schedule(seed, 150)


TestWal = WalMachine.TestCase
TestWal.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck)
)
