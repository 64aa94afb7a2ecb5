"""What nodes answer in the first moments of a topic and while leaders move, byte by byte.

An error that a client can not retry would end programs that do nothing wrong. The codes below are those that librdkafka 2.0.2 handles by itself in
these answers; with ListOffsets, for one, UNKNOWN_TOPIC_OR_PARTITION is not among them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from broker.errors import ErrorCode
from broker.protocol._generated import alter_partition_reassignments as reassign
from broker.protocol._generated import create_topics, elect_leaders
from tests.integration.support import wait_known
from tests.processes import ProcessCluster
from tests.wire import Wire

PARTITIONS = 3
Seen = Counter[tuple[str, str]]

RETRIED = {
    "Metadata": set[str](),
    "Metadata, partition": {"LEADER_NOT_AVAILABLE"},
    "ListOffsets": {"NOT_LEADER_OR_FOLLOWER", "OFFSET_NOT_AVAILABLE", "LEADER_NOT_AVAILABLE"},
    "Fetch": {"NOT_LEADER_OR_FOLLOWER", "FENCED_LEADER_EPOCH", "OFFSET_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PARTITION"},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with ProcessCluster(tmp_path_factory.mktemp("cluster"), faulty_disks=True) as running:
        yield running
        assert running.surprises() == []


def create(cluster: ProcessCluster, node: int, name: str) -> None:
    topic = create_topics.CreatableTopic(name=name, num_partitions=PARTITIONS, replication_factor=3)
    with Wire(cluster.nodes[node].kafka, 30) as wire:
        request = create_topics.CreateTopicsRequest(topics=[topic], timeout_ms=20_000)
        answer = wire.ask(request, create_topics.CreateTopicsResponse, 5)
    assert answer.topics[0].error_code == 0, answer


class Asker:
    """Asks one node about a topic, and the leaders that it names for its partitions; counts all answers."""

    def __init__(self, cluster: ProcessCluster, node: int) -> None:
        self.seen: Seen = Counter()
        self._wires = {number: Wire(one.kafka, 30) for number, one in cluster.nodes.items()}
        self._node = node

    def ask(self, topic: str) -> bool:
        """Whether the node knows the topic."""
        found = self._wires[self._node].topic(topic)
        self._count("Metadata", found.error_code)
        for partition in found.partitions:
            self._count("Metadata, partition", partition.error_code)
            if not partition.error_code:
                leader = self._wires[partition.leader_id]
                self._count("ListOffsets", leader.earliest(topic, partition.partition_index)[0])
                self._count("Fetch", leader.fetch(topic, 0, partition.partition_index)[0])
        return not found.error_code

    def close(self) -> None:
        for wire in self._wires.values():
            wire.__exit__()

    def _count(self, what: str, error: int) -> None:
        if error:
            self.seen[what, ErrorCode(error).name] += 1


def unretried(seen: Seen) -> dict[tuple[str, str], int]:
    return {key: count for key, count in seen.items() if key[1] not in RETRIED[key[0]]}


def on_all_nodes(cluster: ProcessCluster, work: object) -> Seen:
    """Run `work(asker)` for each node in a thread of its own; what all of them saw."""
    askers = [Asker(cluster, node) for node in cluster.nodes]
    threads = [threading.Thread(target=work, args=(asker,)) for asker in askers]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for asker in askers:
        asker.close()
    return sum((asker.seen for asker in askers), Counter())


def test_a_new_topic(cluster: ProcessCluster) -> None:
    """Also with one node whose disk is slow, which may learn of the topic after CreateTopics was answered: nothing else may be amiss with it."""
    total: Seen = Counter()
    for number in range(12):
        cluster.nodes[3].faults(flush_delay_ms=0 if number < 6 else 200)
        create(cluster, number % 3 + 1, name := f"new-{number}")

        def until_known(asker: Asker, topic: str = name) -> None:
            end = time.monotonic() + 20
            while not asker.ask(topic) and time.monotonic() < end:
                time.sleep(0.002)

        total += on_all_nodes(cluster, until_known)
        wait_known(cluster, name)
    cluster.nodes[3].faults()
    print(dict(total))
    late = total.pop(("Metadata", "UNKNOWN_TOPIC_OR_PARTITION"), 0)
    assert unretried(total) == {}, f"beside {late} answers of a node that did not know the topic yet"


def test_leaders_that_move(cluster: ProcessCluster) -> None:
    create(cluster, 1, "moving")
    wait_known(cluster, "moving")
    stop = threading.Event()

    def keep_asking(asker: Asker) -> None:
        while not stop.is_set():
            asker.ask("moving")
            time.sleep(0.002)

    moved: Seen = Counter()

    def move_leaders() -> None:
        with Wire(cluster.nodes[1].kafka, 30) as wire:
            for turn in range(1, 7):
                places = [
                    reassign.ReassignablePartition(partition_index=index, replicas=[(index + turn + k) % 3 + 1 for k in range(3)])
                    for index in range(PARTITIONS)
                ]
                topics = [reassign.ReassignableTopic(name="moving", partitions=places)]
                wire.ask(reassign.AlterPartitionReassignmentsRequest(topics=topics), reassign.AlterPartitionReassignmentsResponse, 0)
                time.sleep(0.3)
                asked = [elect_leaders.TopicPartitions(topic="moving", partitions=list(range(PARTITIONS)))]
                answer = wire.ask(elect_leaders.ElectLeadersRequest(topic_partitions=asked, timeout_ms=10_000), elect_leaders.ElectLeadersResponse, 2)
                for found in answer.replica_election_results[0].partition_result:
                    moved["ElectLeaders", ErrorCode(found.error_code).name] += 1
                time.sleep(0.2)

    def move() -> None:
        try:
            move_leaders()
        finally:
            stop.set()

    mover = threading.Thread(target=move)
    mover.start()
    seen = on_all_nodes(cluster, keep_asking)
    mover.join()
    print(dict(moved), dict(seen))
    assert moved["ElectLeaders", "NONE"] >= PARTITIONS, f"too few leaders moved: {dict(moved)}"
    assert unretried(seen) == {}
