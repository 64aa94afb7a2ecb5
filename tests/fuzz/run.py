"""`python -m tests.fuzz.run --frames 100000`: bad frames to a live node; it must answer or close, stay alive, and not grow."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz.frames import KINDS
from tests.integration.support import make_topic, produce, producer_of
from tests.processes import NodeProcess, ProcessCluster

CONNECTIONS = 16
ANSWER_SECONDS = 0.03
MEMORY_MARGIN_BYTES = 96 << 20
"""Caches and allocator pools fill up in any node that is used; a frame that makes the node allocate what it claims would go far beyond."""


async def attack(port: int, rng: Random, frames: int, outcomes: dict[str, Counter[str]]) -> None:
    """One connection after another, a few frames on each."""
    kinds = list(KINDS)
    while frames > 0:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for _ in range(rng.randint(1, 6)):
                kind = rng.choice(kinds)
                frames -= 1
                writer.write(KINDS[kind](rng))
                await writer.drain()
                try:
                    data = await asyncio.wait_for(reader.read(1 << 16), ANSWER_SECONDS)
                except TimeoutError:
                    outcomes[kind]["waits"] += 1
                    continue
                outcomes[kind]["answered" if data else "closed"] += 1
                if not data:
                    break
        except ConnectionError:
            outcomes[kind]["closed"] += 1
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                pass


def memory_bytes(node: NodeProcess) -> int:
    found: int = json.loads(node.get("/admin/node/info")[1])["resources"]["memory_bytes"]
    return found


async def _all(port: int, seed: int, frames: int, outcomes: dict[str, Counter[str]]) -> None:
    share = -(-frames // CONNECTIONS)
    await asyncio.gather(*(attack(port, Random(seed * 1000 + n), share, outcomes) for n in range(CONNECTIONS)))


def fuzz(cluster: ProcessCluster, frames: int, seed: int) -> list[str]:
    """Everything that is wrong afterwards, [] when nothing is. The cluster has a topic `events`."""
    node = cluster.nodes[1]
    asyncio.run(_all(node.kafka, seed, min(frames, 500), {kind: Counter() for kind in KINDS}))  # warm: pools and caches are there
    before = memory_bytes(node)
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    start, lines = time.monotonic(), len(node.log.read_text(errors="replace").splitlines())
    asyncio.run(_all(node.kafka, seed + 1, frames, outcomes))
    took = time.monotonic() - start
    found = list(cluster.surprises())
    if not node.running:
        return [*found, f"the node died: {node.log_tail()}"]
    produce(producer_of(cluster), "events", [b"alive"])
    growth = memory_bytes(node) - before
    lines = len(node.log.read_text(errors="replace").splitlines()) - lines
    for kind, counts in outcomes.items():
        print(f"  {kind:16} {dict(counts)}")
    closed = sum(counts["closed"] for counts in outcomes.values())
    print(f"{frames} frames in {took:.1f} s, seed {seed}: {closed} connections closed, {lines} log lines, memory {growth / (1 << 20):+.1f} MiB")
    if growth > MEMORY_MARGIN_BYTES:
        found.append(f"memory grew by {growth} bytes")
    if lines > frames:
        found.append(f"{lines} log lines for {frames} frames")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no node is left behind
    with tempfile.TemporaryDirectory() as directory, ProcessCluster(Path(directory), 1) as cluster:
        make_topic(cluster, "events", 2, 1)
        found = fuzz(cluster, options.frames, options.seed)
    print(*found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
