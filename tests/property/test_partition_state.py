"""The partition's state is a pure function of the log; producers keep their promises across failover."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.api import AppendResult
from broker.errors import ErrorCode
from broker.partition.state import ExpireProducers, LogStart, encode_command
from broker.partition.transactions import AbortedIndex, TransactionIndex
from broker.records.batch import MAX_SEQUENCE, TRANSACTIONAL_BIT, stored_batches
from broker.records.builder import build_batch
from broker.records.control import Marker
from broker.records.reader import Record, read_batches
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
    st.tuples(st.just("transaction"), st.integers(4, 6), st.integers(1, 3)),
    st.tuples(st.just("marker"), st.integers(4, 6), st.integers(0, 3)),
    st.tuples(st.just("election"), st.just(0), st.just(0)),
)


def run(steps: list[tuple[str, int, int]], first_sequence: int) -> Replica:
    """A leader that has gone through `steps`, everything committed."""
    replica = Replica()
    replica.verify = lambda question, done: done(ErrorCode.NONE, "")
    replica.partition = replica.make_partition()
    replica.lead(1)
    sequences = dict.fromkeys(range(1, 7), first_sequence)
    epochs = dict.fromkeys(range(1, 7), 0)
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
        elif kind == "transaction":
            made = build_batch([Record(0, 5, b"k", b"v")] * second, producer=(first, epochs[first], sequences[first]), attributes=TRANSACTIONAL_BIT)
            answers: list[AppendResult] = []
            replica.partition.append_transactional(memoryview(made), -1, "tx", True, answers.append)
            replica.collect()
            replica.commit()
            assert answers[0].error is ErrorCode.NONE
            sequences[first] = (sequences[first] + second) & MAX_SEQUENCE
        elif kind == "marker":
            epochs[first] += second & 1  # with and without the epoch bump of KIP-890
            replica.partition.append_marker(Marker(first, epochs[first], term, second >= 2), lambda result: None)
            replica.collect()
            replica.commit()
            if not replica.partition.producers.applied[first].batches:
                sequences[first] = 0  # a new epoch, or one of which only the marker is known
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
    assert all(len(p.batches) <= 5 for p in restored.partition.producers.applied.values())
    table = restored.partition.producers
    assert table.transactions.open == {name: p.first_offset for name, p in table.applied.items() if p.first_offset >= 0}
    assert restored.partition.last_stable_offset == leader.partition.last_stable_offset


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


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["write", "commit", "abort", "delete"])), max_size=40),
    st.integers(0, 45),
    st.integers(0, 45),
)
def test_the_index_of_aborted_transactions_equals_a_naive_one(steps: list[tuple[int, str]], start: int, size: int) -> None:
    index = TransactionIndex()
    naive: list[tuple[int, int, int]] = []
    opened: dict[int, int] = {}
    log_start = 0
    for offset, (producer_id, what) in enumerate(steps):
        if what == "write" and producer_id not in opened:
            opened[producer_id] = offset
            index.opened(producer_id, offset)
        elif what in ("commit", "abort"):
            first = opened.pop(producer_id, None)
            index.ended(producer_id, offset, what == "commit")
            if first is not None and what == "abort":
                naive.append((producer_id, first, offset))
        elif what == "delete":
            log_start = max(log_start, offset // 2)
            index.aborted.trim(log_start)
        if offset % 7 == 0:
            index.aborted = AbortedIndex.decode(index.aborted.encode())
    end = start + size
    assert index.first_unstable_offset == min(opened.values(), default=index.first_unstable_offset)
    expected = sorted((p, first) for p, first, last in naive if last >= max(start, log_start) and first < end)
    stable = min(index.first_unstable_offset, len(steps))
    if end <= stable:
        found = index.aborted.overlapping(max(start, log_start), end)
        assert sorted(found) == expected and found == sorted(found, key=lambda item: item[1])
