"""Members of consumer groups: joining, syncing, beating, committing as a client does, and members that come and go, or sleep and come too late."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from broker.coordinator.groups.machine import GroupsMachine
from broker.coordinator.groups.members import JoinRequest, JoinResult, Protocol, SyncResult
from broker.coordinator.groups.offsets import CommitRequest, FetchedOffset
from broker.coordinator.groups.rebalance import SyncRequest
from broker.coordinator.groups.records import StoredOffset
from broker.coordinator.internal_topics import GROUPS_TOPIC
from broker.errors import ErrorCode, KafkaError
from tests.simulation.checkers import Place
from tests.simulation.clients import RETRY_US, Ask, Client, Refused, Rest, Steps

if TYPE_CHECKING:
    from tests.simulation.coordinating import Coordinating
    from tests.simulation.node import SimNode

SESSION_MS = 700
REBALANCE_MS = 600
JOIN_TIMEOUT_US = 2_000_000
STATIC_SESSION_MS = 3_000
"""Longer than a rebalance: a static member that sleeps keeps its place in the generations that it misses."""
GONE = frozenset({ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID, ErrorCode.ILLEGAL_GENERATION})


class Membership:
    """One client's place in a group. `owned` is what the present generation gave it; () while there is none."""

    def __init__(self, client: Client, group: str, topic: str, partitions: int, instance: str | None = None) -> None:
        self.client = client
        self.cluster = client.cluster
        self.workload: Coordinating = client.cluster.workload  # type: ignore[assignment]
        self.group = group
        self.places: list[Place] = [(topic, number) for number in range(partitions)]
        self.instance = instance
        self.wishes = 0  # part of its metadata: another number is another wish, and makes a rebalance
        self.forget()

    def forget(self) -> None:
        self.member_id = ""
        self.generation = -1
        self.owned: tuple[Place, ...] = ()

    def ask(self, request: Callable[[GroupsMachine, Callable[[Any], None]], None], timeout_us: int = 0) -> Steps[Any]:
        """One attempt; None without an answer. What is refused as a whole is a `Refused`."""
        group, partition = self.group, self.workload.group_of(GROUPS_TOPIC, self.group)

        def run(node: SimNode, done: Callable[[Any], None]) -> None:
            request(node.hosted.coordination.groups.machine(group), done)

        answer = yield Ask(self.cluster.believed_leader(partition), run, timeout_us)
        return answer

    # -- joining --------------------------------------------------------------------------------------------------

    def join(self) -> Steps[None]:
        """Until there is a generation in which we have our assignment."""
        self.owned = ()
        while True:
            answer: JoinResult | None = yield from self.ask(lambda machine, done: machine.join(self._join_request(), done), JOIN_TIMEOUT_US)
            if answer is None:
                continue
            if answer.error is ErrorCode.MEMBER_ID_REQUIRED:
                self.member_id = answer.member_id
            elif answer.error in GONE:
                self.forget()
            elif answer.error:
                yield Rest(RETRY_US)
            elif (yield from self._sync(answer)):
                return

    def _join_request(self) -> JoinRequest:
        session_ms = STATIC_SESSION_MS if self.instance is not None else SESSION_MS
        offered = (Protocol("range", b"%d" % self.wishes),)
        name = self.client.name
        return JoinRequest(self.group, self.member_id, self.instance, name, "/client", session_ms, REBALANCE_MS, "consumer", offered, True, True)

    def _sync(self, joined: JoinResult) -> Steps[bool]:
        self.member_id = joined.member_id
        shares: dict[str, bytes] = {}
        if joined.leader == joined.member_id and not joined.skip_assignment:
            names = sorted(member for member, _, _ in joined.members)
            self.client.random.shuffle(names)
            shares = {name: json.dumps(self.places[place :: len(names)]).encode() for place, name in enumerate(names)}
        request = SyncRequest(self.group, joined.generation_id, self.member_id, self.instance, None, None, shares)
        for _ in range(6):
            answer: SyncResult | None = yield from self.ask(lambda machine, done: machine.sync(request, done), JOIN_TIMEOUT_US)
            if answer is None:
                continue
            if answer.error is ErrorCode.NONE:
                self._assigned(joined.generation_id, answer.assignment)
                return True
            if answer.error in GONE:
                if answer.error is not ErrorCode.ILLEGAL_GENERATION:
                    self.forget()
                return False
            if answer.error is ErrorCode.REBALANCE_IN_PROGRESS:
                return False
            yield Rest(RETRY_US)
        return False

    def _assigned(self, generation: int, assignment: bytes) -> None:
        self.generation = generation
        self.owned = tuple((topic, number) for topic, number in json.loads(assignment or b"[]"))
        self.workload.owners.owns(self.group, generation, self.instance or self.member_id, self.owned)
        self.workload.generations.assigned(self.group, generation)
        self.cluster.counts["assignments"] += 1

    def beat(self) -> Steps[bool]:
        """Whether the generation goes on, as far as we know. An unknown answer changes nothing: the session decides."""
        generation, member, instance = self.generation, self.member_id, self.instance
        answer: Any = yield from self.ask(lambda machine, done: machine.heartbeat(self.group, generation, member, instance, done))
        error = answer.error if isinstance(answer, Refused) else answer
        if error in GONE:
            self.forget()
            return False
        return error is not ErrorCode.REBALANCE_IN_PROGRESS

    def leave(self) -> Steps[None]:
        member, instance = self.member_id, self.instance
        yield from self.ask(lambda machine, done: machine.leave(self.group, [(member, instance)], done, lambda error: done(Refused(error.code))))
        self.forget()

    # -- offsets --------------------------------------------------------------------------------------------------

    def fetch(self, places: Sequence[Place], require_stable: bool) -> Steps[dict[Place, int]]:
        """Committed offsets, -1 for none; asks until it is told."""
        offsets, group = self.workload.group_offsets, self.group
        while True:
            floors = {place: offsets.floor(group, place) for place in places}

            def ask(machine: GroupsMachine, done: Callable[[Any], None]) -> None:
                wanted = [(topic, self.workload.topic_id(topic), [number]) for topic, number in places]
                done(machine.fetch(group, wanted, require_stable))

            answer: Any = yield from self.ask(ask)
            if answer is not None and not isinstance(answer, Refused):
                found: list[FetchedOffset] = [one[0] for one in answer]
                if all(one.error is ErrorCode.NONE for one in found):
                    told = {place: one.offset for place, one in zip(places, found, strict=True)}
                    for place, offset in told.items():
                        offsets.fetched(group, place, offset, floors[place])
                    return told
                self.cluster.counts["offsets_unstable"] += 1
            yield Rest(RETRY_US)

    def commit_request(self, wanted: dict[Place, int]) -> Callable[[SimNode, Callable[[ErrorCode], None]], None]:
        """A commit in the present generation. It checks by itself that it is refused when that is over."""
        group, generation, workload = self.group, self.generation, self.workload
        stored = {place: StoredOffset(offset, -1, "", -1, -1, workload.topic_id(place[0])) for place, offset in wanted.items()}
        request = CommitRequest(group, generation, self.member_id, self.instance, stored)

        def run(node: SimNode, done: Callable[[ErrorCode], None]) -> None:
            newest = workload.generations.newest[group]

            def committed(errors: dict[Place, ErrorCode]) -> None:
                workload.generations.accepted(group, generation, newest)
                for place, offset in wanted.items():
                    workload.group_offsets.acknowledge(group, place, offset)
                done(max(errors.values(), default=ErrorCode.NONE))

            def failed(error: KafkaError) -> None:
                node.cluster.counts[f"commit_{error.code.name}"] += 1
                done(error.code)

            node.hosted.coordination.groups.machine(group).commit(request, committed, failed)

        return run

    def commit(self, wanted: dict[Place, int]) -> Steps[ErrorCode | None]:
        """Repeated until it is answered for good; None when it is given up."""
        run, partition = self.commit_request(wanted), self.workload.group_of(GROUPS_TOPIC, self.group)
        for _ in range(8):
            answer: Any = yield Ask(self.cluster.believed_leader(partition), run, promise=True)
            error: ErrorCode | None = answer.error if isinstance(answer, Refused) else answer
            if error is not None and error not in (
                ErrorCode.NOT_COORDINATOR,
                ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
                ErrorCode.COORDINATOR_NOT_AVAILABLE,
            ):
                return error
            yield Rest(RETRY_US)
        return None


class Member(Client):
    """A consumer that commits ever more of what it owns, joins and leaves, sleeps through rebalances, and whose commits may come too late."""

    def __init__(self, workload: Coordinating, number: int) -> None:
        super().__init__(workload.cluster, f"member-{number}")
        self.workload = workload
        instance = f"static-{number}" if number == 0 else None
        self.membership = Membership(self, workload.plain_group, workload.plain_topic, workload.plain_partitions, instance)
        self.resting = False
        self.commits = 0

    def work(self) -> Steps[None]:
        membership = self.membership
        while True:
            yield from membership.join()
            told = yield from membership.fetch(membership.owned, False)
            positions = {place: max(offset, 0) for place, offset in told.items()}
            while membership.owned or not positions:
                if self.resting and self.commits:
                    yield Rest(50_000)
                elif (yield from self._act(positions)):
                    break
                if not (yield from membership.beat()):
                    break

    def _act(self, positions: dict[Place, int]) -> Steps[bool]:
        """Whether to join again."""
        random, membership, counts = self.random, self.membership, self.cluster.counts
        chance = random.random() if not self.resting else 1.0
        yield Rest(random.randrange(5_000, 80_000))
        for place in positions:
            positions[place] += random.randrange(1, 5)
        if chance < 0.02:
            yield from membership.leave()
            yield Rest(random.randrange(10_000, 500_000))
            counts["member_left"] += 1
            return True
        if chance < 0.04:
            counts["member_died"] += 1
            membership.forget()
            yield Rest(random.randrange(10_000, 1_500_000))
            return True
        if chance < 0.07 and positions:
            # What it has sent last arrives when its generation is over.
            counts["commit_late"] += 1
            partition = self.workload.group_of(GROUPS_TOPIC, membership.group)
            target = self.cluster.believed_leader(partition)
            self.cast(target, membership.commit_request(dict(positions)), lambda answer: None, random.randrange(50_000, 1_500_000))
            membership.wishes += 1
            return True
        if chance < 0.10:
            counts["member_slept"] += 1
            yield Rest(random.randrange(300_000, 2_500_000))  # and commits as if nothing had happened
        if not positions:
            return False
        error = yield from membership.commit(positions)
        if error is ErrorCode.NONE:
            self.commits += 1
            counts["group_commits"] += 1
            return False
        if error in GONE and error is not ErrorCode.ILLEGAL_GENERATION:
            membership.forget()
        return True
