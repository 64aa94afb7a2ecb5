"""`python -m tests.conformance.java [tool ...]`: Kafka's own command line tools and a Streams program against our three-node cluster.

The jars come from Maven Central by the ordinary `mvn` into `.venv/conformance/java`; without `java` or `mvn` it is skipped, and says so. Each tool is
run as its user would run it; a check fails when the tool fails or its output lacks what it must tell. Parts of names choose among the checks.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.processes import ROOT, ProcessCluster, wait_until

HERE = Path(__file__).parent
JARS = ROOT / ".venv" / "conformance" / "java" / "kafka-4.3.0"
JVM = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dlog4j2.level=ERROR")
TOOLS = "org.apache.kafka.tools"


def fetch() -> None:
    """The jars, if they are not here yet."""
    if not JARS.is_dir():
        command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies", "-DincludeScope=runtime"]
        subprocess.run([*command, f"-DoutputDirectory={JARS}"], check=True)


class Failed(Exception):
    """A tool did not do what it must."""


class Cluster:
    """Runs tools against one running cluster; `folder` is for their files."""

    def __init__(self, cluster: ProcessCluster, folder: Path) -> None:
        self.processes = cluster
        self.bootstrap = cluster.bootstrap
        self.folder = folder

    def java(self, *arguments: str, text: str = "", seconds: int = 90, status: int | None = 0) -> str:
        """Output of a JVM, both streams. Raises Failed for another exit status than `status`."""
        command = ["java", *JVM, "-cp", f"{JARS}/*", *arguments]
        try:
            done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"did not end in {seconds} s: {str(error.stdout or '')[-300:]} {str(error.stderr or '')[-300:]}") from None
        output = done.stdout + done.stderr
        if status is not None and done.returncode != status:
            raise Failed(f"exit status {done.returncode}: {output.strip()[-700:]}")
        return output

    def tool(self, name: str, *arguments: str, text: str = "", seconds: int = 90, must: str = "", status: int | None = 0) -> str:
        """A tool with --bootstrap-server; its output must match `must`."""
        output = self.java(
            name if "." in name else f"{TOOLS}.{name}", "--bootstrap-server", self.bootstrap, *arguments, text=text, seconds=seconds, status=status
        )
        if must and not re.search(must, output):
            raise Failed(f"{must!r} is missing in: {output.strip()[-700:]}")
        return output

    def topic(self, name: str, partitions: int = 3) -> str:
        self.tool("TopicCommand", "--create", "--if-not-exists", "--topic", name, "--partitions", str(partitions), "--replication-factor", "3")
        return name

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


def kafka_topics(c: Cluster) -> None:
    c.tool("TopicCommand", "--create", "--topic", "java", "--partitions", "2", "--replication-factor", "3", must="Created topic java")
    c.tool("TopicCommand", "--list", must=r"(?m)^java$")
    c.tool("TopicCommand", "--alter", "--topic", "java", "--partitions", "4")
    c.tool("TopicCommand", "--describe", "--topic", "java", must=r"PartitionCount: 4\s+ReplicationFactor: 3")
    c.tool("TopicCommand", "--describe", "--under-replicated-partitions")
    c.tool("TopicCommand", "--create", "--topic", "java", status=1, must="already exists")
    c.tool("TopicCommand", "--delete", "--topic", "java")


def kafka_configs(c: Cluster) -> None:
    topic = c.topic("configured")
    command = "kafka.admin.ConfigCommand"
    c.tool(command, "--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", "retention.ms=5000", must="Completed updating")
    c.tool(command, "--describe", "--entity-type", "topics", "--entity-name", topic, must=r"retention\.ms=5000")
    c.tool(command, "--alter", "--entity-type", "topics", "--entity-name", topic, "--delete-config", "retention.ms", must="Completed updating")
    c.tool(command, "--alter", "--entity-type", "brokers", "--entity-default", "--add-config", "message.max.bytes=2000000", must="Completed updating")
    c.tool(command, "--describe", "--entity-type", "brokers", "--entity-default", must=r"message\.max\.bytes=2000000")
    c.tool(
        command,
        "--describe",
        "--entity-type",
        "brokers",
        "--entity-name",
        "1",
        "--all",
        must=r"message\.max\.bytes=2000000.*DYNAMIC_DEFAULT_BROKER_CONFIG",
    )
    c.tool(command, "--alter", "--entity-type", "brokers", "--entity-default", "--delete-config", "message.max.bytes", must="Completed updating")
    c.tool(command, "--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", "retention.ms=x", status=1, must="Invalid value")


def kafka_get_offsets(c: Cluster) -> None:
    topic = c.topic("offsets", 1)
    c.tool("ConsoleProducer", "--topic", topic, text="a\nb\nc\n")
    c.tool("GetOffsetShell", "--topic", topic, must="offsets:0:3")
    c.tool("GetOffsetShell", "--topic", topic, "--time", "earliest", must="offsets:0:0")
    c.tool("GetOffsetShell", "--topic", topic, "--time", "max-timestamp", must=r"offsets:0:\d")


def kafka_console(c: Cluster) -> None:
    topic = c.topic("console", 1)
    c.tool("ConsoleProducer", "--topic", topic, "--property", "parse.key=true", "--property", "key.separator=:", text="k:first\nk:second\n")
    command = f"{TOOLS}.consumer.ConsoleConsumer"
    c.tool(command, "--topic", topic, "--from-beginning", "--max-messages", "2", "--timeout-ms", "30000", must="first\nsecond")


def _last_figures(output: str) -> str:
    return [line for line in output.strip().splitlines() if not line.startswith("SLF4J") and line[:1].isdigit()][-1]


def kafka_producer_perf_test(c: Cluster) -> None:
    topic = c.topic("perf")
    properties = ["--producer-props", f"bootstrap.servers={c.bootstrap}", "acks=all"]
    arguments = ["--topic", topic, "--num-records", "20000", "--record-size", "1000", "--throughput", "-1", *properties]
    output = c.java(f"{TOOLS}.ProducerPerformance", *arguments)
    if "20000 records sent" not in output:
        raise Failed(output[-500:])
    print("   ", _last_figures(output))


def kafka_consumer_perf_test(c: Cluster) -> None:
    topic = c.topic("perf")
    output = c.tool("ConsumerPerformance", "--topic", topic, "--num-records", "10000", "--timeout", "30000", must=r"\d+\.\d+")
    print("   ", _last_figures(output))


def kafka_verifiable(c: Cluster) -> None:
    topic = c.topic("verifiable", 1)
    c.tool("VerifiableProducer", "--topic", topic, "--max-messages", "500", must='"acked":500')
    command = ["--topic", topic, "--group-id", "verifiers", "--max-messages", "500", "--reset-policy", "earliest"]
    output = c.tool("VerifiableConsumer", *command)
    consumed = sum(json.loads(line)["count"] for line in output.splitlines() if '"records_consumed"' in line)
    if consumed < 500:
        raise Failed(f"consumed {consumed} of 500: {output[-500:]}")


def kafka_consumer_groups(c: Cluster) -> None:
    topic = c.topic("grouped", 1)
    c.tool("ConsoleProducer", "--topic", topic, text="a\nb\nc\n")
    consumer = f"{TOOLS}.consumer.ConsoleConsumer"
    c.tool(consumer, "--topic", topic, "--group", "javas", "--from-beginning", "--max-messages", "2", "--timeout-ms", "30000")
    command = f"{TOOLS}.consumer.group.ConsumerGroupCommand"
    c.tool(command, "--list", must="javas")
    c.tool(command, "--describe", "--group", "javas", must=r"javas\s+grouped\s+0\s+\d\s+3")
    c.tool(command, "--describe", "--group", "javas", "--state", must="Empty")
    reset = ["--group", "javas", "--topic", topic, "--reset-offsets", "--to-earliest", "--execute"]
    c.tool(command, *reset, must=r"javas\s+grouped\s+0\s+0")
    c.tool(command, "--delete-offsets", "--group", "javas", "--topic", topic, must="Successful")
    c.tool(command, "--delete", "--group", "javas", must="successful")
    c.tool("GroupsCommand", "--list")


def kafka_reassign_partitions(c: Cluster) -> None:
    topic = c.topic("moved", 2)
    c.tool("ConsoleProducer", "--topic", topic, text="x\n" * 100)
    command = f"{TOOLS}.reassign.ReassignPartitionsCommand"
    topics = c.file("topics.json", json.dumps({"version": 1, "topics": [{"topic": topic}]}))
    c.tool(command, "--generate", "--topics-to-move-json-file", topics, "--broker-list", "1,2,3", must="Proposed partition reassignment")
    wishes = [{"topic": topic, "partition": 0, "replicas": [3, 1]}, {"topic": topic, "partition": 1, "replicas": [2, 3, 1]}]
    plan = c.file("plan.json", json.dumps({"version": 1, "partitions": wishes}))
    c.tool(command, "--execute", "--reassignment-json-file", plan, must="Successfully started")

    def complete() -> bool:
        return c.tool(command, "--verify", "--reassignment-json-file", plan).count("is completed") == 2

    wait_until("the reassignment", complete)
    c.tool(command, "--list", must="No partition reassignments found")
    c.tool("GetOffsetShell", "--topic", topic, must=r"moved:\d:\d+")


def kafka_transactions(c: Cluster) -> None:
    c.tool("TransactionsCommand", "list", must="TransactionalId")
    topic = c.topic("perf")
    arguments = ["--topic", topic, "--num-records", "2000", "--record-size", "100", "--throughput", "-1", "--transactional-id", "java-tx"]
    output = c.java(
        f"{TOOLS}.ProducerPerformance", *arguments, "--transaction-duration-ms", "200", "--producer-props", f"bootstrap.servers={c.bootstrap}"
    )
    if "2000 records sent" not in output:
        raise Failed(output[-500:])
    c.tool("TransactionsCommand", "list", must="java-tx")
    c.tool("TransactionsCommand", "list", "--transactional-id-pattern", "java-[t-z]+", must="java-tx")
    c.tool("TransactionsCommand", "list", "--transactional-id-pattern", "(", status=1)
    c.tool("TransactionsCommand", "describe", "--transactional-id", "java-tx", must="CompleteCommit|Empty")
    c.tool("TransactionsCommand", "describe-producers", "--topic", topic, "--partition", "0", must="ProducerId")


def kafka_log_dirs(c: Cluster) -> None:
    c.tool("LogDirsCommand", "--describe", "--broker-list", "1,2,3", must='"broker":3')


def kafka_delete_records(c: Cluster) -> None:
    topic = c.topic("shortened", 1)
    c.tool("ConsoleProducer", "--topic", topic, text="x\n" * 10)
    wish = {"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 4}]}
    c.tool("DeleteRecordsCommand", "--offset-json-file", c.file("delete.json", json.dumps(wish)), must="low_watermark: 4")


def kafka_leader_election(c: Cluster) -> None:
    c.tool("LeaderElectionCommand", "--election-type", "preferred", "--all-topic-partitions")


def kafka_metadata_quorum(c: Cluster) -> None:
    c.tool("MetadataQuorumCommand", "describe", "--status", must=r"CurrentVoters:\s+\[.*1.*2.*3")
    c.tool("MetadataQuorumCommand", "describe", "--replication", must="Leader")


def kafka_broker_api_versions(c: Cluster) -> None:
    c.tool("BrokerApiVersionsCommand", must=r"Produce\(0\)")


def kafka_cluster(c: Cluster) -> None:
    for command, must in (("list-endpoints", "127.0.0.1"), ("cluster-id", "Cluster ID")):
        output = c.java(f"{TOOLS}.ClusterTool", command, "--bootstrap-server", c.bootstrap)
        if must not in output:
            raise Failed(f"{must!r} is missing in: {output.strip()[-700:]}")


def kafka_features(c: Cluster) -> None:
    c.tool("FeatureCommand", "describe", must="metadata.version")


def client_compatibility_test(c: Cluster) -> None:
    """Told what this broker supports: everything but ACLs."""
    flags = ["--describe-acls-supported", "False", "--expect-record-too-large-exception", "False", "--num-cluster-nodes", "3"]
    for name in ("offsets-for-times", "cluster-id", "create-topics", "describe-configs", "idempotent-producer"):
        flags += [f"--{name}-supported", "True"]
    c.tool("ClientCompatibilityTest", "--topic", c.topic("compatible", 1), *flags)


def streams_word_count(c: Cluster) -> None:
    c.topic("words", 2)
    c.topic("counts", 2)
    c.tool("ConsoleProducer", "--topic", "words", text="all streams lead to kafka\nhello kafka streams\njoin kafka summit\n" * 50)
    output = c.java(str(HERE / "WordCount.java"), c.bootstrap, "words", "counts", str(c.folder / "state"), "30", seconds=120)
    if "DONE" not in output:
        raise Failed(output[-700:])
    consumer = f"{TOOLS}.consumer.ConsoleConsumer"
    command = [
        "--topic",
        "counts",
        "--from-beginning",
        "--property",
        "print.key=true",
        "--isolation-level",
        "read_committed",
        "--timeout-ms",
        "10000",
    ]
    counts: dict[str, int] = {}
    for line in c.tool(consumer, *command, status=None).splitlines():
        word, _, number = line.partition("\t")
        if number.isdigit():
            counts[word] = int(number)
    expected = {"kafka": 150, "streams": 100, "hello": 50, "summit": 50}
    if any(counts.get(word) != number for word, number in expected.items()):
        raise Failed(f"counted {counts}, expected {expected}")


CHECKS: dict[str, Callable[[Cluster], None]] = {
    "kafka-topics": kafka_topics,
    "kafka-configs": kafka_configs,
    "kafka-console-producer and -consumer": kafka_console,
    "kafka-get-offsets": kafka_get_offsets,
    "kafka-producer-perf-test": kafka_producer_perf_test,
    "kafka-consumer-perf-test": kafka_consumer_perf_test,
    "kafka-verifiable-producer and -consumer": kafka_verifiable,
    "kafka-consumer-groups": kafka_consumer_groups,
    "kafka-reassign-partitions": kafka_reassign_partitions,
    "kafka-log-dirs": kafka_log_dirs,
    "kafka-delete-records": kafka_delete_records,
    "kafka-leader-election": kafka_leader_election,
    "kafka-metadata-quorum": kafka_metadata_quorum,
    "kafka-broker-api-versions": kafka_broker_api_versions,
    "kafka-cluster": kafka_cluster,
    "kafka-features": kafka_features,
    "ClientCompatibilityTest": client_compatibility_test,
    "kafka-transactions": kafka_transactions,
    "Kafka Streams word count, exactly_once_v2": streams_word_count,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.java", description="Run Kafka's own tools against our cluster.")
    parser.add_argument("tools", nargs="*", help="parts of names of the checks to run; default all")
    options = parser.parse_args()
    missing = [name for name in ("java", "mvn") if shutil.which(name) is None]
    if missing:
        print(f"SKIPPED: {' and '.join(missing)} not found; Kafka's own tools were not run")
        return 0
    fetch()
    chosen = {name: check for name, check in CHECKS.items() if not options.tools or any(part in name for part in options.tools)}
    failed = 0
    with tempfile.TemporaryDirectory(prefix="conformance-java-") as directory, ProcessCluster(Path(directory) / "cluster", 3) as processes:
        cluster = Cluster(processes, Path(directory))
        for name, check in chosen.items():
            try:
                check(cluster)
                print(f"passed  {name}", flush=True)
            except (Failed, AssertionError) as error:
                failed += 1
                print(f"FAILED  {name}: {error}\n{processes.log_tails(10)}", flush=True)
        surprises = processes.surprises()
    for line in surprises:
        print(f"in the log of {line}")
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return int(failed > 0 or bool(surprises))


if __name__ == "__main__":
    sys.exit(main())
