"""The runtime of a coordinator: order per key, one append at a time, and what is told when leadership is lost."""

from __future__ import annotations

import pytest

from broker.coordinator.runtime import Applied, LostError, Outcome, Shard, Write
from broker.errors import ErrorCode, KafkaError
from broker.records.reader import read_batches
from tests.unit.coordinator.support import Replicas
from tests.unit.handlers.fakes import ManualClock


class Register:
    """Remembers the last value of each key, and what it was told."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes | None] = {}
        self.markers: list[tuple[int, int, bool]] = []
        self.leading = False

    def attach(self, shard: Shard) -> None:
        self.shard = shard

    def replay(self, record: Applied) -> None:
        self.values[record.key or b""] = record.value

    def replay_marker(self, producer_id: int, producer_epoch: int, committed: bool) -> None:
        self.markers.append((producer_id, producer_epoch, committed))

    def capture(self) -> bytes:
        return b""

    def restore(self, data: bytes) -> None:
        self.values = {}

    def lead(self, term: int) -> None:
        self.leading = True

    def depose(self) -> None:
        self.leading = False


class World(Replicas):
    def __init__(self) -> None:
        super().__init__(Register, Register.attach, ManualClock())
        self.auto = False
        self.told: list[object] = []

    def write(self, key: str, value: bytes, shared: bool = False, exclusive: bool = False) -> None:
        """An operation that appends to what it reads, so that its order shows."""

        def run() -> Outcome[bytes]:
            before = self.machine.values.get(key.encode(), b"")
            return Outcome(before + value, [Write(key.encode(), before + value)], exclusive=exclusive)

        self.shards[self.leader].submit(key, run, self.told.append, lambda error: self.told.append((type(error), error.code)), shared)

    def commit(self) -> None:
        self.clock.turn()
        super().commit()
        self.clock.turn()


@pytest.fixture
def world() -> World:
    return World()


def test_the_next_operation_of_a_key_sees_what_the_one_before_wrote(world: World) -> None:
    for value in (b"1", b"2", b"3"):
        world.write("a", value)
    world.clock.turn()
    assert world.told == []
    for _ in range(3):
        world.commit()
    assert world.told == [b"1", b"12", b"123"]
    assert [shard.machine.values for shard in world.shards] == [{b"a": b"123"}] * 3  # type: ignore[attr-defined]


def test_operations_of_different_keys_share_a_batch_and_one_append_is_out(world: World) -> None:
    for key in "abc":
        world.write(key, b"1")
    world.clock.turn()
    assert len(world.pending) == 1
    world.write("d", b"1")
    world.clock.turn()
    assert len(world.pending) == 1, "what comes meanwhile waits for the next append"
    world.commit()
    world.commit()
    assert world.told == [b"1"] * 4
    assert [len(list(read_batches(batch))) for batch in world.batches] == [3, 1]


def test_shared_operations_do_not_wait_for_each_other_but_exclusive_ones_do(world: World) -> None:
    world.write("a", b"1", shared=True)
    world.write("a", b"2", shared=True)
    world.write("a", b"3")
    world.write("a", b"4", shared=True)
    world.commit()
    assert world.told == [b"1", b"2"]
    world.commit()
    assert world.told == [b"1", b"2", b"23"]
    world.commit()
    assert world.told[-1] == b"234"


def test_a_shared_operation_can_ask_for_silence_until_it_is_applied(world: World) -> None:
    world.write("a", b"1", shared=True, exclusive=True)
    world.write("a", b"2", shared=True)
    world.commit()
    assert world.told == [b"1"]
    world.commit()
    assert world.told == [b"1", b"12"]


def test_an_operation_without_records_ends_at_once_but_in_its_turn(world: World) -> None:
    shard = world.shards[0]
    shard.submit("a", lambda: Outcome("at once"), world.told.append, world.told.append)
    world.write("a", b"1")
    shard.submit("a", lambda: Outcome("later"), world.told.append, world.told.append)
    assert world.told == ["at once"]
    world.commit()
    assert world.told == ["at once", b"1", "later"]


def test_an_error_of_an_operation_is_its_own(world: World) -> None:
    def refuse() -> Outcome[None]:
        raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)

    world.shards[0].submit("a", refuse, world.told.append, lambda error: world.told.append(error.code))
    world.write("a", b"1")
    world.commit()
    assert world.told == [ErrorCode.UNKNOWN_MEMBER_ID, b"1"]


def test_what_is_too_large_for_the_log_is_refused(world: World) -> None:
    world.write("a", bytes(16 << 20))
    assert world.told == [(KafkaError, ErrorCode.MESSAGE_TOO_LARGE)]


@pytest.mark.parametrize("survives", [True, False])
def test_loss_of_leadership_tells_unknown_from_never_written(world: World, survives: bool) -> None:
    world.write("a", b"1")
    world.clock.turn()
    world.write("a", b"2")  # waits for its key
    world.write("b", b"1")  # waits for the append
    world.fail_over(1, survives)
    assert sorted(str(one) for one in world.told) == sorted(
        str(one) for one in [(LostError, ErrorCode.NOT_COORDINATOR), *[(KafkaError, ErrorCode.NOT_COORDINATOR)] * 2]
    )
    assert world.machine.values == ({b"a": b"1"} if survives else {})
    world.write("a", b"3")
    world.commit()
    assert world.told[-1] == (b"13" if survives else b"3")


def test_only_the_leader_takes_operations_and_only_while_nobody_else_can_lead(world: World) -> None:
    other = world.shards[1]
    other.submit("a", lambda: Outcome(1), world.told.append, lambda error: world.told.append(error.code))
    world.lease = False
    world.shards[0].submit("a", lambda: Outcome(1), world.told.append, lambda error: world.told.append(error.code))
    assert world.told == [ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]
    assert [shard.machine.leading for shard in world.shards] == [True, False, False]  # type: ignore[attr-defined]


def test_a_refused_append_is_retriable_and_the_coordinator_goes_on(world: World) -> None:
    world.refuse = ErrorCode.KAFKA_STORAGE_ERROR
    world.write("a", b"1")
    world.clock.turn()
    assert world.told == [(KafkaError, ErrorCode.COORDINATOR_NOT_AVAILABLE)]
    world.refuse = None
    world.write("a", b"2")
    world.commit()
    assert world.told[-1] == b"2"


def test_an_answer_may_ask_again(world: World) -> None:
    shard = world.shards[0]
    shard.submit("a", lambda: Outcome(1, [Write(b"a", b"1")]), lambda _: world.write("a", b"2"), world.told.append)
    world.commit()
    world.commit()
    assert world.told == [b"12"]
