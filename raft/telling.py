"""What happens to groups, for the log, in the words that the documentation promises. Decides nothing.

Elections of `__meta` are told at INFO, those of partitions at DEBUG: a node that is lost would otherwise cost thousands of lines. Who leads is told
at INFO for all (`RaftGroup.note_status`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from raft.core.message import Message, MessageType, node_of
from wal.entry import META_GROUP

if TYPE_CHECKING:
    from raft.group import RaftGroup

log = logging.getLogger("chronik_raft")


def debugging() -> bool:
    """Whether lines of every message are wanted; to be asked before anything is put together for them."""
    return log.isEnabledFor(logging.DEBUG)


def _level(group: RaftGroup) -> int:
    return logging.INFO if group.group_id == META_GROUP else logging.DEBUG


def election_timeout(group: RaftGroup) -> None:
    log.log(_level(group), "%s: Election timeout reached", group.name)


def election_started(group: RaftGroup) -> None:
    log.log(_level(group), "%s: Starting leader election, term=%d", group.name, group.term)


def vote_requested(group: RaftGroup, message: Message) -> None:
    log.log(_level(group), "%s: RequestVote sent to node %d, term=%d", group.name, node_of(message.receiver), message.term)


def vote_granted(group: RaftGroup, message: Message) -> None:
    which = "pre-vote" if message.type == MessageType.PRE_VOTE_RESPONSE else "vote"
    log.log(_level(group), "%s: Vote granted by node %d (%s, term %d)", group.name, node_of(message.sender), which, message.term)


def append_answered(group: RaftGroup, message: Message, known_index: int) -> None:
    """`known_index`: what the follower was known to hold before this answer."""
    node = node_of(message.sender)
    if message.reject:
        log.log(_level(group), "%s: AppendEntries failed: node=%d does not hold what comes before, trying again further back", group.name, node)
    elif debugging():
        log.debug("%s: AppendEntries successful: node=%d, entries=%d", group.name, node, max(0, message.index - known_index))


def append_dropped(group: RaftGroup, message: Message) -> None:
    log.log(_level(group), "%s: AppendEntries failed: the connection to node %d is gone or its queue is full", group.name, node_of(message.receiver))


def committed(group: RaftGroup) -> None:
    log.debug("%s: Log committed: index=%d", group.name, group.commit_index)


def heartbeat_sent(node: int) -> None:
    log.debug("Heartbeat sent to follower %d", node)
