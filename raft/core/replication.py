"""The leader's side of log replication: what goes to whom, how much, and when (sections 5.3 and 7 of the Raft paper, 10.2 of the thesis).

An append goes out only when there is something to say: new entries, or a probe. A member whose entries are not in memory waits for a read, one whose
entries are trimmed for a snapshot. Nothing here decides what is committed.
"""

from __future__ import annotations

from collections.abc import Sequence

from raft.core.log_view import last_index_within_term
from raft.core.message import Message, MessageType
from raft.core.progress import PROBE, REPLICATE, SNAPSHOT, Progress
from raft.core.state import LEADER, CoreState, ReadRequest, SnapshotRequest
from wal.entry import Entry, EntryKind
from wal.errors import InvariantError, check

APPEND = MessageType.APPEND
NO_ENTRIES: tuple[Entry, ...] = ()


def append_own(core: CoreState, entries: Sequence[Entry]) -> None:
    """Leader: give `entries` their place (term, index, base_offset) and stage them. They count for us only when they are flushed."""
    log, term = core.log, core.term
    index, offset = log.last_index, log.next_offset
    for entry in entries:
        index += 1
        entry.term = term
        entry.index = index
        entry.base_offset = offset
        offset += entry.record_count
    log.append(entries)


def new_entry(kind: EntryKind, payload: bytes, payload_crc: int) -> Entry:
    """An entry of the core's own."""
    return Entry(0, 0, kind, (payload,) if payload else (), len(payload), payload_crc)


def broadcast(core: CoreState) -> None:
    """Send every member what it lacks and may have now."""
    for progress in core.peers:
        send_appends(core, progress)


def send_appends(core: CoreState, progress: Progress) -> None:
    """Send `progress` as much as its window allows."""
    log, limits = core.log, core.limits
    last_index = log.last_index
    while progress.may_send(limits.max_in_flight_messages, limits.max_in_flight_bytes):
        next_index = progress.next_index
        if next_index > last_index:
            if progress.state is PROBE:
                send_append(core, progress, NO_ENTRIES)
            return
        if next_index < log.first_index:
            need_snapshot(core, progress)
            return
        entries = log.memory_slice(next_index, limits.max_message_bytes)
        if entries is None:
            progress.reading = True
            core.reads.append(ReadRequest(progress.replica, next_index, limits.max_message_bytes))
            return
        send_append(core, progress, entries)


def send_append(core: CoreState, progress: Progress, entries: Sequence[Entry]) -> None:
    """One APPEND with `entries`, which start at the member's next_index (or none: a probe)."""
    previous = progress.next_index - 1
    previous_term = core.log.term(previous)
    if previous_term is None:
        raise InvariantError(f"the term of index {previous} is unknown: the log holds {core.log.first_index}..{core.log.last_index}")
    if len(entries) > core.limits.max_message_entries:
        entries = entries[: core.limits.max_message_entries]
    core.messages.append(Message(APPEND, core.replica, progress.replica, core.term, previous, previous_term, core.commit_index, entries))
    last, size = previous, 0
    for entry in entries:
        size += entry.size
    last += len(entries)
    progress.sent(last, size)
    told = last if last < core.commit_index else core.commit_index
    if told > progress.told_commit:
        progress.told_commit = told


def need_snapshot(core: CoreState, progress: Progress) -> None:
    """What the member needs is trimmed: ask the driver for a snapshot and announce it (section 7)."""
    index = core.log.first_index - 1
    term = core.log.term(index) or 0
    progress.become_snapshot(index)
    core.snapshots.append(SnapshotRequest(progress.replica, index, term))
    core.messages.append(Message(MessageType.INSTALL_SNAPSHOT, core.replica, progress.replica, core.term, index, term))


def on_append_refused(core: CoreState, progress: Progress, message: Message) -> None:
    """The member does not hold the previous entry: go back to where the logs can agree, whole terms at a time (end of 5.3)."""
    if progress.is_stale_reject(message.index):
        if progress.snapshot_delivered and progress.state is SNAPSHOT and message.hint_index >= progress.snapshot_index:
            # The snapshot is installed and its status was lost; what comes behind it may be trimmed here meanwhile.
            progress.become_probe(min(message.hint_index, core.log.last_index) + 1)
            send_appends(core, progress)
        return
    progress.become_probe(min(message.index, next_to_try(core, message.hint_index, message.log_term)))
    send_appends(core, progress)


def next_to_try(core: CoreState, hint_index: int, hint_term: int) -> int:
    """The index behind our last entry at or before `hint_index` whose term is not above `hint_term`: no later previous index can match."""
    lowest = core.log.first_index - 1
    if hint_index < lowest:
        return hint_index + 1
    return last_index_within_term(core.log, lowest, min(hint_index, core.log.last_index), hint_term) + 1


def entries_read(core: CoreState, peer: int, entries: Sequence[Entry]) -> None:
    """The answer to a ReadRequest; none when reading failed: the member waits for `retry`. It gets a snapshot when the log was trimmed meanwhile."""
    progress = core.progress.get(peer)
    if core.role != LEADER or progress is None or not progress.reading:
        return
    progress.reading = False
    if not entries:
        progress.paused = progress.next_index >= core.log.first_index
    elif entries[0].index == progress.next_index >= core.log.first_index and progress.state is not SNAPSHOT:
        check(entries[-1].term == core.log.term(entries[-1].index), f"entry {entries[-1]!r} was read, but the log holds another term there")
        send_append(core, progress, _within(entries, core.limits.max_message_bytes))
    send_appends(core, progress)


def _within(entries: Sequence[Entry], max_bytes: int) -> Sequence[Entry]:
    """The first of `entries` that fit in `max_bytes`, at least one."""
    size = 0
    for position, entry in enumerate(entries):
        size += entry.size
        if size > max_bytes and position:
            return entries[:position]
    return entries


def report_snapshot(core: CoreState, peer: int, ok: bool) -> None:
    """The snapshot's stream to `peer` ended. When it arrived, the member still installs it: we wait for its SNAPSHOT_STATUS."""
    progress = core.progress.get(peer)
    if core.role != LEADER or progress is None or progress.state is not SNAPSHOT:
        return
    if ok:
        progress.snapshot_delivered = True
    else:
        give_up_snapshot(progress)


def give_up_snapshot(progress: Progress) -> None:
    """Probe again where we were, but not at once: `retry` decides when."""
    progress.become_probe(progress.match_index + 1)
    progress.paused = True


def on_snapshot_status(core: CoreState, message: Message) -> None:
    """The member installed a snapshot, had it already, or could not. It counts as a match only when an append behind it is acknowledged."""
    progress = core.progress.get(message.sender)
    if core.role != LEADER or progress is None or progress.state is not SNAPSHOT:
        return
    if message.reject:
        give_up_snapshot(progress)
    elif message.index >= progress.snapshot_index:
        progress.become_probe(min(message.index, core.log.last_index) + 1)
        send_appends(core, progress)


def reset_peer(core: CoreState, peer: int) -> None:
    """The connection to `peer`, or its process, is new: forget what was believed and probe at our end. Its answer tells where it is."""
    progress = core.progress.get(peer)
    if core.role != LEADER or progress is None or progress is core.own_progress:
        return
    progress.reset(core.log.last_index + 1)
    send_appends(core, progress)


def retry(core: CoreState, progress: Progress) -> None:
    """Repeat a probe that may be lost, without entries; look again whether a failed read works or a delivered snapshot is installed."""
    if progress.state is SNAPSHOT:
        if progress.snapshot_delivered:
            probe_behind_snapshot(core, progress)
    elif progress.state is REPLICATE:
        progress.paused = False
        send_appends(core, progress)
    elif not progress.reading:
        progress.paused = False
        if progress.next_index < core.log.first_index:
            need_snapshot(core, progress)
        else:
            send_append(core, progress, NO_ENTRIES)


def probe_behind_snapshot(core: CoreState, progress: Progress) -> None:
    """Ask whether the snapshot is there; a refusal is ignored in this state, an acknowledgement ends it."""
    previous = max(progress.snapshot_index, core.log.first_index - 1)
    core.messages.append(Message(APPEND, core.replica, progress.replica, core.term, previous, core.log.term(previous) or 0, core.commit_index))


def retry_unsettled(core: CoreState) -> bool:
    """For a regular timer: repeat what is due; False when every member replicates and there is nothing to come back for."""
    if core.role != LEADER:
        return False
    unsettled = False
    for progress in core.peers:
        if progress.state is not REPLICATE or progress.paused:
            unsettled = True
            if progress.retry_due():
                retry(core, progress)
    return unsettled


def send_heartbeat(core: CoreState, progress: Progress) -> None:
    """ "I lead this group in this term." The commit is bounded by what is known to match there."""
    commit = progress.match_index if progress.match_index < core.commit_index else core.commit_index
    progress.told_commit = max(progress.told_commit, commit)
    core.messages.append(Message(MessageType.HEARTBEAT, core.replica, progress.replica, core.term, commit=commit))


def broadcast_commit(core: CoreState) -> None:
    """Tell the commit index to each member that would not learn it by an append (once per turn or beat, by the driver)."""
    if core.role != LEADER:
        return
    commit = core.commit_index
    for progress in core.peers:
        if progress.told_commit < commit and progress.told_commit < progress.match_index:
            send_heartbeat(core, progress)
