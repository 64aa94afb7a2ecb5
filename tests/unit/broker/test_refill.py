"""Damaged replicas: when one is given up, under which identity it begins anew, and what becomes of its files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from crc32c import crc32c

from broker.metadata.builder import ImageBuilder
from broker.metadata.image import MetadataImage
from broker.metadata.records import BrokerRegistered, PartitionSpec, ReplicaGeneration, TopicCreated
from broker.reassignments import METHOD_IS_MEMBER
from broker.refill import RETRY_MS, KeepFiles, Refill
from broker.replicas import Replicas, first_membership, own_replica
from raft.core.membership import decode, encode, simple
from tests.unit.broker.test_meta_group import Disk
from tests.unit.metadata.support import brokers, image_of, topic_id
from wal.entry import Entry, GroupId, group_id
from wal.filesystem import RealFileSystem
from wal.settings import WalSettings
from wal.store import WalStore

GROUP = group_id(topic_id(1), 0)
TOPIC = TopicCreated("t", topic_id(1), (PartitionSpec((2, 1, 3)),))


class FakeNode:
    """Node 1, whose replica of t-0 is damaged; broker 2 leads it and says `answer` when asked whether a majority works."""

    def __init__(self, directory: Path, answer: bytes | Exception = b"\x01", leader: int = 2) -> None:
        self.node_id, self.directory, self.answer = 1, str(directory), answer
        self.image: MetadataImage = image_of(*brokers(3), TOPIC)
        self.disk = Disk()
        self.disk.submit_read = self._run  # type: ignore[method-assign]
        self.bumped: list[tuple[bytes, int]] = []
        self.rebuilt: list[tuple[bytes, int]] = []
        self.calls: list[tuple[int, str, bytes]] = []
        self.tasks: list[asyncio.Task[None]] = []
        log = SimpleNamespace(quarantined="a checksum is wrong", topic="t", partition=0)
        self.group = SimpleNamespace(group_id=GROUP, name="t-0", log=log, core=SimpleNamespace(replica=1))
        self.partitions = SimpleNamespace(groups={GROUP: self.group}, rebuild=lambda group, replica, _: self.rebuilt.append((group, replica)))
        self.driver = SimpleNamespace(is_open=lambda _: True)
        self.leaders = SimpleNamespace(leader_of=lambda _: (leader, 1))
        self.links = SimpleNamespace(call=self._call)
        self.controller = SimpleNamespace(bump_generation=self._bump)
        self.housekeeping = SimpleNamespace(spawn=lambda work: self.tasks.append(asyncio.ensure_future(work)))

    def _run(self, job: Any, done: Any) -> None:
        job.run()
        done(None)

    async def _call(self, node: int, method: str, payload: bytes, timeout_ms: int) -> bytes:
        self.calls.append((node, method, payload))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def _bump(self, group: bytes, than: int) -> int:
        self.bumped.append((group, than))
        return than + 1

    async def look(self, refill: Refill, now_ms: int = 0) -> None:
        refill.look(now_ms)
        refill.look(now_ms)  # a second look meanwhile starts nothing
        await asyncio.gather(*self.tasks)
        self.tasks.clear()


def refill_of(node: FakeNode) -> Refill:
    return Refill(node)  # type: ignore[arg-type]


async def test_it_begins_anew_under_a_new_id_and_its_files_are_kept(tmp_path: Path) -> None:
    wal = tmp_path / "wal" / "t"
    wal.mkdir(parents=True)
    for name in ("wal_0_00000001.log", "wal_0_00000002.log", "wal_1_00000001.log", "raft_0"):
        (wal / name).write_bytes(name.encode())
    node = FakeNode(tmp_path)
    await node.look(refill_of(node))
    assert node.calls == [(2, METHOD_IS_MEMBER, GROUP + (1).to_bytes(8, "big"))]
    assert node.bumped == [(GROUP, 0)]
    assert node.rebuilt == [(GROUP, 1 + (1 << 32))]
    (kept,) = (tmp_path / "quarantine").iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["wal_0_00000001.log", "wal_0_00000002.log"]
    assert len(list(wal.iterdir())) == 4  # the log itself removes what it does not need any more


async def test_it_waits_until_a_majority_works_without_it(tmp_path: Path) -> None:
    node = FakeNode(tmp_path, answer=b"")
    refill = refill_of(node)
    await node.look(refill)
    node.answer = ConnectionRefusedError("node 2 does not answer")
    await node.look(refill, RETRY_MS - 1)
    assert len(node.calls) == 1  # not asked again so soon
    await node.look(refill, RETRY_MS)
    assert (len(node.calls), node.bumped, node.rebuilt) == (2, [], [])
    node.answer = b"\x00"
    await node.look(refill, 2 * RETRY_MS)
    assert node.rebuilt == [(GROUP, 1 + (1 << 32))]


@pytest.mark.parametrize("leader", [-1, 1])
async def test_nobody_else_leads(tmp_path: Path, leader: int) -> None:
    node = FakeNode(tmp_path, leader=leader)
    await node.look(refill_of(node))
    assert (node.calls, node.rebuilt) == ([], [])


async def test_an_only_copy_and_one_that_is_not_wanted_stay_as_they_are(tmp_path: Path) -> None:
    node = FakeNode(tmp_path)
    for replicas in ((1,), (2, 3)):
        node.image = image_of(*brokers(3), TopicCreated("t", topic_id(1), (PartitionSpec(replicas),)))
        await node.look(refill_of(node))
    assert (node.calls, node.rebuilt) == ([], [])


async def test_an_identity_that_was_given_already_is_used(tmp_path: Path) -> None:
    """As after a crash between the two steps."""
    node = FakeNode(tmp_path)
    node.image = image_of(*brokers(3), TOPIC, ReplicaGeneration(1, 4, GROUP))
    await node.look(refill_of(node))
    assert (node.bumped, node.rebuilt) == ([], [(GROUP, 1 + (4 << 32))])


def test_files_of_a_log_that_recovery_does_not_know_are_moved_away(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "wal_3_00000001.log").write_bytes(b"x")
    job = KeepFiles(str(tmp_path / "t"), 3, str(tmp_path / "kept"), True)
    job.run()
    job.run()
    assert (job.kept, list((tmp_path / "t").iterdir())) == (1, [])
    assert (tmp_path / "kept" / "wal_3_00000001.log").read_bytes() == b"x"
    KeepFiles(str(tmp_path / "no such topic"), 3, str(tmp_path / "kept"), True).run()


class FakeLog:
    def __init__(self, group: GroupId, topic: str, configuration: bytes) -> None:
        self.group_id, self.topic, self.partition, self.quarantined = group, topic, 0, ""
        self.configurations = [(0, configuration)]


class Opened(Replicas):
    """Notes what it would open."""

    def __init__(self, node: int, generation: int) -> None:
        store = SimpleNamespace(create_group=FakeLog, groups={})
        driver = SimpleNamespace(elections=SimpleNamespace(prefer=lambda _: None), schedule_turn=lambda: None)
        super().__init__(node, store, driver, SimpleNamespace(), SimpleNamespace(), lambda _: None, lambda _: None)  # type: ignore[arg-type, return-value]
        self.generation = generation
        self.opened: list[tuple[frozenset[int], frozenset[int]]] = []

    def _open(self, group_log: Any, configs: Any, replica: int = 0) -> Any:
        membership = decode(group_log.configurations[0][1])
        self.opened.append((membership.voters, membership.learners))
        group = SimpleNamespace(log=group_log, core=SimpleNamespace(replica=replica))
        self.groups[group_log.group_id] = group  # type: ignore[assignment]
        return group


def test_a_replica_made_while_old_records_are_replayed_is_not_the_one_that_was_lost() -> None:
    """The records tell of node 3 before its disk was lost; this directory is its second one."""
    reborn = 3 + (1 << 32)
    old = image_of(*brokers(3), TOPIC)
    replicas = Opened(3, generation=1)
    replicas.on_image(MetadataImage(), old)
    assert replicas.opened == [(frozenset({1, 2}), frozenset({reborn}))]
    first = Opened(3, generation=0)
    first.on_image(MetadataImage(), old)
    assert first.opened == [(frozenset({1, 2, 3}), frozenset())]


def test_what_was_assigned_while_the_broker_was_not_registered_is_made_when_it_comes_back() -> None:
    away = image_of(*brokers(2), TOPIC)
    replicas = Opened(3, generation=1)
    replicas.on_image(MetadataImage(), away)
    assert replicas.opened == []
    builder = ImageBuilder(away)
    builder.apply(BrokerRegistered(3, "h", 1, "r", directory_id="new", generation=1))
    replicas.on_image(away, builder.image(2))
    assert replicas.opened == [(frozenset({1, 2}), frozenset({3 + (1 << 32)}))]


def opened(directory: Path) -> WalStore:
    return WalStore.open(RealFileSystem(), str(directory), WalSettings(journal_file_bytes=1 << 20, segment_piece_bytes=4096, reserve_bytes=0))


def settle(store: WalStore) -> None:
    """Flush and write behind all that can be."""
    while (job := store.next_flush() or store.next_background()) is not None:
        job.run()
        job.complete()


def test_a_log_that_began_anew_is_whole_after_a_crash_and_knows_its_new_id(tmp_path: Path) -> None:
    store = opened(tmp_path)
    log = store.create_group(GROUP, "t", encode(simple([1, 2, 3])))
    log.save_hard_state(4, 2)
    payload = b"x" * 2000
    log.append([Entry(4, index, 0, (payload,), len(payload), crc32c(payload), index - 1, 1) for index in range(1, 9)])
    settle(store)
    log.advance_commit(8)
    settle(store)
    store.close()
    (segment,) = (tmp_path / "wal" / "t").glob("wal_0_*.log")
    segment.unlink()

    store = opened(tmp_path)
    damaged = store.groups[GROUP]
    assert "is missing" in damaged.quarantined
    reborn = 1 + (1 << 32)
    damaged.install_snapshot(0, 0, 0, encode(first_membership((1, 2, 3), reborn)))
    damaged.quarantine("")
    settle(store)
    store._close_files()  # a crash: nothing is written any more

    store = opened(tmp_path)
    anew = store.groups[GROUP]
    assert (anew.quarantined, anew.first_index, anew.last_index, anew.next_offset) == ("", 1, 0, 0)
    assert anew.hard_state.term == 4  # terms never go down
    assert own_replica(anew, 1) == reborn
    membership = decode(anew.configurations[-1][1])
    assert (membership.voters, membership.learners) == ({2, 3}, {reborn})
    anew.append([Entry(4, 1, 0, (payload,), len(payload), crc32c(payload), 0, 1)])
    settle(store)
    anew.advance_commit(1)
    settle(store)
    store.close()
    assert opened(tmp_path).groups[GROUP].last_index == 1
