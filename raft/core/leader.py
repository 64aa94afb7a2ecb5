"""What only a leader does besides sending: taking office, counting, handing leadership over.

The two rules that keep committed data: the leader counts itself only for what it has flushed, and only entries of its own term are committed by
counting (sections 5.3 and 5.4.2 of the Raft paper, 10.2.1 of the thesis).
"""

from __future__ import annotations

from collections.abc import Sequence

from raft.core.message import Message, MessageType
from raft.core.progress import REPLICATE, SNAPSHOT, Progress
from raft.core.quorum import majority_index
from raft.core.reconfiguration import on_commit
from raft.core.replication import append_own, broadcast, new_entry, on_append_refused, send_appends, send_heartbeat
from raft.core.state import LEADER, CoreState
from wal.entry import Entry, EntryKind
from wal.errors import check


def become_leader(core: CoreState) -> None:
    """Won the election: append a no-op of the new term, so that older entries can commit (5.4.2, 8), and say who leads."""
    core.role = LEADER
    core.leader = core.replica
    core.votes = {}
    core.transferee = 0
    core.changed = True
    core.progress = {}
    core.rebuild_progress()
    for progress in core.peers:
        send_heartbeat(core, progress)
    core.term_start_index = core.log.last_index + 1
    append_own(core, (new_entry(EntryKind.NOOP, b"", 0),))
    count_own_flush(core)
    broadcast(core)


def propose(core: CoreState, entries: Sequence[Entry]) -> bool:
    """Append `entries` and send them; False when we do not lead, or are handing leadership over."""
    if core.role != LEADER or core.transferee:
        return False
    for entry in entries:
        check(entry.kind != EntryKind.CONFIGURATION, "a configuration is proposed with propose_configuration")
    append_own(core, entries)
    broadcast(core)
    return True


def count_own_flush(core: CoreState) -> None:
    """The leader's own acknowledgement: only what its log says is flushed and not rewritten since (traps 3; etcd#14370)."""
    own = core.own_progress
    if own is not None:
        own.acknowledge(core.log.flushed_index)


def on_own_flush(core: CoreState) -> None:
    count_own_flush(core)
    maybe_commit(core)


def quorum_index(core: CoreState) -> int:
    """The last index that is flushed on a quorum of the configuration in force."""
    index = majority_index([progress.match_index for progress in core.voter_progress])
    if core.outgoing_progress:
        index = min(index, majority_index([progress.match_index for progress in core.outgoing_progress]))
    return index


def maybe_commit(core: CoreState) -> bool:
    """Commit what a quorum has flushed, but by counting only entries of our own term; older ones commit with them (5.4.2, figure 8)."""
    index = quorum_index(core)
    if index < core.term_start_index or not core.commit_to(index):
        return False
    on_commit(core)
    return True


def on_append_response(core: CoreState, message: Message) -> None:
    """A member acknowledges, or refuses, an append of this term."""
    progress = core.progress.get(message.sender)
    if core.role != LEADER or progress is None or progress is core.own_progress:
        return
    if message.reject:
        on_append_refused(core, progress, message)
        return
    if message.index > core.log.last_index:
        return  # nothing of ours: whoever says so has not heard it from us
    news = progress.acknowledge(message.index)
    if not settle(progress, message.index) and not news:
        return
    if message.index > core.commit_index:
        maybe_commit(core)
    if core.role == LEADER:
        send_appends(core, progress)
        if core.transferee == message.sender:
            maybe_hand_over(core, progress)


def settle(progress: Progress, index: int) -> bool:
    """An acknowledgement of `index` ends a probe, or the wait for a snapshot; whether it did."""
    if progress.state is REPLICATE:
        return False
    needed = progress.snapshot_index if progress.state is SNAPSHOT else progress.match_index
    if index < needed:
        return False
    progress.become_replicate()
    return True


def transfer_leadership(core: CoreState, target: int) -> str:
    """Hand leadership to `target` once it holds everything (thesis 3.10); "" when begun, otherwise why not. No proposals meanwhile."""
    if core.role != LEADER:
        return "this replica does not lead the group"
    if target == core.replica:
        return "this replica leads already"
    if target not in core.membership.voters:
        return f"replica {target} is not a voter of the group"
    if core.transferee not in (0, target):
        return f"leadership is already being handed to replica {core.transferee}"
    progress = core.progress[target]
    core.transferee = target
    core.changed = True
    send_appends(core, progress)
    maybe_hand_over(core, progress)
    return ""


def maybe_hand_over(core: CoreState, progress: Progress) -> None:
    """The target holds everything: it may campaign at once, past pre-vote and live-leader rules (trap 8)."""
    if progress.match_index == core.log.last_index:
        core.messages.append(Message(MessageType.TIMEOUT_NOW, core.replica, progress.replica, core.term))


def on_heartbeat_response(core: CoreState, message: Message) -> None:
    """A member that stopped following us in our own term (it was about to campaign) is told again who leads."""
    progress = core.progress.get(message.sender)
    if message.reject and core.role == LEADER and progress is not None and progress is not core.own_progress:
        send_heartbeat(core, progress)
