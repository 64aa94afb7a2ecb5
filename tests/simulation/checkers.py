"""What clients of the coordinators saw, and what must hold of it, as small named classes. They know no cluster: each can be fed by hand."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, NoReturn

from tests.simulation.invariants import Broken

Place = tuple[str, int]
"""(topic, partition)"""


class Checker:
    """Raises Broken with its own name."""

    def fail(self, text: str) -> NoReturn:
        raise Broken(f"{type(self).__name__}: {text}")


class Fate(Enum):
    """What a client knows of its transaction. ABORTED: it never asked for the commit, or was told that there was none."""

    OPEN = auto()
    ASKED = auto()
    COMMITTED = auto()
    ABORTED = auto()


@dataclass
class History:
    """One transaction: its parts by number, and who wrote them."""

    name: str
    fate: Fate = Fate.OPEN
    parts: dict[int, bytes] = field(default_factory=dict)


class Seen(NamedTuple):
    """A record that a read_committed consumer was given."""

    place: Place
    offset: int
    name: str
    part: int
    payload: bytes


def pack(name: str, part: int, payload: bytes) -> bytes:
    return b"%s|%d|%s" % (name.encode(), part, payload)


def unpack(place: Place, offset: int, value: bytes) -> Seen:
    name, part, payload = value.split(b"|", 2)
    return Seen(place, offset, name.decode(), int(part), payload)


class ReadCommitted(Checker):
    """A read_committed consumer never sees a record of a transaction that was not yet asked to commit, or was aborted, or was never sent."""

    def __init__(self) -> None:
        self.transactions: dict[str, History] = {}

    def begin(self, name: str) -> History:
        return self.transactions.setdefault(name, History(name))

    def see(self, seen: Seen) -> None:
        known = self.transactions.get(seen.name)
        if known is None or known.parts.get(seen.part) != seen.payload:
            self.fail(f"{seen} was never sent")
        if known.fate in (Fate.OPEN, Fate.ABORTED):
            self.fail(f"{seen} is visible, its transaction is {known.fate.name}")


class WholeTransactions(Checker):
    """At the end: of every committed transaction each record is there once, of an aborted one none, of one that nobody knows all or none."""

    def check(self, transactions: Mapping[str, History], seen: Iterable[Seen]) -> None:
        found: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for one in seen:
            found[one.name][one.part] += 1
        for name, parts in found.items():
            known = transactions.get(name)
            if known is None:
                self.fail(f"{name} was never begun")
            twice = [part for part, count in parts.items() if count > 1]
            if twice:
                self.fail(f"{name}: parts {twice} are there twice")
            if known.fate in (Fate.OPEN, Fate.ABORTED):
                self.fail(f"{name} is {known.fate.name}, but {sorted(parts)} are visible")
            if parts.keys() != known.parts.keys():
                self.fail(f"{name} is torn: {sorted(parts)} of {sorted(known.parts)}")
        for name, known in transactions.items():
            if known.fate is Fate.COMMITTED and known.parts and name not in found:
                self.fail(f"{name} was committed and is lost")


class MoneyKept(Checker):
    """Whatever happened, the accounts together hold what they held: every visible transfer moves as much out as in."""

    def check(self, amounts: Iterable[int]) -> None:
        total = sum(amounts)
        if total:
            self.fail(f"the accounts hold {total} more than before")


class StableOffsets(Checker):
    """What consumers are told of a partition: the last stable offset never goes back and is at most the high watermark; below it, nothing changes."""

    def __init__(self) -> None:
        self.last: dict[Place, int] = {}
        self.shown: defaultdict[Place, dict[int, bytes | None]] = defaultdict(dict)  # offset -> value, None for what is not shown

    def told(self, place: Place, floor: int, stable: int, high_watermark: int) -> None:
        """`floor`: the highest that anybody had been told when the question was asked."""
        if stable > high_watermark:
            self.fail(f"{place}: last stable offset {stable} above high watermark {high_watermark}")
        if stable < floor:
            self.fail(f"{place}: last stable offset went back from {floor} to {stable}")
        self.last[place] = max(self.last.get(place, 0), stable)

    def see(self, place: Place, offset: int, value: bytes | None) -> None:
        found = self.shown[place].setdefault(offset, value)
        if found != value:
            self.fail(f"{place} offset {offset} was read as {found!r}, now as {value!r}")


class ExactlyOnce(Checker):
    """Consume-transform-produce: below the committed offset each input has exactly one output, behind it none has any."""

    def check(self, place: Place, inputs: Sequence[bytes], committed: int, outputs: Mapping[int, int]) -> None:
        """`outputs`: input offset → how many visible outputs it has."""
        for offset in range(committed):
            count = outputs.get(offset, 0)
            if count != 1:
                self.fail(f"{place} offset {offset}: {count} outputs, {committed} are committed")
        beyond = sorted(offset for offset in outputs if offset >= committed)
        if beyond:
            self.fail(f"{place}: outputs of {beyond[:5]}, but only {committed} are committed")
        if committed > len(inputs):
            self.fail(f"{place}: {committed} are committed, there are {len(inputs)}")


class OneOwner(Checker):
    """No two members of a generation own the same partition."""

    def __init__(self) -> None:
        self.owners: dict[tuple[str, int, Place], str] = {}

    def owns(self, group: str, generation: int, member: str, places: Iterable[Place]) -> None:
        for place in places:
            owner = self.owners.setdefault((group, generation, place), member)
            if owner != member:
                self.fail(f"{group} generation {generation}: {place} is owned by {owner} and by {member}")


class NoOldGeneration(Checker):
    """A commit is refused when its generation is over: when a member of a later one has its assignment."""

    def __init__(self) -> None:
        self.newest: defaultdict[str, int] = defaultdict(int)

    def assigned(self, group: str, generation: int) -> None:
        self.newest[group] = max(self.newest[group], generation)

    def accepted(self, group: str, generation: int, newest: int) -> None:
        """`newest`: when the commit reached the coordinator."""
        if generation < newest:
            self.fail(f"{group}: a commit of generation {generation} was accepted in generation {newest}")


class GroupOffsets(Checker):
    """Offsets of a group, whose members always commit more than before, never go back, and what was acknowledged is told from then on."""

    def __init__(self) -> None:
        self.acknowledged: defaultdict[tuple[str, Place], int] = defaultdict(lambda: -1)
        self.told: defaultdict[tuple[str, Place], int] = defaultdict(lambda: -1)

    def floor(self, group: str, place: Place) -> int:
        """What an answer to a question that is asked now must reach."""
        return max(self.acknowledged[group, place], self.told[group, place])

    def acknowledge(self, group: str, place: Place, offset: int) -> None:
        self.acknowledged[group, place] = max(self.acknowledged[group, place], offset)

    def fetched(self, group: str, place: Place, offset: int, floor: int) -> None:
        if offset < floor:
            self.fail(f"{group} {place}: offset {offset} was told after {floor}")
        self.told[group, place] = max(self.told[group, place], offset)


class Fencing(Checker):
    """Once a producer has its epoch, nothing that an older one of the same transactional id begins is accepted."""

    def __init__(self) -> None:
        self.newest: dict[str, tuple[int, int]] = {}

    def given(self, transactional_id: str, producer: tuple[int, int]) -> None:
        """InitProducerId was answered."""
        self.newest[transactional_id] = max(producer, self.newest.get(transactional_id, (-1, -1)))

    def is_over(self, transactional_id: str, producer: tuple[int, int]) -> bool:
        """Whether what `producer` begins now must be refused."""
        return producer < self.newest.get(transactional_id, (-1, -1))

    def accepted(self, transactional_id: str, producer: tuple[int, int], what: str) -> None:
        self.fail(f"{transactional_id}: {what} of {producer} was accepted, {self.newest[transactional_id]} had been given before it was begun")
