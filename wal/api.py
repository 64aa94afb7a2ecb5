"""What the layers above see of the write-ahead log. `wal.store.WalStore` and `wal.group_log.GroupLog` fulfil these protocols.

Thread rules: everything here is called on the loop thread and only touches memory, except `Job.run` and `ReadJob.run`, which block and are
called on a disk thread. A job's `complete` is called on the loop thread after `run` returned. At most one flush job and one background job are out
at a time. A job whose `run` raises is fatal for the process (a failed fsync is never retried) unless the error is `DiskFullError` from a background
job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from wal.entry import Buffer, Entry, GroupId


class HardState(NamedTuple):
    """What Raft must never forget. `vote` is a replica id, 0 for none."""

    term: int
    vote: int


class Job(Protocol):
    """A piece of blocking disk work."""

    size_bytes: int

    def run(self) -> None: ...

    def complete(self) -> None: ...


class Flush(Job, Protocol):
    """A job that another than a thread of ours may do."""

    def place(self) -> tuple[int, Buffer, int] | None:
        """(descriptor, bytes, position) that the kernel may be told to write durably instead of `run`; None when it takes a thread."""

    def ended(self, result: int) -> None:
        """The kernel's answer: bytes, or a negative error number. FlushError unless everything is durable."""


class ReadJob(Protocol):
    """A read from segments. After `run`, `entries` holds consecutive entries (at least one, then up to the asked bytes); nothing if trimmed.

    `run` raises DamageError when the bytes are not what was written: the caller quarantines the group.
    """

    entries: list[Entry]

    def run(self) -> None: ...


class AppliedState(NamedTuple):
    """What a state machine wants to find again after a restart: everything up to `index`, as opaque bytes. It is kept with the checkpoint."""

    index: int  # type: ignore[assignment]
    data: bytes


class GroupLog(Protocol):
    """One group's log. first_index ≤ index ≤ last_index are readable; flushed_index ≤ last_index; committed_index ≤ last_index.

    An empty log has last_index == first_index - 1 (first_index is 1 for a new group, snapshot index + 1 after a snapshot).
    """

    group_id: GroupId
    topic: str
    partition: int
    first_index: int
    last_index: int
    last_term: int
    flushed_index: int  # durable here, and not truncated since
    committed_index: int  # told by advance_commit; entries up to it may be written behind
    next_offset: int  # log end offset, entries that are not flushed included
    start_offset: int  # first offset that exists
    hard_state: HardState  # as last saved, staged or flushed
    quarantined: str  # why, "" when healthy
    configurations: list[tuple[int, bytes]]  # (index, payload) of CONFIGURATION entries and the initial one (index 0 or the snapshot's), ascending
    applied_state: AppliedState | None  # as recovered at open
    size_bytes: int  # of the log on disk, what is not in segments yet included
    capture_state: Callable[[], AppliedState | None] | None  # set by the state machine; called on the loop thread for a checkpoint

    def controls_staged(self) -> bool:
        """Whether anything but entries (a truncation, a snapshot, …) still waits for a flush. Hard states never do: each flush takes them all."""

    def term(self, index: int) -> int | None:
        """Term of `index` in [first_index - 1, last_index]; None outside. Never reads the disk."""

    def term_runs(self) -> Sequence[tuple[int, int, int]]:
        """All (term, first index, first offset) of the log, ascending: serves OffsetForLeaderEpoch."""

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries behind last_index (indexes must be consecutive); staged for the next flush, readable at once."""

    def truncate_suffix(self, index: int) -> None:
        """Remove entries ≥ index. Raises InvariantError at or below committed_index."""

    def truncate_prefix(self, index: int, offset: int) -> None:
        """Entries < index, records < offset are no longer needed (staged as a log_start frame; segments go away behind it)."""

    def install_snapshot(self, index: int, term: int, next_offset: int, configuration: bytes) -> None:
        """Forget the whole log; it goes on behind `index` (staged as snapshot_installed). Index 0 empties the log, for a refill from the first
        entry on."""

    def save_hard_state(self, term: int, vote: int) -> None: ...

    def advance_commit(self, index: int) -> None: ...

    def quarantine(self, reason: str) -> None:
        """Durable from the next flush on. Reason "" lifts it, once the replica is refilled. A reason that recovery found itself begins with
        `wal.recovery.VOTE_UNKNOWN` when a vote may be lost: then the replica must come back under a new id."""

    def memory_slice(self, low: int, max_bytes: int) -> list[Entry] | None:
        """Entries from index `low` on, at least one, at most max_bytes of payload; [] behind the end; None when `low` is no longer in memory."""

    def index_of_offset(self, offset: int) -> int | None:
        """Index of the entry in memory that holds `offset` (the DATA entry with base_offset ≤ offset < base_offset + record_count); None if not in
        memory."""

    def read_job(self, low: int, max_bytes: int) -> ReadJob:
        """Read entries from index `low` from segments (may end in the entries still in memory)."""

    def read_job_at_offset(self, offset: int, max_bytes: int) -> ReadJob:
        """Read from the DATA entry that holds `offset`."""

    def read_job_at_timestamp(self, timestamp_ms: int) -> ReadJob:
        """Read one piece that may hold the first record with a timestamp ≥ timestamp_ms; entries continue to the end of that piece."""


class WalStore(Protocol):
    """All logs of one node. One journal, one checkpoint, segments of each partition."""

    groups: dict[GroupId, GroupLog]
    disk_full: bool  # produce must be refused with a retriable error; clears by itself
    memory_bytes: int  # payload bytes held for entries that are not in segments yet
    memory_limit_bytes: int  # producers slow down when memory_bytes exceeds it

    def memory_is_short(self) -> bool:
        """Whether so little is left below the limit that everything committed is written behind, however little it is of a group. Producers that
        were stopped at the limit wait until it is not: what is committed always comes to that end."""

    def create_group(self, group_id: GroupId, topic: str, configuration: bytes) -> GroupLog: ...

    def delete_group(self, group_id: GroupId) -> None: ...

    def is_removing(self, group_id: GroupId) -> bool:
        """Whether anything of a deleted group may still be on disk. Only when nothing is may a group of this id be made again."""

    def has_staged(self) -> bool: ...

    def note_idle(self) -> None:
        """Nothing has been flushed for a while (say 200 ms): unless the journal is sealed, `has_staged` becomes true and the next flush is a seal
        block, after which damage of the last flush can be told from a torn tail. A seal is a flush like any other: it never runs beside one."""

    def next_flush(self) -> Flush | None:
        """Take what is staged (at most one journal file, a quarter of the journal) as one flush; None when nothing is staged or the journal has no
        room yet.

        All hard states saved so far are in it. Entries and what follows them may be left behind: `has_staged` afterwards and `flushed_index` tell.
        """

    def next_background(self) -> Job | None:
        """Write-behind of committed entries, checkpoint, new journal file, removal of files; None when there is nothing worth doing."""

    def close(self) -> None: ...
