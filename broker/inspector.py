"""What the unary methods of RaftService ask of this node (`raft.transport.services.RaftInspector`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from broker.metadata.operations import NODE_ID_MAX, removed_broker_text, wiped_directory_text
from raft.core.core import Role
from raft.core.message import Message, node_of
from raft.group import RaftGroup
from raft.transport.options import FAILED_CODE, RemoteError
from raft.transport.services import GroupStatus, JoinRequest, JoinResponse
from wal.entry import META_GROUP, GroupId

if TYPE_CHECKING:
    from broker.node import Node

READ_INDEX_TIMEOUT_S = 5.0
STEP_TIMEOUT_S = 5.0


_T = TypeVar("_T")


def _setter(future: asyncio.Future[_T]) -> Callable[[_T], None]:
    """Completes `future`, unless its caller has gone."""

    def done(result: _T) -> None:
        if not future.done():
            future.set_result(result)

    return done


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
        self._group(group).read_index(_setter(future))
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
        forget = found.driver.ask(found, message, _setter(future))
        try:
            return await asyncio.wait_for(future, STEP_TIMEOUT_S)
        except TimeoutError:
            raise RemoteError(FAILED_CODE, "the message was not answered (nothing is said to an old term or to a stranger)") from None
        finally:
            forget()

    async def join(self, request: JoinRequest) -> JoinResponse:
        """Whether a node may join, and at whom; asked at the leader of `__meta`, everybody else names it. Changes nothing for a node that is new.

        A node without a cluster id is one with an empty directory: accepted if its id is free. It joins by being started with a seed of this cluster,
        because only its own data directory can register it. A node with our cluster id is a member that comes back: if it is registered under the
        address that it tells, it is made a learner of `__meta` unless it is a member already.
        """
        node = self._node
        image, leader = node.machine.image, node.machine.leader_node
        broker = image.brokers.get(leader)
        cluster_id, address = bytes.fromhex(image.cluster_id or ""), broker.raft_address if broker is not None else ""

        def refused(why: str) -> JoinResponse:
            return JoinResponse(False, cluster_id, leader, address, why)

        if not 0 < request.node_id <= NODE_ID_MAX:
            return refused(f"node id {request.node_id} is not in 1…{NODE_ID_MAX}")
        if not node.machine.serving:
            return refused(f"not leader, leader is node {leader}" if leader else "not leader, leader is not known: try again later")
        known = image.brokers.get(request.node_id)
        if not request.cluster_id:
            return JoinResponse(True, cluster_id, leader, address, "") if known is None else refused(wiped_directory_text(request.node_id, known))
        if known is None:
            return refused(
                removed_broker_text(request.node_id)
                if request.node_id in image.generations
                else f"node {request.node_id} is not registered; start it with a node of this cluster in its seed_nodes"
            )
        if request.address and request.address != known.raft_address:
            return refused(
                f"node {request.node_id} is registered at {known.raft_address}, not at {request.address}; start it there, it tells a new one"
            )
        replica = image.replica_id(request.node_id, META_GROUP)
        if replica is None or not await node.meta.add_learner(replica, known.raft_address):
            return refused("the change of membership is not committed yet: try again")
        return JoinResponse(True, cluster_id, leader, address, "")
