"""Consumer groups by bare connections: many groups that join and beat, offset commits, and a rebalance of one large group.

Members behave as the classic protocol asks (KIP-394 member ids, rejoin when a beat says so); the assignment itself is a few bytes, because what is
measured is the coordinator. The broker's initial delay of a new group (3 s by default, in every system) is part of a first join.
"""

from __future__ import annotations

import asyncio
import struct
import time

from benchmarks.client.job import Job, latencies_ms
from benchmarks.client.wire import Connection, find_coordinator, greet
from broker.protocol._generated.heartbeat import HeartbeatRequest, HeartbeatResponse
from broker.protocol._generated.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from broker.protocol._generated.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity
from broker.protocol._generated.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from broker.protocol._generated.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse

COORDINATOR_LOADING, NOT_COORDINATOR, REBALANCE_IN_PROGRESS, MEMBER_ID_REQUIRED = 14, 16, 27, 79
SESSION_MS, REBALANCE_MS = 45_000, 300_000
AT_ONCE = 100


class RefusedError(Exception):
    """The coordinator answered an error that a member does not get over."""


class Member:
    """One member with a connection of its own. Invariant: after `join` it holds an assignment of `generation`."""

    def __init__(self, group: str, topic: str) -> None:
        self.group = group
        self.generation = -1
        self.beats: list[float] = []
        self._id = ""
        self._connection: Connection | None = None
        name = topic.encode()
        self._subscription = struct.pack(">hih", 0, 1, len(name)) + name + struct.pack(">i", -1)

    async def connect(self, place: tuple[str, int]) -> None:
        self._connection = await greet(*place)

    @property
    def connection(self) -> Connection:
        if self._connection is None:
            raise ConnectionError("the member is not connected")
        return self._connection

    async def join(self) -> None:
        """Join or rejoin until there is an assignment."""
        while True:
            joined = await self.connection.call(
                JoinGroupRequest(
                    group_id=self.group,
                    session_timeout_ms=SESSION_MS,
                    rebalance_timeout_ms=REBALANCE_MS,
                    member_id=self._id,
                    protocol_type="consumer",
                    protocols=[JoinGroupRequestProtocol(name="range", metadata=self._subscription)],
                ),
                JoinGroupResponse,
                5,
            )
            if joined.error_code == MEMBER_ID_REQUIRED:
                self._id = joined.member_id
            elif joined.error_code in (COORDINATOR_LOADING, NOT_COORDINATOR):
                await asyncio.sleep(0.1)
            elif joined.error_code:
                raise RefusedError(f"JoinGroup of {self.group}: error {joined.error_code}")
            elif await self._synchronize(joined):
                return

    async def _synchronize(self, joined: JoinGroupResponse) -> bool:
        self._id, self.generation = joined.member_id, joined.generation_id
        assigned = b"generation %d" % self.generation
        # Only the leader was told who else there is.
        assignments = [SyncGroupRequestAssignment(member_id=member.member_id, assignment=assigned) for member in joined.members]
        request = SyncGroupRequest(group_id=self.group, generation_id=self.generation, member_id=self._id, assignments=assignments)
        synced = await self.connection.call(request, SyncGroupResponse, 3)
        if synced.error_code == REBALANCE_IN_PROGRESS:
            return False
        if synced.error_code or synced.assignment != assigned:
            raise RefusedError(f"SyncGroup of {self.group}: error {synced.error_code}")
        return True

    async def beat(self) -> bool:
        """False when there is a rebalance to take part in."""
        sent = time.perf_counter()
        request = HeartbeatRequest(group_id=self.group, generation_id=self.generation, member_id=self._id)
        answer = await self.connection.call(request, HeartbeatResponse, 3)
        self.beats.append(time.perf_counter() - sent)
        if answer.error_code not in (0, REBALANCE_IN_PROGRESS):
            raise RefusedError(f"Heartbeat of {self.group}: error {answer.error_code}")
        return answer.error_code == 0

    async def leave(self) -> None:
        request = LeaveGroupRequest(group_id=self.group, members=[MemberIdentity(member_id=self._id)])
        await self.connection.call(request, LeaveGroupResponse, 3)
        self.connection.close()

    async def beat_until(self, end: float, every_seconds: float, first_after_seconds: float) -> None:
        due = time.perf_counter() + first_after_seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if not await self.beat():
                await self.join()
            due += every_seconds


async def _make_members(job: Job, groups: int, size: int, prefix: str = "") -> list[Member]:
    """Connected members, a hundred connections at a time."""
    members = []
    for number in range(groups):
        group = f"{prefix}{job.topic}-{number}"
        place = await find_coordinator(job.bootstrap, group)
        members += [(Member(group, job.topic), place) for _ in range(size)]
    for first in range(0, len(members), AT_ONCE):
        await asyncio.gather(*(member.connect(place) for member, place in members[first : first + AT_ONCE]))
    return [member for member, _ in members]


async def _warm_up(job: Job) -> None:
    """Groups that join, beat a few times and leave again."""
    members = await _make_members(job, job.count("warm_groups"), job.count("members"), "warm-")
    await asyncio.gather(*(member.join() for member in members))
    await asyncio.gather(*(member.beat_until(time.perf_counter() + 2, 0.2, 0) for member in members))
    await asyncio.gather(*(member.leave() for member in members))


async def _groups(job: Job) -> None:
    await _warm_up(job)
    members = await _make_members(job, job.count("groups"), job.count("members"))
    job.begin()
    start = time.perf_counter()
    await asyncio.gather(*(member.join() for member in members))
    job.end("join", seconds=time.perf_counter() - start, members=len(members))
    seconds, every = job.number("seconds", 10), job.number("beat_seconds", 3)
    # All members hold an assignment; a rebalance that a late joiner began is over after one beat of everybody.
    await asyncio.gather(*(member.beat_until(time.perf_counter() + every, every, every * n / len(members)) for n, member in enumerate(members)))
    for member in members:
        member.beats.clear()
    job.begin()
    start = time.perf_counter()
    await asyncio.gather(*(member.beat_until(start + seconds, every, every * n / len(members)) for n, member in enumerate(members)))
    took = time.perf_counter() - start
    beats = [one for member in members for one in member.beats]
    job.end("steady", seconds=took, beats_per_s=len(beats) / took, **latencies_ms(beats, 0))


async def _rebalance(job: Job) -> None:
    size, every = job.count("members"), job.number("beat_seconds", 0.1)
    members = await _make_members(job, 1, size + 1)
    late = members.pop()
    job.begin()
    start = time.perf_counter()
    await asyncio.gather(*(member.join() for member in members))
    job.end("first join", seconds=time.perf_counter() - start, members=size)
    # One beat of everybody ends what a late joiner of the first round may have begun.
    await asyncio.gather(*(member.beat_until(time.perf_counter() + 2, every, 0) for member in members))
    taken = []
    for _ in range(job.count("rounds", 3)):
        job.begin()
        start = time.perf_counter()
        taken.append(await _one_more(members, late, every))
        job.end("one more member", seconds=taken[-1], members=size + 1)
        members.append(late)
        late = Member(late.group, job.topic)
        await late.connect(await find_coordinator(job.bootstrap, late.group))
        await asyncio.gather(*(member.beat_until(time.perf_counter() + 1, every, 0) for member in members))


async def _one_more(members: list[Member], late: Member, every_seconds: float) -> float:
    """Seconds until `late` and all `members` hold an assignment of one new generation."""
    start = time.perf_counter()
    before = max(member.generation for member in members)

    async def follow(member: Member) -> None:
        while member.generation <= before:
            if not await member.beat():
                await member.join()
            elif member.generation <= before:
                await asyncio.sleep(every_seconds)

    await asyncio.gather(late.join(), *(follow(member) for member in members))
    return time.perf_counter() - start


async def _commits(job: Job) -> None:
    connections, seconds = job.count("connections", 100), job.number("seconds", 5)
    places = [await find_coordinator(job.bootstrap, f"{job.topic}-{number}") for number in range(connections)]
    opened = await asyncio.gather(*(greet(*place) for place in places))
    taken: list[float] = []
    failed = 0

    async def commit(number: int, end: float) -> None:
        nonlocal failed
        offset = 0
        while (sent := time.perf_counter()) < end:
            offset += 1
            partition = OffsetCommitRequestPartition(partition_index=number % job.partitions, committed_offset=offset, committed_metadata="")
            request = OffsetCommitRequest(
                group_id=f"{job.topic}-{number}",
                generation_id_or_member_epoch=-1,
                topics=[OffsetCommitRequestTopic(name=job.topic, partitions=[partition])],
            )
            answer = await opened[number].call(request, OffsetCommitResponse, 6)
            failed += answer.topics[0].partitions[0].error_code != 0
            taken.append(time.perf_counter() - sent)

    warm_end = time.perf_counter() + max(1.0, job.number("warm_seconds"))
    await asyncio.gather(*(commit(number, warm_end) for number in range(connections)))
    taken.clear()
    failed = 0
    job.begin()
    start = time.perf_counter()
    await asyncio.gather(*(commit(number, start + seconds) for number in range(connections)))
    took = time.perf_counter() - start
    job.end(seconds=took, commits_per_s=len(taken) / took, failed=failed, **latencies_ms(taken, 0))


def run_groups(job: Job) -> None:
    """Keys: groups, members, seconds, beat_seconds, warm_groups. Phases: join, steady."""
    asyncio.run(_groups(job))


def run_rebalance(job: Job) -> None:
    """Keys: members, beat_seconds, rounds. Phases: first join, then as often as asked: one more member."""
    asyncio.run(_rebalance(job))


def run_commits(job: Job) -> None:
    """Keys: connections (each with a group of its own and one commit in flight), seconds, warm_seconds (the same before, not measured)."""
    asyncio.run(_commits(job))
