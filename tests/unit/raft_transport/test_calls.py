"""Calls between nodes: results, errors, and who may call what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest

from raft.transport import calls
from raft.transport import chronik_cluster_pb2 as pb
from raft.transport import chronik_cluster_pb2_grpc as rpc
from raft.transport.options import BUSY_CODE, FAILED_CODE, UNKNOWN_METHOD_CODE, WRONG_CLUSTER_CODE, RemoteError, UnreachableError
from tests.unit.raft_transport.harness import CLUSTER, Node, introduce

MakeNode = Callable[..., Node]


async def started(make_node: MakeNode, *arguments: object, **keywords: object) -> Node:
    node = make_node(*arguments, **keywords)
    await node.network.start()
    node.network.serve("echo", echo)
    node.network.serve("fail", fail)
    node.network.serve("hello", echo, open_to_joiners=True)
    return node


async def echo(sender: int, payload: bytes) -> bytes:
    return b"%d:" % sender + payload


async def fail(sender: int, payload: bytes) -> bytes:
    if payload == b"own":
        raise RemoteError(41, "not the controller")
    raise KeyError(payload)


async def test_calls_by_id_by_address_and_to_ourselves(make_node: MakeNode) -> None:
    one, two = await started(make_node, 1), await started(make_node, 2)
    introduce(one, two)
    assert await one.network.call(2, "echo", b"x", 5000) == b"1:x"
    assert await one.network.call(two.address, "echo", bytes(5 << 20), 5000) == b"1:" + bytes(5 << 20)
    assert await one.network.call(1, "echo", b"me") == b"1:me"
    assert await asyncio.gather(*(one.network.call(2, "echo", b"%d" % i) for i in range(50))) == [b"1:%d" % i for i in range(50)]


async def test_errors_of_the_method_come_back(make_node: MakeNode, caplog: pytest.LogCaptureFixture) -> None:
    one, two = await started(make_node, 1), await started(make_node, 2)
    introduce(one, two)
    with pytest.raises(RemoteError, match="not the controller") as own:
        await one.network.call(2, "fail", b"own", 5000)
    assert own.value.code == 41
    with pytest.raises(RemoteError, match="fail failed on node 2; its log says why") as surprise:
        await one.network.call(2, "fail", b"secret", 5000)
    assert surprise.value.code == FAILED_CODE
    assert "KeyError" in caplog.text
    with pytest.raises(RemoteError, match="serves no method 'none'") as unknown:
        await one.network.call(2, "none", b"", 5000)
    assert unknown.value.code == UNKNOWN_METHOD_CODE


async def test_no_answer_says_whether_it_may_have_happened(make_node: MakeNode) -> None:
    one, two = await started(make_node, 1), await started(make_node, 2)
    introduce(one, two)
    entered = asyncio.Event()

    async def hang(sender: int, payload: bytes) -> bytes:
        entered.set()
        await asyncio.Event().wait()
        return b""

    two.network.serve("hang", hang)
    with pytest.raises(UnreachableError, match="did not answer hang within 300 ms") as late:
        await one.network.call(2, "hang", b"", 300)
    assert late.value.unknown
    assert entered.is_set()
    with pytest.raises(UnreachableError, match="node 9 is not known") as unknown_node:
        await one.network.call(9, "echo", b"")
    assert not unknown_node.value.unknown
    await two.network.stop()
    with pytest.raises(UnreachableError, match="unreachable for echo") as gone:
        await one.network.call(two.address, "echo", b"", 5000)
    # The first call after a loss may meet the dying connection; then nobody knows. A refused connection proves that nothing happened.
    if gone.value.unknown:
        with pytest.raises(UnreachableError) as gone:
            await one.network.call(two.address, "echo", b"", 5000)
    assert not gone.value.unknown


async def test_a_call_that_failed_works_as_soon_as_the_node_is_there(make_node: MakeNode) -> None:
    one, two = await started(make_node, 1), await started(make_node, 2)
    port = two.network.port
    await two.network.stop()
    with pytest.raises(UnreachableError):
        await one.network.call(f"127.0.0.1:{port}", "echo", b"", 2000)
    await started(make_node, 2, port=port)
    for _ in range(100):
        try:
            assert await one.network.call(f"127.0.0.1:{port}", "echo", b"x", 2000) == b"1:x"
            break
        except UnreachableError:
            await asyncio.sleep(0.05)
    else:
        pytest.fail("the node was never reached again")


@pytest.mark.parametrize(
    ("caller", "callee", "open_method", "closed_method"),
    [
        (CLUSTER, CLUSTER, True, True),
        (b"", CLUSTER, True, False),
        (CLUSTER, b"", True, False),
        (b"", b"", True, False),
        (b"quite-another-id", CLUSTER, False, False),
    ],
)
async def test_who_may_call(make_node: MakeNode, caller: bytes, callee: bytes, open_method: bool, closed_method: bool) -> None:
    one, two = await started(make_node, 1, cluster_id=caller), await started(make_node, 2, cluster_id=callee)
    for method, allowed in (("hello", open_method), ("echo", closed_method)):
        if allowed:
            assert await one.network.call(two.address, method, b"x", 5000) == b"1:x"
        else:
            with pytest.raises(RemoteError) as refused:
                await one.network.call(two.address, method, b"x", 5000)
            assert refused.value.code == WRONG_CLUSTER_CODE


async def test_a_removed_node_is_refused(make_node: MakeNode) -> None:
    one, two = await started(make_node, 1), await started(make_node, 2)
    two.network.set_peers({}, removed=frozenset({1}))
    with pytest.raises(RemoteError, match="removed"):
        await one.network.call(two.address, "hello", b"", 5000)


async def test_calls_in_progress_are_bounded(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "RUNNING_MAX", 1)
    one, two = await started(make_node, 1), await started(make_node, 2)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait(sender: int, payload: bytes) -> bytes:
        entered.set()
        await leave.wait()
        return b"done"

    two.network.serve("wait", wait)
    first = asyncio.create_task(one.network.call(two.address, "wait", b"", 5000))
    await entered.wait()
    with pytest.raises(RemoteError) as busy:
        await one.network.call(two.address, "echo", b"", 5000)
    assert busy.value.code == BUSY_CODE
    leave.set()
    assert await first == b"done"


async def test_channels_are_bounded(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CHANNELS_MAX", 1)
    one, two, three = await started(make_node, 1), await started(make_node, 2), await started(make_node, 3)
    for node in (two, three, two, three):
        assert await one.network.call(node.address, "echo", b"x", 5000) == b"1:x"
    assert len(one.network._call_client._channels) == 1


async def test_the_official_client_can_call(make_node: MakeNode) -> None:
    one = await started(make_node, 1)
    async with grpc.aio.insecure_channel(one.address) as channel:
        stub = rpc.ClusterServiceStub(channel)
        answer = await stub.Call(pb.CallRequest(method="echo", sender=7, cluster_id=CLUSTER, payload=b"x"))
        assert (answer.error_code, answer.payload, answer.node_id) == (0, b"7:x", 1)
        with pytest.raises(grpc.aio.AioRpcError, match="malformed CallRequest"):
            await channel.unary_unary("/chronik.cluster.ClusterService/Call")(b"\xff")


async def test_a_method_is_served_once(make_node: MakeNode) -> None:
    one = await started(make_node, 1)
    with pytest.raises(ValueError, match="already"):
        one.network.serve("echo", echo)
