from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from tests.unit.raft_transport.harness import Node


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], Any]]:
    """The loop of the worker; older versions of the plugin do without this hook and take the standard one."""
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture
async def make_node() -> AsyncIterator[Callable[..., Node]]:
    """Makes nodes that are stopped at the end, and fails a test in which one of them met a fatal error that it did not expect."""
    nodes: list[Node] = []

    def make(*arguments: Any, **keywords: Any) -> Node:
        nodes.append(Node(*arguments, **keywords))
        return nodes[-1]

    yield make
    for node in nodes:
        await node.network.stop()
    for node in nodes:
        assert node.fatal == []
