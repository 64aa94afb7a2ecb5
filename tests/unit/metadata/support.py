"""A group without Raft: what a machine proposes is committed when the test says so, on the machines that the test names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from broker.metadata.builder import ImageBuilder
from broker.metadata.draft import ControllerPolicy, OperationResult
from broker.metadata.image import MetadataImage
from broker.metadata.machine import MetadataMachine, PendingOperation
from broker.metadata.operations import Operation
from broker.metadata.records import BrokerRegistered
from wal.entry import Entry, EntryKind

MAX_BYTES = 1 << 20


def topic_id(number: int) -> bytes:
    return b"topic" + number.to_bytes(11, "big")


def brokers(count: int, racks: Sequence[str | None] = ()) -> list[BrokerRegistered]:
    return [
        BrokerRegistered(n, f"host{n}", 9092, f"host{n}:9093", rack=racks[n - 1] if racks else None, directory_id=f"dir{n}")
        for n in range(1, count + 1)
    ]


def image_of(*records: object, version: int = 1) -> MetadataImage:
    builder = ImageBuilder(MetadataImage())
    for record in records:
        builder.apply(record)  # type: ignore[arg-type]
    return builder.image(version)


class FakeLog:
    last_index = 0


class FakeGroup:
    def __init__(self) -> None:
        self.dirty = 0
        self.lease = True
        self.log = FakeLog()

    def mark_dirty(self) -> None:
        self.dirty += 1

    def lease_valid(self) -> bool:
        return self.lease


class Replica:
    """A machine with its fake group and the log that it would have."""

    def __init__(self, policy: ControllerPolicy | None = None) -> None:
        self.machine = MetadataMachine(policy)
        self.group = FakeGroup()
        self.machine.attach(self.group)  # type: ignore[arg-type]
        self.log: list[Entry] = []

    def lead(self) -> None:
        self.machine.on_leader_change(1, 1)
        self.commit_noop()
        self.machine.on_leadership(True)

    def commit_noop(self) -> None:
        self._commit(EntryKind.NOOP, (), 0, 0, 0)

    def _commit(self, kind: int, chunks: Sequence[bytes], size: int, crc: int, count: int) -> None:
        entry = Entry(1, self.machine.applied_index + 1, kind, chunks, size, crc, 0, count)
        self.log.append(entry)
        self.group.log.last_index = entry.index
        self.machine.apply([entry])

    def propose(self) -> Callable[[], None] | None:
        """Collect; the returned function commits and applies the entry."""
        proposal = self.machine.collect(MAX_BYTES)
        if proposal is None:
            return None
        self.group.log.last_index += 1
        return lambda: self._commit(proposal.kind, proposal.chunks, proposal.size, proposal.payload_crc, proposal.record_count)  # type: ignore[arg-type]

    def settle(self) -> None:
        """Commit until nothing is left to propose."""
        while (commit := self.propose()) is not None:
            commit()

    def submit(self, operation: Operation, request_id: bytes = b"") -> list[tuple[OperationResult, int]]:
        """The list gets the answer when there is one."""
        answers: list[tuple[OperationResult, int]] = []
        self.machine.submit(PendingOperation(operation, lambda result, version: answers.append((result, version)), request_id))
        return answers

    def run(self, operation: Operation, request_id: bytes = b"") -> OperationResult:
        answers = self.submit(operation, request_id)
        self.settle()
        (answer,) = answers
        return answer[0]

    def register(self, count: int, racks: Sequence[str | None] = ()) -> None:
        from broker.metadata.operations import RegisterBroker

        for record in brokers(count, racks):
            result = self.run(RegisterBroker(record.node_id, record.host, record.port, record.raft_address, record.directory_id, rack=record.rack))
            assert result.error == 0, result


def leading(count: int = 3, policy: ControllerPolicy | None = None) -> Replica:
    replica = Replica(policy)
    replica.lead()
    replica.register(count)
    return replica


class VirtualClock:
    """Time that moves only when nothing else can: `run` drives a coroutine and jumps to the next callback whenever the loop is idle."""

    def __init__(self) -> None:
        self.time_ms = 0
        self.waiting: list[tuple[int, int, Callable[[], None]]] = []
        self.count = 0

    def now_ms(self) -> int:
        return self.time_ms

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        self.count += 1
        self.waiting.append((self.time_ms + delay_ms, self.count, callback))

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.call_later(0, callback)

    async def until(self, task: asyncio.Future[object], limit_ms: int = 600_000) -> None:
        """Let time pass until `task` is done or `limit_ms` of virtual time are over."""
        end_ms = self.time_ms + limit_ms
        while not task.done():
            for _ in range(20):
                await asyncio.sleep(0)
            if task.done() or not self.waiting:
                break
            self.waiting.sort(key=lambda item: item[:2])
            if self.waiting[0][0] > end_ms:
                self.time_ms = end_ms
                break
            at_ms, _, callback = self.waiting.pop(0)
            self.time_ms = max(self.time_ms, at_ms)
            callback()
