"""The unary methods of RaftService: one question at a time, for tools, tests and joining nodes.

Thin adapters over RaftInspector; replication does not go this way. What changes something must name the cluster; a Heartbeat only looks and need not.
Runs on the loop thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import grpc
from crc32c import crc32c

from raft.core.message import Message, MessageType
from raft.transport.options import RemoteError, same_bytes
from raft.transport.protobuf import parse, raft_classes
from raft.transport.registry import Registry
from wal.entry import META_GROUP, Entry, EntryKind, GroupId


class GroupStatus(NamedTuple):
    """`role`: leader, follower, candidate, pre_candidate or learner. `leader` is a broker id, 0 unknown."""

    term: int
    leader: int
    commit_index: int
    role: str
    last_index: int = 0
    applied_index: int = 0


class JoinRequest(NamedTuple):
    """`cluster_id` empty: not a member of any cluster yet. `address`: host:port where the joining node is reached."""

    node_id: int
    cluster_id: bytes
    incarnation: int
    address: str
    rack: str


class JoinResponse(NamedTuple):
    """`cluster_id` empty: this node has no cluster either. Not accepted: `error_text` says why, `leader*` where to ask instead."""

    accepted: bool
    cluster_id: bytes
    leader: int
    leader_address: str
    error_text: str


class RaftInspector(Protocol):
    """What the unary methods ask of the replication layer. RemoteError becomes FAILED_PRECONDITION with its text."""

    def status(self, group: GroupId) -> GroupStatus | None:
        """None: there is no such group here."""

    async def read_index(self, group: GroupId) -> int:
        """The index that a linearizable read must have applied; -1 when this node does not lead the group."""

    def transfer(self, group: GroupId, target: int) -> str:
        """Begin handing leadership to broker `target` (0: whoever is furthest); "" or why not."""

    def step_unary(self, group: GroupId, message: Message) -> Awaitable[Message]:
        """Step one message and wait for its answer, which leaves after the fsync as always."""

    async def join(self, request: JoinRequest) -> JoinResponse: ...


class UnaryServices:
    """`handlers` is the table of methods for grpc."""

    __slots__ = ("_registry", "inspector")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.inspector: RaftInspector | None = None

    def handlers(self) -> dict[str, Any]:
        methods: dict[str, Callable[[ModuleType, RaftInspector, Any, Any], Awaitable[Any]]] = {
            "Heartbeat": self._heartbeat,
            "RequestVote": self._request_vote,
            "AppendEntries": self._append_entries,
            "ReadIndex": self._read_index,
            "TransferLeader": self._transfer_leader,
            "Join": self._join,
        }
        return {
            name: grpc.unary_unary_rpc_method_handler(self._adapter(name, method), request_deserializer=same_bytes, response_serializer=same_bytes)
            for name, method in methods.items()
        }

    def _adapter(
        self, name: str, method: Callable[[ModuleType, RaftInspector, Any, Any], Awaitable[Any]]
    ) -> Callable[[bytes, Any], Awaitable[bytes]]:
        registry = self._registry

        async def adapter(data: bytes, context: Any) -> bytes:
            inspector = self.inspector
            if inspector is None:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the node is starting; try again later")
                return b""
            classes = await raft_classes()
            try:
                request = parse(getattr(classes, f"{name}Request"), data)
            except ValueError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
                return b""
            try:
                answer = await method(classes, inspector, request, context)
            except RemoteError as error:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.text)
                return b""
            identity = registry.identity
            answer.incarnation, answer.topic_id, answer.partition = identity.incarnation, request.topic_id, request.partition
            if name != "Join":
                answer.cluster_id = identity.cluster_id
            return bytes(answer.SerializeToString())

        return adapter

    async def _heartbeat(self, classes: ModuleType, inspector: RaftInspector, request: Any, context: Any) -> Any:
        await self._check_cluster(request, context, required=False)
        status = inspector.status(await _group(request, context))
        if status is None:
            raise RemoteError(0, f"node {self._registry.identity.node_id} has no replica of this group")
        return classes.HeartbeatResponse(
            node_id=self._registry.identity.node_id,
            term=status.term,
            leader_id=status.leader,
            commit_index=status.commit_index,
            role=status.role,
            last_index=status.last_index,
            applied_index=status.applied_index,
        )

    async def _request_vote(self, classes: ModuleType, inspector: RaftInspector, request: Any, context: Any) -> Any:
        await self._check_cluster(request, context)
        await self._check_incarnation(request, context)
        message = Message(
            MessageType.PRE_VOTE if request.pre_vote else MessageType.VOTE,
            request.sender,
            request.receiver,
            request.term,
            request.last_index,
            request.last_term,
            transfer=request.transfer,
        )
        answer = await inspector.step_unary(await _group(request, context), message)
        return classes.RequestVoteResponse(sender=answer.sender, term=answer.term, granted=not answer.reject)

    async def _append_entries(self, classes: ModuleType, inspector: RaftInspector, request: Any, context: Any) -> Any:
        await self._check_cluster(request, context)
        await self._check_incarnation(request, context)
        entries = [
            Entry(e.term, e.index, e.kind, (e.payload,) if e.payload else (), len(e.payload), e.payload_crc, e.base_offset, e.record_count)
            for e in request.entries
        ]
        await _check_entries(request, entries, context)
        message = Message(
            MessageType.APPEND,
            request.sender,
            request.receiver,
            request.term,
            request.previous_index,
            request.previous_term,
            request.commit,
            entries,
        )
        answer = await inspector.step_unary(await _group(request, context), message)
        return classes.AppendEntriesResponse(
            sender=answer.sender,
            term=answer.term,
            success=not answer.reject,
            match_index=0 if answer.reject else answer.index,
            hint_index=answer.hint_index,
            hint_term=answer.log_term,
        )

    async def _read_index(self, classes: ModuleType, inspector: RaftInspector, request: Any, context: Any) -> Any:
        await self._check_cluster(request, context, required=False)
        group = await _group(request, context)
        index = await inspector.read_index(group)
        status = inspector.status(group)
        if index < 0 or status is None:
            leader = status.leader if status is not None else 0
            raise RemoteError(0, f"not leader, leader is node {leader}" if leader else "not leader, leader is not known")
        return classes.ReadIndexResponse(node_id=self._registry.identity.node_id, term=status.term, index=index)

    async def _transfer_leader(self, classes: ModuleType, inspector: RaftInspector, request: Any, context: Any) -> Any:
        await self._check_cluster(request, context)
        error_text = inspector.transfer(await _group(request, context), request.target_node_id)
        return classes.TransferLeaderResponse(node_id=self._registry.identity.node_id, accepted=not error_text, error_text=error_text)

    async def _join(self, classes: ModuleType, inspector: RaftInspector, request: Any, context: Any) -> Any:
        await self._check_cluster(request, context, required=False)
        answer = await inspector.join(JoinRequest(request.node_id, request.cluster_id, request.incarnation, request.address, request.rack))
        return classes.JoinResponse(
            cluster_id=answer.cluster_id,
            node_id=self._registry.identity.node_id,
            accepted=answer.accepted,
            leader_id=answer.leader,
            leader_address=answer.leader_address,
            error_text=answer.error_text,
        )

    async def _check_cluster(self, request: Any, context: Any, required: bool = True) -> None:
        ours = self._registry.identity.cluster_id
        if request.cluster_id == ours if request.cluster_id else not required:
            return
        if not request.cluster_id:
            text = "the call names no cluster; pass the cluster_id that Heartbeat answers"
        else:
            text = f"this node belongs to cluster {ours.hex() or 'none'}, not to {request.cluster_id.hex()}"
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)

    async def _check_incarnation(self, request: Any, context: Any) -> None:
        sender = request.sender & 0xFFFFFFFF
        refusal = self._registry.refusal(request.cluster_id, sender, self._registry.identity.node_id, request.incarnation)
        if refusal:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal)


async def _group(request: Any, context: Any) -> GroupId:
    if not request.topic_id:
        return META_GROUP
    if len(request.topic_id) != 16 or request.partition < 0:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "topic_id has 16 bytes (none for __meta), partition is not negative")
    return GroupId(request.topic_id + request.partition.to_bytes(4, "big"))


async def _check_entries(request: Any, entries: list[Entry], context: Any) -> None:
    for position, entry in enumerate(entries):
        sound = entry.index == request.previous_index + 1 + position and entry.kind <= max(EntryKind) and entry.term <= request.term
        if not sound or crc32c(entry.payload()) != entry.payload_crc:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"entry {entry.index} is out of order, of an unknown kind, or does not match its checksum"
            )
