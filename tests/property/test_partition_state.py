"""The partition's state is a pure function of the log; producers keep their promises across failover."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import ErrorCode
from broker.partition.state import ExpireProducers, LogStart, encode_command
from broker.records.batch import MAX_SEQUENCE, stored_batches
from broker.records.reader import read_batches
from raft.api import Proposal
from tests.unit.partition.fakes import Replica, batch, idempotent
from wal.entry import EntryKind

producer = st.integers(1, 3)
step = st.one_of(
    st.tuples(st.just("produce"), producer, st.integers(1, 3)),
    st.tuples(st.just("plain"), st.integers(1, 3), st.integers(1, 2)),
    st.tuples(st.just("epoch"), producer, st.just(0)),
    st.tuples(st.just("expire"), producer, st.just(0)),
    st.tuples(st.just("start"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("election"), st.just(0), st.just(0)),
)


def run(steps: list[tuple[str, int, int]], first_sequence: int) -> Replica:
    """A leader that has gone through `steps`, everything committed."""
    replica = Replica()
    replica.lead(1)
    sequences = dict.fromkeys((1, 2, 3), first_sequence)
    epochs = dict.fromkeys((1, 2, 3), 0)
    term = 1
    for kind, first, second in steps:
        if kind == "produce":
            assert replica.produce(idempotent(sequences[first], second, first, epochs[first])).error is ErrorCode.NONE
            sequences[first] = (sequences[first] + second) & MAX_SEQUENCE
        elif kind == "plain":
            for _ in range(second):
                replica.append(batch(first))
            replica.collect()
            replica.commit()
        elif kind == "epoch":
            epochs[first] += 1
            sequences[first] = 0
        elif kind == "election":
            term += 2
            replica.depose(term - 1)
            replica.lead(term)
        else:
            command = encode_command(ExpireProducers((first,)) if kind == "expire" else LogStart(first))
            replica.group.log.add(term, Proposal(EntryKind.COMMAND, (command,), len(command), 0, 0))
            replica.commit()
    return replica


@settings(max_examples=60, deadline=None)
@given(st.lists(step, max_size=25), st.sampled_from([0, 5, MAX_SEQUENCE - 3]), st.data())
def test_captured_anywhere_and_replayed_equals_a_straight_replay(steps: list[tuple[str, int, int]], first_sequence: int, data: st.DataObject) -> None:
    leader = run(steps, first_sequence)
    entries = leader.group.log.all
    straight = Replica()
    straight.follow(entries)
    straight.commit()
    assert straight.partition.snapshot() == leader.partition.snapshot()
    cut = data.draw(st.integers(0, len(entries)))
    half = Replica()
    half.follow(entries)
    half.commit(cut)
    restored = Replica()
    restored.follow(entries)
    restored.group.applied_index = restored.partition.restore(half.partition.capture() if cut else None)
    assert restored.group.applied_index == cut
    restored.commit()
    assert restored.partition.snapshot() == straight.partition.snapshot()
    assert not leader.partition.producers.overlay
    assert all(1 <= len(p.batches) <= 5 for p in restored.partition.producers.applied.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(step, max_size=25))
def test_offsets_are_dense_and_the_same_for_every_reader(steps: list[tuple[str, int, int]]) -> None:
    leader = run(steps, 0)
    partition = leader.partition
    offset = 0
    for entry in leader.group.log.all:
        assert entry.base_offset == offset
        for header in stored_batches(entry.chunks if entry.kind == EntryKind.DATA else ()):
            assert header[0] == offset
            offset += header[3] + 1
    assert partition.high_watermark == partition.log_end_offset == offset
    assert 0 <= partition.log_start_offset <= offset
    if partition.log_start_offset < offset:
        data = b"".join(leader.read(partition.log_start_offset).chunks)
        got = [r.offset for r in read_batches(data)]
        assert got == list(range(got[0], offset)) and got[0] <= partition.log_start_offset


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(0, 12), st.integers(0, 4))
def test_repeating_after_a_failover_gives_the_original_offset(counts: list[int], replicated: int, uncommitted: int) -> None:
    """The old leader committed some batches and replicated some more; the new one has at least the committed ones."""
    old = Replica()
    old.lead(1)
    sequence = 0
    sent: list[tuple[int, int, int]] = []  # sequence, count, offset
    for number, count in enumerate(counts):
        answers = old.append(idempotent(sequence, count))
        old.collect()
        sent.append((sequence, count, sequence))
        sequence += count
        if number < len(counts) - uncommitted:
            old.commit()
            assert answers[0].base_offset == sent[-1][2]
    new = Replica()
    committed_index = old.group.applied_index
    new.follow(old.group.log.all[: max(committed_index, min(1 + replicated, old.group.log.last_index))])
    new.lead(3)
    for first, count, offset in sent[-5:]:
        answer = new.produce(idempotent(first, count))
        assert (answer.error, answer.base_offset) == (ErrorCode.NONE, offset)
    assert new.partition.high_watermark == sequence
