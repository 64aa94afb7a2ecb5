"""What the members of a group did, in one order, and what must be true of it: nothing lost, nothing twice, no two owners, no commit going back.

A member *owns* a partition from its assignment to its revocation; what it is given in that time is one run of offsets. A run may begin between
the largest commit that was acknowledged before the assignment and the largest that was attempted before the first record: what was acknowledged is
never given again, and nothing is jumped over that nobody committed. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Row(NamedTuple):
    partition: int
    offset: int
    value: bytes
    timestamp_ms: int


@dataclass(slots=True)
class Run:
    """One member's ownership of one partition. Invariant: `last` is the last offset it was given; `acked` was acknowledged before it began."""

    member: str
    partition: int
    acked: int
    first: int = -1
    last: int = -1
    sought: bool = False


@dataclass(slots=True)
class Journal:
    """`dense`: every offset of the topic is a record (no transaction markers, nothing aborted)."""

    dense: bool = True
    problems: list[str] = field(default_factory=list)
    given: dict[tuple[int, int], bytes] = field(default_factory=dict)
    given_twice: int = 0
    deliveries: int = 0
    revoked: dict[str, list[frozenset[int]]] = field(default_factory=dict)
    _owned: dict[int, Run] = field(default_factory=dict)
    _acked: dict[int, int] = field(default_factory=dict)
    _attempted: dict[int, int] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def member(self, name: str) -> Member:
        return Member(self, name)

    def owned(self) -> dict[str, set[int]]:
        with self._lock:
            found: dict[str, set[int]] = {}
            for run in self._owned.values():
                found.setdefault(run.member, set()).add(run.partition)
            return found

    def acked(self) -> dict[int, int]:
        """The largest offset of each partition whose commit was acknowledged."""
        with self._lock:
            return dict(self._acked)

    def attempted(self) -> dict[int, int]:
        with self._lock:
            return dict(self._attempted)

    # -- events, told by members ----------------------------------------------------------------------------------

    def on_assigned(self, member: str, partitions: Iterable[int]) -> None:
        with self._lock:
            for partition in partitions:
                other = self._owned.get(partition)
                if other is not None and other.member != member:
                    self.problems.append(f"partition {partition} is assigned to {member} while {other.member} owns it")
                self._owned[partition] = Run(member, partition, self._acked.get(partition, 0))

    def on_revoked(self, member: str, partitions: Iterable[int]) -> None:
        with self._lock:
            gone = frozenset(partitions)
            self.revoked.setdefault(member, []).append(gone)
            for partition in gone:
                run = self._owned.get(partition)
                if run is not None and run.member == member:
                    del self._owned[partition]

    def on_given(self, member: str, rows: Iterable[Row]) -> None:
        with self._lock:
            for row in rows:
                self.deliveries += 1
                run = self._owned.get(row.partition)
                if run is None or run.member != member:
                    self.problems.append(f"{member} is given {row.partition}/{row.offset} and does not own the partition")
                    continue
                self._follow(run, row)
                before = self.given.get((row.partition, row.offset))
                self.given[row.partition, row.offset] = row.value
                if before is not None:
                    self.given_twice += 1
                    if before != row.value:
                        self.problems.append(f"{row.partition}/{row.offset} is {row.value!r}, and was {before!r}")

    def _follow(self, run: Run, row: Row) -> None:
        where = f"{run.member} is given {row.partition}/{row.offset}"
        if run.last < 0:
            run.first = row.offset
            upper = self._attempted.get(row.partition, 0)
            if row.offset < run.acked:
                self.problems.append(f"{where} first, but {run.acked} was committed before: twice")
            elif self.dense and row.offset > upper and not run.sought:
                self.problems.append(f"{where} first, but nobody committed beyond {upper}: lost")
        elif not run.sought and (row.offset <= run.last or (self.dense and row.offset != run.last + 1)):
            self.problems.append(f"{where} after {run.last}")
        run.last = row.offset
        run.sought = False

    def on_sought(self, member: str, partition: int) -> None:
        """The program moved its own position: the next record may be any."""
        with self._lock:
            run = self._owned.get(partition)
            if run is not None and run.member == member:
                run.sought = True

    def on_attempted(self, offsets: Mapping[int, int]) -> None:
        with self._lock:
            for partition, offset in offsets.items():
                self._attempted[partition] = max(offset, self._attempted.get(partition, 0))

    def on_acked(self, offsets: Mapping[int, int]) -> None:
        with self._lock:
            for partition, offset in offsets.items():
                self._acked[partition] = max(offset, self._acked.get(partition, 0))

    # -- at the end -----------------------------------------------------------------------------------------------

    def check_complete(self, produced: Mapping[int, int], value: Callable[[int, int], bytes]) -> None:
        """Every record was given, and is what was sent: `produced` records per partition, `value(partition, offset)` each."""
        for partition, count in produced.items():
            missing = [offset for offset in range(count) if (partition, offset) not in self.given]
            if missing:
                self.problems.append(f"lost: {len(missing)} of {count} records of partition {partition}, from {missing[0]}")
        for (partition, offset), found in self.given.items():
            if found != value(partition, offset):
                self.problems.append(f"{partition}/{offset} is {found!r}, sent was {value(partition, offset)!r}")

    def check_commits(self, committed: Mapping[int, int]) -> None:
        """What the coordinator tells at the end is what was acknowledged last, or attempted after that."""
        for partition, offset in committed.items():
            low, high = self._acked.get(partition, 0), self._attempted.get(partition, 0)
            if not low <= max(0, offset) <= max(low, high):
                self.problems.append(f"partition {partition}: committed is {offset}, acknowledged was {low}, attempted {high}")


class Member:
    """One member's way into the journal."""

    __slots__ = ("journal", "name")

    def __init__(self, journal: Journal, name: str) -> None:
        self.journal, self.name = journal, name

    def assigned(self, partitions: Iterable[int]) -> None:
        self.journal.on_assigned(self.name, partitions)

    def revoked(self, partitions: Iterable[int]) -> None:
        self.journal.on_revoked(self.name, partitions)

    def given(self, rows: Iterable[Row]) -> None:
        self.journal.on_given(self.name, rows)

    def sought(self, partition: int) -> None:
        self.journal.on_sought(self.name, partition)

    def attempted(self, offsets: Mapping[int, int]) -> None:
        self.journal.on_attempted(offsets)

    def acked(self, offsets: Mapping[int, int]) -> None:
        self.journal.on_acked(offsets)


def next_offsets(rows: Iterable[Row]) -> dict[int, int]:
    """What to commit when `rows` are done."""
    return {row.partition: row.offset + 1 for row in rows}


def check_exactly_once(found: Mapping[int, list[bytes]], expected: Mapping[int, list[bytes]]) -> list[str]:
    """Per partition the same values in the same order: nothing lost, nothing twice, nothing that was never to be seen."""
    problems = []
    for partition, wanted in expected.items():
        values = found.get(partition, [])
        if values == wanted:
            continue
        seen = set(values)
        if len(seen) != len(values):
            problems.append(f"partition {partition}: {len(values) - len(seen)} values twice")
        if missing := [value for value in wanted if value not in seen]:
            problems.append(f"partition {partition}: {len(missing)} values lost, the first {missing[0]!r}")
        if strange := seen.difference(wanted):
            problems.append(f"partition {partition}: {len(strange)} values that must not be seen, one is {min(strange)!r}")
        if not problems:
            problems.append(f"partition {partition}: out of order")
    return problems
