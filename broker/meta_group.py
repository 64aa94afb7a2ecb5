"""`__meta` on this node: its group, its members, its snapshots.

Owns when a snapshot is made and the log trimmed behind it, and both ends of a snapshot's way to a follower that needs what is trimmed. A snapshot
file is durable before anything is trimmed. Loop thread, but for the jobs' `run` and the methods of readers and writers: they block, on other threads.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

from broker.metadata.bootstrap import Member
from broker.replicas import own_replica
from raft.core.core import Role
from raft.core.message import node_of
from raft.group import RaftGroup
from raft.wire import LeaderNews
from wal.api import AppliedState
from wal.entry import META_GROUP, META_TOPIC, Buffer, Entry, GroupId
from wal.errors import DamageError, DataDirectoryError, WalError
from wal.filesystem import File, FileSystem
from wal.snapshot import Snapshot, SnapshotReceiver, SnapshotStore

if TYPE_CHECKING:
    from broker.node import Node

log = logging.getLogger("chronik_raft")

SNAPSHOT_LOG_BYTES = 64 << 20
"""Bytes of applied entries after which a snapshot is made, however few entries they are."""
CHANGE_TIMEOUT_S = 5.0


class WriteSnapshot:
    """Makes one snapshot durable. `made` is set by `run`."""

    def __init__(self, store: SnapshotStore, lock: threading.Lock, place: tuple[int, int, int], configuration: bytes, data: bytes) -> None:
        """`place` = (index, term, next offset) of the last entry that the state includes."""
        self.entries: list[Entry] = []
        self._store = store
        self._lock = lock
        self._place = place
        self._configuration = configuration
        self._data = data
        self.made: Snapshot | None = None

    def run(self) -> None:
        index, term, next_offset = self._place
        with self._lock:
            self.made = self._store.write(index, term, self._data, self._configuration, next_offset)


class ReadSnapshot:
    """Reads and checks a snapshot file that was received. `found` and `data` are set by `run`."""

    def __init__(self, store: SnapshotStore, path: str) -> None:
        self.entries: list[Entry] = []
        self._store = store
        self._path = path
        self.found: Snapshot | None = None
        self.data = b""

    def run(self) -> None:
        found = self._store.verify(self._path)
        self.data = self._store.read(found)
        self.found = found


class SnapshotFileReader:
    """Fulfils `raft.transport.snapshot.SnapshotReader`: stays readable when the file is replaced by newer ones meanwhile."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.size = file.size()

    def read(self, position: int, length: int) -> bytes:
        return self._file.pread(length, position)

    def close(self) -> None:
        self._file.close()


class SnapshotFileWriter:
    """Fulfils `raft.transport.snapshot.SnapshotWriter`."""

    def __init__(self, receiver: SnapshotReceiver, lock: threading.Lock) -> None:
        self._receiver = receiver
        self._lock = lock

    def write(self, position: int, data: Buffer) -> None:
        self._receiver.append(position, data)

    def finish(self) -> str:
        with self._lock:
            return self._receiver.finish().path

    def abort(self) -> None:
        self._receiver.abort()


class _Source:
    """Fulfils `raft.transport.snapshot.SnapshotSource`."""

    def __init__(self, files: SnapshotFiles) -> None:
        self._files = files

    def open(self, group: GroupId, index: int, term: int) -> SnapshotFileReader:
        return self._files.open_newest(group, index)


class _Receiver:
    """Fulfils `raft.transport.snapshot.SnapshotReceiver`."""

    def __init__(self, files: SnapshotFiles) -> None:
        self._files = files

    def open(self, group: GroupId, index: int, term: int, size: int) -> SnapshotFileWriter:
        return self._files.receive(group, index)


class SnapshotFiles:
    """Both ends of a transfer over one SnapshotStore. Invariant: only one thread at a time gives a file its name and removes older ones (`lock`)."""

    def __init__(self, files: FileSystem, store: SnapshotStore) -> None:
        self._files = files
        self.store = store
        self.lock = threading.Lock()
        self.newest: Snapshot | None = None  # what `source` sends; set on the loop thread
        self.source = _Source(self)
        self.receiver = _Receiver(self)

    def open_newest(self, group: GroupId, index: int) -> SnapshotFileReader:
        newest = self.newest
        if group != META_GROUP or newest is None or newest.index < index:
            raise DamageError(f"no snapshot of group {group.hex()} at {index} is kept here")
        return SnapshotFileReader(self._files.open(newest.path))

    def receive(self, group: GroupId, index: int) -> SnapshotFileWriter:
        if group != META_GROUP:
            raise DamageError(f"group {group.hex()} takes no snapshots, only {META_TOPIC} does")
        return SnapshotFileWriter(self.store.receive(index), self.lock)


class MetaGroup:
    """The node's `__meta`.

    snapshot_index, snapshot_size: of the newest snapshot that is included in our state; 0 while there is none.
    Invariant: what is trimmed is in a snapshot file that is durable here, or in the state that the checkpoint keeps.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.group: Any = None
        storage = node.config.storage
        self.files = SnapshotFiles(node.files, SnapshotStore(node.files, str(storage.snapshot_dir), storage.snapshot_compression))
        self._making = False
        self._bytes_at_snapshot = 0
        self._told: tuple[int, ...] = ()  # (term, isr) as published

    @property
    def snapshot_index(self) -> int:
        return self.files.newest.index if self.files.newest is not None else 0

    @property
    def snapshot_size(self) -> int:
        return self.files.newest.size_bytes if self.files.newest is not None else 0

    def open(self, generation: int) -> None:
        """Open the group. Its state is the checkpoint's or the newest snapshot's, whichever is newer; entries behind it follow once committed.

        `generation`: of this data directory (`node.json`): a configuration in the log may still name the id of a disk that was lost.
        """
        node = self.node
        group_log = node.store.groups[META_GROUP]
        self._restore(group_log)
        replica = max(own_replica(group_log, node.node_id), node.node_id + (max(generation, 0) << 32))
        self.group = node.driver.open_group(group_log, node.machine, replica)
        self.group.eager_commit = True
        node.machine.attach(self.group)
        self._bytes_at_snapshot = node.machine.applied_bytes

    def _restore(self, group_log: Any) -> None:
        """Choose the newest state that the log goes on from.

        A snapshot that the log does not hold was received and not installed. It goes, so that it does not count as one of the newest, which are kept;
        the leader sends another one.
        """
        store, state = self.files.store, group_log.applied_state
        found = store.latest(group_log.last_index)
        while found is not None and group_log.term(found.index) != found.term:
            found = store.latest(found.index - 1)
        self.files.newest = found
        if found is not None and (state is None or state.index < found.index):
            state = group_log.applied_state = AppliedState(found.index, store.read(found))
        reached = state.index if state is not None else 0
        if reached < group_log.first_index - 1 and not group_log.quarantined:
            raise DataDirectoryError(
                f"the log of {META_TOPIC} begins behind {group_log.first_index - 1}, but the snapshot with the state up to there is missing or "
                f"damaged (the newest whole one ends at {reached}); restore the files of {self.node.config.storage.snapshot_dir} from a copy, "
                "or remove this broker from the cluster (unregister it) and start it with an empty data directory"
            )
        if not group_log.quarantined:
            store.discard_above(found.index if found is not None else 0)

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
            return group.core.configuration_index <= group.commit_index
        if group.core.role != Role.LEADER or not group.serving:
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def done(ok: bool) -> None:
            if not future.done():
                future.set_result(ok)

        group.change_membership(sorted(membership.voters), sorted(membership.learners | {replica}), done)
        try:
            return await asyncio.wait_for(future, CHANGE_TIMEOUT_S)
        except TimeoutError:
            return False

    def update_isr(self) -> None:
        """Leader: who of the voters is in sync; told to everybody when it changes. Called regularly, because replicas fall out by time alone."""
        group, node = self.group, self.node
        if group is None or group.core.role != Role.LEADER:
            self._told = ()
            return
        lag_ms = node.settings.get("replica.lag.time.max.ms")
        oldest = max(0, node.clock.now_ms() - (lag_ms if isinstance(lag_ms, int) else 30_000))
        isr = tuple(sorted({status.node for status in group.replicas() if status.voter and status.at_end_ms >= oldest}))
        if self._told != (group.term, *isr):
            self._told = (group.term, *isr)
            node.leaders.set(META_GROUP, group.term, node.node_id, isr)
            node.driver.post.publish(LeaderNews(META_GROUP, group.term, node.node_id, isr))

    # -- making snapshots -----------------------------------------------------------------------------------------

    def maybe_snapshot(self) -> None:
        """Make one when enough was applied since the last. Called regularly."""
        group: RaftGroup = self.group
        if self._making or group.log.quarantined:
            return
        applied = group.applied_index - self.snapshot_index
        size = self.node.machine.applied_bytes - self._bytes_at_snapshot
        if applied >= self.node.config.raft.snapshot_log_size_threshold or size >= SNAPSHOT_LOG_BYTES:
            self.make_snapshot()

    def make_snapshot(self) -> bool:
        """Begin to make a snapshot of the applied state; False when one is being made, or there is nothing new, or it is not possible just now."""
        group, machine = self.group, self.node.machine
        index = group.applied_index
        term, next_offset = group.log.term(index), _next_offset(group.log, index)
        if self._making or index <= self.snapshot_index or term is None or next_offset is None:
            return False
        self._making = True
        self._bytes_at_snapshot = machine.applied_bytes
        configuration = max(found for found in group.log.configurations if found[0] <= index)[1]
        log.info("Creating snapshot: index=%d, term=%d", index, term)
        job = WriteSnapshot(self.files.store, self.files.lock, (index, term, next_offset), configuration, machine.snapshot())
        self.node.disk.submit_read(job, lambda error: self._snapshot_made(job, index, error))
        return True

    def _snapshot_made(self, job: WriteSnapshot, index: int, error: BaseException | None) -> None:
        self._making = False
        if isinstance(error, (OSError, WalError)) or job.made is None:
            log.error("Snapshot failed: index=%d: %s; the log is kept and it is tried again", index, error)
            return
        if self.snapshot_index < index:
            self.files.newest = job.made
        log.info("Snapshot saved: size=%d, index=%d", job.made.size_bytes, index)
        self._trim(index)

    def _trim(self, index: int) -> None:
        """Drop what the snapshot at `index` holds, but for the last entries: a follower that is a little behind needs no snapshot then."""
        group: RaftGroup = self.group
        keep_from = index + 1 - self.node.config.raft.log_compaction_threshold
        if not self.node.driver.is_open(group) or keep_from <= group.log.first_index:
            return
        first = group.log.memory_slice(keep_from, 1)
        group.log.truncate_prefix(keep_from, first[0].base_offset if first else 0)
        self.node.driver.touch(group)

    # -- sending and receiving ------------------------------------------------------------------------------------

    def send_snapshot(self, group: RaftGroup, replica: int, index: int) -> None:
        """The driver's event: `replica` needs what is trimmed; a snapshot at `index` or later helps."""
        newest = self.files.newest
        if newest is None or newest.index < index:
            # The state is in the checkpoint only: a file is made first, and the leader asks again.
            self.make_snapshot()
            group.core.report_snapshot(replica, False)
            return

        def done(ok: bool) -> None:
            if self.node.driver.is_open(group):
                group.core.report_snapshot(replica, ok)
                self.node.driver.touch(group)

        self.node.links.send_snapshot(node_of(replica), group.group_id, newest.index, newest.term, done)

    def on_received(self, group: RaftGroup, index: int, path: str) -> None:
        """The driver's event: a snapshot file is whole at `path`. Read and checked on a disk thread, then installed if it is newer than our state."""
        job = ReadSnapshot(self.files.store, path)
        self.node.disk.submit_read(job, lambda error: self._received(group, index, job, error))

    def _received(self, group: RaftGroup, index: int, job: ReadSnapshot, error: BaseException | None) -> None:
        if not self.node.driver.is_open(group):
            return
        found = job.found
        if error is not None or found is None:
            log.error("InstallSnapshot failed: index=%d: %s; the leader sends it again", index, error)
            group.refuse_snapshot(index)
            return
        try:
            replaced = group.install_snapshot(found.index, found.term, found.configuration, found.next_offset, job.data)
        except BaseException as surprise:  # noqa: BLE001 - any surprise here ends the worker, with its cause
            self.node.driver.fatal(surprise)
            return
        if replaced and self.snapshot_index < found.index:
            self.files.newest = found
            self._bytes_at_snapshot = self.node.machine.applied_bytes


def _next_offset(group_log: Any, index: int) -> int | None:
    """The offset behind entry `index`; None when that can not be told from memory just now."""
    if index == group_log.last_index:
        return int(group_log.next_offset)
    behind = group_log.memory_slice(index + 1, 1)
    return int(behind[0].base_offset) if behind else None
