"""`chronik-server dev`: a real cluster as plain local processes on loopback, for trying out and for tests.

Owns: ports, directories and configuration files of the nodes, their processes, and telling what happens to them. A node that dies is
reported and stays down unless asked otherwise: a crash is never hidden. The nodes stop with this process, also when it is killed.
One asyncio loop, no threads of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cli.config import ConfigError
from cli.exits import Exit, StartError, check_port, describe_exit
from cli.keys import KEYS

HOST = "127.0.0.1"
PORT_STEP = 10
NODES_MAX = 9
STOP_SECONDS = 10.0
READY_SECONDS = 60.0
LOG_SIZE_MAX_BYTES = 16 * 1024 * 1024
RESTART_SECONDS, RESTART_SECONDS_MAX, HEALTHY_SECONDS = 1.0, 30.0, 60.0


@dataclass(frozen=True, slots=True)
class DevOptions:
    nodes: int = 3
    kafka_port: int = 9092
    admin_port: int = 8080
    data_dir: Path = Path("chronik-dev")
    output_format: str = "text"
    restart: bool = False
    kafka_settings: Mapping[str, str] = field(default_factory=dict)
    ready_seconds: float = READY_SECONDS


@dataclass(frozen=True, slots=True)
class NodePlan:
    """Where one node is: its ports and its directory."""

    node_id: int
    kafka_port: int
    admin_port: int
    directory: Path

    @property
    def raft_port(self) -> int:
        return self.kafka_port + 1

    @property
    def log_path(self) -> Path:
        return self.directory / "node.log"

    @property
    def config_path(self) -> Path:
        return self.directory / "chronik.toml"

    def describe(self, pid: int) -> dict[str, int | str]:
        addresses = {"kafka": f"{HOST}:{self.kafka_port}", "raft": f"{HOST}:{self.raft_port}", "admin": f"{HOST}:{self.admin_port}"}
        return {"node_id": self.node_id, "pid": pid, **addresses}


Command = Callable[[NodePlan], Sequence[str]]


def node_command(plan: NodePlan) -> Sequence[str]:
    """The command line of one node."""
    return [sys.executable, "-m", "cli.main", "start", "--config", str(plan.config_path)]


def make_plans(options: DevOptions) -> list[NodePlan]:
    """Ports and directories of all nodes. Raises ConfigError when they can not be."""
    if not 1 <= options.nodes <= NODES_MAX:
        raise ConfigError([f"--nodes is {options.nodes}, but must be from 1 to {NODES_MAX}"])
    root = options.data_dir.absolute()
    plans = [
        NodePlan(number, options.kafka_port + PORT_STEP * (number - 1), options.admin_port + PORT_STEP * (number - 1), root / f"node-{number}")
        for number in range(1, options.nodes + 1)
    ]
    ports = [port for plan in plans for port in (plan.kafka_port, plan.raft_port, plan.admin_port)]
    if max(ports) > 65_535 or min(ports) < 1:
        raise ConfigError([f"ports up to {max(ports)} would be needed; choose lower ones with --kafka-port and --admin-port"])
    twice = sorted({port for port in ports if ports.count(port) > 1})
    if twice:
        raise ConfigError([f"port {twice[0]} would be used twice; choose --kafka-port and --admin-port further apart"])
    held = len([path for path in root.glob("node-*") if path.is_dir()])
    if held > options.nodes:
        raise ConfigError([f"{options.data_dir} holds a cluster of {held} nodes; start it with --nodes {held} or choose another --data-dir"])
    return plans


def write_config(plan: NodePlan, plans: Sequence[NodePlan], kafka_settings: Mapping[str, str]) -> None:
    """The node's chronik.toml; also what a user needs to start this node alone."""
    copies = str(min(3, len(plans)))
    kafka = {
        "default.replication.factor": copies,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": "2" if len(plans) > 1 else "1",
        **kafka_settings,
    }
    seeds = [f"{other.node_id}@{HOST}:{other.raft_port}" for other in plans]
    lines = [
        f"kafka_host = {json.dumps(HOST)}",
        f"kafka_port = {plan.kafka_port}",
        f"admin_host = {json.dumps(HOST)}",
        f"admin_port = {plan.admin_port}",
        f"data_dir = {json.dumps(str(plan.directory / 'data'))}",
        "",
        "[cluster]",
        "enabled = true",
        f"node_id = {plan.node_id}",
        f'node_addr = "{HOST}:{plan.raft_port}"',
        f'advertised_node_addr = "{HOST}:{plan.raft_port}"',
        f"seed_nodes = {json.dumps(seeds)}",
        "",
        "[kafka]",
        *(f"{json.dumps(name)} = {json.dumps(value)}" for name, value in sorted(kafka.items())),
    ]
    plan.directory.mkdir(parents=True, exist_ok=True)
    beside = plan.config_path.with_suffix(".tmp")
    beside.write_text("\n".join(lines) + "\n")
    beside.replace(plan.config_path)


_FROM_FILE = (
    "kafka_host",
    "kafka_port",
    "admin_host",
    "admin_port",
    "data_dir",
    "advertised_host",
    "cluster.storage.wal_dir",
    "cluster.storage.snapshot_dir",
)


def node_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a node: ours, without what would override its file with the same value for every node."""
    names = (*_FROM_FILE, *(name for name in KEYS if name.startswith("cluster.") and name.count(".") == 1))
    hidden = {variable for name in names for variable in KEYS[name].env_names}
    return {name: value for name, value in env.items() if name not in hidden and name != "CHRONIK_CONFIG"}


class Node:
    """One node's process. Invariant: `process` is the last one started; `ready` is set once per process, by the process itself."""

    def __init__(self, plan: NodePlan, command: Command, env: Mapping[str, str]) -> None:
        self.plan = plan
        self.ready = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None
        self._command = command
        self._env = env

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Start the process, its output going to the end of its log file. It writes to a pipe when it serves."""
        self.ready = asyncio.Event()
        reading, writing = os.pipe()
        try:
            with _open_log(self.plan.log_path) as log:
                self.process = await asyncio.create_subprocess_exec(
                    *self._command(self.plan),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(writing,),
                    start_new_session=True,  # Ctrl-C reaches this command only, which then stops the nodes in order
                    env={**self._env, "CHRONIK_READY_FD": str(writing), "CHRONIK_PARENT_PID": str(os.getpid())},
                )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        asyncio.get_running_loop().add_reader(reading, self._on_pipe, reading, self.ready)

    def _on_pipe(self, reading: int, ready: asyncio.Event) -> None:
        if os.read(reading, 64):
            ready.set()
        asyncio.get_running_loop().remove_reader(reading)
        os.close(reading)

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    def last_words(self) -> str:
        """The last error line of its log, else the last line."""
        try:
            with self.plan.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 16_384))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        errors = [line for line in lines if "[ERROR]" in line]
        return (errors or lines or [""])[-1]


def _open_log(path: Path) -> BinaryIO:
    """The log, to be added to; one that has grown large is set aside first (one old one is kept)."""
    if path.exists() and path.stat().st_size > LOG_SIZE_MAX_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


class DevCluster:
    """All nodes, from start to stop. `say` takes reports for people (stderr), `show` the result (stdout)."""

    def __init__(self, options: DevOptions, command: Command = node_command, env: Mapping[str, str] = os.environ) -> None:
        self._options = options
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()
        self._plans = make_plans(options)
        clean = node_environment(env)
        self.nodes = [Node(plan, command, clean) for plan in self._plans]

    async def run(self) -> int:
        """Start all, tell when they are ready, then watch them until a signal. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        started = loop.time()
        try:
            self._prepare()
            for node in self.nodes:
                await node.start()
            code = await self._wait_ready()
            if code == Exit.OK and not self._stop.is_set():
                self._show_ready(loop.time() - started)
                code = await self._watch()
            return code
        finally:
            await self._stop_all()

    def stop(self) -> None:
        """First call: stop in order. Second: kill."""
        if self._stop.is_set():
            self._kill.set()
        self._stop.set()

    def _prepare(self) -> None:
        for plan in self._plans:
            check_port(HOST, plan.kafka_port, "--kafka-port")
            check_port(HOST, plan.raft_port, "--kafka-port (Raft takes the port behind it)")
            check_port(HOST, plan.admin_port, "--admin-port")
        for plan in self._plans:
            try:
                write_config(plan, self._plans, self._options.kafka_settings)
            except OSError as error:
                raise StartError(
                    Exit.DATA_DIRECTORY, f"{plan.directory} can not be written: {error.strerror}; choose another with --data-dir"
                ) from error

    async def _wait_ready(self) -> int:
        """Until every node has said that it serves; a node that ends before, or too long a wait, is a failure of the whole start."""
        waits = [asyncio.ensure_future(node.ready.wait()) for node in self.nodes]
        ready = asyncio.ensure_future(asyncio.wait(waits))
        ended = {asyncio.ensure_future(node.process.wait()): node for node in self.nodes if node.process is not None}
        stop = asyncio.ensure_future(self._stop.wait())
        done, _ = await asyncio.wait([ready, stop, *ended], timeout=self._options.ready_seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in (ready, stop, *waits, *ended):
            task.cancel()
        if ready in done or stop in done:
            return Exit.OK
        for task in ended:
            if task in done:
                return self._report_failed_start(ended[task])
        late = [node for node in self.nodes if not node.ready.is_set()]
        for node in late:
            self._say(f"node {node.plan.node_id} is not ready after {self._options.ready_seconds:.0f} s; see its log: {_shown(node.plan.log_path)}")
        return Exit.UNEXPECTED

    def _report_failed_start(self, node: Node) -> int:
        code = node.process.returncode if node.process is not None and node.process.returncode is not None else Exit.UNEXPECTED
        self._say(f"node {node.plan.node_id} stopped before it was ready ({describe_exit(code)}): {node.last_words()}")
        self._say(f"its log: {_shown(node.plan.log_path)}")
        return code if code > 0 else Exit.UNEXPECTED

    def _show_ready(self, seconds: float) -> None:
        servers = ",".join(f"{HOST}:{plan.kafka_port}" for plan in self._plans)
        if self._options.output_format == "json":
            result = {"bootstrap_servers": servers, "nodes": [node.plan.describe(node.pid) for node in self.nodes]}
            print(json.dumps(result, separators=(",", ":")), flush=True)
            return
        first = self._plans[0]
        lines = [
            f"Chronik: {len(self.nodes)} node{'s' if len(self.nodes) > 1 else ''} ready after {seconds:.1f} s. Ctrl-C stops all of them.",
            "",
            f"  bootstrap servers  {servers}",
            *(
                f"  node {plan.node_id}  pid {node.pid:<7}  kafka {HOST}:{plan.kafka_port}  raft {HOST}:{plan.raft_port}  admin http://{HOST}:{plan.admin_port}"
                for node, plan in zip(self.nodes, self._plans, strict=True)
            ),
            f"  data and logs      {_shown(self._options.data_dir.absolute())} (node-1/node.log)",
            "",
            f"  look:     curl http://{HOST}:{first.admin_port}/admin/cluster/members",
            f"  produce:  echo hello | kcat -b {HOST}:{first.kafka_port} -t greetings -P",
            f"  consume:  kcat -b {HOST}:{first.kafka_port} -t greetings -C -e",
        ]
        print("\n".join(lines), flush=True)

    async def _watch(self) -> int:
        """Report each death; with --restart start the node again, later each time. Ends at a signal, or when all are down for good."""
        watchers = [asyncio.ensure_future(self._watch_node(node)) for node in self.nodes]
        stop = asyncio.ensure_future(self._stop.wait())
        everyone = asyncio.ensure_future(asyncio.wait(watchers))
        await asyncio.wait([stop, everyone], return_when=asyncio.FIRST_COMPLETED)
        all_down = not self._stop.is_set()
        for task in (stop, everyone, *watchers):
            task.cancel()
        results = await asyncio.gather(*watchers, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        if all_down:
            self._say("all nodes are down; start the cluster again with the same command (its data is kept)")
            return Exit.UNEXPECTED
        return Exit.OK

    async def _watch_node(self, node: Node) -> None:
        loop = asyncio.get_running_loop()
        pause = RESTART_SECONDS
        while node.process is not None:
            since = loop.time()
            code = await node.process.wait()
            if self._stop.is_set():
                return
            place = f"node {node.plan.node_id} (pid {node.pid})"
            self._say(f"{place} died: {describe_exit(code)}; see its log: {_shown(node.plan.log_path)}")
            if not self._options.restart:
                again = f"{os.path.basename(sys.argv[0]) or 'chronik-server'} start --config {_shown(node.plan.config_path)}"
                self._say(f"node {node.plan.node_id} stays down; start it again with: {again}")
                return
            pause = RESTART_SECONDS if loop.time() - since > HEALTHY_SECONDS else min(pause * 2, RESTART_SECONDS_MAX)
            await asyncio.sleep(pause)
            await node.start()
            self._say(f"node {node.plan.node_id} was started again (pid {node.pid})")

    async def _stop_all(self) -> None:
        """TERM to all at once, KILL to what is left after STOP_SECONDS or a second signal."""
        running = [node for node in self.nodes if node.running]
        if not running:
            return
        for node in running:
            node.send(signal.SIGTERM)
        waits = [asyncio.ensure_future(node.process.wait()) for node in running if node.process is not None]
        killed = asyncio.ensure_future(self._kill.wait())
        everyone = asyncio.ensure_future(asyncio.wait(waits))
        await asyncio.wait([everyone, killed], timeout=STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        killed.cancel()
        for node in running:
            if node.running:
                self._say(f"node {node.plan.node_id} (pid {node.pid}) did not stop in time and is killed; see its log: {_shown(node.plan.log_path)}")
                node.send(signal.SIGKILL)
        await everyone

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _shown(path: Path) -> str:
    """A path as a user would type it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def run(options: DevOptions) -> int:
    """Run the cluster until a signal. Raises ConfigError and StartError for what the user can mend."""

    async def main() -> int:
        return await DevCluster(options).run()

    return asyncio.run(main())
