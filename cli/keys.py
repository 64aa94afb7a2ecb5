"""The keys of `chronik.toml`: names, kinds, defaults, limits. One table for the file, the environment, the flags and `config print`.

Owns: what a value of a key may be. Does not know where values come from (`cli.config`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from broker.config import MIB, NetworkConfig, RaftConfig
from wal.settings import BLOCK_BYTES, PROFILES

Value = int | bool | str | tuple[str, ...]

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


class Kind(Enum):
    """The article and noun with which a refusal speaks of it."""

    INT = "a whole number"
    BOOL = "true or false"
    TEXT = "a text"
    LIST = "a list of texts"


@dataclass(frozen=True, slots=True)
class Key:
    """One key, by its dotted name in the file. `env`: further names of environment variables, beside CHRONIK_ and the name itself."""

    name: str
    kind: Kind
    default: Value
    doc: str
    low: int = 0
    high: int = 2**63 - 1
    choices: tuple[str, ...] = ()
    env: tuple[str, ...] = ()

    @property
    def env_names(self) -> tuple[str, ...]:
        """Environment variables that set it, the strongest first."""
        return ("CHRONIK_" + self.name.replace(".", "_").upper(), *self.env)

    def read(self, raw: Any) -> Value:
        """The value of what a file (typed) or the environment or a flag (text) says. Raises ValueError with a text that follows the key's name."""
        match self.kind:
            case Kind.BOOL:
                return _read_bool(raw)
            case Kind.INT:
                number = _read_int(raw)
                if not self.low <= number <= self.high:
                    raise ValueError(f"is {number}, but must be from {self.low} to {self.high}")
                return number
            case Kind.LIST:
                return _read_list(raw)
            case Kind.TEXT:
                if not isinstance(raw, str):
                    raise ValueError(f"must be {Kind.TEXT.value}, not {raw!r}")
                if self.choices and raw not in self.choices:
                    raise ValueError(f"is {raw!r}, but must be one of {', '.join(self.choices)}")
                return raw


def _read_bool(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.strip().lower() in _TRUE + _FALSE:
        return raw.strip().lower() in _TRUE
    raise ValueError(f"must be {Kind.BOOL.value}, not {raw!r}")


def _read_int(raw: Any) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.strip().lstrip("-").isdecimal() and len(raw) < 24:
        return int(raw)
    raise ValueError(f"must be {Kind.INT.value}, not {raw!r}")


def _read_list(raw: Any) -> tuple[str, ...]:
    if isinstance(raw, str):
        text = raw.strip().removeprefix("[").removesuffix("]")
        return tuple(item.strip().strip("\"'") for item in text.split(",") if item.strip())
    if isinstance(raw, list | tuple) and all(isinstance(item, str) for item in raw):
        return tuple(raw)
    raise ValueError(f"must be {Kind.LIST.value}, not {raw!r}")


_RAFT = RaftConfig()
_NETWORK = NetworkConfig()
_PORT = 65_535

_DEFINITIONS = (
    Key("kafka_port", Kind.INT, 9092, "Port of the Kafka listener.", 1, _PORT),
    Key("kafka_host", Kind.TEXT, "0.0.0.0", "Address that the Kafka listener binds."),
    Key("admin_port", Kind.INT, 8080, "Port of health, administration and metrics (HTTP).", 1, _PORT),
    Key("admin_host", Kind.TEXT, "0.0.0.0", "Address that the admin listener binds."),
    Key("data_dir", Kind.TEXT, "", "Directory of the data; unset = /var/lib/chronik/data if writable, else ./chronik-data."),
    Key("advertised_host", Kind.TEXT, "", "Host that clients are told; unset = the address that they used."),
    Key("log", Kind.TEXT, "info", "Log levels: a level, or target=level pairs separated by commas.", env=("RUST_LOG",)),
    Key("log_format", Kind.TEXT, "text", "Shape of log lines.", choices=("text", "json")),
    Key("log_timestamps", Kind.BOOL, False, "Begin text log lines with the time in UTC."),
    Key("cluster.enabled", Kind.BOOL, False, "Talk to other nodes; unset = yes when an address or a seed of the cluster is set."),
    Key("cluster.node_id", Kind.INT, 1, "Id of this node; unique in the cluster and for ever.", 1, 65_535, env=("CHRONIK_NODE_ID",)),
    Key("cluster.node_addr", Kind.TEXT, "0.0.0.0:9093", "Address that the Raft listener binds.", env=("CHRONIK_NODE_ADDR",)),
    Key("cluster.advertised_node_addr", Kind.TEXT, "", "Raft address that other nodes dial.", env=("CHRONIK_ADVERTISED_NODE_ADDR",)),
    Key("cluster.seed_nodes", Kind.LIST, (), "Nodes to ask first, as id@host:port; [] = create a cluster.", env=("CHRONIK_SEED_NODES",)),
    Key(
        "cluster.raft.election_timeout_ms",
        Kind.INT,
        _RAFT.election_timeout_ms,
        "Silence after which an election begins; drawn up to half longer.",
        50,
        600_000,
    ),
    Key(
        "cluster.raft.heartbeat_interval_ms",
        Kind.INT,
        _RAFT.heartbeat_interval_ms,
        "Time between beats; less than a tenth of the election time-out.",
        1,
        60_000,
    ),
    Key("cluster.raft.max_payload_entries", Kind.INT, _RAFT.max_payload_entries, "Entries in one message to a follower.", 1, 1_000_000),
    Key("cluster.raft.enable_pipeline", Kind.BOOL, _RAFT.enable_pipeline, "Send on before a follower has answered."),
    Key("cluster.raft.max_in_flight", Kind.INT, _RAFT.max_in_flight, "Messages to a follower that are not answered yet.", 1, 1_000_000),
    Key(
        "cluster.raft.snapshot_log_size_threshold",
        Kind.INT,
        _RAFT.snapshot_log_size_threshold,
        "Entries of the metadata after which a snapshot is taken.",
        1,
    ),
    Key("cluster.raft.log_compaction_threshold", Kind.INT, _RAFT.log_compaction_threshold, "Entries of the metadata kept behind a snapshot.", 1),
    Key("cluster.raft.max_snapshot_chunk_size", Kind.INT, _RAFT.max_snapshot_chunk_size_bytes, "Bytes of one piece of a snapshot.", 4096, 1024 * MIB),
    Key(
        "cluster.raft.install_snapshot_timeout_secs",
        Kind.INT,
        _NETWORK.install_snapshot_timeout_s,
        "Longest that sending a snapshot may take.",
        1,
        86_400,
    ),
    Key("cluster.network.max_message_size", Kind.INT, _NETWORK.max_message_size_bytes, "Bytes of one message between nodes.", 8192, 1024 * MIB),
    Key("cluster.network.connect_timeout_ms", Kind.INT, _NETWORK.connect_timeout_ms, "Longest that connecting to a node may take.", 10, 600_000),
    Key("cluster.network.request_timeout_ms", Kind.INT, _NETWORK.request_timeout_ms, "Longest that a request between nodes may take.", 10, 3_600_000),
    Key(
        "cluster.network.install_snapshot_timeout_secs",
        Kind.INT,
        _NETWORK.install_snapshot_timeout_s,
        "The same as in cluster.raft; this one wins when both are set.",
        1,
        86_400,
    ),
    Key("cluster.network.keepalive_interval_ms", Kind.INT, _NETWORK.keepalive_interval_ms, "Time between keep-alive pings.", 100, 3_600_000),
    Key(
        "cluster.network.keepalive_timeout_ms",
        Kind.INT,
        _NETWORK.keepalive_timeout_ms,
        "Silence after such a ping that ends a connection.",
        100,
        3_600_000,
    ),
    Key("cluster.network.tls_cert_file", Kind.TEXT, "", "Certificate for connections between nodes."),
    Key("cluster.network.tls_key_file", Kind.TEXT, "", "Its key."),
    Key("cluster.network.tls_ca_file", Kind.TEXT, "", "Certificates that are trusted between nodes."),
    Key("cluster.storage.wal_dir", Kind.TEXT, "", "Directory of the log; unset = data_dir/wal."),
    Key("cluster.storage.snapshot_dir", Kind.TEXT, "", "Directory of snapshots; unset = data_dir/snapshots."),
    Key(
        "cluster.storage.wal_sync_mode",
        Kind.TEXT,
        "always",
        "fsync before ('always') or behind ('periodic') the acknowledgement.",
        choices=("always", "periodic"),
    ),
    Key(
        "cluster.storage.wal_profile",
        Kind.TEXT,
        "high",
        "How much one fsync may gather at most.",
        choices=tuple(PROFILES),
        env=("CHRONIK_WAL_PROFILE",),
    ),
    Key("cluster.storage.wal_segment_size", Kind.INT, 256 * MIB, "Size at which a new segment begins.", 64 * 1024, 2**31 - 1),
    Key("cluster.storage.snapshot_compression", Kind.TEXT, "zstd", "Compression of snapshots.", choices=("zstd", "none")),
)

KEYS: dict[str, Key] = {key.name: key for key in _DEFINITIONS}
SECTIONS = ("cluster", "cluster.raft", "cluster.network", "cluster.storage", "kafka")

UNSERVED_KEYS = ("cluster.network.tls_cert_file", "cluster.network.tls_key_file", "cluster.network.tls_ca_file")
"""Known, but refused when set: ignoring them would make believe that there is protection."""

SEGMENT_SIZE_UNIT = BLOCK_BYTES
