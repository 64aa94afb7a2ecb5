"""Each checker of the coordinators' workload flags a history that was made bad by hand, and takes the good one beside it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from broker.api import ReadResult
from broker.coordinator.transactions.state import Transaction, TransactionState
from broker.errors import ErrorCode
from broker.records.batch import TRANSACTIONAL_BIT, prepared_batches, stamp
from broker.records.builder import build_batch
from broker.records.control import Marker, marker_batch
from broker.records.reader import Record
from tests.simulation.checkers import (
    ExactlyOnce,
    Fate,
    Fencing,
    GroupOffsets,
    History,
    MoneyKept,
    NoOldGeneration,
    OneOwner,
    Place,
    ReadCommitted,
    Seen,
    StableOffsets,
    WholeTransactions,
    pack,
    unpack,
)
from tests.simulation.coordinating import shown
from tests.simulation.coordinator_invariants import CoordinatorStatesEqual, GroupOffsetsMonotonic, StableOffsetMonotonic, TransactionSteps
from tests.simulation.invariants import Broken
from wal.entry import GroupId

HERE: Place = ("accounts", 0)
THERE: Place = ("accounts", 1)
GROUP: Any = SimpleNamespace(group_id=GroupId(b"g" * 20), name="accounts-0")
KEY = (1, 1, GROUP.group_id)


def flagged(name: str, run: Callable[[], object]) -> None:
    with pytest.raises(Broken, match=f"^{name}: "):
        run()


def transaction(fate: Fate, parts: int = 2) -> dict[str, History]:
    return {"t": History("t", fate, dict.fromkeys(range(parts), b"1"))}


def seen(*parts: int, name: str = "t") -> list[Seen]:
    return [Seen(HERE, 10 + place, name, part, b"1") for place, part in enumerate(parts)]


def test_torn_transaction() -> None:
    check = WholeTransactions().check
    check(transaction(Fate.COMMITTED), seen(0, 1))
    flagged("WholeTransactions", lambda: check(transaction(Fate.COMMITTED), seen(0)))
    flagged("WholeTransactions", lambda: check(transaction(Fate.ASKED), seen(1)))


def test_lost_or_doubled_transaction() -> None:
    check = WholeTransactions().check
    check(transaction(Fate.ASKED), [])
    flagged("WholeTransactions", lambda: check(transaction(Fate.COMMITTED), []))
    flagged("WholeTransactions", lambda: check(transaction(Fate.COMMITTED), seen(0, 1, 1)))


def test_aborted_record_at_the_end() -> None:
    check = WholeTransactions().check
    check(transaction(Fate.ABORTED), [])
    flagged("WholeTransactions", lambda: check(transaction(Fate.ABORTED), seen(0, 1)))
    flagged("WholeTransactions", lambda: check(transaction(Fate.OPEN), seen(0, 1)))
    flagged("WholeTransactions", lambda: check({}, seen(0)))


def test_read_before_the_commit_and_of_an_aborted_record() -> None:
    checker = ReadCommitted()
    known = checker.begin("t")
    known.parts[0] = b"5"
    record = unpack(HERE, 3, pack("t", 0, b"5"))
    flagged("ReadCommitted", lambda: checker.see(record))
    known.fate = Fate.ASKED
    checker.see(record)
    known.fate = Fate.ABORTED
    flagged("ReadCommitted", lambda: checker.see(record))
    known.fate = Fate.COMMITTED
    flagged("ReadCommitted", lambda: checker.see(record._replace(payload=b"6")))
    flagged("ReadCommitted", lambda: checker.see(record._replace(name="nobody's")))


def test_money() -> None:
    MoneyKept().check([5, 0, -5])
    flagged("MoneyKept", lambda: MoneyKept().check([5, 0]))


def test_stable_offsets() -> None:
    checker = StableOffsets()
    checker.told(HERE, 0, 5, 7)
    checker.told(THERE, 0, 0, 0)
    flagged("StableOffsets", lambda: checker.told(HERE, 5, 4, 7))
    flagged("StableOffsets", lambda: checker.told(HERE, 5, 8, 7))
    checker.see(HERE, 1, b"a")
    checker.see(HERE, 1, b"a")
    flagged("StableOffsets", lambda: checker.see(HERE, 1, None))


def test_consume_transform_produce() -> None:
    inputs = [b"a", b"b", b"c"]
    check = ExactlyOnce().check
    check(HERE, inputs, 2, {0: 1, 1: 1})
    flagged("ExactlyOnce", lambda: check(HERE, inputs, 2, {0: 1}))
    flagged("ExactlyOnce", lambda: check(HERE, inputs, 2, {0: 1, 1: 2}))
    flagged("ExactlyOnce", lambda: check(HERE, inputs, 2, {0: 1, 1: 1, 2: 1}))
    flagged("ExactlyOnce", lambda: check(HERE, [], 1, {0: 1}))


def test_two_owners() -> None:
    checker = OneOwner()
    checker.owns("g", 1, "a", [HERE])
    checker.owns("g", 1, "a", [HERE])
    checker.owns("g", 2, "b", [HERE])
    checker.owns("g", 1, "b", [THERE])
    flagged("OneOwner", lambda: checker.owns("g", 2, "a", [HERE]))


def test_commit_of_an_old_generation() -> None:
    checker = NoOldGeneration()
    checker.assigned("g", 3)
    checker.accepted("g", 3, checker.newest["g"])
    flagged("NoOldGeneration", lambda: checker.accepted("g", 2, checker.newest["g"]))


def test_group_offset_that_goes_back() -> None:
    checker = GroupOffsets()
    before = checker.floor("g", HERE)
    checker.acknowledge("g", HERE, 5)
    checker.fetched("g", HERE, 4, before)  # asked before the answer
    flagged("GroupOffsets", lambda: checker.fetched("g", HERE, 4, checker.floor("g", HERE)))
    checker.fetched("g", HERE, 9, checker.floor("g", HERE))
    flagged("GroupOffsets", lambda: checker.fetched("g", HERE, 5, checker.floor("g", HERE)))


def test_zombie() -> None:
    checker = Fencing()
    checker.given("t", (7, 1))
    assert not checker.is_over("t", (7, 1))
    checker.given("t", (7, 2))
    checker.given("t", (7, 1))  # a late answer
    assert checker.is_over("t", (7, 1))
    assert not checker.is_over("t", (8, 0))
    flagged("Fencing", lambda: checker.accepted("t", (7, 1), "EndTxn"))


CLUSTER: Any = SimpleNamespace(topics={})


def test_coordinator_states_differ() -> None:
    invariant = CoordinatorStatesEqual(CLUSTER)
    invariant.see(GROUP, 4, b"state")
    invariant.see(GROUP, 4, b"state")
    invariant.see(GROUP, 5, b"other")
    flagged("CoordinatorStatesEqual", lambda: invariant.see(GROUP, 5, b"another"))


def test_last_stable_offset_of_a_replica() -> None:
    invariant = StableOffsetMonotonic(CLUSTER)
    invariant.see(GROUP, KEY, 3, 5)
    flagged("StableOffsetMonotonic", lambda: invariant.see(GROUP, KEY, 6, 5))
    flagged("StableOffsetMonotonic", lambda: invariant.see(GROUP, KEY, 2, 5))
    invariant.see(GROUP, (1, 2, GROUP.group_id), 2, 5)  # the next process may know less


def test_steps_of_a_transaction() -> None:
    invariant = TransactionSteps(CLUSTER)
    decided = Transaction("t", 7, 3, TransactionState.PREPARE_COMMIT, 1000, frozenset([HERE]), client_version=2)
    invariant.see(GROUP, KEY, [decided._replace(state=TransactionState.ONGOING, epoch=2)])
    invariant.see(GROUP, KEY, [decided])
    flagged("TransactionSteps", lambda: invariant.see(GROUP, KEY, [decided._replace(epoch=2)]))
    flagged("TransactionSteps", lambda: invariant.see(GROUP, KEY, [decided._replace(state=TransactionState.PREPARE_ABORT)]))
    flagged("TransactionSteps", lambda: invariant.see(GROUP, (2, 1, GROUP.group_id), [decided._replace(partitions=frozenset([HERE, THERE]))]))


def test_group_state_that_goes_back() -> None:
    invariant = GroupOffsetsMonotonic(CLUSTER)
    invariant.see(GROUP, KEY, {"g": 2, ("g", *HERE): 7})
    invariant.see(GROUP, KEY, {"g": 2, ("g", *HERE): 8})
    flagged("GroupOffsetsMonotonic", lambda: invariant.see(GROUP, KEY, {"g": 2, ("g", *HERE): 7}))
    flagged("GroupOffsetsMonotonic", lambda: invariant.see(GROUP, KEY, {("g", *HERE): 9}))


def test_what_a_reader_is_shown() -> None:
    """An aborted and a committed transaction of two producers, interleaved; markers are never shown."""
    data = bytearray()

    def add(batch: bytearray, offset: int) -> None:
        view = memoryview(batch)
        stamp(view, list(prepared_batches(view)), offset, 1)
        data.extend(batch)

    for offset, producer in enumerate((1, 2)):
        add(build_batch([Record(0, 0, None, b"%d" % producer)], producer=(producer, 0, 0), attributes=TRANSACTIONAL_BIT), offset)
    add(marker_batch(Marker(1, 0, 1, False), 0), 2)
    add(build_batch([Record(0, 0, None, b"3")], producer=(1, 0, 1), attributes=TRANSACTIONAL_BIT), 3)
    add(marker_batch(Marker(2, 0, 1, True), 0), 4)
    add(marker_batch(Marker(1, 0, 1, True), 0), 5)
    result = ReadResult(ErrorCode.NONE, [bytes(data)], len(data), 6, 6, 0, [(1, 0)])
    assert shown(result) == [(0, None), (1, b"2"), (2, None), (3, b"3"), (4, None), (5, None)]
