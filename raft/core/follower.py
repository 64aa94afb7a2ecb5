"""What a follower does with what its leader says (section 5.3 of the Raft paper).

A log is cut only at a real conflict of (index, term), never below the commit index. An acknowledgement names the last index that the very
message proved equal, and leaves only when everything up to there is durable.
"""

from __future__ import annotations

from collections.abc import Sequence

from raft.core.log_view import last_index_within_term
from raft.core.message import Message, MessageType
from raft.core.state import CoreState
from wal.entry import Entry
from wal.errors import InvariantError

APPEND_RESPONSE = MessageType.APPEND_RESPONSE


def on_append(core: CoreState, message: Message) -> None:
    core.follow(message.sender)
    if not matches_previous(core, message.index, message.log_term):
        refuse(core, message)
        return
    entries = message.entries
    last_proven = message.index + len(entries)
    if entries:
        if entries[0].index != message.index + 1 or entries[-1].index != last_proven:
            return  # not an append that a leader of ours can have made
        store(core, entries)
    if last_proven > core.proven_index:
        core.proven_index = last_proven
    commit_proven(core, message.commit, last_proven)
    acknowledge(core, message.sender, last_proven)


def matches_previous(core: CoreState, index: int, term: int) -> bool:
    """The consistency check of 5.3. Committed entries are equal on the leader of any later term: below the commit index it can only hold."""
    own_term = core.log.term(index)
    if own_term == term:
        return True
    if index > core.commit_index:
        return False
    if own_term is None:
        return True  # trimmed here, so committed
    raise InvariantError(f"index {index} is committed in term {own_term}, but leader {core.leader} of term {core.term} has term {term} there")


def store(core: CoreState, entries: Sequence[Entry]) -> None:
    """Append what is new of `entries`; cut first what contradicts them."""
    log = core.log
    first = entries[0].index
    if first <= log.last_index:
        skip = count_known(core, entries)
        if skip == len(entries):
            return
        if skip:
            entries = entries[skip:]
        first = entries[0].index
        if first <= log.last_index:
            truncate(core, first)
    if entries[0].base_offset != log.next_offset:
        raise InvariantError(f"entry {entries[0]!r} does not follow offset {log.next_offset}: the logs differ below it")
    log.append(entries)
    if log.configurations[-1][0] != core.configuration_index:
        core.refresh_membership()


def count_known(core: CoreState, entries: Sequence[Entry]) -> int:
    """How many of `entries`, from the first, the log holds already (or had, before they were trimmed): they are no conflict (trap 5)."""
    log = core.log
    first_index = log.first_index
    for position, entry in enumerate(entries):
        if entry.index >= first_index and log.term(entry.index) != entry.term:
            return position
    return len(entries)


def truncate(core: CoreState, index: int) -> None:
    """Remove entries from the conflict at `index` on; a configuration among them is rolled back."""
    if index <= core.commit_index:
        raise InvariantError(f"leader {core.leader} of term {core.term} contradicts index {index}, but {core.commit_index} is committed here")
    core.log.truncate_suffix(index)
    core.refresh_membership()


def commit_proven(core: CoreState, leader_commit: int, last_proven: int) -> None:
    """Never beyond what is proven to be the leader's own log (trap 6)."""
    core.commit_to(leader_commit if leader_commit < last_proven else last_proven)


def acknowledge(core: CoreState, leader: int, index: int) -> None:
    """Promise the leader everything up to `index`, at once if it is durable already. Acknowledgements that wait for the same flush become one."""
    if index <= core.log.flushed_index and core.is_settled():
        core.messages.append(Message(APPEND_RESPONSE, core.replica, leader, core.term, index))
        return
    waiting = core.open_ack
    if waiting is not None:
        if index > waiting.index:
            waiting.index = index
        return
    core.open_ack = ack = Message(APPEND_RESPONSE, core.replica, leader, core.term, index)
    core.messages_after_flush.append(ack)


def refuse(core: CoreState, message: Message) -> None:
    """The previous entry is missing or of another term: tell the last index at which the logs can agree, skipping whole terms."""
    log = core.log
    high = min(message.index, log.last_index)
    hint = max(last_index_within_term(log, core.commit_index, high, message.log_term), core.commit_index)
    core.answer(
        Message(APPEND_RESPONSE, core.replica, message.sender, core.term, message.index, log.term(hint) or 0, reject=True, hint_index=hint),
    )


def on_heartbeat(core: CoreState, message: Message) -> None:
    """The leader of this term speaks. Its commit was bounded by what it believes of us; we believe only what was proven in this term."""
    core.follow(message.sender)
    commit_proven(core, message.commit, core.proven_index)
    core.answer(Message(MessageType.HEARTBEAT_RESPONSE, core.replica, message.sender, core.term))


def on_install_snapshot(core: CoreState, message: Message) -> None:
    """A snapshot is on its way to us, unless we have everything in it."""
    core.follow(message.sender)
    if message.index <= core.commit_index:
        report_snapshot(core, core.commit_index)


def restore(core: CoreState, index: int, term: int, configuration: bytes, next_offset: int) -> bool:
    """A snapshot is installed: go on behind it. False when the log had all of it and stays (what we acknowledged behind it must not be lost).

    Otherwise the whole log goes, with any newer uncommitted configuration in it: the snapshot's is in force (trap 14).
    """
    replaced = False
    if core.log.term(index) == term:
        core.commit_to(index)
    elif index > core.commit_index:
        if term > core.term:
            core.become_follower(term, 0)  # the file came before any message of its term: a log never ends above the hard state's term
        core.log.install_snapshot(index, term, next_offset, configuration)
        core.commit_index = index
        core.proven_index = index
        core.open_ack = None
        core.mark_staged()
        core.refresh_membership()
        replaced = True
    report_snapshot(core, max(index, core.commit_index))
    return replaced


def report_snapshot(core: CoreState, index: int) -> None:
    if core.leader and core.leader != core.replica:
        core.answer(Message(MessageType.SNAPSHOT_STATUS, core.replica, core.leader, core.term, index))
