"""Consume-transform-produce: workers of one group read a topic and write what they make of it in transactions that also hold their offsets (KIP-447).

A worker's slot keeps its transactional id over the lives of its process; partitions move between the slots as workers come, sleep and go. A worker
that has slept too long is told so by the group's coordinator (its generation is over) or by the transaction's (its producer is fenced).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from broker.api import ReadResult
from broker.coordinator.internal_topics import GROUPS_TOPIC
from broker.errors import ErrorCode
from broker.handlers import txn_offset_commit
from broker.protocol._generated.txn_offset_commit import TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic
from tests.simulation.checkers import Fate, History, Place, pack
from tests.simulation.clients import RETRY_US, Ask, Client, Refused, Rest, Steps
from tests.simulation.members import Membership
from tests.simulation.transactional import Producer
from tests.simulation.workload import decode_values

if TYPE_CHECKING:
    from tests.simulation.coordinating import Coordinating
    from tests.simulation.node import SimNode

READ_BYTES = 6 << 10
COMMIT_ATTEMPTS = 12
WAIT = frozenset({ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_NOT_AVAILABLE})


class Worker(Client):
    """One life of a slot."""

    def __init__(self, slot: Slot, number: int) -> None:
        super().__init__(slot.workload.cluster, f"{slot.transactional_id}.{number}")
        self.slot = slot
        self.workload = slot.workload
        self.producer = Producer(self, slot.transactional_id, slot.bumps)
        self.membership = Membership(self, self.workload.pipeline_group, self.workload.input_topic, len(self.workload.inputs))
        self.made = 0
        self.steps = 0  # transactions begun

    def work(self) -> Steps[None]:
        """Until it is killed, or its successor has fenced it."""
        fresh = False
        while True:
            if not fresh:
                fresh = not (yield from self.producer.init())
                if not fresh:
                    yield Rest(self.random.randrange(1_000, 100_000))
                    continue
            yield from self.membership.join()
            positions = yield from self._positions()
            while (yield from self.membership.beat()):
                outcome = yield from self._step(positions)
                if outcome is not None:
                    fresh = outcome is ErrorCode.NONE
                    break
            if not fresh and self.slot.newest is not self:
                return

    def _positions(self) -> Steps[dict[Place, int]]:
        """Where to go on: not before it is decided what other owners have left open (require_stable)."""
        told = yield from self.membership.fetch(self.membership.owned, True)
        return {place: max(offset, 0) for place, offset in told.items()}

    def _step(self, positions: dict[Place, int]) -> Steps[ErrorCode | None]:
        """One transaction, if there is something to do. None: go on; NONE: join again; an error: begin with a new epoch."""
        work: list[tuple[Place, int]] = []
        for place in positions:
            found = yield from self._read(place, positions[place])
            work += [(place, positions[place] + number) for number in range(found)]
        if not work:
            yield Rest(self.random.randrange(5_000, 40_000))
            return None
        self.steps += 1
        history = self.workload.read_committed.begin(f"{self.name}.{self.steps}")
        outputs: dict[Place, list[bytes]] = {}
        ends: dict[Place, int] = {}
        for part, (place, offset) in enumerate(work):
            history.parts[part] = b"%s:%d:%d" % (place[0].encode(), place[1], offset)
            outputs.setdefault(self.random.choice(self.workload.accounts), []).append(pack(history.name, part, history.parts[part]))
            ends[place] = offset + 1
        return (yield from self._write(history, outputs, ends, positions))

    def _write(
        self, history: History, outputs: dict[Place, list[bytes]], ends: dict[Place, int], positions: dict[Place, int]
    ) -> Steps[ErrorCode | None]:
        for place, values in outputs.items():
            yield from self._maybe_sleep()
            error = yield from self.producer.produce(place, values)
            if error:
                return (yield from self._abort(history, error))
        yield from self._maybe_sleep()
        error = yield from self._commit_offsets(ends)
        if error:
            return (yield from self._abort(history, error))
        yield from self._maybe_sleep(0.08)
        error = yield from self.producer.commit(history)
        if error:
            return error
        positions.update(ends)
        self.cluster.counts["transformed"] += len(history.parts)
        return None

    def _maybe_sleep(self, chance: float = 0.03) -> Steps[None]:
        """Also for longer than the session, and shorter than the transaction's time-out."""
        if self.workload.client_loss and self.random.random() < chance:
            self.cluster.counts["worker_slept"] += 1
            yield Rest(self.random.randrange(300_000, 2_000_000))

    def _abort(self, history: History, error: ErrorCode) -> Steps[ErrorCode]:
        history.fate = Fate.ABORTED
        self.cluster.counts[f"step_{error.name}"] += 1
        if error in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID):
            self.membership.forget()
        return (yield from self.producer.abort())

    def _read(self, place: Place, offset: int) -> Steps[int]:
        """How many records there are from `offset` on, at most a few."""
        group = self.workload.groups[place]

        def read(node: SimNode, done: Callable[[ReadResult], None]) -> None:
            node.partitions[group].read(offset, READ_BYTES, -1, False, True, done)

        result: ReadResult | None = yield Ask(self.cluster.believed_leader(group), read)
        if result is None or result.error:
            return 0
        found = [value for at, value in decode_values(result.chunks) if at >= offset]
        return min(len(found), self.random.choice((1, 5, 20)))

    def _commit_offsets(self, ends: dict[Place, int]) -> Steps[ErrorCode]:
        """TxnOffsetCommit, through the broker's own handler; an older producer says AddOffsetsToTxn before."""
        producer, membership, workload = self.producer, self.membership, self.workload
        partition = workload.group_of(GROUPS_TOPIC, membership.group)
        if not producer.bumps:
            error = yield from producer.add((GROUPS_TOPIC, workload.index_of(GROUPS_TOPIC, membership.group)))
            if error:
                return error
        offsets = [TxnOffsetCommitRequestPartition(partition_index=place[1], committed_offset=end) for place, end in ends.items()]
        body = TxnOffsetCommitRequest(
            transactional_id=producer.transactional_id,
            group_id=membership.group,
            producer_id=producer.id[0],
            producer_epoch=producer.id[1],
            generation_id=membership.generation,
            member_id=membership.member_id,
            topics=[TxnOffsetCommitRequestTopic(name=workload.input_topic, partitions=offsets)],
        )
        generation, generations, group = membership.generation, workload.generations, membership.group
        version: Any = _Version(5 if producer.bumps else 4)

        def commit(node: SimNode, done: Callable[[ErrorCode], None]) -> None:
            newest = generations.newest[group]

            def reply(answer: Any) -> None:
                errors = [one.error_code for topic in answer.topics for one in topic.partitions]
                if not any(errors):
                    generations.accepted(group, generation, newest)
                done(ErrorCode(max(errors)))

            txn_offset_commit.handle(node.hosted.services, version, body, reply)

        for _ in range(COMMIT_ATTEMPTS):
            answer: ErrorCode | Refused | None = yield Ask(self.cluster.believed_leader(partition), commit, 0, 1, True)
            found = answer.error if isinstance(answer, Refused) else answer
            if found is not None and found not in WAIT:
                return found
            yield Rest(RETRY_US)
        return ErrorCode.REQUEST_TIMED_OUT


class _Version:
    """What the handler looks at of a request."""

    def __init__(self, api_version: int) -> None:
        self.api_version = api_version


class Slot:
    """A place among the workers. Its process is killed, or goes on unnoticed while its successor is at work already."""

    def __init__(self, workload: Coordinating, number: int) -> None:
        self.workload = workload
        self.cluster = workload.cluster
        self.transactional_id = f"worker-{number}"
        self.bumps = number % 2 == 0
        self.workers: list[Worker] = []

    @property
    def newest(self) -> Worker:
        return self.workers[-1]

    def start(self) -> None:
        self._hire()
        self.cluster.scheduler.at(self.cluster.random.randrange(1_000_000, 4_000_000), self._replace)

    def _hire(self) -> None:
        worker = Worker(self, len(self.workers))
        self.workers.append(worker)
        worker.begin(worker.work(), self.cluster.random.randrange(100, 300_000))

    def _replace(self) -> None:
        if not self.workload.client_loss:
            return
        random = self.cluster.random
        if random.random() < 0.6:
            self.newest.kill()
            self.cluster.counts["worker_killed"] += 1
        else:
            self.cluster.counts["worker_zombies"] += 1
        self._hire()
        self.cluster.scheduler.at(random.randrange(1_000_000, 4_000_000), self._replace)

    def finish(self) -> None:
        """Whoever was replaced is dead now: one that owns nothing would not notice."""
        for worker in self.workers[:-1]:
            worker.kill()
