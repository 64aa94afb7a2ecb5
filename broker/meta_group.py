"""`__meta` on this node: its group, its members, its snapshots.

Owns when a snapshot is made and the log trimmed behind it, and both ends of a snapshot's way to a follower that needs what is trimmed.
The snapshot file is durable before anything is trimmed. Loop thread, but for the methods of snapshot readers and writers.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.metadata.joiner import Member
from broker.replicas import own_replica
from raft.core.core import Role
from raft.core.membership import encode
from raft.core.message import node_of
from raft.group import RaftGroup
from wal.entry import META_GROUP, GroupId
from wal.errors import WalError
from wal.snapshot import SnapshotStore

if TYPE_CHECKING:
    from broker.node import Node

log = logging.getLogger("chronik_raft")

KEPT_ENTRIES = 1_000
"""Entries that stay in the log behind a snapshot, so that a follower that is a little behind needs no snapshot."""


class MetaGroup:
    """The node's `__meta`. Also `SnapshotSource` and `SnapshotReceiver` of the transport."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.group: Any = None
        self.snapshots = SnapshotStore(node.files, str(node.config.storage.snapshot_dir))
        self.snapshot_index = 0
        self.snapshot_size = 0
        self._making = False

    def open(self) -> None:
        """Open the group; its state is restored from the checkpoint or, when that is older, from the newest snapshot."""
        node = self.node
        group_log = node.store.groups[META_GROUP]
        self._restore_from_snapshot(group_log)
        self.group = node.driver.open_group(group_log, node.machine, own_replica(group_log, node.node_id))
        self.group.eager_commit = True
        node.machine.attach(self.group)

    def _restore_from_snapshot(self, group_log: Any) -> None:
        latest = self.snapshots.latest()
        if latest is None:
            return
        self.snapshot_index, self.snapshot_size = latest.index, latest.size
        state = group_log.applied_state
        if (state is None or state.index < latest.index) and latest.index >= group_log.first_index - 1:
            group_log.applied_state = self.snapshots.read(latest).applied_state()

    # -- members --------------------------------------------------------------------------------------------------

    def members(self) -> tuple[list[Member], list[Member]]:
        """(voters, learners) with their addresses, as far as they are known."""
        if self.group is None:
            return [], []
        membership = self.group.core.membership

        def member(replica: int) -> Member:
            broker = self.node.image.brokers.get(node_of(replica))
            own = node_of(replica) == self.node.node_id
            return Member(replica, broker.raft_address if broker is not None else self.node.links.own_address if own else "")

        return [member(r) for r in sorted(membership.voters)], [member(r) for r in sorted(membership.learners)]

    async def add_learner(self, replica: int, _address: str) -> bool:
        """Make `replica` a member of `__meta`, if it is none; returns whether that is committed."""
        group: RaftGroup = self.group
        membership = group.core.membership
        if replica in membership.members:
            return True
        if group.core.role != Role.LEADER or not group.serving:
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        group.change_membership(membership.voters, membership.learners | {replica}, lambda ok: future.done() or future.set_result(ok))
        try:
            return await asyncio.wait_for(future, 5.0)
        except TimeoutError:
            return False

    # -- making snapshots -----------------------------------------------------------------------------------------

    def maybe_snapshot(self) -> None:
        """Make one when enough was applied since the last; then trim."""
        group: RaftGroup = self.group
        threshold = self.node.config.raft.snapshot_log_size_threshold
        if not self._making and group.applied_index - max(self.snapshot_index, group.log.first_index - 1) >= threshold:
            self.make_snapshot()

    def make_snapshot(self) -> None:
        group: RaftGroup = self.group
        index = group.applied_index
        term = group.log.term(index)
        if self._making or index <= self.snapshot_index or term is None:
            return
        self._making = True
        configuration = encode(group.core.membership)
        for at, payload in group.log.configurations:
            if at <= index:
                configuration = payload
        log.info("Creating snapshot: index=%d", index)
        job = _WriteSnapshot(self.snapshots, index, term, self.node.machine.snapshot(), configuration, group.log.next_offset)

        def done(error: BaseException | None) -> None:
            self._making = False
            if error is not None:
                log.error("Snapshot failed: index=%d: %s; the log is kept and it is tried again", index, error)
                return
            self.snapshot_index, self.snapshot_size = index, job.size
            log.info("Snapshot saved: size=%d, index=%d", job.size, index)
            keep_from = index - KEPT_ENTRIES
            if keep_from > group.log.first_index:
                group.log.truncate_prefix(keep_from, 0)
                self.node.driver.touch(group)

        self.node.disk.submit_read(job, done)

    # -- sending and receiving ------------------------------------------------------------------------------------

    def send_snapshot(self, group: RaftGroup, replica: int, index: int, term: int) -> None:
        """The driver's event: `replica` needs what is trimmed."""
        if self.snapshot_index < group.log.first_index - 1:
            self.make_snapshot()
            group.core.report_snapshot(replica, False)
            return

        def done(ok: bool) -> None:
            if self.node.driver.is_open(group):
                group.core.report_snapshot(replica, ok)
                self.node.driver.touch(group)

        self.node.links.send_snapshot(node_of(replica), group.group_id, self.snapshot_index, term, done)
