"""Systems that are not ours to start, or only by a path: a yardstick program, and anything at a bootstrap address."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.ports import free_ports
from benchmarks.processes import Children
from benchmarks.systems.base import StartError, System, log_tail, wait_until

LIFETIME_SECONDS = 3600


class Yardstick(System):
    """A program that takes --seconds, --port and --dir, prints "pids A,B,C", and serves Produce to a topic `perf` of six partitions only."""

    name = "yardstick"
    nodes = 1
    can_administer = can_consume = can_restart = False
    fixed_topic = "perf"
    fixed_partitions = 6

    def __init__(self, children: Children, program: Path) -> None:
        self._children = children
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path()

    def start(self, directory: Path) -> None:
        self._log = directory / "yardstick.log"
        # It takes the two ports behind the one that it is given as well.
        port = free_ports(1)[0]
        arguments = ["--seconds", str(LIFETIME_SECONDS), "--port", str(port), "--dir", str(directory)]
        with open(self._log, "wb") as log:
            self._process = self._children.start([sys.executable, "-u", str(self._program), *arguments], output=log)
        self.bootstrap = f"127.0.0.1:{port}"
        wait_until("the yardstick's process ids", lambda: self._ended() or bool(self.pids()), 30)
        self.wait_healthy(30, self._check_running)

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _check_running(self) -> None:
        if self._ended():
            raise StartError(f"{self._program} ended; its output ends with\n{log_tail(self._log)}")

    def stop(self) -> None:
        if self._process is not None:
            self._children.kill(self._process)
            self._process = None

    def pids(self) -> Mapping[int, int]:
        for line in self._log.read_text(errors="replace").splitlines():
            if line.startswith("pids "):
                return {number: int(pid) for number, pid in enumerate(line[5:].split(","), 1)}
        return {}

    def about(self) -> dict[str, str]:
        return {"program": self._program.name, "durability": "fsync on a majority; no Raft, no recovery, no fetch"}


class Foreign(System):
    """A cluster that runs already. It is neither started nor stopped nor disturbed; CPU and memory are known where `pids` are."""

    can_restart = False

    def __init__(self, name: str, bootstrap: str, pids: tuple[int, ...], nodes: int = 1) -> None:
        self.name = name
        self.bootstrap = bootstrap
        self.nodes = nodes
        self._pids = dict(enumerate(pids, 1))

    def start(self, directory: Path) -> None:
        self.wait_healthy(30)

    def stop(self) -> None:
        """Not ours."""

    def pids(self) -> Mapping[int, int]:
        return self._pids

    def about(self) -> dict[str, str]:
        return {"bootstrap": self.bootstrap}
