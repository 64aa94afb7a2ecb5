"""What a workload sees of a system under test: where it is, its processes, and what it can do.

A system is started empty, measured, and stopped again before the next one starts: what is not measured does not run.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

HEALTHY_SECONDS = 120.0


class StartError(Exception):
    """A system did not start, or ended; the text ends with the last lines of its log."""


def wait_until(what: str, condition: Callable[[], bool], seconds: float = HEALTHY_SECONDS, pause_seconds: float = 0.05) -> None:
    """Wait until `condition()`; raises TimeoutError that says what was waited for."""
    end = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > end:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(pause_seconds)


def log_tail(path: Path, lines: int = 20) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"


class System(ABC):
    """Invariant: between `start` and `stop` `bootstrap` answers, and `pids` are its brokers, by broker id.

    `can_administer`: topics can be created; otherwise there is `fixed_topic` alone, with `fixed_partitions`. `can_consume`, `can_restart` likewise.
    """

    name: str
    bootstrap = ""
    nodes = 3
    warm_up_bytes = 1_000_000_000
    can_administer = True
    can_consume = True
    can_restart = True
    fixed_topic = ""
    fixed_partitions = 0

    @abstractmethod
    def start(self, directory: Path) -> None:
        """Start empty in `directory`, which exists and is empty; returns when it is healthy."""

    @abstractmethod
    def stop(self) -> None:
        """End every process; may be called when nothing runs."""

    @abstractmethod
    def pids(self) -> Mapping[int, int]:
        """Process ids of the brokers by broker id; empty when they are not known."""

    def restart_node(self, node: int) -> None:
        """Start the process of a node that was killed; returns when all brokers are registered and in touch again."""
        raise StartError(f"{self.name} can not restart a node")

    @abstractmethod
    def about(self) -> dict[str, str]:
        """Versions and settings that matter, for the results."""

    def wait_healthy(self, seconds: float = HEALTHY_SECONDS, check: Callable[[], None] = lambda: None) -> None:
        """Wait until a client sees every broker and a controller. `check` raises when waiting makes no sense any more."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100})

        def healthy() -> bool:
            check()
            try:
                found = admin.list_topics(timeout=0.5)
            except KafkaException:
                return False
            return len(found.brokers) >= self.nodes and found.controller_id >= 0

        wait_until(f"{self.name} to show {self.nodes} brokers at {self.bootstrap}", healthy, seconds, 0.01)
