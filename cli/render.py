"""Text for people and for machines: the configuration as TOML, sizes in words."""

from __future__ import annotations

import json
from collections.abc import Iterator

from cli.config import LOCAL_DATA_DIR, Settings, cluster_enabled, node_config
from cli.keys import KEYS, Value


def size_text(size_bytes: int) -> str:
    """1536 → "1.5 KiB"."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024 or unit == "TiB":
            break
    return f"{value:.1f} {unit}"


def toml_value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return json.dumps(list(value), ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def _effective(settings: Settings) -> dict[str, Value]:
    """The values in force: what is unset and derived is filled in."""
    config = node_config(settings)
    derived: dict[str, Value] = {
        "data_dir": settings.text("data_dir") or str(config.data_dir if config.data_dir.name != LOCAL_DATA_DIR.name else f"./{LOCAL_DATA_DIR}"),
        "cluster.enabled": cluster_enabled(settings),
        "cluster.advertised_node_addr": config.advertised_raft_address,
        "cluster.storage.wal_dir": settings.text("cluster.storage.wal_dir") or str(config.storage.wal_dir),
        "cluster.storage.snapshot_dir": settings.text("cluster.storage.snapshot_dir") or str(config.storage.snapshot_dir),
    }
    return {**settings.values, **derived}


def toml_lines(settings: Settings, origin: bool) -> Iterator[str]:
    """The configuration in force, section by section; with `origin`, where each value comes from, as a comment."""
    values = _effective(settings)
    section = ""
    for name in KEYS:
        prefix, _, short = name.rpartition(".")
        if prefix != section:
            section = prefix
            yield f"\n[{section}]"
        yield f"{short} = {toml_value(values[name])}" + (f"  # {settings.origins[name]}" if origin else "")
    yield "\n[kafka]"
    for name, text in sorted(settings.kafka.items()):
        yield f"{json.dumps(name)} = {json.dumps(text, ensure_ascii=False)}" + (f"  # {settings.kafka_origins[name]}" if origin else "")
