"""Messages between the replicas of one group, as the core sees them. `raft.wire` puts many of them into one transport message.

A replica id names a member for ever: node id + (generation << 32). A node whose disk was lost comes back under a new generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NewType

from wal.entry import Entry

ReplicaId = NewType("ReplicaId", int)


def node_of(replica: int) -> int:
    """The broker id of a replica id."""
    return replica & 0xFFFFFFFF


class MessageType(IntEnum):
    APPEND = 1
    APPEND_RESPONSE = 2
    PRE_VOTE = 3
    PRE_VOTE_RESPONSE = 4
    VOTE = 5
    VOTE_RESPONSE = 6
    HEARTBEAT = 7  # "I lead this group in this term, commit is …": sent when something changed, not periodically
    HEARTBEAT_RESPONSE = 8
    TIMEOUT_NOW = 9  # leadership transfer
    INSTALL_SNAPSHOT = 10  # "you need my snapshot": the data travels on a stream of its own
    SNAPSHOT_STATUS = 11  # receiver to leader: installed (reject=False) or failed


CONTROL_TYPES = frozenset(set(MessageType) - {MessageType.APPEND, MessageType.APPEND_RESPONSE})
"""Everything but appends and their answers travels on the control lane."""


class Message:
    """One message. Fields by type (others are zero):

    APPEND: index, log_term = the entry before `entries`; commit. APPEND_RESPONSE: index = last index that is proven to match and flushed; when
    reject: index = the refused previous index, hint_index/log_term = the follower's hint (largest index, and its term, at which they could agree).
    PRE_VOTE, VOTE: index, log_term = the candidate's last entry; transfer = may ignore a live leader. Responses: reject.
    HEARTBEAT: commit (bounded by what is known to match at the receiver). HEARTBEAT_RESPONSE: reject when the term is not the receiver's.
    INSTALL_SNAPSHOT: index, log_term of the snapshot. SNAPSHOT_STATUS: index, reject.
    """

    __slots__ = ("commit", "entries", "hint_index", "index", "log_term", "receiver", "reject", "sender", "term", "transfer", "type")

    def __init__(
        self,
        type: MessageType,
        sender: int,
        receiver: int,
        term: int,
        index: int = 0,
        log_term: int = 0,
        commit: int = 0,
        entries: Sequence[Entry] = (),
        reject: bool = False,
        hint_index: int = 0,
        transfer: bool = False,
    ) -> None:
        self.type = type
        self.sender = sender
        self.receiver = receiver
        self.term = term
        self.index = index
        self.log_term = log_term
        self.commit = commit
        self.entries = entries
        self.reject = reject
        self.hint_index = hint_index
        self.transfer = transfer
