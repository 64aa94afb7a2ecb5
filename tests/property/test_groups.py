"""Groups under random clients, failovers and lost writes.

What must hold: no two members own a partition in one generation; a generation is stored once, and generations grow; an acknowledged commit is never
gone, and none goes back; all replicas are equal; nobody waits for ever.
"""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.coordinator.groups.config import GroupConfig
from broker.coordinator.groups.records import GroupKey, decode_group, decode_key
from broker.errors import ErrorCode
from broker.records.reader import read_batches
from tests.unit.coordinator.support import Answer, Groups

PARTITIONS = 6
SESSION_MS = 10_000
LOST = (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.ILLEGAL_GENERATION, ErrorCode.FENCED_INSTANCE_ID)


class Client:
    """A consumer in the smallest form: joins, leads when told so, beats, commits what it owns."""

    def __init__(self, world: World, number: int, instance: str | None) -> None:
        self.world = world
        self.number = number
        self.instance = instance
        self.forget()

    def forget(self) -> None:
        self.member_id = ""
        self.joined: Any = None
        self.waiting: Answer[Any] | None = None
        self.owned: list[int] = []
        self.stage = "idle"

    def step(self) -> None:
        if self.waiting is not None and not self.waiting.done:
            return
        getattr(self, f"_{self.stage}")()

    def _idle(self) -> None:
        name = ("range", "roundrobin") if self.number % 2 else ("range",)
        groups = self.world.groups
        self.waiting = groups.join(
            member=self.member_id, instance=self.instance, known=True, session_ms=SESSION_MS, rebalance_ms=8_000, protocols=name
        )
        self.stage = "joining"

    def _joining(self) -> None:
        assert self.waiting is not None
        result = self.waiting.value
        self.stage = "idle"
        if result.error is ErrorCode.MEMBER_ID_REQUIRED:
            self.member_id = result.member_id
        elif result.error in LOST:
            self.forget()
        elif result.error is ErrorCode.NONE:
            self.member_id, self.joined = result.member_id, result
            shares: dict[str, bytes] = {}
            if result.leader == result.member_id and not result.skip_assignment:
                members = [member_id for member_id, _, _ in result.members]
                shares = {m: json.dumps(list(range(i, PARTITIONS, len(members)))).encode() for i, m in enumerate(members)}
            self.waiting = self.world.groups.sync(result, shares, instance=self.instance)
            self.stage = "syncing"
        else:
            assert result.error in (ErrorCode.NOT_COORDINATOR, ErrorCode.REBALANCE_IN_PROGRESS), result

    def _syncing(self) -> None:
        assert self.waiting is not None
        result = self.waiting.value
        self.stage = "idle"
        if result.error in LOST:
            self.forget()
        elif result.error is ErrorCode.NONE:
            self.owned = json.loads(result.assignment or b"[]")
            self.world.note_owner(self.joined.generation_id, self.instance or self.member_id, self.owned)
            self.waiting, self.stage = None, "stable"
        else:
            assert result.error in (ErrorCode.NOT_COORDINATOR, ErrorCode.REBALANCE_IN_PROGRESS, ErrorCode.COORDINATOR_NOT_AVAILABLE), result

    def _stable(self) -> None:
        answer: Answer[ErrorCode] = Answer()
        groups = self.world.groups
        groups.machine.heartbeat("g", self.joined.generation_id, self.member_id, self.instance, answer)
        groups.clock.turn()
        for _ in range(3):  # behind a write that is out, and one that is gathered
            if not answer.done:
                groups.commit()
                groups.clock.turn()
        if answer.value in LOST:
            self.forget()
        elif answer.value is ErrorCode.REBALANCE_IN_PROGRESS:
            self.owned, self.stage = [], "idle"

    def commit(self) -> None:
        if self.stage == "stable":
            for partition in self.owned:
                self.world.commit(partition, self.joined.generation_id, self.member_id, self.instance)


class World:
    def __init__(self) -> None:
        self.groups = Groups(GroupConfig(initial_rebalance_delay_ms=500, session_timeout_ms_min=1_000))
        self.clients = [Client(self, number, f"i{number}" if number == 4 else None) for number in range(5)]
        self.owners: dict[int, dict[int, str]] = defaultdict(dict)
        self.next_offset = 0
        self.commits: list[tuple[int, int, Answer[Any]]] = []
        self.acknowledged: dict[int, int] = {}
        self.newest: dict[int, int] = {}

    def note_owner(self, generation: int, member: str, partitions: list[int]) -> None:
        owners = self.owners[generation]
        for partition in partitions:
            assert owners.setdefault(partition, member) == member, f"two owners of {partition} in generation {generation}"

    def commit(self, partition: int, generation: int, member: str, instance: str | None) -> None:
        self.next_offset += 1
        answer = self.groups.commit_later(self.next_offset, generation=generation, member=member, instance=instance, partition=partition)
        self.commits.append((partition, self.next_offset, answer))
        self.groups.clock.turn()

    def look(self) -> None:
        for partition, offset, answer in self.commits:
            if answer.values and list(answer.values[0].values()) == [ErrorCode.NONE]:
                self.acknowledged[partition] = max(offset, self.acknowledged.get(partition, -1))
        self.commits = [item for item in self.commits if not item[2].done]
        for partition in range(PARTITIONS):
            found = self.groups.fetch(partition=partition).offset
            assert found >= self.acknowledged.get(partition, -1), "an acknowledged commit is gone"
            assert found >= self.newest.get(partition, -1), "a commit went back"
            self.newest[partition] = found

    def step(self, action: int, choice: int) -> None:
        groups, client = self.groups, self.clients[choice % len(self.clients)]
        match action:
            case 0:
                client.step()
            case 1:
                for one in self.clients:
                    one.step()
            case 2:
                if groups.pending:  # the rarest moment: what was answered too early is not there any more
                    groups.fail_over((groups.leader + 1) % 3, False)
            case 4:
                client.commit()
            case 5:
                groups.advance((100, 600, 3_000, 11_000)[choice % 4])
            case 6:
                groups.fail_over((groups.leader + 1 + choice % 2) % 3, choice % 3 > 0)
            case 7:
                if client.member_id:
                    groups.machine.leave("g", [(client.member_id, client.instance)], Answer(), lambda _: None)
                client.forget()
            case 8:
                client.forget()  # it dies without a word
            case 9:
                groups.restart((groups.leader + 1) % 3)
            case 10:
                groups.auto = not groups.auto
            case _:
                groups.commit()

    def settle(self) -> None:
        """With a working log and patient clients, all of them end in one stable generation."""
        self.groups.auto = True
        self.groups.commit()
        for _ in range(60):
            for client in self.clients:
                client.step()
            self.groups.advance(1_000)
        assert {client.stage for client in self.clients} == {"stable"}
        assert len({client.joined.generation_id for client in self.clients}) == 1
        assert sorted(partition for client in self.clients for partition in client.owned) == list(range(PARTITIONS))

    def check_log(self) -> None:
        records = read_batches(b"".join(self.groups.batches))
        stored = [decode_group(r.value) for r in records if r.key and r.value and isinstance(decode_key(r.key), GroupKey)]
        for before, after in pairwise(stored):
            assert after.generation_id >= before.generation_id
            if after.generation_id == before.generation_id:
                assert [m.assignment for m in after.members] == [m.assignment for m in before.members], "a generation was stored twice"
        assert len({shard.capture() for shard in self.groups.shards}) == 1


ACTIONS = [0] * 20 + [1] * 10 + [2] * 2 + [4] * 8 + [5] * 4 + [6] * 2 + [7, 8, 9] + [10] * 2 + [11] * 8
STEPS = 250


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_random_clients_and_failovers(seed: int) -> None:
    """Long walks, each decided by one integer: what goes wrong needs several things in a row."""
    random = Random(seed)
    world = World()
    for client in world.clients:
        client.step()
    world.settle()
    for _ in range(STEPS):
        world.step(random.choice(ACTIONS), random.randrange(12))
        world.look()
    world.settle()
    world.look()
    world.check_log()
