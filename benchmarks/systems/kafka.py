"""Apache Kafka in KRaft mode, three combined nodes (broker and controller), with its defaults and what replication by three needs.

The heap and the collector are those of its own start script. `flush` is the second column: log.flush.interval.messages=1, an fsync of each log on
every append, which is the nearest that it has to our promise.
"""

from __future__ import annotations

import base64
import subprocess
import uuid
from pathlib import Path

from benchmarks import jars
from benchmarks.processes import Children
from benchmarks.systems.base import StartError
from benchmarks.systems.processes import ProcessSystem

HEAP = ("-Xms1g", "-Xmx1g")
COLLECTOR = ("-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent")
LOGGING = """\
status = ERROR
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
"""


class Kafka(ProcessSystem):
    ports_per_node = 2  # clients and brokers, controllers

    def __init__(self, children: Children, flush: bool = False) -> None:
        super().__init__(children)
        self.flush = flush
        self.name = "kafka-flush" if flush else "kafka"

    def properties(self, node: int) -> dict[str, str]:
        """server.properties of a node."""
        client, controller = self.ports[node]
        voters = ",".join(f"{other}@127.0.0.1:{ports[1]}" for other, ports in self.ports.items())
        found = {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{client}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.node_directory(node) / "data"),
            "default.replication.factor": "3",
            "min.insync.replicas": "2",
            "offsets.topic.replication.factor": "3",
            "transaction.state.log.replication.factor": "3",
            "transaction.state.log.min.isr": "2",
        }
        return {**found, "log.flush.interval.messages": "1"} if self.flush else found

    def _properties_file(self, node: int) -> Path:
        return self.node_directory(node) / "server.properties"

    def prepare(self) -> None:
        jars.fetch()
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        formatting = []
        for node in self.ports:
            (self.node_directory(node) / "log4j2.properties").write_text(LOGGING)
            self._properties_file(node).write_text("".join(f"{key}={value}\n" for key, value in self.properties(node).items()))
            arguments = ("format", "--cluster-id", cluster, "--config", str(self._properties_file(node)))
            command = jars.java("kafka.tools.StorageTool", *arguments, options=("-XX:TieredStopAtLevel=1", *self._logging(node)))
            formatting.append(self._children.start(command, output=subprocess.PIPE))
        for process in formatting:
            output, _ = process.communicate(timeout=60)
            self._children.kill(process)
            if process.returncode:
                raise StartError(f"kafka.tools.StorageTool ended with {process.returncode}: {output.decode(errors='replace')[-800:]}")

    def _logging(self, node: int) -> tuple[str, ...]:
        return (f"-Dlog4j2.configurationFile={self.node_directory(node) / 'log4j2.properties'}",)

    def command(self, node: int) -> list[str]:
        options = (*HEAP, *COLLECTOR, "-Djava.awt.headless=true", *self._logging(node))
        return jars.java("kafka.Kafka", str(self._properties_file(node)), options=options)

    def about(self) -> dict[str, str]:
        found = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr.splitlines()
        durability = "an fsync of each log on every append" if self.flush else "page cache of all in-sync replicas, no fsync"
        return {"version": jars.VERSION, "jvm": found[0] if found else "unknown", "options": " ".join((*HEAP, *COLLECTOR)), "durability": durability}
