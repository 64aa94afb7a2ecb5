"""Ports for servers that are killed and started again.

They are not of the range from which the system takes the ports of outgoing connections: a client that tries to reach a killed server again and again
could otherwise be given the server's own port, connect to itself, and keep the port from the server when it comes back.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from pathlib import Path

LOWEST, HIGHEST = 10_000, 65_535
TRIES = 1_000
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_random = random.SystemRandom()


def candidates(outgoing: tuple[int, int], lowest: int = LOWEST, highest: int = HIGHEST) -> Sequence[int]:
    """The larger part of `lowest` … `highest` on one side of the `outgoing` ports (first, last); all when none of it is left."""
    below, above = range(lowest, min(outgoing[0], highest + 1)), range(max(outgoing[1] + 1, lowest), highest + 1)
    return max(below, above, key=len) or range(lowest, highest + 1)


def outgoing_ports() -> tuple[int, int]:
    """(first, last) of what this system takes for outgoing connections; where it does not tell, those that IANA gives."""
    try:
        first, last = _OUTGOING.read_text().split()
    except (OSError, ValueError):
        return 49_152, HIGHEST
    return int(first), int(last)


def free_ports(count: int) -> list[int]:
    """So many different ports that were free a moment ago. OSError when they can not be found."""
    found: dict[int, None] = {}
    choices = candidates(outgoing_ports())
    for _ in range(TRIES):
        if len(found) == count:
            break
        port = _random.choice(choices)
        if port not in found and _free([port]):
            found[port] = None
    else:
        raise OSError(f"no {count} free ports found in {TRIES} tries between {choices[0]} and {choices[-1]}")
    return list(found)


def free_base(offsets: Sequence[int]) -> int:
    """A port such that it was free a moment ago with each of `offsets` added. OSError when there is none to be found."""
    choices = candidates(outgoing_ports())
    bases = choices[: len(choices) - max(offsets)]
    for _ in range(TRIES):
        base = _random.choice(bases)
        if _free([base + offset for offset in offsets]):
            return base
    raise OSError(f"no free ports found in {TRIES} tries between {choices[0]} and {choices[-1]}")


def _free(ports: Sequence[int]) -> bool:
    try:
        for port in ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True
