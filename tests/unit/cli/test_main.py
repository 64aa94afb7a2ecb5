"""The command line as a user meets it: commands, exit codes, one-line errors."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from broker.config import single_node
from broker.version import VERSION, describe
from cli import start as start_module
from cli.app import app
from cli.config import load, node_config
from cli.exits import Exit, StartError, check_port, explain
from cli.main import START_FLAGS, main, plain_start, with_default_command
from cli.start import prepare_directory, tell_ready
from wal.errors import DataDirectoryError, FlushError, InvariantError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("CHRONIK_"):
            monkeypatch.delenv(name)


def run_main(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    captured = capsys.readouterr()
    return caught.value.code or 0, captured.out, captured.err


def test_version():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
    for arguments in (["version"], ["--version"]):
        result = CliRunner().invoke(app, arguments)
        assert (result.exit_code, result.stdout.strip()) == (0, describe())
    assert re.match(rf"chronik-server {re.escape(VERSION)} \(Kafka protocol [0-9.]+, Raft protocol [0-9]+", describe())


def test_no_command_means_start():
    assert with_default_command([]) == ["start"]
    assert with_default_command(["--kafka-port", "1"]) == ["start", "--kafka-port", "1"]
    assert with_default_command(["--version"]) == ["--version"]
    assert with_default_command(["dev"]) == ["dev"]


def test_a_plain_start_is_parsed_as_the_full_parser_does(monkeypatch, capsys, tmp_path):
    path = tmp_path / "chronik.toml"
    path.write_text("")
    arguments = ["start", "--config", str(path)]
    values = {"int": "7", "text": "1.2.3.4:9"}
    for flag, key in START_FLAGS.items():
        arguments += [flag, {"log": "debug", "log_format": "json"}.get(key, values["int"] if "port" in flag or "id" in flag else values["text"])]
    arguments[arguments.index("--admin-port") + 1] = "8"
    assert plain_start(arguments)[0] == str(path)
    seen = []
    monkeypatch.setattr(start_module, "run", lambda settings: seen.append(settings) or Exit.OK)
    assert run_main(arguments, capsys)[0] == 0
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert seen[0] == seen[1]
    assert all(seen[0].origins[key] == "flag" for key in START_FLAGS.values())
    for other in (
        ["start", "--help"],
        ["start", "--kafka-port", "1", "--kafka-port", "2"],
        ["start", "--seed", "1@a:1"],
        ["start", "--log", "--help"],
        ["dev"],
    ):
        assert plain_start(other) is None


def test_start_hands_its_flags_over(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(start_module, "run", lambda settings: seen.append(settings) or Exit.DATA_DIRECTORY)
    arguments = [
        "--kafka-port",
        "1234",
        "--seed",
        "1@a:1",
        "--seed",
        "2@b:2",
        "--set",
        "cluster.raft.max_in_flight=5",
        "--kafka-setting",
        "num.partitions=3",
    ]
    assert run_main(arguments, capsys)[0] == Exit.DATA_DIRECTORY
    settings = seen[0]
    assert (settings.values["kafka_port"], settings.origins["kafka_port"]) == (1234, "flag")
    assert settings.values["cluster.seed_nodes"] == ("1@a:1", "2@b:2")
    assert (settings.values["cluster.raft.max_in_flight"], settings.kafka) == (5, {"num.partitions": "3"})


def test_a_wrong_configuration_is_one_line_per_problem(tmp_path, capsys):
    path = tmp_path / "chronik.toml"
    path.write_text('kafka_prt = 1\n[cluster]\nseed_nodes = ["node1:9093"]\n')
    code, out, err = run_main(["config", "check", "--config", str(path)], capsys)
    assert (code, out) == (Exit.USAGE, "")
    assert err == f"error: unknown key 'kafka_prt' ({path}); did you mean 'kafka_port'?\n"
    path.write_text('[cluster]\nseed_nodes = ["node1:9093"]\n')
    assert run_main(["start", "--config", str(path)], capsys)[2] == "error: seed_nodes entry 'node1:9093' has no node id; write '1@node1:9093'\n"
    path.write_text("kafka_port = 9192\n")
    assert run_main(["config", "check", "--config", str(path)], capsys)[:2] == (0, f"configuration is valid ({path})\n")
    code, out, _ = run_main(["config", "print", "--origin", "--config", str(path)], capsys)
    assert f"kafka_port = 9192  # {path}" in out.splitlines()
    assert run_main(["start", "--set", "x"], capsys)[2] == "error: --set 'x' is not name=value\n"


def test_dev_refuses_unknown_kafka_settings(capsys):
    code, _, err = run_main(["dev", "--kafka-setting", "num.partition=3"], capsys)
    assert (code, err) == (Exit.USAGE, "error: unknown Kafka setting 'num.partition' (flag); did you mean 'num.partitions'?\n")
    assert run_main(["dev", "--format", "xml"], capsys)[2] == "error: --format is 'xml', but must be one of text, json\n"


def test_debug_of_a_missing_path(capsys):
    code, _, err = run_main(["debug", "wal-dump", "--path", "/does/not/exist"], capsys)
    assert code == Exit.USAGE
    assert err.startswith("error: /does/not/exist does not exist; ")


def test_a_taken_port_names_its_owner():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError) as caught:
            check_port("127.0.0.1", port, "--kafka-port")
    assert caught.value.code == Exit.PORT_IN_USE
    assert str(caught.value).startswith(f"Port {port} already in use by pid {os.getpid()} (")
    assert str(caught.value).endswith("); stop it or choose another with --kafka-port")
    check_port("127.0.0.1", port, "--kafka-port")


def test_a_data_directory_that_can_not_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"Data directory .* can not be used: Not a directory; make it writable") as caught:
        prepare_directory(single_node(tmp_path / "file" / "data"))
    assert caught.value.code == Exit.DATA_DIRECTORY
    prepare_directory(single_node(tmp_path / "data"))
    assert list((tmp_path / "data").iterdir()) == []


def test_known_errors_are_explained_also_inside_groups():
    group = BaseExceptionGroup("x", [ValueError("y"), BaseExceptionGroup("z", [DataDirectoryError("locked by pid 5")])])
    assert (explain(group).code, str(explain(group))) == (Exit.DATA_DIRECTORY, "locked by pid 5")
    assert explain(FlushError("fsync failed")).code == Exit.DISK
    assert explain(OSError(98, "Port 1 already in use")).code == Exit.PORT_IN_USE
    assert explain(OSError(28, "x")).code == Exit.DISK
    assert explain(PermissionError(13, "x", "/f")).code == Exit.DATA_DIRECTORY
    assert explain(InvariantError("x")) is None
    assert explain(ValueError("x")) is None


@pytest.fixture
def settings(tmp_path, monkeypatch):
    ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            ports.append(probe.getsockname()[1])
    flags = {"data_dir": str(tmp_path / "data"), "kafka_port": ports[0], "admin_port": ports[1], "kafka_host": "127.0.0.1", "admin_host": "127.0.0.1"}
    monkeypatch.setattr(start_module.logs, "configure", lambda *_: None)
    return load(flags, {}, None)


async def test_term_cancels_the_node_which_then_stops_in_order(settings):
    stopped = []

    async def run_node(config, on_ready, serve_admin):
        on_ready()
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(config.node_id)

    assert await start_module._supervise(node_config(settings), run_node) == Exit.OK
    assert stopped == [1]


def test_an_unexpected_error_is_logged_with_its_trace(settings, monkeypatch, caplog):
    def broken(config):
        raise RuntimeError("boom")

    monkeypatch.setattr(start_module, "_run_loop", broken)
    assert start_module.run(settings) == Exit.UNEXPECTED
    assert "Stopped by an unexpected error: RuntimeError: boom" in caplog.text

    def locked(config):
        raise DataDirectoryError("in use by pid 7")

    monkeypatch.setattr(start_module, "_run_loop", locked)
    caplog.clear()
    assert start_module.run(settings) == Exit.DATA_DIRECTORY
    assert "in use by pid 7" in caplog.text
    assert "Traceback" not in caplog.text


def test_readiness_is_told_to_systemd_and_to_the_pipe(tmp_path, monkeypatch):
    reading, writing = os.pipe()
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("CHRONIK_READY_FD", str(writing))
        tell_ready()
        assert notify.recv(100) == b"READY=1"
    assert os.read(reading, 100) == b"ready\n"
    assert os.read(reading, 100) == b""
    assert "CHRONIK_READY_FD" not in os.environ
    os.close(reading)


def test_starting_needs_neither_the_admin_libraries_nor_rich():
    code = (
        "import sys, cli.main, cli.start; print(sorted({'fastapi', 'uvicorn', 'rich', 'pydantic', 'prometheus_client', 'psutil'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"
