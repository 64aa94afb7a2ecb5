"""The state machine of `__meta`: one image on every node, changed only by committed records; on its leader also the queue of operations.

Operations are ordered over all of `__meta`: a batch is validated against the applied image plus the records of the operations before it in the batch,
and the next batch waits until this one is applied or known to be lost. So an answer never rests on something that may yet be truncated.
Runs on the loop thread; knows no clock. An operation's `done` is called exactly once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
from crc32c import crc32c

from broker.errors import ErrorCode, KafkaError
from broker.metadata.builder import ImageBuilder, image_records
from broker.metadata.draft import ControllerPolicy, Draft, OperationResult
from broker.metadata.image import MetadataImage
from broker.metadata.operations import Operation
from broker.metadata.records import OperationApplied, decode_records, encode_record, join_records
from raft.api import Group, Proposal
from wal.api import AppliedState
from wal.entry import Entry, EntryKind
from wal.errors import InvariantError, check

logger = logging.getLogger("chronik_cluster")

QUEUED_OPERATIONS_MAX = 4_096
BATCH_OPERATIONS_MAX = 1_024
SNAPSHOT_FORMAT = 1
_HEADER_SIZE = 1 + 8  # format, version of the image

ImageListener = Callable[[MetadataImage, MetadataImage], None]
Done = Callable[[OperationResult, int], None]
_result_decoder = msgspec.msgpack.Decoder(OperationResult)


class PendingOperation:
    """An operation that waits for its answer: `done(result, version)`, where an image of at least `version` shows what the answer tells.

    `request_id` (b"" none) recognises a repetition. `cancelled` may be set by who asked: it is not begun then, if it has not been begun yet.
    """

    __slots__ = ("body", "cancelled", "done", "principal", "request_id")

    def __init__(self, body: Operation, done: Done, request_id: bytes = b"", principal: str = "User:ANONYMOUS") -> None:
        self.body = body
        self.done = done
        self.request_id = request_id
        self.principal = principal
        self.cancelled = False


class _Flight:
    """The one entry that is proposed and not applied: its operations with their results, and whether each one needs the entry.

    `index` is the one that it has if the group took it. A group may refuse an entry (while it hands over its leadership, say) and go on leading in
    the same term: then its log never has this entry there, which is how the machine finds out.
    """

    __slots__ = ("index", "operations", "payload_crc")

    def __init__(self, operations: list[tuple[PendingOperation, OperationResult, bool]], index: int, payload_crc: int) -> None:
        self.operations = operations
        self.index = index
        self.payload_crc = payload_crc


_NOT_CONTROLLER = OperationResult(int(ErrorCode.NOT_CONTROLLER), "this broker does not lead __meta now; ask its leader")
_UNKNOWN = OperationResult(
    int(ErrorCode.REQUEST_TIMED_OUT), "the leader of __meta changed before the change was committed; it may or may not have happened"
)
_QUEUE_FULL = OperationResult(
    int(ErrorCode.THROTTLING_QUOTA_EXCEEDED), f"{QUEUED_OPERATIONS_MAX} changes of metadata are waiting already; try again later"
)


class MetadataMachine:
    """Fulfils `raft.api.StateMachine` for `__meta`.

    Invariants: `image` holds exactly the records of entries ≤ `applied_index`; at most one entry of ours is in flight, and only while `serving`.
    """

    __slots__ = (
        "_captured",
        "_flight",
        "_group",
        "_leader_listeners",
        "_listeners",
        "_policy",
        "_queue",
        "applied_bytes",
        "applied_index",
        "image",
        "leader_node",
        "serving",
        "term",
    )

    def __init__(self, policy: ControllerPolicy | None = None) -> None:
        self._policy = policy or ControllerPolicy()
        self._group: Group | None = None
        self._queue: deque[PendingOperation] = deque()
        self._flight: _Flight | None = None
        self._listeners: list[ImageListener] = []
        self._leader_listeners: list[Callable[[], None]] = []
        self._captured: tuple[int, bytes] = (-1, b"")
        self.image = MetadataImage()
        self.applied_index = 0
        self.applied_bytes = 0  # payload of all entries that were applied since the start
        self.leader_node = 0  # 0 unknown
        self.term = 0
        self.serving = False

    def attach(self, group: Group) -> None:
        """Tell the machine its group, before the first operation."""
        self._group = group

    def add_listener(self, listener: ImageListener) -> None:
        """Call `listener(old, new)` after each change of the image."""
        self._listeners.append(listener)

    def remove_listener(self, listener: ImageListener) -> None:
        self._listeners.remove(listener)

    def add_leader_listener(self, listener: Callable[[], None]) -> None:
        """Call `listener()` after `leader_node` or `serving` changed."""
        self._leader_listeners.append(listener)

    def submit(self, operation: PendingOperation) -> None:
        """Queue an operation; its `done` may be called before this returns (NOT_CONTROLLER, or too many waiting)."""
        if not self.serving or self._group is None:
            operation.done(_NOT_CONTROLLER, self.image.version)
        elif len(self._queue) >= QUEUED_OPERATIONS_MAX:
            operation.done(_QUEUE_FULL, self.image.version)
        else:
            self._queue.append(operation)
            self._group.mark_dirty()

    def collect(self, max_bytes: int) -> Proposal | None:
        self._maybe_take_back()
        if not self.serving or self._group is None or self._flight is not None or not self._queue:
            return None
        draft = Draft(self.image, self._policy)
        operations: list[tuple[PendingOperation, OperationResult, bool]] = []
        encoded: list[bytes] = []
        size = len(join_records(()))
        while self._queue and len(operations) < BATCH_OPERATIONS_MAX:
            operation = self._queue[0]
            if operation.cancelled:
                self._queue.popleft()
                operation.done(_UNKNOWN, self.image.version)
                continue
            mark = len(draft.records)
            result = self._execute(operation, draft, mark)
            added = [encode_record(record) for record in draft.records[mark:]]
            added_size = sum(map(len, added))
            if size + added_size > max_bytes:
                draft.rollback(mark)
                if mark:
                    break  # it goes with the next entry
                text = f"the change needs {added_size} bytes in one entry of __meta, {max_bytes} are possible; split it"
                result, added, added_size = OperationResult(int(ErrorCode.INVALID_REQUEST), text), [], 0
            self._queue.popleft()
            operations.append((operation, result, bool(added)))
            encoded += added
            size += added_size
        if encoded:
            payload = join_records(encoded)
            crc = crc32c(payload)
            self._flight = _Flight(operations, self._group.log.last_index + 1, crc)
            return Proposal(EntryKind.DATA, (payload,), len(payload), crc, len(encoded))
        self._answer_unchanged(operations)
        return None

    def _execute(self, operation: PendingOperation, draft: Draft, mark: int) -> OperationResult:
        known = draft.image.answers.get(operation.request_id) if operation.request_id else None
        if known is not None:
            return _result_decoder.decode(known)
        try:
            result = operation.body.execute(draft)
        except KafkaError as error:
            draft.rollback(mark)
            return OperationResult.of(error)
        except Exception:
            # Nothing is decided yet: one bad request must not stop the controller, and then the next one when it is repeated there.
            logger.exception("operation on __meta failed: %s", type(operation.body).__name__)
            draft.rollback(mark)
            return OperationResult(int(ErrorCode.UNKNOWN_SERVER_ERROR), "the controller failed to carry out the change; its log tells why")
        if operation.request_id and len(draft.records) > mark:
            draft.add(OperationApplied(operation.request_id, msgspec.msgpack.encode(result)))
        return result

    def _maybe_take_back(self) -> None:
        """Queue the operations in flight again when the group has refused their entry: nothing of them has happened."""
        flight = self._flight
        if flight is None or self._group is None or max(self._group.log.last_index, self.applied_index) >= flight.index:
            return
        self._flight = None
        self._queue.extendleft(operation for operation, _, _ in reversed(flight.operations))

    def _answer_unchanged(self, operations: list[tuple[PendingOperation, OperationResult, bool]]) -> None:
        """Nothing to commit: the answers rest on the applied image, which is the newest only while nobody else can lead."""
        valid = self._group is not None and self._group.lease_valid()
        for operation, result, _ in operations:
            operation.done(result if valid else _NOT_CONTROLLER, self.image.version)

    def apply(self, entries: Sequence[Entry]) -> None:
        old = self.image
        builder: ImageBuilder | None = None
        version = old.version
        landed: _Flight | None = None
        taken = False
        for entry in entries:
            check(entry.index == self.applied_index + 1, f"__meta: entry {entry.index} applied after {self.applied_index}")
            self.applied_index = entry.index
            self.applied_bytes += entry.size
            if self._flight is not None and entry.index == self._flight.index:
                landed, self._flight = self._flight, None
                taken = entry.kind == EntryKind.DATA and entry.payload_crc == landed.payload_crc
            if entry.kind != EntryKind.DATA:
                continue
            builder = builder or ImageBuilder(old)
            for record in decode_records(entry.payload()):
                builder.apply(record)
            version = entry.index
        if builder is not None:
            self._replace(builder.image(version))
        if landed is not None:
            for operation, result, _ in landed.operations:
                # Another entry of our own term in its place: the group refused it, and nothing of it has happened.
                operation.done(result if taken else _NOT_CONTROLLER, version)
        self._maybe_continue()

    def _maybe_continue(self) -> None:
        if self._queue and self.serving and self._flight is None and self._group is not None:
            self._group.mark_dirty()

    def _replace(self, image: MetadataImage) -> None:
        old, self.image = self.image, image
        for listener in tuple(self._listeners):
            listener(old, image)

    def on_leadership(self, leader: bool) -> None:
        self.serving = leader
        if not leader:
            self._fail_all()
        for listener in tuple(self._leader_listeners):
            listener()

    def _fail_all(self) -> None:
        """What was in flight may still be committed by the next leader: unknown. What needs no record, or was not begun, did not happen."""
        flight, self._flight = self._flight, None
        queued, self._queue = self._queue, deque()
        for operation, _, needs_entry in flight.operations if flight is not None else ():
            operation.done(_UNKNOWN if needs_entry else _NOT_CONTROLLER, self.image.version)
        for operation in queued:
            operation.done(_NOT_CONTROLLER, self.image.version)

    def on_leader_change(self, leader_node: int, term: int) -> None:
        self.leader_node = leader_node
        self.term = term
        for listener in tuple(self._leader_listeners):
            listener()

    def on_flushed(self) -> None:
        """Nothing here depends on what is durable on this node alone."""

    def on_progress(self) -> None:
        """How far followers are is the reconciler's matter. The group is alive, so this is a moment to propose again what it had refused."""
        if self._flight is not None:
            self._maybe_take_back()
            self._maybe_continue()

    def restore(self, state: AppliedState | None) -> int:
        if state is None:
            return 0
        self._load(state.index, state.data)
        return state.index

    def capture(self) -> AppliedState | None:
        return AppliedState(self.applied_index, self.snapshot()) if self.applied_index else None

    def snapshot(self) -> bytes:
        """Format, version of the image (8 bytes), and the records that rebuild it; encoded once per version."""
        version, data = self._captured
        if version != self.image.version:
            head = bytes((SNAPSHOT_FORMAT,)) + self.image.version.to_bytes(8, "big")
            data = head + join_records([encode_record(record) for record in image_records(self.image)])
            self._captured = (self.image.version, data)
        return data

    def install(self, index: int, data: bytes) -> None:
        check(index > self.applied_index, f"__meta: a snapshot of {index} is not newer than what is applied, {self.applied_index}")
        self._fail_all()
        self._load(index, data)

    def _load(self, index: int, data: bytes) -> None:
        if len(data) <= _HEADER_SIZE or data[0] != SNAPSHOT_FORMAT:
            found: int | str = data[0] if data else "none"
            raise InvariantError(f"a snapshot of __meta has format version {found}, known is {SNAPSHOT_FORMAT}: start the version that wrote it")
        version = int.from_bytes(data[1:_HEADER_SIZE], "big")
        check(version <= index, f"a snapshot of __meta at {index} claims to hold entry {version}")
        builder = ImageBuilder(MetadataImage())
        for record in decode_records(data[_HEADER_SIZE:]):
            builder.apply(record)
        self.applied_index = index
        self._replace(builder.image(version))
