"""A partition with an observer: the coordinators' way to be told, to append, and to be found again after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from broker.api import AppendResult
from broker.errors import ErrorCode
from broker.partition.observer import join_state, split_state
from broker.partition.partition import Partition, PartitionContext
from broker.records.builder import build_batch
from broker.records.reader import Record, read_batches
from tests.unit.partition.fakes import TOPIC_ID, Replica
from wal.api import AppliedState
from wal.entry import Buffer
from wal.errors import DamageError


class Watcher:
    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.events: list[str] = []

    def attach(self, log: Any) -> None:
        self.log = log

    def on_data(self, chunks: Sequence[Buffer]) -> None:
        self.values += [record.value for record in read_batches(b"".join(chunks))]

    def on_leadership(self, leading: bool) -> None:
        self.events.append("leads" if leading else "deposed")

    def capture(self) -> bytes:
        return b",".join(value or b"" for value in self.values)

    def restore(self, data: bytes) -> None:
        self.values = [*data.split(b",")] if data else []


class Observed(Replica):
    def make_partition(self) -> Partition:
        self.watcher = Watcher()
        context = PartitionContext(
            clock=self.clock, wall_time_ms=lambda: self.wall_ms, disk_full=lambda: self.full, node_id=1, observe=lambda topic, index: self.watcher
        )
        partition = Partition(None, "__consumer_offsets", 0, TOPIC_ID, context)
        partition.restore(None)
        partition.attach(self.group)  # type: ignore[arg-type]
        return partition

    def prepare(self, *values: bytes) -> list[AppendResult]:
        results: list[AppendResult] = []

        def done(result: AppendResult) -> None:
            self.watcher.events.append(result.error.name)
            results.append(result)

        self.partition.append_prepared([build_batch([Record(0, 5, b"k", value)]) for value in values], done)
        return results


@pytest.fixture
def replica() -> Observed:
    replica = Observed()
    replica.lead()
    return replica


def test_the_observer_has_seen_the_records_before_the_append_is_answered(replica: Observed) -> None:
    results = replica.prepare(b"1", b"2")
    replica.collect()
    assert not results and not replica.watcher.values
    replica.flush()
    replica.commit()
    assert [(one.error, one.base_offset) for one in results] == [(ErrorCode.NONE, 0)]
    assert replica.watcher.values == [b"1", b"2"] and replica.partition.high_watermark == 2


def test_clients_do_not_write_to_an_observed_partition(replica: Observed) -> None:
    results: list[AppendResult] = []
    replica.partition.append(memoryview(build_batch([Record(0, 5, b"k", b"v")])), -1, results.append)
    assert [one.error for one in results] == [ErrorCode.INVALID_TOPIC_EXCEPTION]


def test_the_observer_stops_before_it_hears_what_became_of_its_appends(replica: Observed) -> None:
    replica.prepare(b"1")
    replica.collect()
    never = replica.prepare(b"2")
    replica.depose(2)
    assert replica.watcher.events == ["leads", "deposed", "REQUEST_TIMED_OUT", "NOT_LEADER_OR_FOLLOWER"]
    assert [one.error for one in never] == [ErrorCode.NOT_LEADER_OR_FOLLOWER]
    assert replica.prepare(b"3")[0].error is ErrorCode.NOT_LEADER_OR_FOLLOWER


def test_leadership_is_what_the_lease_says(replica: Observed) -> None:
    assert replica.partition.leadership() == (True, True)
    replica.group.lease = False
    assert replica.partition.leadership() == (True, False)
    replica.depose(2)
    assert replica.partition.leadership() == (False, False)


def test_a_full_disk_refuses(replica: Observed) -> None:
    replica.full = True
    assert replica.prepare(b"1")[0].error is ErrorCode.KAFKA_STORAGE_ERROR


def test_the_observers_state_is_kept_with_the_partitions(replica: Observed) -> None:
    replica.prepare(b"1")
    replica.collect()
    replica.flush()
    replica.commit()
    state = replica.partition.capture()
    assert state is not None
    other = Observed()
    assert other.partition.restore(AppliedState(state.index, state.data)) == state.index
    assert other.watcher.values == [b"1"] and other.partition.high_watermark == 1
    third = Observed()
    third.partition.install(state.index, state.data)
    assert third.watcher.values == [b"1"]


def test_state_of_both_in_one() -> None:
    assert split_state(join_state(b"own", b"observed")) == (b"own", b"observed")
    assert split_state(b"\x96own") == (b"\x96own", b"")
    with pytest.raises(DamageError):
        split_state(join_state(b"own", b"")[:-1])
