"""Ours: three nodes of `chronik-server` with their defaults, hence fsync on a majority before every acknowledgement."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping

from benchmarks.systems.processes import ProcessSystem
from broker.version import VERSION


class Chronik(ProcessSystem):
    name = "chronik"
    ports_per_node = 3  # Kafka, Raft, admin

    def prepare(self) -> None:
        """Nothing: an empty directory is enough."""

    def command(self, node: int) -> list[str]:
        return [sys.executable, "-m", "cli.main", "start"]

    def environment(self, node: int) -> Mapping[str, str]:
        kafka, raft, admin = self.ports[node]
        seeds = [f"{other}@127.0.0.1:{ports[1]}" for other, ports in self.ports.items()]
        return {
            "CHRONIK_NODE_ID": str(node),
            "CHRONIK_KAFKA_PORT": str(kafka),
            "CHRONIK_ADMIN_PORT": str(admin),
            "CHRONIK_NODE_ADDR": f"127.0.0.1:{raft}",
            "CHRONIK_DATA_DIR": str(self.node_directory(node) / "data"),
            "CHRONIK_ADVERTISED_HOST": "127.0.0.1",
            "CHRONIK_CLUSTER_ENABLED": "true",
            "CHRONIK_SEED_NODES": json.dumps(seeds),
            "CHRONIK_KAFKA__DEFAULT_REPLICATION_FACTOR": "3",
            "CHRONIK_LOG_TIMESTAMPS": "true",
            "PYTHONDONTWRITEBYTECODE": "",  # as users start it: with compiled files
        }

    def about(self) -> dict[str, str]:
        commit = os.environ.get("BENCH_COMMIT", "")
        return {
            "version": VERSION,
            "python": platform.python_version(),
            "durability": "fsync on a majority",
            **({"commit": commit} if commit else {}),
        }
