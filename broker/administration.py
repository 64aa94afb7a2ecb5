"""What administrative requests ask of the running node itself: transfers of leadership, the quorum of `__meta`, what lies on its disk.

Fulfils `broker.api.Administration`. Loop thread only. The quorum is told by the leader of `__meta`; other nodes ask it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from broker.api import QuorumMember, QuorumStatus, ReplicaSize
from broker.errors import ErrorCode, KafkaError
from broker.metadata.reconciler import TransferLeader
from raft.api import ReplicaStatus
from raft.core.core import Role
from raft.core.message import node_of
from raft.group import RaftGroup
from wal.entry import META_GROUP, GroupId

if TYPE_CHECKING:
    from broker.node import Node

METHOD_QUORUM = "meta.quorum"
CALL_TIMEOUT_MS = 3_000
_decoder = msgspec.msgpack.Decoder(QuorumStatus)


class Administration:
    """See the module. Used only once the node serves."""

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def log_dir(self) -> str:
        return str(self._node.config.data_dir)

    def alive(self) -> frozenset[int]:
        return self._node.housekeeping.alive()

    def transfer_leader(self, group: GroupId, leader: int, target: int) -> None:
        self._node.housekeeping.carry_out(TransferLeader(group, leader, target, "an administrator asked for it"))

    def disk_bytes(self) -> tuple[int, int]:
        usage = shutil.disk_usage(self._node.config.data_dir)
        return usage.total, usage.free

    def replica_sizes(self) -> Iterator[ReplicaSize]:
        node = self._node
        for group_log in node.store.groups.values():
            if group_log.group_id == META_GROUP:
                continue
            partition = node.partitions.by_id.get(group_log.group_id)
            lag = max(0, partition.high_watermark - partition.log_end_offset) if partition is not None else 0
            yield ReplicaSize(group_log.topic, group_log.partition, group_log.size_bytes, lag)

    # -- quorum ---------------------------------------------------------------------------------------------------

    async def quorum(self) -> QuorumStatus:
        """Raises KafkaError when no leader is known or it does not answer."""
        node = self._node
        leader = node.meta.group.leader
        if leader == node.node_id:
            return self._own_quorum()
        if leader == 0:
            raise KafkaError(ErrorCode.LEADER_NOT_AVAILABLE, "No leader of the metadata is known: a majority of its voters must run.")
        try:
            return _decoder.decode(await node.links.call(leader, METHOD_QUORUM, b"", CALL_TIMEOUT_MS))
        except (OSError, msgspec.MsgspecError) as error:
            text = f"Broker {leader}, which leads the metadata, did not answer; try again."
            raise KafkaError(ErrorCode.LEADER_NOT_AVAILABLE, text) from error

    async def serve_quorum(self, _sender: int, _payload: bytes) -> bytes:
        """The leader's side of METHOD_QUORUM; not leading is an answer without members."""
        try:
            return msgspec.msgpack.encode(self._own_quorum())
        except KafkaError:
            return b""

    def _own_quorum(self) -> QuorumStatus:
        node = self._node
        group: RaftGroup = node.meta.group
        if group.core.role != Role.LEADER:
            raise KafkaError(ErrorCode.LEADER_NOT_AVAILABLE, "The leader of the metadata is changing; try again.")
        now_ms, wall_ms = node.clock.now_ms(), node.wall_time_ms()

        def told(status: ReplicaStatus) -> QuorumMember:
            def wall(at_ms: int) -> int:
                return wall_ms - (now_ms - at_ms) if at_ms >= 0 else -1

            broker = node.image.brokers.get(status.node)
            directory = broker.directory_id if broker is not None else ""
            return QuorumMember(status.node, directory, status.match_index + 1, wall(status.contact_ms), wall(status.at_end_ms))

        replicas = group.replicas()
        return QuorumStatus(
            node_of(group.core.leader),
            group.term,
            group.commit_index + 1,
            tuple(told(status) for status in replicas if status.voter),
            tuple(told(status) for status in replicas if not status.voter),
        )
