"""Coordinators and partitions together: all or nothing, nothing lost, nothing hangs; and the checks themselves are shown to catch broken rules."""

from __future__ import annotations

from typing import Any

import pytest

from broker.coordinator.internal_topics import TRANSACTIONS_TOPIC
from broker.coordinator.runtime import Shard
from broker.coordinator.transactions import machine as machine_module
from broker.coordinator.transactions.machine import TransactionMachine
from broker.coordinator.transactions.markers import MarkerReceiver
from broker.coordinator.transactions.state import TransactionState
from broker.errors import ErrorCode
from broker.metadata.image import MetadataImage
from broker.partition.verification import TransactionGate
from broker.records.batch import TRANSACTIONAL_BIT
from broker.records.builder import build_batch
from broker.records.reader import Record
from tests.unit.coordinator.transaction_world import DATA, PLACES, Client, World

SEEDS = 40


def run(seed: int, transfers: int = 12) -> tuple[World, Client]:
    """A bank under faults, then healed and checked."""
    world = World(seed, bumps=bool(seed & 1))
    client = Client(world)
    random = world.random

    def between() -> None:
        if random.random() < 0.08:
            world.fail_over(random.choice(PLACES))

    client.between = between
    client.init()
    for number in range(transfers):
        client.transfer(f"t{number}", commit=random.random() < 0.7, give_up=random.random() < 0.1)
    client.between = lambda: None
    world.heal()
    world.check()
    client.check()
    return world, client


@pytest.mark.parametrize("seed", range(SEEDS))
def test_transfers_are_whole_under_faults(seed: int) -> None:
    _, client = run(seed)
    assert client.committed


@pytest.mark.parametrize("seed", range(8))
def test_without_faults_every_commit_succeeds(seed: int) -> None:
    world = World(seed, bumps=bool(seed & 1), loss=0)
    client = Client(world)
    client.init()
    for number in range(20):
        client.transfer(f"t{number}", commit=number % 4 != 3)
    world.heal()
    world.check()
    client.check()
    assert len(client.committed) == 15 and client.unknown == []


def caught(seeds: int = SEEDS) -> bool:
    """Whether any seed notices."""
    for seed in range(seeds):
        try:
            run(seed)
        except AssertionError:
            return True
    return False


# -- mutants: a broken rule must be noticed ---------------------------------------------------------------------------


def test_mutant_the_reply_comes_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Shard._run

    def hasty(self: Shard, lock: Any, operation: Any) -> None:
        told: list[Any] = []

        def run_it() -> Any:
            outcome = operation.run()
            operation.done(outcome.response)
            told.append(outcome)
            return outcome

        honest(self, lock, operation._replace(run=run_it, done=lambda response: None, failed=lambda error: None if told else operation.failed(error)))

    monkeypatch.setattr(Shard, "_run", hasty)
    assert caught()


def test_mutant_no_marker_after_a_failover(monkeypatch: pytest.MonkeyPatch) -> None:
    def lead(self: TransactionMachine, term: int) -> None:
        self.term = term
        self._leading = True
        self._led()

    monkeypatch.setattr(TransactionMachine, "lead", lead)
    assert caught()


def test_mutant_markers_of_deposed_coordinators_and_late_ones_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the order of requests, a marker that was overtaken by its repetition ends the next transaction of a producer that keeps its epoch."""

    class Forgetful(dict[int, tuple[int, int]]):
        def get(self, key: int, default: Any = None) -> Any:
            return default

    honest = MarkerReceiver.__init__

    def forget(self: MarkerReceiver, clock: Any, find: Any) -> None:
        honest(self, clock, find)
        self._last = Forgetful()

    monkeypatch.setattr(MarkerReceiver, "__init__", forget)
    assert caught(200)


@pytest.mark.interpreted("replaces a method of TransactionGate")
def test_mutant_no_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that comes after its transaction was aborted opens one that nobody ends (KIP-890)."""
    monkeypatch.setattr(TransactionGate, "enter", lambda self, name, producer, add, then: then(ErrorCode.NONE, "", _Always(producer[0])))
    assert caught(200)


class _Always:
    def __init__(self, producer_id: int) -> None:
        self.producer_id = producer_id
        self.valid = True


def late_write(world: World) -> list[str]:
    """A batch of an aborted transaction that arrives within the next one; returns what is visible at the end."""
    client = Client(world)
    client.init()
    first = client.producer
    late = build_batch([Record(0, 1, b"k", b"late")], producer=(*first, 0), attributes=TRANSACTIONAL_BIT)
    client.produce(1, "first/1")
    client.end(commit=False)
    client.produce(1, "second/1")
    one = world.replicated[DATA, 0]
    one.replicas[one.leader].append_transactional(memoryview(late), -1, "tx", True, lambda result: None)
    world.clock.advance(500)
    client.end(commit=True)
    world.heal()
    world.check()
    return world.visible(0)


def test_the_epoch_bump_keeps_a_late_write_out_of_the_next_transaction() -> None:
    assert late_write(World(1, bumps=True, loss=0)) == []


def test_mutant_no_epoch_bump(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "VERSION_EPOCH_BUMP", 99)
    try:
        visible = late_write(World(1, bumps=True, loss=0))
    except AssertionError:
        return  # a transaction hangs: noticed, too
    assert visible == ["late"], "the test sees what the bump prevents"


def test_every_step_of_a_commit_survives_the_loss_of_its_leader() -> None:
    """Fail over after each 5 ms of a commit's life, with and without what was not committed."""
    for moment in range(0, 60, 5):
        for place in PLACES:
            world = World(moment * 7 + PLACES.index(place), bumps=bool(moment & 1), loss=0)
            client = Client(world)
            client.init()
            client.transfer("a")
            fired = [False]

            def once(world: World = world, place: Any = place, moment: int = moment, fired: list[bool] = fired) -> None:
                if not fired[0]:
                    fired[0] = True
                    world.clock.call_later(moment, lambda: world.fail_over(place))

            client.between = once
            client.transfer("b")
            client.transfer("c", commit=False)
            world.heal()
            world.check()
            client.check()
            assert "a" in client.committed


def test_a_silent_producer_is_aborted_after_its_time() -> None:
    world = World(3, bumps=True, loss=0)
    client = Client(world)
    client.init()
    client.produce(0, "open/0")
    world.clock.advance(30_000)
    one = world.replicated[DATA, 0]
    assert one.replicas[one.leader].last_stable_offset == 0
    world.fail_over((TRANSACTIONS_TOPIC, 0))
    world.clock.advance(63_000)
    world.check()
    assert world.visible(0) == []
    assert client.produce(0, "late/0") in (ErrorCode.INVALID_PRODUCER_EPOCH, ErrorCode.PRODUCER_FENCED)


def test_a_deleted_topic_needs_no_marker_but_only_the_controller_can_say_so() -> None:
    world = World(5, bumps=True, loss=0)
    client = Client(world)
    client.init()
    client.produce(0, "a/0")
    client.produce(1, "a/1")
    image = world.image
    world.image = MetadataImage(version=2, topics={TRANSACTIONS_TOPIC: image.topics[TRANSACTIONS_TOPIC]})
    client.end(commit=True)
    world.clock.advance(5_000)
    one = world.replicated[TRANSACTIONS_TOPIC, 0]
    (machine,) = world.services[one.leader].coordinators.leading()
    assert machine.transactions["tx"].state is TransactionState.PREPARE_COMMIT, "the image may be old"
    world.exists = False
    world.clock.advance(5_000)
    assert machine.transactions["tx"].state is TransactionState.COMPLETE_COMMIT


def test_an_idle_id_is_forgotten_after_its_time() -> None:
    world = World(6, bumps=True, loss=0)
    client = Client(world)
    client.init()
    client.transfer("a")
    world.clock.advance(604_800_000 // 100)
    one = world.replicated[TRANSACTIONS_TOPIC, 0]
    (machine,) = world.services[one.leader].coordinators.leading()
    assert "tx" in machine.transactions
    world.services[one.leader]._leader_of(machine).expire(1_000)
    world.clock.advance(1_000)
    assert "tx" not in machine.transactions
    world.check()
