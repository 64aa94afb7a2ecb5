"""What one node is told when it starts: parsed and checked once (by `cli.config`), then passed down and never changed.

Owns: the shape and the defaults. Knows neither files nor environment. Units are in the names; addresses are "host:port".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from broker.settings import SettingValue, broker_settings

KIB = 1024
MIB = 1024 * KIB


class Seed(NamedTuple):
    """A node that is asked first: its id and the "host:port" of its Raft listener."""

    node_id: int
    address: str


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """Invariant: heartbeat_interval_ms < election_timeout_ms / 10. Elections are drawn between election_timeout_ms and election_timeout_ms_max."""

    election_timeout_ms: int = 1_000
    election_timeout_ms_max: int = 1_500
    heartbeat_interval_ms: int = 80
    max_payload_entries: int = 1_000
    enable_pipeline: bool = True
    max_in_flight: int = 1_000
    snapshot_log_size_threshold: int = 100_000
    log_compaction_threshold: int = 100_000
    max_snapshot_chunk_size_bytes: int = MIB


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Between nodes. Invariant: max_message_size_bytes > max_snapshot_chunk_size_bytes."""

    max_message_size_bytes: int = 4 * MIB
    connect_timeout_ms: int = 2_000
    request_timeout_ms: int = 10_000
    install_snapshot_timeout_s: int = 300
    keepalive_interval_ms: int = 10_000
    keepalive_timeout_ms: int = 5_000


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """Where and how bytes are kept. `sync_mode` "always" = fsync before acknowledgement, "periodic" = behind it.

    `profile` names one of `wal.settings.PROFILES`: how much a flush may gather.
    """

    wal_dir: Path
    snapshot_dir: Path
    sync_mode: str = "always"
    profile: str = "high"
    segment_size_bytes: int = 256 * MIB
    snapshot_compression: str = "zstd"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node. `advertised_host` "" = clients are told the address that they used; `kafka` = texts of broker settings by Kafka name.

    `cluster_enabled` False: a single node without a Raft listener. True and no `seeds`: it may create a cluster that others join later.
    """

    node_id: int
    data_dir: Path
    storage: StorageConfig
    kafka_host: str = "0.0.0.0"
    kafka_port: int = 9092
    admin_host: str = "0.0.0.0"
    admin_port: int = 8080
    raft_host: str = "0.0.0.0"
    raft_port: int = 9093
    advertised_host: str = ""
    advertised_raft_address: str = ""
    cluster_enabled: bool = False
    seeds: tuple[Seed, ...] = ()
    raft: RaftConfig = field(default_factory=RaftConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    kafka: Mapping[str, str] = field(default_factory=dict)

    def kafka_settings(self) -> dict[str, SettingValue]:
        """All broker settings, typed, defaults included; ids are those of this node."""
        settings = broker_settings(self.kafka)
        settings["broker.id"] = settings["node.id"] = self.node_id
        settings["log.dir"] = settings["log.dirs"] = str(self.data_dir)
        settings["listeners"] = (f"PLAINTEXT://{self.kafka_host}:{self.kafka_port}",)
        settings["advertised.listeners"] = (f"PLAINTEXT://{self.advertised_host}:{self.kafka_port}",)
        return settings


def single_node(data_dir: Path, node_id: int = 1) -> NodeConfig:
    """The defaults of a node on its own, with everything below `data_dir`."""
    return NodeConfig(node_id, data_dir, StorageConfig(data_dir / "wal", data_dir / "snapshots"))
