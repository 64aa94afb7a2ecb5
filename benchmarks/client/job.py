"""How a client process and the harness talk: a job as JSON in the first argument, events as JSON lines on standard output.

`begin` and `end` mark what is measured, so that connecting, looking up metadata and starting Python are outside. `end` carries the values and the
CPU seconds that the client itself used in between. Lines on standard input are the harness's answers.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

BATCH = {"log_level": 0, "linger.ms": 5, "batch.size": 1_000_000, "queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 100_000}
"""What every system's producer gets when throughput is asked for."""
PROMPT = {"log_level": 0, "linger.ms": 0, "socket.nagle.disable": True}
"""When latency is asked for."""
READ = {"log_level": 0, "fetch.message.max.bytes": 4 << 20, "queued.max.messages.kbytes": 256 << 10, "queued.min.messages": 1_000_000}
"""Of every consumer, kcat's too."""


class Job:
    """What to do, and the channel to the harness."""

    def __init__(self, text: str) -> None:
        self._given: Mapping[str, Any] = json.loads(text)
        self.kind = str(self._given["kind"])
        self.bootstrap = str(self._given["bootstrap"])
        self.topic = str(self._given.get("topic", ""))
        self.partitions = int(self._given.get("partitions", 0))
        self._cpu = 0.0

    def number(self, name: str, default: float = 0) -> float:
        return float(self._given.get(name, default))

    def count(self, name: str, default: int = 0) -> int:
        return int(self._given.get(name, default))

    def text(self, name: str, default: str = "") -> str:
        return str(self._given.get(name, default))

    def mapping(self, name: str) -> Mapping[str, Any]:
        found = self._given.get(name, {})
        return found if isinstance(found, dict) else {}

    def tell(self, event: str, **what: Any) -> None:
        print(json.dumps({"event": event, **what}), flush=True)

    def begin(self) -> None:
        self._cpu = time.process_time()
        self.tell("begin")

    def end(self, phase: str = "", /, **values: float) -> None:
        """End what `begin` began; a job of several phases names each."""
        self.tell("end", phase=phase, client_cpu_s=time.process_time() - self._cpu, values=values)

    def answer(self) -> Any:
        """The next line from the harness; None when it closed the channel."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None


def percentile(ordered: list[float], percent: float) -> float:
    """Nearest rank of an ascending list; 0 of an empty one."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def latencies_ms(taken: list[float], warm_up_share: float = 0.2) -> dict[str, float]:
    """Percentiles in ms of seconds in the order of time, without the first part."""
    steady = sorted(taken[int(len(taken) * warm_up_share) :])
    found = {f"p{name}_ms": percentile(steady, percent) * 1000 for name, percent in (("50", 50), ("99", 99), ("999", 99.9))}
    return {**found, "max_ms": steady[-1] * 1000 if steady else 0.0, "n": len(steady)}
