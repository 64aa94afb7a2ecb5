"""A group by itself: snapshots that are installed, damage that is found while reading, and two replica ids of one node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from raft.core.core import CoreLimits, RaftCore, Role
from raft.core.membership import encode, simple
from raft.core.memory_log import MemoryLog
from raft.core.message import Message, MessageType
from raft.group import RaftGroup
from raft.liveness import NEVER, Peer, quorum_contact_ms, superseded
from wal.entry import Entry, group_id
from wal.errors import DamageError, InvariantError

pytestmark = pytest.mark.interpreted("a group with a driver of the test's own")

LIMITS = CoreLimits(1 << 20, 10, 1 << 20, 100)
GROUP = group_id(b"t" * 16, 0)
REBORN = 3 + (1 << 32)


class Machine:
    def __init__(self) -> None:
        self.applied: list[int] = []
        self.installed: list[tuple[int, bytes]] = []

    def apply(self, entries: Sequence[Entry]) -> None:
        self.applied += [entry.index for entry in entries]

    def install(self, index: int, data: bytes) -> None:
        self.installed.append((index, data))


class Driver:
    """What a group asks of its driver."""

    def __init__(self) -> None:
        self.clock = SimpleNamespace(now_ms=lambda: 1000)
        self.peers: dict[int, Peer] = {}
        self.reads: list[Callable[[BaseException | None], None]] = []
        self.disk = SimpleNamespace(submit_read=lambda job, done: self.reads.append(done))
        self.damage: list[BaseException] = []
        self.fatals: list[BaseException] = []
        self.touched = 0

    def touch(self, group: RaftGroup) -> None:
        self.touched += 1

    def is_open(self, group: RaftGroup) -> bool:
        return True

    def fatal(self, error: BaseException) -> None:
        self.fatals.append(error)

    def quarantine(self, group: RaftGroup, error: BaseException) -> None:
        self.damage.append(error)


class World:
    def __init__(self, voters: Sequence[int] = (1, 2, 3), replica: int = 1) -> None:
        self.log: Any = MemoryLog(encode(simple(voters)))
        for name, value in (("topic", "t"), ("partition", 0), ("group_id", GROUP), ("quarantined", "")):
            if not hasattr(self.log, name):
                setattr(self.log, name, value)
        self.core = RaftCore(replica, self.log, LIMITS)
        self.machine, self.driver = Machine(), Driver()
        self.group = RaftGroup(self.driver, self.log, self.core, self.machine, 0)  # type: ignore[arg-type]

    def follow(self, count: int, term: int = 1, commit: int = 0) -> None:
        """The leader 2 appends `count` entries, of which `commit` are committed."""
        entries = [Entry(term, index, 0, (), 0, 0, index - 1, 1) for index in range(1, count + 1)]
        self.core.step(Message(MessageType.APPEND, 2, self.core.replica, term, 0, 0, commit, entries), False)


@pytest.fixture
def world() -> World:
    return World()


def test_a_snapshot_behind_the_end_of_the_log_replaces_log_and_state(world: World) -> None:
    world.follow(3, commit=2)
    world.group.apply_committed()
    assert world.group.install_snapshot(10, 1, encode(simple([1, 2])), 25, b"state")
    assert world.machine.installed == [(10, b"state")]
    assert (world.group.applied_index, world.core.commit_index, world.log.last_index, world.log.next_offset) == (10, 10, 10, 25)
    assert world.core.membership.voters == {1, 2}
    assert world.driver.touched


def test_a_snapshot_of_what_the_log_holds_leaves_both_as_they_are(world: World) -> None:
    world.follow(5, commit=2)
    world.group.apply_committed()
    assert not world.group.install_snapshot(4, 1, encode(simple([1])), 4, b"state")
    assert world.machine.installed == []
    assert world.log.last_index == 5
    assert world.core.commit_index == 4  # what a snapshot holds is committed
    world.group.apply_committed()
    assert world.machine.applied == [1, 2, 3, 4]


def test_an_old_snapshot_never_takes_the_state_back(world: World) -> None:
    world.follow(5, commit=5)
    world.group.apply_committed()
    assert not world.group.install_snapshot(3, 1, encode(simple([1])), 3, b"old state")
    assert (world.group.applied_index, world.machine.installed) == (5, [])


def to_be_read(world: World) -> Callable[[BaseException | None], None]:
    """Committed entries that are on disk only are being read, so as to be applied."""
    world.follow(4, commit=4)
    world.log.memory_slice = lambda low, size: None
    world.log.read_job = lambda low, size: SimpleNamespace(entries=[Entry(1, i, 0, (), 0, 0, i - 1, 1) for i in range(low, 5)])
    world.group.apply_committed()
    return world.driver.reads.pop()


def test_a_read_that_a_snapshot_overtook_is_of_no_use(world: World) -> None:
    done = to_be_read(world)
    world.group.applied_index = 9  # as after an install
    done(DamageError("the file is not there any more"))
    assert (world.driver.damage, world.driver.fatals, world.machine.applied) == ([], [], [])
    assert not world.group.reading


def test_damage_found_while_applying_quarantines_and_does_not_end_the_node(world: World) -> None:
    error = DamageError("wal_0_1.log: position 4096: checksum is wrong")
    to_be_read(world)(error)
    assert world.driver.damage == [error]
    assert world.driver.fatals == []
    world.log.quarantined = str(error)
    world.group.apply_committed()
    assert world.driver.reads == []  # it does not try for ever


def test_another_error_while_applying_ends_the_node(world: World) -> None:
    to_be_read(world)(OSError(5, "Input/output error"))
    assert len(world.driver.fatals) == 1
    other = World()
    done = to_be_read(other)
    other.machine.apply = lambda entries: (_ for _ in ()).throw(InvariantError("surprise"))  # type: ignore[method-assign]
    done(None)
    assert isinstance(other.driver.fatals[0], InvariantError)


def test_damage_found_while_serving_a_read_quarantines(world: World) -> None:
    seen: list[BaseException | None] = []
    world.group.read(SimpleNamespace(entries=[]), seen.append)  # type: ignore[arg-type]
    error = DamageError("wal_0_1.log: position 4096: checksum is wrong")
    world.driver.reads.pop()(error)
    assert (seen, world.driver.damage) == ([error], [error])


def agreed(term: int, acked_ms: int, node: int) -> Peer:
    peer = Peer(node)
    peer.agreed[GROUP] = term
    peer.acked_ms = acked_ms
    return peer


def test_a_node_does_not_speak_for_the_replica_whose_disk_it_lost() -> None:
    world = World(voters=(1, 2, 3, REBORN))
    assert superseded(world.core.membership) == {3}
    world.core.role, world.core.term = Role.LEADER, 5
    peers = {3: agreed(5, 900, 3)}
    # Ourselves and the reborn one are two of four: no majority, although node 3 answers.
    assert quorum_contact_ms(world.group, peers, 1000) == NEVER
    peers[2] = agreed(5, 800, 2)
    assert quorum_contact_ms(world.group, peers, 1000) == 800
    assert world.group.replica_on(3) == REBORN
    assert world.group.replica_on(2) == 2
    assert world.group.replica_on(9) == 9
    world.driver.peers = peers
    world.group.at_end.update({2: (0, 800), 3: (0, 990), REBORN: (0, 900)})
    by_node = [(status.node, status.contact_ms, status.at_end_ms) for status in world.group.replicas()]
    assert by_node == [(1, 1000, 1000), (2, 800, 800), (3, NEVER, NEVER), (3, 900, 900)]
