"""A replicated log in memory under the shards of three brokers, and clients that talk to whoever leads."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Generic, TypeVar

from broker.api import AppendResult
from broker.coordinator.groups.config import GroupConfig
from broker.coordinator.groups.machine import GroupsMachine
from broker.coordinator.groups.members import JoinRequest, JoinResult, Protocol, SyncResult
from broker.coordinator.groups.offsets import CommitRequest, FetchedOffset
from broker.coordinator.groups.rebalance import SyncRequest
from broker.coordinator.groups.records import StoredOffset
from broker.coordinator.runtime import Machine, Shard
from broker.errors import ErrorCode, KafkaError
from broker.records.batch import prepared_batches, stamp
from tests.unit.handlers.fakes import ManualClock

WALL_MS = 1_700_000_000_000
TOPIC_ID = b"t" * 16


T = TypeVar("T")


class Answer(Generic[T]):
    """The one answer to a request."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self.failed: ErrorCode | None = None

    def __call__(self, value: T) -> None:
        assert not self.values and self.failed is None, "answered twice"
        self.values.append(value)

    def fail(self, error: KafkaError) -> None:
        assert not self.values and self.failed is None, "answered twice"
        self.failed = error.code

    @property
    def done(self) -> bool:
        return bool(self.values) or self.failed is not None

    @property
    def value(self) -> T:
        assert self.values, f"no answer ({self.failed})"
        return self.values[0]


def subscription(*topics: str) -> bytes:
    """ConsumerProtocolSubscription version 0."""
    names = b"".join(struct.pack(">h", len(topic)) + topic.encode() for topic in topics)
    return struct.pack(">hi", 0, len(topics)) + names + struct.pack(">i", -1)


class FakeLog:
    """One broker's view of the log: fulfils `coordinator.runtime.Log`."""

    def __init__(self, cluster: Replicas, number: int) -> None:
        self._cluster = cluster
        self._number = number

    @property
    def leader_epoch(self) -> int:
        return self._cluster.term

    def leadership(self) -> tuple[bool, bool]:
        leads = self._cluster.leader == self._number
        return leads, leads and self._cluster.lease

    def append_prepared(self, batches: Sequence[bytearray], done: Callable[[AppendResult], None]) -> None:
        cluster = self._cluster
        if cluster.leader != self._number:
            done(AppendResult(ErrorCode.NOT_LEADER_OR_FOLLOWER))
        elif cluster.refuse is not None:
            done(AppendResult(cluster.refuse))
        else:
            cluster.pending.append((bytearray().join(batches), done))
            if cluster.auto:
                cluster.clock.call_soon(cluster.commit)


class Replicas:
    """The shards of all brokers. `auto`: what is appended commits in the next turn; else `commit` does it."""

    def __init__(self, make: Callable[[], Machine], attach: Callable[[Any, Shard], None], clock: ManualClock, brokers: int = 3) -> None:
        self.clock = clock
        self.wall_ms = WALL_MS
        self.leader = 0
        self.term = 1
        self.lease = True
        self.auto = True
        self.refuse: ErrorCode | None = None
        self.pending: list[tuple[bytearray, Callable[[AppendResult], None]]] = []
        self.batches: list[bytes] = []
        self.end_offset = 0
        self.make = make
        self.attach = attach
        self.shards = [self._open(number) for number in range(brokers)]
        self.shards[0].on_leadership(True)

    def _open(self, number: int) -> Shard:
        machine = self.make()
        shard = Shard(0, machine, self.clock, lambda: self.wall_ms)
        self.attach(machine, shard)
        shard.attach(FakeLog(self, number))
        shard.restore(b"")
        return shard

    @property
    def machine(self) -> Any:
        return self.shards[self.leader].machine

    def _apply(self, data: bytearray) -> None:
        view = memoryview(data)
        self.end_offset = stamp(view, list(prepared_batches(view)), self.end_offset, self.term)
        self.batches.append(bytes(data))
        for shard in self.shards:
            shard.on_data([data])

    def commit(self) -> None:
        pending, self.pending = self.pending, []
        for data, done in pending:
            self._apply(data)
            done(AppendResult(ErrorCode.NONE))

    def inject(self, data: bytearray) -> None:
        """Something that others append (a transaction marker)."""
        self._apply(data)

    def fail_over(self, leader: int, survives: bool = True) -> None:
        """Another broker leads; what was on its way commits or does not, and the old leader never knows."""
        pending, self.pending = self.pending, []
        old = self.leader
        self.leader = -1
        self.shards[old].on_leadership(False)
        for data, done in pending:
            if survives:
                self._apply(data)
            done(AppendResult(ErrorCode.REQUEST_TIMED_OUT))
        self.leader = leader
        self.term += 1
        self.shards[leader].on_leadership(True)

    def restart(self, number: int) -> None:
        """A broker that does not lead starts again from its own snapshot."""
        assert number != self.leader
        state = self.shards[number].capture()
        self.shards[number] = self._open(number)
        self.shards[number].restore(state)


CONFIG = GroupConfig(initial_rebalance_delay_ms=3_000, session_timeout_ms_min=1_000)


class Groups(Replicas):
    """Group coordinators with short words for what clients ask."""

    def __init__(self, config: GroupConfig = CONFIG, clock: ManualClock | None = None) -> None:
        clock = clock if clock is not None else ManualClock()
        ids = count(1)
        super().__init__(lambda: GroupsMachine(config, clock, lambda: self.wall_ms, lambda: str(next(ids))), GroupsMachine.attach, clock)

    def advance(self, delay_ms: int) -> None:
        self.wall_ms += delay_ms
        self.clock.advance(delay_ms)

    def join(self, group: str = "g", member: str = "", **wishes: Any) -> Answer[JoinResult]:
        answer: Answer[JoinResult] = Answer()
        request = JoinRequest(
            group,
            member,
            wishes.get("instance"),
            wishes.get("client", "c"),
            "/127.0.0.1",
            wishes.get("session_ms", 10_000),
            wishes.get("rebalance_ms", 60_000),
            wishes.get("type", "consumer"),
            [Protocol(name, wishes.get("metadata", subscription("t"))) for name in wishes.get("protocols", ("range",))],
            wishes.get("known", False),
            wishes.get("can_skip", True),
        )
        self.machine.join(request, answer)
        self.clock.turn()
        return answer

    def sync(self, joined: JoinResult, assignments: Mapping[str, bytes] | None = None, group: str = "g", **wishes: Any) -> Answer[SyncResult]:
        answer: Answer[SyncResult] = Answer()
        request = SyncRequest(
            group,
            wishes.get("generation", joined.generation_id),
            wishes.get("member", joined.member_id),
            wishes.get("instance"),
            wishes.get("type"),
            wishes.get("protocol"),
            assignments or {},
        )
        self.machine.sync(request, answer)
        self.clock.turn()
        return answer

    def beat(self, generation: int, member: str, group: str = "g", instance: str | None = None) -> ErrorCode:
        answer: Answer[ErrorCode] = Answer()
        self.machine.heartbeat(group, generation, member, instance, answer)
        self.clock.turn()
        return answer.value

    def leave(self, member: str, instance: str | None = None, group: str = "g") -> ErrorCode:
        answer: Answer[Sequence[ErrorCode]] = Answer()
        self.machine.leave(group, [(member, instance)], answer, answer.fail)
        self.clock.turn()
        return answer.value[0]

    def commit_offset(self, offset: int, group: str = "g", generation: int = -1, member: str = "", **more: Any) -> ErrorCode:
        answer = self.commit_later(offset, group, generation, member, **more)
        self.clock.turn()
        return answer.failed or answer.value[more.get("topic", "t"), more.get("partition", 0)]

    def commit_later(self, offset: int, group: str = "g", generation: int = -1, member: str = "", **more: Any) -> Answer[Any]:
        answer: Answer[Any] = Answer()
        value = StoredOffset(offset, 7, more.get("metadata", "m"), -1, more.get("expires", -1), more.get("topic_id", TOPIC_ID))
        where = (more.get("topic", "t"), more.get("partition", 0))
        request = CommitRequest(
            group, generation, member, more.get("instance"), {where: value}, more.get("version", 9), more.get("producer", (-1, -1))
        )
        self.machine.commit(request, answer, answer.fail)
        return answer

    def fetch(self, group: str = "g", partition: int = 0, stable: bool = False, topic_id: bytes = TOPIC_ID) -> FetchedOffset:
        found: FetchedOffset = self.machine.fetch(group, [("t", topic_id, [partition])], stable)[0][0]
        return found

    def stable_group(self, members: int = 2, group: str = "g", **wishes: Any) -> list[JoinResult]:
        """A group of so many members, each with its own name as its assignment, the leader first."""
        joins = [self.join(group, **wishes) for _ in range(members)]
        self.advance(min(6_000, wishes.get("rebalance_ms", 60_000)))
        results = [join.value for join in joins]
        leader = next(one for one in results if one.leader == one.member_id)
        given = {member_id: member_id.encode() for member_id, _, _ in leader.members}
        synced = [self.sync(one, given if one is leader else None, group) for one in results]
        self.clock.turn()
        assert [one.value.assignment for one in synced] == [one.member_id.encode() for one in results]
        return [leader, *(one for one in results if one is not leader)]

    def state(self, group: str = "g") -> str:
        found = self.machine.describe(group)
        return found.state if found is not None else "none"
