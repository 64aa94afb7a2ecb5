"""What the programs need of a client library: readers that are members of a group, and transactional writers. One adapter per library.

A reader is used by one thread. It tells its member of the journal what happens: assignments, records, commits that were tried and acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tests.integration.programs.journal import Member, Row

SESSION_TIMEOUT_MS = 12_000
HEARTBEAT_MS = 300
TRANSACTION_TIMEOUT_MS = 20_000
STUCK_SECONDS = 4.0
PATIENCE_SECONDS = 60.0
"""How long one step may be repeated for a retriable error before the program fails."""


class FencedError(Exception):
    """Another member or producer with the same name has taken over."""


class StuckError(Exception):
    """The producer does not come to an end with a step: whether it was done is unknown, and only a new producer of the same name can go on."""


class AbortableError(Exception):
    """The transaction can only be aborted."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a member reads. `strategy`: range, roundrobin or cooperative-sticky; `instance`: a static member."""

    topic: str
    group: str
    strategy: str = "range"
    instance: str | None = None
    read_committed: bool = False


@dataclass(frozen=True, slots=True)
class Traits:
    """What differs between libraries in what they promise."""

    fences_members: bool = True
    """A static member that was replaced is told so."""
    generation_in_transactions: bool = True
    """TxnOffsetCommit carries member and generation (KIP-447), so that several members may copy exactly once."""


class Reader(Protocol):
    def poll(self, seconds: float) -> list[Row]:
        """What comes next, told to the member."""

    def step(self) -> int:
        """Poll, then commit what came and wait for the answer; how many records came. Raises FencedError."""

    def commit(self, offsets: Mapping[int, int]) -> bool:
        """True when acknowledged, False when this member's generation is over. Retriable errors are retried."""

    def committed(self) -> dict[int, int]:
        """Of all partitions of the topic; 0 where nothing is committed."""

    def seek(self, partition: int, offset: int) -> None: ...

    def offsets_for_time(self, timestamp_ms: int) -> dict[int, int | None]:
        """Of the partitions it owns: the first offset whose timestamp is not less; None when there is none."""

    def rewind(self) -> None:
        """Back to what is committed."""

    def close(self) -> None: ...


class Writer(Protocol):
    """A transactional producer. Every method raises AbortableError, FencedError or StuckError; `close` gives up whatever is under way."""

    def begin(self) -> None: ...

    def send(self, topic: str, values: Sequence[tuple[int, bytes]]) -> None:
        """`values` with their partitions, in this order."""

    def flush(self) -> None: ...

    def send_offsets(self, reader: Reader, offsets: Mapping[int, int]) -> None: ...

    def commit(self) -> None: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


class Library(Protocol):
    name: str
    lacks: Mapping[str, str]
    """Capabilities that the library does not have, with the reason; `check_lacks` proves it."""
    traits: Traits

    def check_lacks(self) -> None:
        """AssertionError when something of `lacks` is there after all."""

    def reader(self, bootstrap: str, reading: Reading, member: Member) -> Reader: ...

    def writer(self, bootstrap: str, transactional_id: str) -> Writer: ...
