"""Holds many connections open, each of which has asked for the versions, until the harness closes the channel."""

from __future__ import annotations

import asyncio

from benchmarks.client.job import Job
from benchmarks.client.wire import addresses, greet

AT_ONCE = 100


async def _hold(job: Job) -> None:
    places = addresses(job.bootstrap)
    wanted = job.count("connections")
    held = []
    for first in range(0, wanted, AT_ONCE):
        held += await asyncio.gather(*(greet(*places[number % len(places)]) for number in range(first, min(first + AT_ONCE, wanted))))
    job.begin()
    await asyncio.get_running_loop().run_in_executor(None, job.answer)
    job.end(connections=len(held))
    for connection in held:
        connection.close()


def run(job: Job) -> None:
    """Keys: connections."""
    asyncio.run(_hold(job))
