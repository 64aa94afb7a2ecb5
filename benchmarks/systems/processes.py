"""Systems that are one process for each node, started by us: what they share."""

from __future__ import annotations

import subprocess
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from benchmarks.ports import free_ports
from benchmarks.processes import Children
from benchmarks.systems.base import StartError, System, log_tail


class ProcessSystem(System):
    """`start_seconds`: from the first process's start until a client sees all brokers. What must be prepared before a first start is not in it."""

    ports_per_node = 2

    def __init__(self, children: Children) -> None:
        self._children = children
        self._directory = Path()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.ports: dict[int, tuple[int, ...]] = {}
        self.start_seconds = 0.0

    @abstractmethod
    def prepare(self) -> None:
        """Write what the nodes need before their first start (configuration, formatted directories)."""

    @abstractmethod
    def command(self, node: int) -> list[str]: ...

    def environment(self, node: int) -> Mapping[str, str]:
        return {}

    def node_directory(self, node: int) -> Path:
        return self._directory / f"node-{node}"

    def start(self, directory: Path) -> None:
        self._directory = directory
        found = free_ports(self.ports_per_node * self.nodes)
        self.ports = {node: tuple(found[(node - 1) * self.ports_per_node : node * self.ports_per_node]) for node in range(1, self.nodes + 1)}
        self.bootstrap = ",".join(f"127.0.0.1:{ports[0]}" for ports in self.ports.values())
        for node in self.ports:
            self.node_directory(node).mkdir(parents=True)
        self.prepare()
        begin = time.perf_counter()
        for node in self.ports:
            self._start_node(node)
        self.wait_healthy(check=self._check_running)
        self.start_seconds = time.perf_counter() - begin

    def _start_node(self, node: int) -> None:
        with open(self.node_directory(node) / "node.log", "ab") as log:
            self._processes[node] = self._children.start(self.command(node), output=log, environment=self.environment(node))

    def _check_running(self) -> None:
        for node, process in self._processes.items():
            if process.poll() is not None:
                text = log_tail(self.node_directory(node) / "node.log")
                raise StartError(f"node {node} of {self.name} ended with {process.returncode}; its log ends with\n{text}")

    def stop(self) -> None:
        for process in self._processes.values():
            self._children.kill(process)
        self._processes = {}

    def pids(self) -> Mapping[int, int]:
        return {node: process.pid for node, process in self._processes.items()}

    def restart_node(self, node: int) -> None:
        self._children.kill(self._processes[node])
        self._start_node(node)
        self.wait_healthy(check=self._check_running)
