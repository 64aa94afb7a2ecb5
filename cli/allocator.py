"""Tells glibc's malloc to keep memory for use again instead of giving it back at once: page faults are the dearest part of large buffers.

What is kept is bounded (TRIM_THRESHOLD_BYTES above what is in use). Switched off by CHRONIK_ALLOCATOR=default; without glibc nothing happens.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

MIB = 1024 * 1024
MMAP_THRESHOLD_BYTES = 32 * MIB
TRIM_THRESHOLD_BYTES = 256 * MIB
TOP_PAD_BYTES = 16 * MIB
ARENAS_MAX = 2

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def tune(env: Mapping[str, str]) -> bool:
    """Set malloc's limits for this process; call before the first large allocation. False when opted out or not possible."""
    if env.get("CHRONIK_ALLOCATOR", "") == "default" or "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # 32 MiB is the largest mmap threshold that glibc takes on 64 bits.
    wanted = (
        (_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        (_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
        (_M_TOP_PAD, TOP_PAD_BYTES),
        (_M_ARENA_MAX, ARENAS_MAX),
    )
    results = [mallopt(option, value) == 1 for option, value in wanted]  # every one is asked for, also after a refusal
    return all(results)
