"""Nodes that start together, late, again, and with a lost disk, over a fake network and the real files."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.errors import ErrorCode
from broker.metadata.bootstrap import Member, SeedNode
from broker.metadata.controller import Controller
from broker.metadata.identity import Identity, IdentityStore, as_member, new_identity
from broker.metadata.joiner import METHOD_INFO, METHOD_JOIN, BootstrapResult, JoinAnswer, Joiner, JoinHandler, refusal_of
from broker.metadata.operations import RegisterBroker
from tests.unit.metadata.support import Replica, VirtualClock
from wal.errors import DataDirectoryError
from wal.filesystem import RealFileSystem

SEEDS = tuple(SeedNode(n, f"node{n}:9093") for n in (1, 2, 3))


class Network:
    """Nodes by address; those that are not `up` refuse connections."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = VirtualClock()
        self.nodes: dict[str, Node] = {}
        self.ids = 0
        self.lose_join_answers = 0

    def new_id(self) -> bytes:
        self.ids += 1
        return self.ids.to_bytes(16, "big")

    async def call(self, address: str, method: str, payload: bytes, timeout_ms: int) -> bytes:
        node = self.nodes.get(address)
        if node is None:
            raise ConnectionRefusedError
        if method == METHOD_INFO:
            return node.handler.info(node.number)
        assert method == METHOD_JOIN
        answer = await node.handler.join(payload)
        if self.lose_join_answers:
            self.lose_join_answers -= 1
            raise TimeoutError
        return answer


class Node:
    def __init__(self, network: Network, number: int, directory: str = "") -> None:
        self.network = network
        self.number = number
        self.address = f"node{number}:9093"
        path = network.path / (directory or str(number))
        path.mkdir(exist_ok=True)
        self.store = IdentityStore(RealFileSystem(), str(path))
        self.replica = Replica()
        self.replica.group.mark_dirty = lambda: network.clock.call_later(1, self.replica.settle)  # type: ignore[method-assign]
        self.voters: list[Member] = []
        self.learners: list[Member] = []
        self.membership_works = True
        controller = Controller(number, self.replica.machine, self._no_call, network.clock, network.new_id)
        self.handler = JoinHandler(self.replica.machine, controller, self.store.load, SEEDS, lambda: (self.voters, self.learners), self._add)
        self.controller = controller
        registration = RegisterBroker(number, "", 9092, self.address, "")
        self.joiner = Joiner(registration, SEEDS, self.store, network.call, network.clock, network.new_id)

    async def _no_call(self, node: int, method: str, payload: bytes, timeout_ms: int) -> bytes:
        raise ConnectionRefusedError

    async def _add(self, replica: int, address: str) -> bool:
        if self.membership_works and Member(replica, address) not in self.learners:
            self.learners.append(Member(replica, address))
        return self.membership_works

    def up(self) -> None:
        self.network.nodes[self.address] = self

    def start(self) -> asyncio.Task[BootstrapResult]:
        self.up()
        return asyncio.ensure_future(self.joiner.run(self.store.data_exists()))

    async def become_first(self) -> None:
        """What the composition root does with `creating`."""
        identity = await finish(self.network, self.start())
        assert identity.identity.state == "creating"
        self.replica.lead()
        self.voters.append(Member(self.number, self.address))
        self.store.save(as_member(identity.identity))
        await finish(self.network, self.controller.create_cluster(identity.identity.cluster_id))
        mine = RegisterBroker(self.number, "", 9092, self.address, identity.identity.directory_id, generation=0)
        await finish(self.network, self.controller.register_broker(mine))


async def finish(network: Network, awaitable: Any) -> Any:
    task = asyncio.ensure_future(awaitable)
    await network.clock.until(task)
    assert task.done()
    return task.result()


@pytest.fixture
async def network(tmp_path: Path) -> Network:
    """Node 1 has made a cluster; nodes 2 and 3 have been seen without one."""
    network = Network(tmp_path)
    Node(network, 2).up()
    Node(network, 3).up()
    await Node(network, 1).become_first()
    del network.nodes["node2:9093"], network.nodes["node3:9093"]
    return network


async def test_first_start_of_three(tmp_path: Path) -> None:
    network = Network(tmp_path)
    nodes = {n: Node(network, n) for n in (1, 2, 3)}
    tasks = {n: nodes[n].start() for n in (2, 3)}
    await network.clock.until(tasks[2], 5_000)
    assert not any(task.done() for task in tasks.values())
    assert nodes[2].joiner.reasons == ("Seed node 1@node1:9093 unreachable",)
    await nodes[1].become_first()
    for n, task in tasks.items():
        result = await finish(network, task)
        identity = nodes[1].store.load()
        assert identity is not None
        assert (result.identity.state, result.identity.cluster_id, result.identity.generation) == ("joined", identity.cluster_id, 0)
        assert result.voters == (Member(1, "node1:9093"),) and Member(n, f"node{n}:9093") in result.learners
        assert nodes[n].store.load() == result.identity and nodes[n].joiner.reasons == ()
    assert set(nodes[1].replica.machine.image.brokers) == {1, 2, 3}


async def test_lowest_seed_waits_until_all_seeds_answer(tmp_path: Path) -> None:
    network = Network(tmp_path)
    task = Node(network, 1).start()
    Node(network, 2).up()
    await network.clock.until(task, 60_000)
    assert not task.done()
    Node(network, 3).up()
    result = await finish(network, task)
    assert result.identity.state == "creating" and result.identity.cluster_id


async def test_lost_answer_and_crash_before_the_directory_is_ready(network: Network) -> None:
    network.lose_join_answers = 1
    node = Node(network, 2)
    first = await finish(network, node.start())
    again = await finish(network, Node(network, 2).start())  # the same directory, `joined` and nothing more
    assert again.identity == first.identity
    node.store.save(as_member(again.identity))
    last = await finish(network, Node(network, 2).start())
    assert last == BootstrapResult(as_member(first.identity))


async def test_lost_disk_is_refused_until_the_old_broker_is_removed(network: Network) -> None:
    first = await finish(network, Node(network, 2).start())
    with pytest.raises(DataDirectoryError, match="unregister 2"):
        await finish(network, Node(network, 2, "new disk").start())
    await finish(network, network.nodes["node1:9093"].controller.unregister_broker(2))
    result = await finish(network, Node(network, 2, "new disk").start())
    assert (first.identity.generation, result.identity.generation) == (0, 1)
    assert Member(2 + (1 << 32), "node2:9093") in result.learners


async def test_a_removed_broker_learns_that_it_is_refused(network: Network) -> None:
    """No leader speaks to it any more, so it asks whoever answers: also by way of a node that does not lead."""
    first = await finish(network, Node(network, 2).start())
    leader = network.nodes["node1:9093"]
    own = RegisterBroker(2, "", 9092, "node2:9093", first.identity.directory_id, generation=0)

    def ask(*addresses: str) -> Any:
        return finish(network, refusal_of(network.call, addresses, own))

    assert await ask("node9:9093") == ""  # nobody answers
    assert await ask("node9:9093", "node1:9093") == ""
    await finish(network, leader.controller.unregister_broker(2))
    assert "was removed from the cluster" in await ask("node9:9093", "node1:9093")
    other = Node(network, 3)
    other.up()
    other.replica.machine.image = leader.replica.machine.image
    other.replica.machine.on_leader_change(1, 1)
    assert "was removed from the cluster" in await ask("node3:9093")


async def test_wiped_first_node_is_refused_and_makes_no_second_cluster(network: Network) -> None:
    old = network.nodes["node1:9093"]
    network.nodes["node2:9093"] = old  # somebody of the old cluster still answers, as 2
    old.number = 2
    with pytest.raises(DataDirectoryError, match="unregister 1"):
        await finish(network, Node(network, 1, "wiped").start())


async def test_membership_that_can_not_change_yet_is_tried_again(network: Network) -> None:
    network.nodes["node1:9093"].membership_works = False
    node = Node(network, 2)
    task = node.start()
    await network.clock.until(task, 10_000)
    assert not task.done() and "the change of membership is not committed yet" in node.joiner.reasons[0]
    network.nodes["node1:9093"].membership_works = True
    assert (await finish(network, task)).identity.generation == 0


async def test_log_lines_and_reasons(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    first = network.nodes.pop("node1:9093")
    node = Node(network, 2)
    with caplog.at_level(logging.WARNING, "chronik_cluster"):
        task = node.start()
        await network.clock.until(task, 9_000)
    assert caplog.messages.count("Seed node 1@node1:9093 unreachable") == 1  # not at each attempt
    network.nodes["node1:9093"] = first
    network.lose_join_answers = 1
    with caplog.at_level(logging.WARNING, "chronik_cluster"):
        await finish(network, task)
    assert "Failed to join cluster: Timeout (node1:9093)" in caplog.messages


async def test_seed_that_does_not_lead_names_the_leader(network: Network) -> None:
    leader = network.nodes["node1:9093"]
    follower = Node(network, 3)
    follower.store.save(Identity(1, "member", 3, "d3", leader.replica.machine.image.cluster_id, 0))
    follower.replica.machine.install(leader.replica.machine.applied_index, leader.replica.machine.snapshot())
    follower.replica.machine.on_leader_change(1, 1)
    follower.up()
    answer = msgspec.msgpack.decode(await follower.handler.join(msgspec.msgpack.encode(RegisterBroker(2, "", 1, "a", "d"))), type=JoinAnswer)
    assert (answer.error, answer.leader_address) == (ErrorCode.NOT_CONTROLLER, "node1:9093")
    assert (await finish(network, Node(network, 2).start())).identity.state == "joined"
    refused = msgspec.msgpack.decode(await leader.handler.join(b"\xc1"), type=JoinAnswer)
    assert refused.error == ErrorCode.INVALID_REQUEST


async def test_waiting_is_cancellable(network: Network) -> None:
    network.nodes.clear()
    task = Node(network, 2).start()
    await network.clock.until(task, 1_000)
    task.cancel()
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)


def test_identity_file(tmp_path: Path) -> None:
    store = IdentityStore(RealFileSystem(), str(tmp_path))
    assert store.load() is None and not store.data_exists()
    identity = new_identity(5, "d")
    store.save(identity)
    assert store.load() == identity and not store.data_exists()
    (tmp_path / "lock").touch()
    assert store.data_exists() and not store.data_exists(("lock",))
    (tmp_path / "node.json").write_bytes(b'{"format_version": 2, "state": "member", "node_id": 5, "directory_id": "d"}')
    with pytest.raises(DataDirectoryError, match="format version 2"):
        store.load()
    for damaged in (b"", b"{", b'{"node_id": "x"}', b"\xff"):
        (tmp_path / "node.json").write_bytes(damaged)
        with pytest.raises(DataDirectoryError, match="is damaged"):
            store.load()
