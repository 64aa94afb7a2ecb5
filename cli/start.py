"""`chronik-server start`: one node in this process, from a checked configuration to its exit code.

Owns: order of start (logging, allocator, data directory, ports, loop), signals, the notices that the node is ready. The node is `broker.node`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from broker import logs
from broker.config import NodeConfig
from broker.version import running
from cli import allocator, collector
from cli.compiled import loader
from cli.config import Settings, node_config
from cli.exits import Exit, StartError, check_port, explain

RunNode = Callable[..., Coroutine[Any, Any, int]]

_PR_SET_PDEATHSIG = 1


def run(settings: Settings) -> int:
    """Run the node until it stops; returns the exit code. Everything that a user can mend is told in one line."""
    try:
        logs.configure(settings.text("log"), settings.text("log_format"), settings.values["log_timestamps"] is True)
    except ValueError as error:
        logs.configure("info")
        logs.logger(logs.SERVER).error("log: %s", error)
        return Exit.USAGE
    log = logs.logger(logs.SERVER)
    for warning in settings.warnings:
        log.warning("%s", warning)
    log.info("Hot modules run %s: %s", running(), loader.chosen().why)
    try:
        collector.pause()
        _follow_parent()
        allocator.tune(os.environ)
        config = node_config(settings)
        prepare_directory(config)
        check_ports(config)
        return _run_loop(config)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BaseException as error:  # the one place where what stopped the node becomes its exit code
        known = explain(error)
        if known is None:
            log.critical("Stopped by an unexpected error: %s: %s", type(error).__name__, error, exc_info=error)
            return Exit.UNEXPECTED
        log.error("%s", known)
        return known.code


def prepare_directory(config: NodeConfig) -> None:
    """Make the data directory. What is in it, the node makes: an empty directory means a new node. Raises StartError."""
    directory = config.data_dir
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error.strerror or str(error)) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise _unusable(directory, "Permission denied")


def _unusable(directory: Path, why: str) -> StartError:
    text = f"Data directory {directory} can not be used: {why}; make it writable for user id {os.getuid()} or choose another with --data-dir"
    return StartError(Exit.DATA_DIRECTORY, text)


def check_ports(config: NodeConfig) -> None:
    """Look whether the ports are free before anything is opened, so that the refusal can name who has them. Raises StartError."""
    check_port(config.kafka_host, config.kafka_port, "--kafka-port")
    check_port(config.admin_host, config.admin_port, "--admin-port")
    if config.cluster_enabled:
        check_port(config.raft_host, config.raft_port, "--node-addr")


def _run_loop(config: NodeConfig) -> int:
    from broker.node import run_node

    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        logs.logger(logs.SERVER).info("uvloop is not installed; the standard loop serves, more slowly")
    else:
        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_supervise(config, run_node))


async def _supervise(config: NodeConfig, run_node: RunNode) -> int:
    """Run the node; TERM or INT stops it in order, a second one at once."""
    loop = asyncio.get_running_loop()
    log = logs.logger(logs.SERVER)
    started = loop.time()
    stopping = False
    settle = collector.resume_when_ready(loop.call_later)

    def ready() -> None:
        settle()
        log.info("Ready after %.2f s: node %d, Kafka on %s:%d, admin on %s:%d", loop.time() - started, *_listeners(config))
        tell_ready()

    from admin_api.server import serve

    task = asyncio.ensure_future(run_node(config, ready, serve))

    def stop(name: str) -> None:
        nonlocal stopping
        if stopping:
            os._exit(Exit.INTERRUPTED)
        stopping = True
        log.info("%s received, stopping", name)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)
    try:
        return await task
    except asyncio.CancelledError:
        return Exit.OK


async def _serve_admin(view: Any, host: str, port: int) -> Any:
    """The admin interface; imported only now, so that it does not slow the start."""
    from admin_api.server import serve

    return await serve(view, host, port)


def _listeners(config: NodeConfig) -> tuple[int, str, int, str, int]:
    return config.node_id, config.kafka_host, config.kafka_port, config.admin_host, config.admin_port


def tell_ready() -> None:
    """Tell whoever waits: systemd (NOTIFY_SOCKET, Type=notify) and `chronik-server dev` (a pipe, CHRONIK_READY_FD)."""
    ready_fd = os.environ.pop("CHRONIK_READY_FD", "")
    if ready_fd.isdecimal():
        try:
            os.write(int(ready_fd), b"ready\n")
            os.close(int(ready_fd))
        except OSError as error:
            logs.logger(logs.SERVER).debug("nobody waits for readiness any more: %s", error)
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.connect("\0" + address[1:] if address.startswith("@") else address)
                notify.send(b"READY=1")
        except OSError as error:
            logs.logger(logs.SERVER).warning("systemd could not be told that the node is ready: %s", error)


def _follow_parent() -> None:
    """Stop when the `dev` command that started us is gone, however it went (Linux; elsewhere its own clean-up must do)."""
    parent = os.environ.pop("CHRONIK_PARENT_PID", "")
    if not parent.isdecimal():
        return
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):
        return
    if os.getppid() != int(parent):
        raise StartError(Exit.USAGE, "The dev command that started this node is gone already; start it again")
