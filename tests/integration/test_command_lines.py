"""`python -m kafka.admin`, every subcommand, on a real three-node cluster; `kafka.producer` and members of a group with `kafka.consumer` across a
kill -9 of the coordinator."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from kafka.cli.admin import DEFAULT_COMMAND_GROUPS, run_cli

from tests.integration.support import BackgroundProgram, make_topic, produce, producer_of, run_program
from tests.processes import ProcessCluster, wait_until

ENVIRONMENT = {
    "CHRONIK_KAFKA__OFFSETS_TOPIC_NUM_PARTITIONS": "1",
    "CHRONIK_KAFKA__TRANSACTION_STATE_LOG_NUM_PARTITIONS": "1",
    "CHRONIK_KAFKA__GROUP_INITIAL_REBALANCE_DELAY_MS": "100",
    "CHRONIK_KAFKA__GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
}
"""One coordinator for everything, so that one kill hits it."""
COORDINATOR = "__consumer_offsets"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with ProcessCluster(tmp_path_factory.mktemp("command-lines"), environment=ENVIRONMENT) as running:
        make_topic(running, "orders", 3)
        for partition in range(3):
            produce(producer_of(running), "orders", [b"%d" % number for number in range(10)], partition)
        yield running
        assert running.surprises() == []


class Failed(Exception):
    """The command ended with another status than 0; its text is what it printed."""


def admin(cluster: ProcessCluster, *arguments: str, json_output: bool = True) -> Any:
    """What `python -m kafka.admin` prints, by its entry point. Some can not write their result as JSON: theirs is read as Python prints it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = run_cli(["-b", cluster.bootstrap, "--format", "json" if json_output else "raw", *arguments])
    if status:
        raise Failed(printed.getvalue())
    return json.loads(printed.getvalue()) if json_output else printed.getvalue()


def refused(cluster: ProcessCluster, error: str, *arguments: str) -> None:
    with pytest.raises(Failed, match=error):
        admin(cluster, *arguments)


def test_as_a_process(cluster: ProcessCluster) -> None:
    command = [sys.executable, "-m", "kafka.admin", "-b", cluster.bootstrap, "--format", "json", "topics", "list"]
    assert "orders" in json.loads(run_program(cluster, *command))
    assert '"name": "orders"' in run_program(cluster, *command[:-1], "describe")


def test_topics(cluster: ProcessCluster) -> None:
    made = admin(cluster, "topics", "create", "-t", "made", "--num-partitions", "2", "--replication-factor", "3")
    assert (made["topics"][0]["error_code"], made["topics"][0]["num_partitions"]) == (0, 2)
    refused(cluster, "TopicAlreadyExists", "topics", "create", "-t", "made")
    refused(cluster, "InvalidTopic", "topics", "create", "-t", "bad/name")
    refused(cluster, "InvalidReplicationFactor", "topics", "create", "-t", "too-many", "--replication-factor", "9")
    assert "made" in admin(cluster, "topics", "list")
    (described,) = admin(cluster, "topics", "describe", "-t", "made")
    assert [len(one["replica_nodes"]) for one in described["partitions"]] == [3, 3] and all(one["leader_id"] > 0 for one in described["partitions"])
    (unknown,) = admin(cluster, "topics", "describe", "-t", "nowhere")
    assert unknown["error_code"] == 3
    (by_id,) = admin(cluster, "topics", "describe", "--id", described["topic_id"])
    assert by_id["name"] == "made"
    admin(cluster, "topics", "delete", "-t", "made")
    assert "made" not in admin(cluster, "topics", "list")
    refused(cluster, "UnknownTopicOrPartition", "topics", "delete", "-t", "made")


def test_cluster(cluster: ProcessCluster) -> None:
    described = admin(cluster, "cluster", "describe")
    assert {one["broker_id"] for one in described["brokers"]} == {1, 2, 3} and described["controller_id"] in (1, 2, 3)
    (partition,) = admin(cluster, "cluster", "describe-quorum")["topics"][0]["partitions"]
    assert {one["replica_id"] for one in partition["current_voters"]} == {1, 2, 3} and partition["leader_id"] in (1, 2, 3)
    assert admin(cluster, "cluster", "api-versions")["Fetch"] == [4, 18]
    assert admin(cluster, "cluster", "broker-version", "--broker", "2") == {"2": "4.3"}
    assert admin(cluster, "cluster", "describe-features")["metadata.version"]["finalized"][1] > 0
    sizes = [one for broker in admin(cluster, "cluster", "describe-log-dirs") for place in broker["log_dirs"] for one in place["topics"]]
    assert [one["name"] for one in sizes].count("orders") == 3
    moved = admin(cluster, "cluster", "alter-log-dirs", "-a", "orders:0:1=/nowhere")
    assert moved == {"orders:0:1": "LogDirNotFoundError"}


def test_configs(cluster: ProcessCluster) -> None:
    make_topic(cluster, "configured")
    topic = ("-r", "topic", "-n", "configured")

    def modified() -> dict[str, str]:
        found = admin(cluster, "configs", "describe", *topic, "--modified")["topic"]["configured"]
        return {name: one["value"] for name, one in found.items()}

    (one,) = admin(cluster, "configs", "describe", *topic, "-c", "retention.ms")["topic"]["configured"].values()
    assert (one["value"], one["config_source"], one["config_type"]) == ("604800000", "DEFAULT_CONFIG", "LONG")
    assert modified() == {}
    assert admin(cluster, "configs", "alter", *topic, "-c", "retention.ms=5000", "-c", "cleanup.policy=add(compact)") == {
        "topic": {"configured": "OK"}
    }
    assert modified() == {"retention.ms": "5000", "cleanup.policy": "delete,compact"}
    assert "InvalidConfiguration" in str(admin(cluster, "configs", "alter", *topic, "-c", "retention.ms=soon"))
    assert "InvalidConfiguration" in str(admin(cluster, "configs", "alter", *topic, "-c", "nonsense=1", "--allow-unknown"))
    admin(cluster, "configs", "alter", *topic, "-c", "retention.ms=1", "--validate-only")
    assert modified()["retention.ms"] == "5000"
    admin(cluster, "configs", "reset", *topic, "-c", "retention.ms")
    assert modified() == {"cleanup.policy": "delete,compact"}
    admin(cluster, "configs", "alter", "-r", "broker", "-n", "1", "-c", "message.max.bytes=2000000")
    (one,) = admin(cluster, "configs", "describe", "-r", "broker", "-n", "1", "-c", "message.max.bytes")["broker"]["1"].values()
    assert (one["value"], one["config_source"]) == ("2000000", "DYNAMIC_BROKER_CONFIG")
    admin(cluster, "configs", "reset", "-r", "broker", "-n", "1", "-c", "message.max.bytes")
    listed = admin(cluster, "configs", "list")
    assert "configured" in listed["topic"] and sorted(listed["broker"]) == ["1", "2", "3"]


def test_partitions(cluster: ProcessCluster) -> None:
    make_topic(cluster, "parts", 2)
    produce(producer_of(cluster), "parts", [b"x"] * 10, 0)
    admin(cluster, "partitions", "create", "-p", "parts:3")
    refused(cluster, "InvalidPartitions", "partitions", "create", "-p", "parts:2")
    describe = ("partitions", "describe", "-t", "parts")
    page = ast.literal_eval(re.sub(r"UUID\((.*?)\)", r"\1", admin(cluster, *describe, "--response-partition-limit", "2", json_output=False)))
    assert [one["partition_index"] for one in page["topics"][0]["partitions"]] == [0, 1]
    assert page["next_cursor"]["partition_index"] == 2
    page = admin(cluster, *describe, "--cursor-topic", "parts", "--cursor-partition", "2", json_output=False)
    assert "'partition_index': 2" in page and "'partition_index': 1" not in page and "'next_cursor': None" in page

    def offsets(spec: str) -> dict[str, int]:
        found = admin(cluster, "partitions", "list-offsets", "-t", "parts", "-s", spec)["parts"]
        return {partition: one["offset"] for partition, one in found.items()}

    assert offsets("latest") == {"0": 10, "1": 0, "2": 0} and offsets("earliest") == {"0": 0, "1": 0, "2": 0}
    assert offsets("max-timestamp")["0"] >= 0 and offsets("max-timestamp")["1"] == -1
    deleted = admin(cluster, "partitions", "delete-records", "-r", "parts:0:4", json_output=False)
    assert "'low_watermark': 4" in deleted, deleted
    assert offsets("earliest")["0"] == 4 and offsets("earliest-local")["0"] == 4
    refused(cluster, "OffsetOutOfRange", "partitions", "delete-records", "-r", "parts:0:400")
    assert admin(cluster, "partitions", "list-reassignments") == {}
    (described,) = admin(cluster, "topics", "describe", "-t", "parts")
    order = described["partitions"][0]["replica_nodes"]
    turned = [*order[1:], order[0]]
    assert admin(cluster, "partitions", "alter-reassignments", "-r", f"parts:0={','.join(map(str, turned))}") == {"parts:0": None}
    wait_until("the move", lambda: admin(cluster, "topics", "describe", "-t", "parts")[0]["partitions"][0]["replica_nodes"] == turned)
    assert admin(cluster, "partitions", "alter-reassignments", "-r", "parts:0=cancel") == {"parts:0": "NoReassignmentInProgressError"}
    assert admin(cluster, "partitions", "alter-reassignments", "-r", "parts:0=1,2,9") == {"parts:0": "InvalidReplicationAssignmentError"}
    admin(cluster, "partitions", "elect-leaders", "-p", "parts:0", "--no-raise-errors")
    wait_until("the preferred leader", lambda: cluster.partition_leader("parts", 0) == turned[0])


def test_groups(cluster: ProcessCluster) -> None:
    settings = {"bootstrap.servers": cluster.bootstrap, "enable.auto.commit": False, "log_level": 0}
    simple = Consumer({**settings, "group.id": "simple"})
    simple.commit(offsets=[TopicPartition("orders", 0, 3), TopicPartition("orders", 1, 4)], asynchronous=False)
    live = Consumer({**settings, "group.id": "live", "group.instance.id": "one", "auto.offset.reset": "earliest"})
    live.subscribe(["orders"])
    wait_until("the member", lambda: live.poll(0.2) or live.assignment())
    states = {one["group_id"]: (one["group_state"], one["group_type"]) for one in admin(cluster, "groups", "list")}
    assert states["simple"] == ("Empty", "classic") and states["live"] == ("Stable", "classic")
    assert [one["group_id"] for one in admin(cluster, "groups", "list", "--state", "stable")] == ["live"]
    assert admin(cluster, "groups", "list", "--type", "consumer") == []
    described = admin(cluster, "groups", "describe", "-g", "live", "-g", "nobody")
    assert described["live"]["members"][0]["group_instance_id"] == "one" and described["nobody"]["group_state"] == "Dead"
    assert described["live"]["members"][0]["member_assignment"]["assigned_partitions"] == [{"topic": "orders", "partitions": [0, 1, 2]}]
    assert admin(cluster, "groups", "list-offsets", "-g", "simple")["orders"]["0"]["lag"] == 7
    assert admin(cluster, "groups", "alter-offsets", "-g", "simple", "-o", "orders:0:7", "-o", "nowhere:0:1") == {
        "orders:0": "NoError",
        "nowhere:0": "UnknownTopicOrPartitionError",
    }
    assert admin(cluster, "groups", "alter-offsets", "-g", "live", "-o", "orders:0:7") == {"orders:0": "UnknownMemberIdError"}
    # Not --shift-by and --to-current: the tool looks for the partition in what it was told by group, and never finds it.
    for how, offset in ((("-s", "latest"), 10), (("--to-offset", "5"), 5), (("--by-duration", "PT1H"), 0)):
        reset = admin(cluster, "groups", "reset-offsets", "-g", "simple", "-p", "orders:0", *how)
        assert reset == {"orders": {"0": {"error": "NoError", "offset": offset}}}
    refused(cluster, "", "groups", "reset-offsets", "-g", "live", "-p", "orders:0", "-s", "earliest")  # says why in its log
    assert admin(cluster, "groups", "delete-offsets", "-g", "simple", "-p", "orders:1") == {"orders:1": "NoError"}
    assert set(admin(cluster, "groups", "list-offsets", "-g", "simple")["orders"]) == {"0"}
    assert admin(cluster, "groups", "delete-offsets", "-g", "live", "-p", "orders:1") == {"orders:1": "GroupSubscribedToTopicError"}
    assert admin(cluster, "groups", "delete", "-g", "simple", "-g", "live", "-g", "nobody") == {
        "simple": "OK",
        "live": "NonEmptyGroupError",
        "nobody": "GroupIdNotFoundError",
    }
    assert admin(cluster, "groups", "remove-members", "-g", "live", "-i", "one", "-i", "two") == {"one": "NoError", "two": "UnknownMemberIdError"}
    live.close()
    simple.close()


def test_transactions(cluster: ProcessCluster) -> None:
    writer = Producer({"bootstrap.servers": cluster.bootstrap, "transactional.id": "open", "log_level": 0})
    writer.init_transactions(30)
    writer.begin_transaction()
    writer.produce("orders", b"never", partition=2)
    writer.flush(30)
    listed = [one for broker in admin(cluster, "transactions", "list", "--state", "Ongoing").values() for one in broker]
    assert [(one["transactional_id"], one["state"]) for one in listed] == [("open", "Ongoing")]
    described = admin(cluster, "transactions", "describe", "--transactional-id", "open")["open"]
    assert described["state"] == "Ongoing" and described["topic_partitions"] == [{"topic": "orders", "partition": 2}]
    refused(cluster, "TransactionalIdNotFound", "transactions", "describe", "--transactional-id", "nobody")

    def producers() -> list[dict[str, int]]:
        found = admin(cluster, "transactions", "describe-producers", "-t", "orders", "-p", "2")["orders:2"]["active_producers"]
        return [one for one in found if one["producer_id"] == described["producer_id"]]

    (one,) = producers()
    assert one["current_transaction_start_offset"] == 10
    assert admin(cluster, "transactions", "find-hanging") == []
    numbers = ("--producer-id", str(one["producer_id"]), "--producer-epoch", str(one["producer_epoch"]))
    admin(cluster, "transactions", "abort", "-t", "orders", "-p", "2", *numbers)
    assert producers()[0]["current_transaction_start_offset"] == -1


@pytest.mark.parametrize("arguments", [("acls", "describe"), ("users", "describe-scram-credentials"), ("cluster", "update-features", "-f", "x=1")])
def test_what_is_not_served_is_refused_at_once(cluster: ProcessCluster, arguments: tuple[str, ...]) -> None:
    start = time.monotonic()
    refused(cluster, "(?i)does not support|unsupported", *arguments)
    assert time.monotonic() - start < 20


def test_every_subcommand_is_tested() -> None:
    """A later kafka-python may have more of them."""
    known = {(group.GROUP, command.COMMAND) for group in DEFAULT_COMMAND_GROUPS for command in group.COMMANDS}
    calls = [node for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.Call | ast.Tuple)]
    used = set()
    for node in calls:
        words = [one.value for one in (node.args if isinstance(node, ast.Call) else node.elts) if isinstance(one, ast.Constant)]
        used |= set(itertools.pairwise(words))
    same = {("acls", "create"), ("acls", "delete"), ("users", "alter-scram-credentials")}  # not served, as their siblings
    assert known - used - same == set()


def test_producer_and_consumers_of_kafka_python_outlive_their_coordinator(cluster: ProcessCluster, tmp_path: Path) -> None:
    """Two members in one group, one static, started as a user would; what a third process wrote before, while and after the coordinator is away."""
    topic = make_topic(cluster, "lines", 4)
    extra = ("-C", "auto_offset_reset=earliest", "-C", "auto_commit_interval_ms=200", "-C", "heartbeat_interval_ms=300")
    consumer = (sys.executable, "-u", "-m", "kafka.consumer", "-b", cluster.bootstrap, "-t", topic, "-g", "lines", *extra)
    with contextlib.ExitStack() as stack:
        members = []
        for name, static in (("one", ()), ("two", ("-i", "static-two"))):
            folder = tmp_path / name
            folder.mkdir()
            members.append(stack.enter_context(BackgroundProgram(cluster, folder, *consumer, *static)))

        def seen() -> list[str]:
            return [line for member in members for line in member.output.read_text().split()]

        def write(first: int, end: int) -> None:
            lines = "".join(f"{number}\n" for number in range(first, end))
            run_program(cluster, sys.executable, "-m", "kafka.producer", "-b", cluster.bootstrap, "-t", topic, "-C", "acks=all", text=lines)
            wait_until(f"{end} lines", lambda: len(set(seen())) >= end)

        write(0, 100)
        victim = cluster.nodes[cluster.wait_leader(COORDINATOR)]
        victim.kill()
        write(100, 200)
        victim.start()
        cluster.wait_ready()
        write(200, 300)
        assert sorted(seen(), key=int) == [str(number) for number in range(300)], "nothing twice: nobody left"
