"""The garbage collector of a node, in a process of its own: the setting is the process's."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc
from cli import collector

calls = []
collector.pause()
assert not gc.isenabled()
ready = collector.resume_when_ready(lambda seconds, call: calls.append((seconds, call)))
assert [seconds for seconds, _ in calls] == [collector.START_LIMIT_S]
calls[0][1]()
assert gc.isenabled() and gc.get_freeze_count() == 0, "a node that is never ready collects all the same"
collector.pause()
ready()
frozen = gc.get_freeze_count()
assert gc.isenabled() and frozen > 1000 and gc.get_threshold()[0] == collector.YOUNG_OBJECTS
kept = [[] for _ in range(5000)]
assert calls[1][0] == collector.SETTLED_S
calls[1][1]()
assert gc.get_freeze_count() >= frozen + 5000, "what came until then stays, too"
cycle = []
cycle.append(cycle)
del cycle
assert gc.collect() >= 1, "what is made later is still freed"
collector.pause()
collector.resume()
assert gc.isenabled()
"""


def test_a_node_collects_nothing_while_it_starts_and_never_what_stays() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
