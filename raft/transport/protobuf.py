"""The generated classes, imported when first needed and on a thread: they cost a start 35 ms, and replication does not use them."""

from __future__ import annotations

import asyncio
import importlib
import sys
from types import ModuleType
from typing import Any

RAFT = "raft.transport.chronik_raft_pb2"
CLUSTER = "raft.transport.chronik_cluster_pb2"


async def load(name: str) -> ModuleType:
    """The module `name`; imported off the loop thread when it is not there yet."""
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        return module
    return await asyncio.to_thread(importlib.import_module, name)


async def raft_classes() -> ModuleType:
    return await load(RAFT)


async def cluster_classes() -> ModuleType:
    return await load(CLUSTER)


def parse(message_class: Any, data: bytes) -> Any:
    """One message of the generated class. ValueError when the bytes are not one."""
    from google.protobuf.message import DecodeError

    try:
        return message_class.FromString(data)
    except DecodeError as error:
        raise ValueError(f"malformed {message_class.DESCRIPTOR.name}: {error}") from None
