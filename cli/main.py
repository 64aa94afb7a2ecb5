"""Entry point of `chronik-server`: finds the command, and turns refusals into one line and an exit code.

A plain `start` is parsed here: the libraries of the command line take 150 ms to import, which a node that starts again has better use for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cli import collector
from cli.compiled.loader import CompiledError, choose

USAGE = 2  # as `cli.exits.Exit.USAGE`, which is importable only after the choice
START_FLAGS = {
    "--kafka-port": "kafka_port",
    "--kafka-host": "kafka_host",
    "--admin-port": "admin_port",
    "--admin-host": "admin_host",
    "--data-dir": "data_dir",
    "--advertised-host": "advertised_host",
    "--node-id": "cluster.node_id",
    "--node-addr": "cluster.node_addr",
    "--advertised-node-addr": "cluster.advertised_node_addr",
    "--log": "log",
    "--log-format": "log_format",
}
"""Flags of `start` that take one value, and their keys. `cli.app` declares the same ones."""

_ROOT_FLAGS = ("--help", "--version", "--install-completion", "--show-completion")


def with_default_command(arguments: Sequence[str]) -> list[str]:
    """No command means `start`: flags alone are flags of start, except those of the root command."""
    if not arguments or (arguments[0].startswith("-") and arguments[0].partition("=")[0] not in _ROOT_FLAGS):
        return ["start", *arguments]
    return list(arguments)


def plain_start(arguments: Sequence[str]) -> tuple[str | None, dict[str, str]] | None:
    """(configuration file, values by key) of a `start` whose flags are all `--name value`, each once; None for anything else."""
    if not arguments or arguments[0] != "start" or len(arguments) % 2 == 0:
        return None
    names, values = arguments[1::2], arguments[2::2]
    given = dict(zip(names, values, strict=True))
    if len(given) < len(names) or any(value.startswith("-") for value in values):
        return None
    config = given.pop("--config", None)
    if any(name not in START_FLAGS for name in given):
        return None
    return config, {START_FLAGS[name]: value for name, value in given.items()}


def _run(arguments: Sequence[str]) -> int:
    if list(arguments) == ["--version"]:
        from broker.version import describe

        print(describe())
        return 0
    plain = plain_start(arguments)
    if plain is not None:
        from cli.config import find_file, load
        from cli.start import run

        config, flags = plain
        return run(load(flags, os.environ, find_file(config, os.environ)))
    collector.resume()
    from cli.app import app

    app(list(arguments), prog_name="chronik-server")
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; never returns, exits with its code."""
    collector.pause()
    try:
        choose(os.environ)  # before anything is imported that may be compiled
    except CompiledError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE)
    from cli.config import ConfigError
    from cli.exits import Exit, StartError

    try:
        sys.exit(_run(with_default_command(sys.argv[1:] if arguments is None else arguments)))
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(Exit.USAGE)
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.code)
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.UNEXPECTED)


if __name__ == "__main__":
    main()
