"""Reads the configuration: flag > CHRONIK_* environment > file > default, every value with where it came from, and makes the node's `NodeConfig`.

Owns: precedence, refusals (unknown keys with the nearest known one, relations between keys), default places. All problems are collected and told at
once. Touches the disk only to read the file and to look whether the default data directory is usable.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.config import NetworkConfig, NodeConfig, RaftConfig, Seed, StorageConfig
from broker.errors import KafkaError
from broker.settings import BROKER_SETTINGS, validate_broker_config, without_effect
from cli.keys import KEYS, SECTIONS, SEGMENT_SIZE_UNIT, UNSERVED_KEYS, Value

DEFAULT_FILE = Path("/etc/chronik/chronik.toml")
SYSTEM_DATA_DIR = Path("/var/lib/chronik/data")
LOCAL_DATA_DIR = Path("chronik-data")

_ENV_PREFIX = "CHRONIK_"
_KAFKA_ENV_PREFIX = "CHRONIK_KAFKA__"
_OTHER_ENV = ("CHRONIK_CONFIG", "CHRONIK_ALLOCATOR", "CHRONIK_COMPILED", "CHRONIK_READY_FD", "CHRONIK_PARENT_PID", "CHRONIK_TEST_FAULTS")
_FILE_SIZE_MAX = 1024 * 1024
_SEED = re.compile(r"(?P<id>[0-9]{1,9})@(?P<address>.+)\Z")


class ConfigError(Exception):
    """The configuration is refused. `problems`: one line each, in the user's words."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(slots=True)
class Settings:
    """All values with their origins ("default", a file, "environment NAME", "flag"); kafka settings apart, as texts by Kafka name."""

    values: dict[str, Value] = field(default_factory=lambda: {name: key.default for name, key in KEYS.items()})
    origins: dict[str, str] = field(default_factory=lambda: dict.fromkeys(KEYS, "default"))
    kafka: dict[str, str] = field(default_factory=dict)
    kafka_origins: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def put(self, name: str, raw: Any, origin: str) -> None:
        """Take one value; what is wrong with it is added to the problems."""
        try:
            self.values[name] = KEYS[name].read(raw)
        except ValueError as error:
            self.problems.append(f"{name} {error} ({origin})")
            return
        self.origins[name] = origin

    def put_kafka(self, name: str, raw: Any, origin: str) -> None:
        """Take one broker setting by its Kafka name."""
        if name not in BROKER_SETTINGS:
            self.problems.append(f"unknown Kafka setting '{name}' ({origin}){nearest(name, BROKER_SETTINGS)}")
            return
        text = _kafka_text(raw)
        try:
            validate_broker_config(name, text)
        except KafkaError as error:
            self.problems.append(f"{error.message} ({origin})")
            return
        self.kafka[name], self.kafka_origins[name] = text, origin

    def number(self, name: str) -> int:
        value = self.values[name]
        return value if isinstance(value, int) else 0

    def text(self, name: str) -> str:
        value = self.values[name]
        return value if isinstance(value, str) else ""

    def given(self, name: str) -> bool:
        return self.origins[name] != "default"


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for a mistyped name, "" when nothing is close."""
    candidates = list(known)
    found = difflib.get_close_matches(name, candidates, 1, 0.6)
    if not found:
        last = name.rpartition(".")[2]
        found = [candidate for candidate in candidates if candidate.rpartition(".")[2] == last][:1]
    return f"; did you mean '{found[0]}'?" if found else ""


def find_file(flag: str | None, env: Mapping[str, str]) -> Path | None:
    """The file to read: --config, else CHRONIK_CONFIG, else the default place if there is a file. Raises ConfigError when a named one is missing."""
    named = flag or env.get("CHRONIK_CONFIG", "")
    if named:
        path = Path(named)
        if not path.is_file():
            whence = "--config" if flag else "CHRONIK_CONFIG"
            raise ConfigError([f"configuration file {path} ({whence}) does not exist; create it or leave {whence} out"])
        return path
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def load(flags: Mapping[str, Any], env: Mapping[str, str], path: Path | None, kafka_flags: Mapping[str, str] | None = None) -> Settings:
    """Gather all values. `flags`: by key name, only those that were given. Raises ConfigError with every problem found."""
    settings = Settings()
    if path is not None:
        _take_file(settings, path)
    _take_environment(settings, env)
    for name, raw in flags.items():
        if name in KEYS:
            settings.put(name, raw, "flag")
        else:
            settings.problems.append(f"unknown key '{name}' (flag){nearest(name, KEYS)}")
    for name, text in (kafka_flags or {}).items():
        settings.put_kafka(name, text, "flag")
    if not settings.problems:
        _check_relations(settings)
    if settings.problems:
        raise ConfigError(settings.problems)
    if settings.text("cluster.storage.wal_sync_mode") == "periodic":
        settings.warnings.append("cluster.storage.wal_sync_mode = periodic is not served in this version: every acknowledged record is fsynced")
    silent = without_effect(settings.kafka, BROKER_SETTINGS)
    if silent:
        settings.warnings.append(f"these Kafka settings are accepted, but have no effect in this version: {', '.join(silent)}")
    return settings


def _take_file(settings: Settings, path: Path) -> None:
    try:
        data = path.read_bytes()
        if len(data) > _FILE_SIZE_MAX:
            raise ConfigError([f"{path} has {len(data)} bytes; a configuration file has at most {_FILE_SIZE_MAX}"])
        document = tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigError([f"cannot read {path}: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} is not valid TOML: {error}"]) from error
    kafka = document.pop("kafka", {})
    if not isinstance(kafka, dict):
        settings.problems.append(f"kafka must be a section, [kafka] ({path})")
        kafka = {}
    for name, raw in _flatten(document, SECTIONS).items():
        if name in KEYS:
            settings.put(name, raw, str(path))
        else:
            settings.problems.append(f"unknown key '{name}' ({path}){nearest(name, KEYS)}")
    for name, raw in _flatten(kafka, None).items():
        settings.put_kafka(name, raw, str(path))


def _flatten(table: Mapping[str, Any], sections: Iterable[str] | None, prefix: str = "") -> dict[str, Any]:
    """Dotted names of the values of nested tables; only `sections` are gone into (None: all)."""
    flat: dict[str, Any] = {}
    for name, raw in table.items():
        full = prefix + name
        if isinstance(raw, dict) and (sections is None or full in sections):
            flat.update(_flatten(raw, sections, full + "."))
        else:
            flat[full] = raw
    return flat


def _kafka_text(raw: Any) -> str:
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, list):
        return ",".join(str(item) for item in raw)
    return str(raw)


def _take_environment(settings: Settings, env: Mapping[str, str]) -> None:
    known = set(_OTHER_ENV)
    for key in KEYS.values():
        known.update(key.env_names)
        for name in reversed(key.env_names):
            if env.get(name):
                settings.put(key.name, env[name], f"environment {name}")
    kafka_names = {_KAFKA_ENV_PREFIX + name.replace(".", "_").upper(): name for name in BROKER_SETTINGS}
    for name in sorted(env):
        if name in kafka_names:
            settings.put_kafka(kafka_names[name], env[name], f"environment {name}")
        elif name.startswith(_ENV_PREFIX) and name not in known:
            # Not refused: an orchestrator may set variables like CHRONIK_SERVICE_HOST on its own account.
            hint = nearest(name, [*known, *kafka_names])
            settings.warnings.append(f"environment variable {name} is unknown and ignored{hint}")


def split_address(text: str, what: str) -> tuple[str, int]:
    """(host, port) of "host:port" or "[v6]:port". Raises ValueError that says what is wrong."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not host or not port.isdecimal() or not 1 <= int(port[:6]) <= 65_535 or (":" in host and not text.startswith("[")):
        raise ValueError(f"{what} '{text}' is not an address; write host:port, as in 'node1:9093'")
    return host, int(port)


def parse_seed(text: str) -> Seed:
    """One entry of seed_nodes, "1@node1:9093". Raises ValueError."""
    found = _SEED.match(text)
    if found is None:
        if "@" not in text:
            raise ValueError(f"seed_nodes entry '{text}' has no node id; write '1@{text}'")
        raise ValueError(f"seed_nodes entry '{text}' has no numeric node id; write it as '1@node1:9093'")
    node_id = int(found["id"])
    if not 1 <= node_id <= 65_535:
        raise ValueError(f"seed_nodes entry '{text}' has node id {node_id}, but ids are from 1 to 65535")
    host, port = split_address(found["address"], "seed_nodes entry")
    return Seed(node_id, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _seeds(settings: Settings) -> tuple[Seed, ...]:
    raw = settings.values["cluster.seed_nodes"]
    return tuple(parse_seed(text) for text in (raw if isinstance(raw, tuple) else ()))


def _check_relations(settings: Settings) -> None:
    problems = settings.problems
    election, beat = settings.number("cluster.raft.election_timeout_ms"), settings.number("cluster.raft.heartbeat_interval_ms")
    if beat * 10 >= election:
        problems.append(
            f"cluster.raft.heartbeat_interval_ms ({beat}) must be less than a tenth of cluster.raft.election_timeout_ms ({election}); "
            f"write at most {max(1, (election - 1) // 10)}, or an election_timeout_ms of at least {beat * 10 + 1}"
        )
    message, chunk = settings.number("cluster.network.max_message_size"), settings.number("cluster.raft.max_snapshot_chunk_size")
    if message <= chunk:
        problems.append(f"cluster.network.max_message_size ({message}) must be more than cluster.raft.max_snapshot_chunk_size ({chunk})")
    segment = settings.number("cluster.storage.wal_segment_size")
    if segment % SEGMENT_SIZE_UNIT:
        nearest_size = segment - segment % SEGMENT_SIZE_UNIT
        problems.append(f"cluster.storage.wal_segment_size ({segment}) must be a multiple of {SEGMENT_SIZE_UNIT}; write {nearest_size}")
    _check_wal_dir(settings)
    try:
        _, raft_port = split_address(settings.text("cluster.node_addr"), "cluster.node_addr")
        if settings.text("cluster.advertised_node_addr"):
            split_address(settings.text("cluster.advertised_node_addr"), "cluster.advertised_node_addr")
    except ValueError as error:
        problems.append(str(error))
        return
    ports = {"kafka_port": settings.number("kafka_port"), "admin_port": settings.number("admin_port"), "the port of cluster.node_addr": raft_port}
    for first, second in (
        ("kafka_port", "admin_port"),
        ("kafka_port", "the port of cluster.node_addr"),
        ("admin_port", "the port of cluster.node_addr"),
    ):
        if ports[first] == ports[second]:
            problems.append(f"{first} and {second} are both {ports[first]}; give each listener a port of its own")
    try:
        ids = [seed.node_id for seed in _seeds(settings)]
    except ValueError as error:
        problems.append(str(error))
        return
    problems.extend(f"seed_nodes names node id {node_id} more than once; ids are unique" for node_id in sorted({i for i in ids if ids.count(i) > 1}))
    problems.extend(
        f"{name} is set, but connections between nodes are not encrypted in this version; remove it and protect the Raft port by other means"
        for name in UNSERVED_KEYS
        if settings.text(name)
    )


def _check_wal_dir(settings: Settings) -> None:
    """The log lies below the data directory in this version; another place must not be ignored silently."""
    given, expected = settings.text("cluster.storage.wal_dir"), _data_dir(settings) / "wal"
    if given and Path(given).absolute() != expected:
        settings.problems.append(
            f"cluster.storage.wal_dir is {given}, but the log is kept in {expected} in this version; make that a symbolic link or set data_dir"
        )


def _data_dir(settings: Settings) -> Path:
    return Path(settings.text("data_dir") or default_data_dir()).absolute()


def default_data_dir() -> Path:
    """/var/lib/chronik/data when it, or the directory it would be made in, is there and writable; else ./chronik-data."""
    for place in (SYSTEM_DATA_DIR, SYSTEM_DATA_DIR.parent):
        if place.is_dir():
            return SYSTEM_DATA_DIR if os.access(place, os.W_OK | os.X_OK) else LOCAL_DATA_DIR
    return LOCAL_DATA_DIR


def cluster_enabled(settings: Settings) -> bool:
    """As said; unsaid, whether anything points to other nodes."""
    if settings.given("cluster.enabled"):
        return settings.values["cluster.enabled"] is True
    return any(settings.given(name) for name in ("cluster.node_addr", "cluster.advertised_node_addr", "cluster.seed_nodes"))


def _advertised_raft_address(settings: Settings, seeds: tuple[Seed, ...], host: str, port: int) -> str:
    """What peers dial: as said; else our own entry among the seeds; else the bound address; else our name."""
    if settings.text("cluster.advertised_node_addr"):
        return settings.text("cluster.advertised_node_addr")
    own = next((seed.address for seed in seeds if seed.node_id == settings.number("cluster.node_id")), "")
    if own:
        return own
    if host in ("0.0.0.0", "::"):
        host = settings.text("advertised_host") or socket.gethostname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def node_config(settings: Settings) -> NodeConfig:
    """What the node gets. `settings` has been checked by `load`."""
    data_dir = _data_dir(settings)
    wal_dir, snapshot_dir = settings.text("cluster.storage.wal_dir"), settings.text("cluster.storage.snapshot_dir")
    raft_host, raft_port = split_address(settings.text("cluster.node_addr"), "cluster.node_addr")
    seeds = _seeds(settings)
    election_ms = settings.number("cluster.raft.election_timeout_ms")
    network_section = settings.given("cluster.network.install_snapshot_timeout_secs") or not settings.given(
        "cluster.raft.install_snapshot_timeout_secs"
    )
    enabled = cluster_enabled(settings)
    return NodeConfig(
        node_id=settings.number("cluster.node_id"),
        data_dir=data_dir,
        storage=StorageConfig(
            wal_dir=Path(wal_dir).absolute() if wal_dir else data_dir / "wal",
            snapshot_dir=Path(snapshot_dir).absolute() if snapshot_dir else data_dir / "snapshots",
            sync_mode=settings.text("cluster.storage.wal_sync_mode"),
            profile=settings.text("cluster.storage.wal_profile"),
            segment_size_bytes=settings.number("cluster.storage.wal_segment_size"),
            snapshot_compression=settings.text("cluster.storage.snapshot_compression"),
        ),
        kafka_host=settings.text("kafka_host"),
        kafka_port=settings.number("kafka_port"),
        admin_host=settings.text("admin_host"),
        admin_port=settings.number("admin_port"),
        raft_host=raft_host,
        raft_port=raft_port,
        advertised_host=settings.text("advertised_host"),
        advertised_raft_address=_advertised_raft_address(settings, seeds, raft_host, raft_port),
        cluster_enabled=enabled,
        seeds=seeds if enabled else (),
        raft=RaftConfig(
            election_timeout_ms=election_ms,
            election_timeout_ms_max=election_ms * 3 // 2,
            heartbeat_interval_ms=settings.number("cluster.raft.heartbeat_interval_ms"),
            max_payload_entries=settings.number("cluster.raft.max_payload_entries"),
            enable_pipeline=settings.values["cluster.raft.enable_pipeline"] is True,
            max_in_flight=settings.number("cluster.raft.max_in_flight"),
            snapshot_log_size_threshold=settings.number("cluster.raft.snapshot_log_size_threshold"),
            log_compaction_threshold=settings.number("cluster.raft.log_compaction_threshold"),
            max_snapshot_chunk_size_bytes=settings.number("cluster.raft.max_snapshot_chunk_size"),
        ),
        network=NetworkConfig(
            max_message_size_bytes=settings.number("cluster.network.max_message_size"),
            connect_timeout_ms=settings.number("cluster.network.connect_timeout_ms"),
            request_timeout_ms=settings.number("cluster.network.request_timeout_ms"),
            install_snapshot_timeout_s=settings.number(f"cluster.{'network' if network_section else 'raft'}.install_snapshot_timeout_secs"),
            keepalive_interval_ms=settings.number("cluster.network.keepalive_interval_ms"),
            keepalive_timeout_ms=settings.number("cluster.network.keepalive_timeout_ms"),
        ),
        kafka=dict(settings.kafka),
    )
