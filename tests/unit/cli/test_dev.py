"""`dev`: processes of a stand-in node are started, watched, reported and stopped. Nothing here waits for a fixed time."""

import asyncio
import json
import os
import signal
import socket
import sys
import tomllib
from dataclasses import replace

import pytest

from benchmarks.ports import free_base
from cli import dev as dev_module
from cli.config import ConfigError, load, node_config
from cli.dev import DevCluster, DevOptions, make_plans, node_environment, write_config
from cli.exits import Exit, StartError, describe_exit

# Says that it is ready, then waits for a signal; "stubborn" ignores TERM, "failing" ends before it is ready.
STAND_IN = """
import os, signal, sys, time
mode = sys.argv[1]
if mode == "failing":
    print("[ERROR] Port 9092 already in use by pid 1 (init)", file=sys.stderr)
    sys.exit(3)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if mode != "silent":
    os.write(int(os.environ["CHRONIK_READY_FD"]), b"ready\\n")
    os.close(int(os.environ["CHRONIK_READY_FD"]))
while True:
    signal.pause()
"""


def command(modes):
    return lambda plan: [sys.executable, "-S", "-c", STAND_IN, modes.get(plan.node_id, "good")]


@pytest.fixture
def options(tmp_path):
    base = free_base([10 * node + offset for node in range(3) for offset in (0, 1, 5)])
    return DevOptions(3, base, base + 5, tmp_path / "dev", "json")


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


class Printed:
    """Collects what was printed, so that several waits can look at it."""

    def __init__(self, capsys):
        self._capsys = capsys
        self._out = self._err = ""

    def _take(self):
        captured = self._capsys.readouterr()
        self._out += captured.out
        self._err += captured.err

    @property
    def out(self):
        self._take()
        return self._out

    @property
    def err(self):
        self._take()
        return self._err


async def test_ready_line_death_report_and_stop(options, capsys):
    printed = Printed(capsys)
    cluster = DevCluster(options, command({}))
    running = asyncio.ensure_future(cluster.run())
    await until(lambda: printed.out.endswith("\n"))
    result = json.loads(printed.out)
    port = options.kafka_port
    assert result["bootstrap_servers"] == f"127.0.0.1:{port},127.0.0.1:{port + 10},127.0.0.1:{port + 20}"
    assert result["nodes"][1] == {
        "node_id": 2,
        "pid": cluster.nodes[1].pid,
        "kafka": f"127.0.0.1:{port + 10}",
        "raft": f"127.0.0.1:{port + 11}",
        "admin": f"127.0.0.1:{port + 15}",
    }
    os.kill(cluster.nodes[1].pid, signal.SIGKILL)
    await until(lambda: "stays down" in printed.err)
    assert f"node 2 (pid {cluster.nodes[1].pid}) died: killed by SIGKILL" in printed.err
    assert "node-2/node.log" in printed.err
    assert "start --config" in printed.err
    assert not cluster.nodes[1].running
    assert cluster.nodes[0].running
    os.kill(os.getpid(), signal.SIGTERM)  # as Ctrl-C or a service manager would
    assert await running == Exit.OK
    assert not any(node.running for node in cluster.nodes)
    assert "node 1" not in printed.err


async def test_banner(options, capsys):
    cluster = DevCluster(replace(options, output_format="text"), command({}))
    running = asyncio.ensure_future(cluster.run())
    printed = Printed(capsys)
    await until(lambda: "consume:" in printed.out)
    assert "3 nodes ready after" in printed.out
    cluster.stop()
    assert await running == Exit.OK


async def test_all_down_ends_the_command(options, capsys):
    printed = Printed(capsys)
    cluster = DevCluster(options, command({}))
    running = asyncio.ensure_future(cluster.run())
    await until(lambda: printed.out)
    for node in cluster.nodes:
        os.kill(node.pid, signal.SIGKILL)
    assert await running == Exit.UNEXPECTED
    assert "all nodes are down" in printed.err


async def test_restart_starts_a_dead_node_again(options, capsys, monkeypatch):
    monkeypatch.setattr(dev_module, "RESTART_SECONDS", 0.01)
    printed = Printed(capsys)
    cluster = DevCluster(replace(options, restart=True), command({}))
    running = asyncio.ensure_future(cluster.run())
    await until(lambda: printed.out)
    dead = cluster.nodes[2].pid
    os.kill(dead, signal.SIGKILL)
    await until(lambda: "was started again" in printed.err)
    assert f"node 3 (pid {dead}) died" in printed.err
    assert cluster.nodes[2].pid != dead
    await cluster.nodes[2].ready.wait()
    cluster.stop()
    assert await running == Exit.OK


async def test_a_node_that_fails_to_start_is_explained_and_the_others_are_stopped(options, capsys):
    cluster = DevCluster(options, command({2: "failing", 1: "silent", 3: "silent"}))
    assert await cluster.run() == Exit.PORT_IN_USE
    error = capsys.readouterr().err
    assert "node 2 stopped before it was ready (exit code 3, port in use): [ERROR] Port 9092 already in use by pid 1 (init)" in error
    assert not any(node.running for node in cluster.nodes)


async def test_nodes_that_are_never_ready_are_named(options, capsys):
    cluster = DevCluster(replace(options, ready_seconds=0.01), command({1: "silent", 2: "silent", 3: "silent"}))
    assert await cluster.run() == Exit.UNEXPECTED
    assert "node 1 is not ready after" in capsys.readouterr().err


async def test_a_stubborn_node_is_killed_at_the_second_signal(options, capsys):
    printed = Printed(capsys)
    cluster = DevCluster(options, command({1: "stubborn"}))
    running = asyncio.ensure_future(cluster.run())
    await until(lambda: printed.out)
    cluster.stop()
    await until(lambda: not cluster.nodes[1].running and not cluster.nodes[2].running)
    assert cluster.nodes[0].running
    cluster.stop()
    assert await running == Exit.OK
    assert "did not stop in time and is killed" in printed.err


async def test_a_taken_port_is_told_before_anything_starts(options):
    with socket.create_server(("127.0.0.1", options.kafka_port + 10)):
        cluster = DevCluster(options, command({}))
        with pytest.raises(StartError, match=f"Port {options.kafka_port + 10} already in use by pid {os.getpid()} "):
            await cluster.run()
    assert not options.data_dir.exists()


def test_the_written_file_is_a_whole_configuration(options):
    plans = make_plans(options)
    write_config(plans[1], plans, {"num.partitions": "6"})
    node = node_config(load({}, {}, plans[1].config_path))
    assert (node.node_id, node.kafka_port, node.raft_port, node.admin_port) == (
        2,
        options.kafka_port + 10,
        options.kafka_port + 11,
        options.admin_port + 10,
    )
    assert node.advertised_raft_address == f"127.0.0.1:{options.kafka_port + 11}"
    assert [seed.node_id for seed in node.seeds] == [1, 2, 3]
    assert node.data_dir == options.data_dir / "node-2" / "data"
    assert (node.kafka["default.replication.factor"], node.kafka["num.partitions"]) == ("3", "6")
    write_config(plans[0], plans, {"default.replication.factor": "1"})
    assert tomllib.loads(plans[0].config_path.read_text())["kafka"]["default.replication.factor"] == "1"


def test_plans_that_can_not_be(tmp_path):
    good = DevOptions(data_dir=tmp_path)
    for change, text in (({"nodes": 0}, "from 1 to 9"), ({"admin_port": 9093}, "used twice"), ({"kafka_port": 65_530}, "ports up to")):
        with pytest.raises(ConfigError, match=text):
            make_plans(replace(good, **change))
    for number in (1, 2, 3):
        (tmp_path / f"node-{number}").mkdir()
    with pytest.raises(ConfigError, match="holds a cluster of 3 nodes; start it with --nodes 3"):
        make_plans(replace(good, nodes=1))


def test_the_environment_does_not_override_what_differs_between_nodes():
    env = {
        "CHRONIK_KAFKA_PORT": "1",
        "CHRONIK_NODE_ID": "1",
        "CHRONIK_CONFIG": "/x",
        "CHRONIK_WAL_PROFILE": "low",
        "CHRONIK_LOG": "debug",
        "HOME": "/",
    }
    assert node_environment(env) == {"CHRONIK_WAL_PROFILE": "low", "CHRONIK_LOG": "debug", "HOME": "/"}


def test_a_large_log_is_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(dev_module, "LOG_SIZE_MAX_BYTES", 4)
    path = tmp_path / "node.log"
    path.write_bytes(b"12345")
    with dev_module._open_log(path) as log:
        log.write(b"new")
    assert (path.read_bytes(), (tmp_path / "node.log.1").read_bytes()) == (b"new", b"12345")


def test_exit_codes_are_explained():
    assert describe_exit(-9).startswith("killed by SIGKILL")
    assert describe_exit(143) == "killed by SIGTERM"
    assert describe_exit(4) == "exit code 4, data directory unusable"
    assert describe_exit(77) == "exit code 77"
