"""Who looks on as a partition applies its log: the coordinators of the internal topics.

An observer's state is, like the partition's own, a function of the log, and is kept with the partition's state in checkpoints and snapshots. Layout
of the whole when there is an observer: C1 (a byte that msgpack never uses), length of the partition's state as u32 big endian, that, the observer's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from wal.entry import Buffer
from wal.errors import DamageError

_MARK = b"\xc1"
_PREFIX_BYTES = 5


class Observer(Protocol):
    """One for each replica of an observed partition. Called on the loop thread; must not block."""

    def attach(self, log: Any) -> None:
        """The partition itself, before anything else."""

    def on_data(self, chunks: Sequence[Buffer]) -> None:
        """The payload of one committed data entry, in the order of the log, each once since `restore`."""

    def on_leadership(self, leading: bool) -> None:
        """True: everything before is applied, appends are possible. False: before anybody who waits for an append is told."""

    def capture(self) -> bytes: ...

    def restore(self, data: bytes) -> None:
        """Replace the state; b"" is the empty one."""


Observe = Callable[[str, int], Observer | None]
"""(topic, partition) -> its observer, None for an ordinary partition."""


def join_state(partition: bytes, observer: bytes) -> bytes:
    return b"".join((_MARK, len(partition).to_bytes(4, "big"), partition, observer))


def split_state(data: bytes) -> tuple[bytes, bytes]:
    """(the partition's, the observer's). Raises DamageError."""
    if data[:1] != _MARK:
        return data, b""
    end = _PREFIX_BYTES + int.from_bytes(data[1:_PREFIX_BYTES], "big")
    if len(data) < _PREFIX_BYTES or end > len(data):
        raise DamageError(f"state of a partition with its observer is cut off: {len(data)} bytes")
    return data[_PREFIX_BYTES:end], data[end:]
