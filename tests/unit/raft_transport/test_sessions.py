"""Exchange between two and three nodes: order, lanes, losses, refusals."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import psutil
import pytest

from raft.api import Lane
from raft.transport.client import probe
from raft.transport.options import TransportError
from raft.wire import WireError
from tests.unit.raft_transport.harness import CLUSTER, CONFIG, Node, connected, introduce, until

MakeNode = Callable[..., Node]
ROOT = Path(__file__).resolve().parents[3]


async def pair(make_node: MakeNode) -> tuple[Node, Node]:
    one, two = make_node(1), make_node(2)
    await one.start()
    await two.start()
    introduce(one, two)
    await connected(one, two)
    return one, two


async def test_requests_and_answers_between_three_nodes_keep_their_order(make_node: MakeNode) -> None:
    nodes = [make_node(1), make_node(2), make_node(3)]
    for node in nodes:
        await node.start()
        node.recorder.echo = lambda peer, lane, data, node=node: node.network.send_answer(peer, lane, [b"re:", data])
    introduce(*nodes)
    await connected(*nodes)
    for number in range(200):
        for node in nodes:
            for other in nodes:
                if other is not node:
                    body = number.to_bytes(4, "big")
                    assert node.network.send_request(other.id, Lane(number % 2), [b"%d:" % node.id, bytearray(body), memoryview(b"!")])
    for node in nodes:
        await until(lambda node=node: len(node.recorder.answers) == 400, "all answers")
        for other in nodes:
            if other is node:
                continue
            for lane in Lane:
                numbers = [n for n in range(200) if n % 2 == lane]
                sent = [b"%d:" % other.id + n.to_bytes(4, "big") + b"!" for n in numbers]
                assert [data for peer, on, data in node.recorder.requests if (peer, on) == (other.id, lane)] == sent
                answered = [b"re:%d:" % node.id + n.to_bytes(4, "big") + b"!" for n in numbers]
                assert [data for peer, on, data in node.recorder.answers if (peer, on) == (other.id, lane)] == answered


async def test_the_lanes_are_connections_of_their_own_and_each_direction_is_told(make_node: MakeNode) -> None:
    one, two = await pair(make_node)
    assert sorted(one.network.sessions()) == sorted((2, lane, outgoing, 1, 0) for lane in Lane for outgoing in (True, False))
    assert set(two.recorder.events) == {("open", 1, lane, outgoing, 1) for lane in Lane for outgoing in (True, False)}
    connections = psutil.Process().net_connections("tcp")
    assert sum(1 for c in connections if c.status == "ESTABLISHED" and c.laddr.port == two.network.port) >= 2


async def test_a_large_message_passes_and_an_oversized_one_is_our_own_fault(make_node: MakeNode) -> None:
    one, two = await pair(make_node)
    payload = bytes(17 << 20)
    assert one.network.send_request(2, Lane.DATA, [b"h", payload])
    await until(lambda: two.recorder.requests, "the large message")
    assert len(two.recorder.requests[0][2]) == len(payload) + 1
    with pytest.raises(Exception, match="larger than the transport carries"):
        one.network.send_request(2, Lane.DATA, [payload, payload])


async def test_nothing_is_sent_without_a_session(make_node: MakeNode) -> None:
    one = make_node(1)
    await one.start()
    assert not one.network.send_request(2, Lane.DATA, [b"x"])
    assert not one.network.send_answer(2, Lane.DATA, [b"x"])


async def test_a_stopped_peer_is_lost_once_per_session_and_comes_back(make_node: MakeNode) -> None:
    one, two = await pair(make_node)
    port = two.network.port
    await two.network.stop()
    await until(lambda: len(one.recorder.lost(2, True)) == 2 and len(one.recorder.lost(2, False)) == 2, "four losses")
    assert one.recorder.lost(2, True) == [True, True]
    assert not one.network.send_request(2, Lane.DATA, [b"x"])
    again = make_node(2, incarnation=2, port=port)
    await again.start()
    again.network.set_peers({1: one.address})
    await until(lambda: one.recorder.opened(2, True) == 4 and one.recorder.opened(2, False) == 4, "new sessions")
    assert ("open", 2, Lane.DATA, True, 2) in one.recorder.events
    assert len(one.recorder.lost(2, True)) == 2, "a loss is told once"


VICTIM = """
import asyncio, random, sys
from tests.unit.raft_transport.harness import CLUSTER, Recorder
from raft.transport.network import GrpcNetwork
from raft.transport.options import Identity, NetworkConfig

async def main():
    network = GrpcNetwork(Identity(CLUSTER, 2, 1), NetworkConfig(listen="127.0.0.1:0"), random.Random(1), print)
    await network.start()
    network.attach(Recorder())
    print(network.port, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_killed_process_is_noticed_and_known_to_be_gone(make_node: MakeNode) -> None:
    one = make_node(1)
    await one.start()
    victim = await asyncio.create_subprocess_exec(sys.executable, "-c", VICTIM, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    try:
        assert victim.stdout is not None
        port = int(await victim.stdout.readline())
        one.network.set_peers({2: f"127.0.0.1:{port}"})
        await until(lambda: one.recorder.opened(2, True) == 2, "both lanes")
        loop = asyncio.get_running_loop()
        victim.send_signal(signal.SIGKILL)
        killed_s = loop.time()
        await until(lambda: len(one.recorder.lost(2, True)) == 2, "the loss of both lanes")
        assert loop.time() - killed_s < 5
        # The lanes are looked after apart, and the first may find the port still open: the process closes it last. One that knows is enough.
        assert True in one.recorder.lost(2, True)
        await asyncio.sleep(0.2)
        assert len(one.recorder.lost(2, True)) == 2, "the attempts that follow are no further losses"
    finally:
        if victim.returncode is None:
            victim.kill()
        await victim.wait()


async def test_a_frozen_process_is_noticed_but_not_taken_for_dead(make_node: MakeNode) -> None:
    one = make_node(1, config=replace(CONFIG, keepalive_time_ms=200, keepalive_timeout_ms=300))
    await one.start()
    victim = await asyncio.create_subprocess_exec(sys.executable, "-c", VICTIM, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    try:
        assert victim.stdout is not None
        port = int(await victim.stdout.readline())
        one.network.set_peers({2: f"127.0.0.1:{port}"})
        await until(lambda: one.recorder.opened(2, True) == 2, "both lanes")
        victim.send_signal(signal.SIGSTOP)
        await until(lambda: len(one.recorder.lost(2, True)) == 2, "the loss of both lanes")
        assert one.recorder.lost(2, True) == [False, False]
        victim.send_signal(signal.SIGCONT)
        await until(lambda: one.recorder.opened(2, True) == 4, "the return")
    finally:
        if victim.returncode is None:
            victim.kill()
        await victim.wait()


async def test_a_peer_that_comes_late_is_found_and_complained_of_once(make_node: MakeNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chronik_raft")
    one, two = make_node(1), make_node(2)
    await one.start()
    await two.network.start()
    address = two.address
    await two.network.stop()
    one.network.set_peers({2: address})
    await asyncio.sleep(0.4)
    late = make_node(2, port=int(address.rpartition(":")[2]))
    await late.start()
    await until(lambda: one.recorder.opened(2, True) == 2, "the late peer")
    complaints = [record.getMessage() for record in caplog.records if "unreachable" in record.getMessage()]
    assert len(complaints) == 1, "one line, not one per lane"
    assert all("ConnectionRefused" in text for text in complaints)


async def test_another_cluster_is_refused_with_one_log_line(make_node: MakeNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chronik_raft")
    one, stranger = make_node(1), make_node(2, cluster_id=b"quite-another-id")
    await one.start()
    await stranger.start()
    stranger.network.set_peers({1: one.address})
    await until(
        lambda: any("unreachable" in r.getMessage() and "belongs to cluster" in r.getMessage() for r in caplog.records), "the refusal at the caller"
    )
    await asyncio.sleep(0.3)
    refusals = [r for r in caplog.records if r.getMessage().startswith("session refused, node=2") and r.levelno == logging.WARNING]
    assert len(refusals) == 1
    assert one.recorder.events == stranger.recorder.events == []


async def test_a_wrong_address_and_a_removed_node_are_refused(make_node: MakeNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chronik_raft")
    one, two = await pair(make_node)
    one.network.set_peers({3: two.address})
    await until(lambda: "this is node 2, not node 3" in caplog.text, "the refusal of a wrong address")
    assert one.recorder.opened(3, True) == 0
    two.network.set_peers({}, removed=frozenset({1}))
    one.network.set_peers({2: two.address})
    await until(lambda: "node 1 was removed from the cluster" in caplog.text, "the refusal of a removed node")
    await until(lambda: not two.network.sessions(), "the end of its sessions")


async def test_a_node_without_a_cluster_is_not_dialled_and_accepts_nobody(make_node: MakeNode) -> None:
    one, joiner = make_node(1), make_node(2, cluster_id=b"")
    await one.start()
    await joiner.start()
    introduce(one, joiner)
    await asyncio.sleep(0.2)
    assert one.recorder.events == joiner.recorder.events == []
    joiner.network.set_cluster_id(CLUSTER)
    await connected(one, joiner)


async def test_a_peer_that_is_not_known_yet_may_speak(make_node: MakeNode) -> None:
    """A node whose metadata is old must be able to hear the leader that it does not know, or it would never learn of it."""
    old, leader = make_node(1), make_node(4)
    await old.start()
    await leader.start()
    leader.network.set_peers({1: old.address})
    await until(lambda: old.recorder.opened(4, False) == 2, "the sessions of the unknown node")
    assert old.network.send_answer(4, Lane.CONTROL, [b"yes"])
    await until(lambda: leader.recorder.answers == [(1, Lane.CONTROL, b"yes")], "the answer")


async def test_a_newer_incarnation_ends_the_sessions_of_the_older_which_is_refused_then(
    make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await pair(make_node)
    newer = make_node(2, incarnation=5)
    await newer.start()
    newer.network.set_peers({1: one.address})
    await until(lambda: one.recorder.opened(2, False) == 4, "the newer incarnation")
    assert one.recorder.lost(2, False) == [False, False]
    lane_events = [event for event in one.recorder.events if event[1] == 2 and event[2] is Lane.DATA and event[3] is False]
    assert [event[0] for event in lane_events] == ["open", "lost", "open"], "the loss is told before the new session"
    await until(lambda: "incarnation 5 was seen" in caplog.text, "the refusal of the older process")
    assert {session[3] for session in one.network.sessions() if not session[2]} == {5}
    await two.network.stop()


async def test_the_address_of_a_peer_may_change(make_node: MakeNode) -> None:
    one, two = await pair(make_node)
    moved = make_node(2, incarnation=2)
    await moved.start()
    one.network.set_peers({2: moved.address})
    await until(lambda: moved.recorder.opened(1, False) == 2, "sessions at the new address")
    await until(lambda: one.recorder.opened(2, True) == 4, "sessions at the new address")
    assert len(one.recorder.lost(2, True)) == 2
    assert one.network.send_request(2, Lane.DATA, [b"moved"])
    await until(lambda: moved.recorder.requests == [(1, Lane.DATA, b"moved")], "the message")
    one.network.set_peers({})
    await until(lambda: len(one.recorder.lost(2, True)) == 4, "the end of the sessions of a peer that was taken out")
    assert not two.recorder.requests
    for lane in Lane:
        assert [event[0] for event in one.recorder.events if event[2] is lane and event[3] is True][:4] == ["open", "lost", "open", "lost"]


async def test_a_malformed_message_closes_the_session_and_the_worker_lives(make_node: MakeNode) -> None:
    one, two = await pair(make_node)
    two.recorder.raises = WireError("not a batch")
    assert one.network.send_request(2, Lane.CONTROL, [b"junk"])
    await until(lambda: one.recorder.lost(2, True), "the loss")
    assert one.recorder.lost(2, True) == [False]
    two.recorder.raises = None
    await until(lambda: one.recorder.opened(2, True) == 3, "the next session")
    assert two.fatal == []


async def test_a_session_that_we_did_not_dial_can_be_ended_and_is_dialled_again(make_node: MakeNode) -> None:
    one, two = await pair(make_node)
    two.network.end_incoming(1, Lane.DATA)
    two.network.end_incoming(7, Lane.DATA)  # nobody
    await until(lambda: one.recorder.lost(2, True) and two.recorder.lost(1, False), "the loss at both ends")
    assert one.recorder.lost(2, True) == [False], "not refused: nobody died"
    await until(lambda: one.recorder.opened(2, True) == 3, "the next session")
    assert one.recorder.lost(2, False) == [], "the other direction stays"


async def test_an_error_of_our_own_handler_stops_the_worker(make_node: MakeNode) -> None:
    one, two = await pair(make_node)
    two.recorder.raises = RuntimeError("broken")
    assert one.network.send_request(2, Lane.DATA, [b"x"])
    await until(lambda: two.fatal, "the fatal error")
    assert str(two.fatal.pop()) == "broken"
    two.fatal.clear()


async def test_a_taken_port_is_named_with_the_way_out(make_node: MakeNode) -> None:
    one = make_node(1)
    await one.start()
    with pytest.raises(TransportError, match=f"127.0.0.1:{one.network.port}: Address already in use; stop the process"):
        await make_node(2, port=one.network.port).start()


async def test_exchange_without_identity_is_refused(make_node: MakeNode) -> None:
    one = make_node(1)
    await one.start()
    async with grpc.aio.insecure_channel(one.address) as channel:
        call = channel.stream_stream("/chronik.raft.RaftService/Exchange")()
        with pytest.raises(grpc.aio.AioRpcError, match="between nodes only"):
            await call.read()


async def test_probe_tells_refused_from_other_troubles(make_node: MakeNode) -> None:
    one = make_node(1)
    await one.start()
    assert await probe(one.address, 2000) == ""
    assert await probe(f"localhost:{one.network.port}", 2000) == ""
    address = one.address
    await one.network.stop()
    assert await probe(address, 2000) == "refused"
    assert await probe(address.replace("127.0.0.1", "localhost"), 2000) == "refused"
    assert await probe("host.invalid:1", 2000) not in ("", "refused")
