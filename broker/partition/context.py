"""What a partition is given from outside, and the watermarks that its parts share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from broker.partition.observer import Observe
from broker.partition.read_cache import ReadCache
from broker.partition.verification import Verify
from broker.records.reader import DEFAULT_MAX_DECOMPRESSED_BYTES
from raft.api import Clock


def _ignore(delta: int) -> None:
    """Nobody counts."""


class PartitionContext(NamedTuple):
    """The node's services. `wall_time_ms` is for timestamps that clients see only; everything else uses `clock`.

    `pending_bytes_changed(delta)` lets the node count what waits to be proposed over all partitions, so that connections can stop reading;
    `max_pending_bytes` is this partition's own last line. `node_id` = our broker id, to tell "I lead but do not serve yet" from "another leads".
    `read_cache` is shared by all partitions of the node; None = every fetch of old records reads its entry from disk. `observe` gives internal topics
    their coordinators. `verify` asks the coordinator of a transaction whether a partition belongs to it; None = no transaction is accepted.
    """

    clock: Clock
    wall_time_ms: Callable[[], int]
    disk_full: Callable[[], bool]
    pending_bytes_changed: Callable[[int], None] = _ignore
    node_id: int = -1
    max_pending_bytes: int = 128 * 1024 * 1024
    max_decompressed_bytes: int = DEFAULT_MAX_DECOMPRESSED_BYTES
    read_cache: ReadCache | None = None
    observe: Observe | None = None
    verify: Verify | None = None


class Watermarks:
    """Invariant: log_start_offset ≤ high_watermark; both only go up. Changed by `Partition.apply`, `restore` and `install` alone."""

    __slots__ = ("high_watermark", "log_start_offset")

    def __init__(self) -> None:
        self.high_watermark = 0
        self.log_start_offset = 0
