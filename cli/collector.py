"""When Python looks for garbage cycles: not while the node starts, and never again over what stays for the life of the process.

A full collection walks every object that was ever made. Of a node's some 400,000, imported code holds nearly all: 80 ms in which the loop stands
still, measured every ten to twenty seconds at 1,000 records/s. Frozen objects are not walked. Reference counts free nearly everything on this
program's paths, so the young generation may be larger than usual.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

YOUNG_OBJECTS = 10_000
"""Objects made and not freed before the young ones are looked at: some MiB of garbage at most. Python's own limit is 700."""
START_LIMIT_S = 15.0
"""A node that is not ready by then collects all the same."""
SETTLED_S = 10.0
"""After a node is ready: by then the admin interface is imported, and clients and peers are connected."""


def pause() -> None:
    """Collect nothing while a node starts: next to nothing of what is made then is garbage."""
    gc.disable()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)


def resume() -> None:
    """For everything that is not a node."""
    gc.enable()


def resume_when_ready(later: Callable[[float, Callable[[], None]], object]) -> Callable[[], None]:
    """What to call when the node serves. `later(seconds, call)` is the loop's `call_later`."""

    def ready() -> None:
        _settle()
        later(SETTLED_S, _settle)

    later(START_LIMIT_S, gc.enable)
    return ready


def _settle() -> None:
    """What there is now stays."""
    gc.freeze()
    gc.enable()
