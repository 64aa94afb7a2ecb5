"""A cluster of real processes for tests: start, kill -9, stop, continue, restart. Plain loopback, free ports, its own data directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from benchmarks.ports import free_ports

ROOT = Path(__file__).parent.parent


class EndedError(Exception):
    """Waiting makes no sense any more."""


def wait_until(what: str, condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `condition()` is true; AssertionError with `what` and the last surprise when it does not become so."""
    end, last = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        try:
            if condition():
                return
        except EndedError:
            raise
        except Exception as error:  # noqa: BLE001 - told below when it lasts
            last = repr(error)
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}; {last}")


class NodeProcess:
    """One node as its user would run it: a process with flags, a log file, signals."""

    def __init__(self, node: int, directory: Path, ports: tuple[int, int, int], seeds: str, environment: dict[str, str]) -> None:
        self.node = node
        self.directory = directory
        self.kafka, self.raft, self.admin = ports
        self.seeds = seeds
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "node.log"
        self.fault_file = directory / "faults.json"

    def faults(self, **what: int | bool | None) -> None:
        """What is wrong with this node's disk from now on (`wal.faults`); nothing when called without arguments."""
        beside = self.fault_file.with_suffix(".new")
        beside.write_text(json.dumps(what))
        beside.replace(self.fault_file)

    def start(self, **environment: str) -> None:
        assert self.process is None or self.process.poll() is not None, f"node {self.node} runs already"
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = {
            "CHRONIK_NODE_ID": str(self.node),
            "CHRONIK_KAFKA_PORT": str(self.kafka),
            "CHRONIK_ADMIN_PORT": str(self.admin),
            "CHRONIK_NODE_ADDR": f"127.0.0.1:{self.raft}",
            "CHRONIK_DATA_DIR": str(self.directory / "data"),
            "CHRONIK_ADVERTISED_HOST": "127.0.0.1",
            "CHRONIK_LOG_TIMESTAMPS": "true",
            **({"CHRONIK_TEST_FAULTS": str(self.fault_file)} if self.fault_file.exists() else {}),
            **({"CHRONIK_CLUSTER_ENABLED": "true", "CHRONIK_SEED_NODES": self.seeds} if self.seeds else {}),
            **self.environment,
            **environment,
        }
        # Without compiled files each start would compile everything, as no user's does.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "start"],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**inherited, **settings},
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self, seconds: float = 20.0) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(seconds)

    def wait_ready(self, seconds: float = 60.0) -> None:
        def ready() -> bool:
            if not self.running:
                raise EndedError(f"node {self.node} ended with {self.process.returncode if self.process else None}")
            return self.get("/health/ready")[0] == 200

        try:
            wait_until(f"node {self.node} to be ready", ready, seconds)
        except (AssertionError, EndedError) as error:
            raise AssertionError(f"{error}\n--- log of node {self.node}:\n{self.log_tail()}") from None

    def get(self, path: str) -> tuple[int, str]:
        """GET from the admin API: (status, body)."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else "(no log)"


class ProcessCluster:
    """Use as a context manager. Every process that is left is killed at the end, and the logs are checked for tracebacks."""

    def __init__(self, directory: Path, nodes: int = 3, environment: dict[str, str] | None = None, faulty_disks: bool = False) -> None:
        ports = free_ports(3 * nodes)
        replication = {"CHRONIK_KAFKA__DEFAULT_REPLICATION_FACTOR": str(min(3, nodes))}
        each = [(ports[3 * i], ports[3 * i + 1], ports[3 * i + 2]) for i in range(nodes)]
        seeds = json.dumps([f"{i + 1}@127.0.0.1:{each[i][1]}" for i in range(nodes)]) if nodes > 1 else ""
        self.nodes = {
            i + 1: NodeProcess(i + 1, directory / f"node-{i + 1}", each[i], seeds, {**replication, **(environment or {})}) for i in range(nodes)
        }
        if faulty_disks:
            for node in self.nodes.values():
                node.directory.mkdir(parents=True, exist_ok=True)
                node.faults()

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{node.kafka}" for node in self.nodes.values())

    def start(self) -> None:
        for node in self.nodes.values():
            node.start()
        self.wait_ready()

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Every node serves: its admin API says ready. A node that ends meanwhile is not waited for."""
        for node in self.nodes.values():
            node.wait_ready(seconds)

    def partition_leader(self, topic: str, partition: int = 0) -> int:
        """Broker id of the leader as the admin API of any node tells it, 0 when there is none."""
        for node in self.nodes.values():
            if node.running:
                try:
                    for found in json.loads(node.get("/admin/cluster/partitions")[1]):
                        if found["topic"] == topic and found["partition"] == partition:
                            return max(0, int(found["leader"] or 0))
                except (OSError, ValueError):
                    continue
        return 0

    def wait_leader(self, topic: str, partition: int = 0, node: int = 0, seconds: float = 30.0) -> int:
        """The leader (`node`, if given), as soon as there is one."""
        wait_until(
            f"a leader of {topic}-{partition}", lambda: (found := self.partition_leader(topic, partition)) and found == (node or found), seconds
        )
        return self.partition_leader(topic, partition)

    def stop(self) -> None:
        for node in self.nodes.values():
            if node.running:
                node.send(signal.SIGCONT)
                node.kill()

    def log_tails(self, lines: int = 30) -> str:
        """The ends of all nodes' logs, for the text of a failure."""
        return "\n".join(f"--- log of node {node.node}:\n{node.log_tail(lines)}" for node in self.nodes.values())

    def surprises(self) -> list[str]:
        """Lines that must never be in a node's log."""
        found = []
        for node in self.nodes.values():
            text = node.log.read_text(errors="replace") if node.log.exists() else ""
            found += [
                f"node {node.node}: {line}" for line in text.splitlines() if any(w in line for w in ("Traceback", "InvariantError", "AssertionError"))
            ]
        return found

    def __enter__(self) -> ProcessCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
