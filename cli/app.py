"""The commands of `chronik-server` and their flags. Each hands over to the module that does the work, which is imported only then."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cli.config import Settings

app = typer.Typer(
    name="chronik-server",
    help="A Kafka-compatible broker in which every partition is a Raft group. Without a command it starts one node.",
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
debug_app = typer.Typer(help="Look into the files of a node; works while it runs, and never writes.", rich_markup_mode=None, no_args_is_help=True)
config_app = typer.Typer(help="Check or print the configuration.", rich_markup_mode=None, no_args_is_help=True)
app.add_typer(debug_app, name="debug")
app.add_typer(config_app, name="config")

ConfigFlag = Annotated[
    str | None, typer.Option("--config", help="Configuration file; else CHRONIK_CONFIG, else /etc/chronik/chronik.toml if there is one.")
]
KafkaPortFlag = Annotated[str | None, typer.Option("--kafka-port", help="Port of the Kafka listener.")]
KafkaHostFlag = Annotated[str | None, typer.Option("--kafka-host", help="Address that it binds.")]
AdminPortFlag = Annotated[str | None, typer.Option("--admin-port", help="Port of health, administration and metrics.")]
AdminHostFlag = Annotated[str | None, typer.Option("--admin-host", help="Address that it binds.")]
DataDirFlag = Annotated[str | None, typer.Option("--data-dir", help="Directory of the data.")]
AdvertisedHostFlag = Annotated[str | None, typer.Option("--advertised-host", help="Host that clients are told; unset = what they used.")]
NodeIdFlag = Annotated[str | None, typer.Option("--node-id", help="Id of this node in its cluster, 1 to 65535.")]
NodeAddrFlag = Annotated[str | None, typer.Option("--node-addr", help="Address that the Raft listener binds, host:port.")]
AdvertisedNodeFlag = Annotated[str | None, typer.Option("--advertised-node-addr", help="Raft address that other nodes dial.")]
SeedFlag = Annotated[list[str] | None, typer.Option("--seed", help="A node to ask first, id@host:port; may be repeated.")]
SetFlag = Annotated[list[str] | None, typer.Option("--set", help="Any key of the file, as cluster.raft.election_timeout_ms=1500; may be repeated.")]
KafkaSettingFlag = Annotated[
    list[str] | None, typer.Option("--kafka-setting", help="A broker setting by its Kafka name, name=value; may be repeated.")
]
PathFlag = Annotated[Path, typer.Option("--path", help="A file or a directory of the log.")]
TextOrJson = Annotated[str, typer.Option("--format", help="text or json.")]


def _pairs(items: Sequence[str] | None, flag: str) -> dict[str, str]:
    from cli.config import ConfigError

    pairs: dict[str, str] = {}
    for item in items or ():
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise ConfigError([f"{flag} '{item}' is not name=value"])
        pairs[name.strip()] = value.strip()
    return pairs


def _settings(config: str | None, flags: dict[str, Any], extra: Sequence[str] | None, kafka: Sequence[str] | None) -> Settings:
    from cli.config import find_file, load

    given: dict[str, Any] = {name: value for name, value in flags.items() if value not in (None, [])}
    given.update(_pairs(extra, "--set"))
    return load(given, os.environ, find_file(config, os.environ), _pairs(kafka, "--kafka-setting"))


def _one_of(value: str, choices: Sequence[str], flag: str) -> str:
    from cli.config import ConfigError

    if value not in choices:
        raise ConfigError([f"{flag} is {value!r}, but must be one of {', '.join(choices)}"])
    return value


def _version_and_exit(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", callback=_version_and_exit, is_eager=True)] = False,
) -> None:
    """Flags that stand before any command."""


@app.command()
def version() -> None:
    """Print version, protocols and, if known, revision."""
    from broker.version import describe

    print(describe())


@app.command()
def start(
    config: ConfigFlag = None,
    kafka_port: KafkaPortFlag = None,
    kafka_host: KafkaHostFlag = None,
    admin_port: AdminPortFlag = None,
    admin_host: AdminHostFlag = None,
    data_dir: DataDirFlag = None,
    advertised_host: AdvertisedHostFlag = None,
    node_id: NodeIdFlag = None,
    node_addr: NodeAddrFlag = None,
    advertised_node_addr: AdvertisedNodeFlag = None,
    seed: SeedFlag = None,
    log: Annotated[str | None, typer.Option("--log", help="Log level, or target=level pairs.")] = None,
    log_format: Annotated[str | None, typer.Option("--log-format", help="text or json.")] = None,
    kafka_setting: KafkaSettingFlag = None,
    extra: SetFlag = None,
) -> None:
    """Start one node. Without a file and flags it is a working broker on its own."""
    flags: dict[str, Any] = {
        "kafka_port": kafka_port,
        "kafka_host": kafka_host,
        "admin_port": admin_port,
        "admin_host": admin_host,
        "data_dir": data_dir,
        "advertised_host": advertised_host,
        "cluster.node_id": node_id,
        "cluster.node_addr": node_addr,
        "cluster.advertised_node_addr": advertised_node_addr,
        "cluster.seed_nodes": seed,
        "log": log,
        "log_format": log_format,
    }
    settings = _settings(config, flags, extra, kafka_setting)
    from cli.start import run

    raise typer.Exit(run(settings))


@app.command()
def dev(
    nodes: Annotated[int, typer.Option("--nodes", help="How many nodes.")] = 3,
    kafka_port: Annotated[
        int, typer.Option("--kafka-port", help="Kafka port of node 1; each further node has it 10 higher, Raft the next one.")
    ] = 9092,
    admin_port: Annotated[int, typer.Option("--admin-port", help="Admin port of node 1; each further node has it 10 higher.")] = 8080,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Directory of data and logs; kept between starts.")] = Path("chronik-dev"),
    output_format: Annotated[str, typer.Option("--format", help="text (a banner) or json (one line) when all nodes are ready.")] = "text",
    restart: Annotated[bool, typer.Option("--restart", help="Start a node that died again; without it, it stays down.")] = False,
    kafka_setting: KafkaSettingFlag = None,
) -> None:
    """Run a real cluster as local processes on loopback; Ctrl-C stops all of it."""
    from broker.errors import KafkaError
    from broker.settings import BROKER_SETTINGS, validate_broker_config
    from cli.config import ConfigError, nearest
    from cli.dev import DevOptions, run

    settings = _pairs(kafka_setting, "--kafka-setting")
    problems = []
    for name, value in settings.items():
        if name not in BROKER_SETTINGS:
            problems.append(f"unknown Kafka setting '{name}' (flag){nearest(name, BROKER_SETTINGS)}")
            continue
        try:
            validate_broker_config(name, value)
        except KafkaError as error:
            problems.append(error.message)
    if problems:
        raise ConfigError(problems)
    _one_of(output_format, ("text", "json"), "--format")
    raise typer.Exit(run(DevOptions(nodes, kafka_port, admin_port, data_dir, output_format, restart, settings)))


@debug_app.command("wal-dump")
def wal_dump(path: PathFlag, output_format: TextOrJson = "text") -> None:
    """Print every entry: segment, position, term, index, type, base offset, record count, size, checksum state."""
    from cli.debug import dump

    raise typer.Exit(dump(path, _one_of(output_format, ("text", "json"), "--format")))


@debug_app.command("wal-verify")
def wal_verify(path: PathFlag, output_format: TextOrJson = "text") -> None:
    """Verify every checksum and every rule of continuity; fails with file, position and reason when something is damaged."""
    from cli.debug import verify

    raise typer.Exit(verify(path, _one_of(output_format, ("text", "json"), "--format")))


@debug_app.command("wal-stats")
def wal_stats(path: PathFlag, output_format: TextOrJson = "text") -> None:
    """Print segments, entries, bytes, first and last index and term, record counts, sizes."""
    from cli.debug import stats

    raise typer.Exit(stats(path, _one_of(output_format, ("text", "json"), "--format")))


@config_app.command("check")
def config_check(config: ConfigFlag = None, extra: SetFlag = None, kafka_setting: KafkaSettingFlag = None) -> None:
    """Validate file and environment; every problem is told."""
    from cli.config import find_file

    settings = _settings(config, {}, extra, kafka_setting)
    for warning in settings.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"configuration is valid ({find_file(config, os.environ) or 'no file; defaults and environment'})")


@config_app.command("print")
def config_print(
    config: ConfigFlag = None,
    origin: Annotated[bool, typer.Option("--origin", help="Also say where each value comes from.")] = False,
    extra: SetFlag = None,
    kafka_setting: KafkaSettingFlag = None,
) -> None:
    """Print the configuration in force as TOML that can be used as a file."""
    from cli.render import toml_lines

    for line in toml_lines(_settings(config, {}, extra, kafka_setting), origin):
        print(line)
