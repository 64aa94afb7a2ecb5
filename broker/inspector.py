"""What the unary methods of RaftService ask of this node (`raft.transport.services.RaftInspector`)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from raft.core.core import Role
from raft.core.message import Message, node_of
from raft.group import RaftGroup
from raft.transport.options import FAILED_CODE, RemoteError
from raft.transport.services import GroupStatus, JoinRequest, JoinResponse
from wal.entry import GroupId

if TYPE_CHECKING:
    from broker.node import Node

READ_INDEX_TIMEOUT_S = 5.0
STEP_TIMEOUT_S = 5.0


class Inspector:
    """Fulfils RaftInspector over the node's driver."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def _group(self, group: GroupId) -> RaftGroup:
        found = self._node.driver.groups.get(group)
        if found is None:
            raise RemoteError(FAILED_CODE, f"node {self._node.node_id} has no replica of this group")
        return found  # type: ignore[no-any-return]

    def status(self, group: GroupId) -> GroupStatus | None:
        found: RaftGroup | None = self._node.driver.groups.get(group)
        if found is None:
            return None
        core = found.core
        role = core.role.name.lower() if core.role != Role.FOLLOWER or found.is_voter() else "learner"
        return GroupStatus(core.term, found.leader, core.commit_index, role, found.log.last_index, found.applied_index)

    async def read_index(self, group: GroupId) -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._group(group).read_index(lambda index: future.done() or future.set_result(index))
        try:
            return await asyncio.wait_for(future, READ_INDEX_TIMEOUT_S)
        except TimeoutError:
            return -1

    def transfer(self, group: GroupId, target: int) -> str:
        found = self._group(group)
        if found.core.role != Role.LEADER:
            return f"not leader, leader is node {found.leader}"
        replicas = [r for r in found.core.membership.voters if r != found.core.replica]
        if target:
            replicas = [r for r in replicas if node_of(r) == target]
        if not replicas:
            return f"node {target} is no other voter of this group"
        best = max(replicas, key=lambda r: found.core.progress[r].match_index)
        return found.driver.elections.transfer(found, best)

    async def step_unary(self, group: GroupId, message: Message) -> Message:
        found = self._group(group)
        if found.log.quarantined:
            raise RemoteError(FAILED_CODE, f"the replica of node {self._node.node_id} is damaged and answers nothing: {found.log.quarantined}")
        if message.receiver != found.core.replica:
            raise RemoteError(FAILED_CODE, f"the message is for replica {message.receiver}, this is {found.core.replica}")
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        found.driver.ask(found, message, lambda answer: future.done() or future.set_result(answer))
        try:
            return await asyncio.wait_for(future, STEP_TIMEOUT_S)
        except TimeoutError:
            raise RemoteError(FAILED_CODE, "the message was not answered (nothing is said to an old term or to a stranger)") from None

    async def join(self, request: JoinRequest) -> JoinResponse:
        """The public form of joining: the same as `cluster.join` between nodes, for tools."""
        node = self._node
        leader = node.machine.leader_node
        broker = node.machine.image.brokers.get(leader)
        cluster_id = bytes.fromhex(node.machine.image.cluster_id or "")
        address = broker.raft_address if broker is not None else ""
        if request.cluster_id and request.cluster_id != cluster_id:
            return JoinResponse(False, cluster_id, leader, address, "this node belongs to another cluster")
        known = node.machine.image.brokers.get(request.node_id)
        if known is None:
            return JoinResponse(False, cluster_id, leader, address, f"node {request.node_id} is not registered; start it with this cluster as its seed")
        return JoinResponse(True, cluster_id, leader, address, "")


