"""Placement is balanced and rack-aware; a snapshot at any point and the rest of the log give the image of a straight replay."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.metadata import operations as o
from broker.metadata.assignment import BrokerLoad, place
from broker.metadata.image import BrokerImage
from broker.metadata.machine import MetadataMachine
from broker.metadata.records import decode_records, encode_records
from tests.unit.metadata.support import Replica, topic_id

NAMES = st.sampled_from(["a", "b", "c.d", "c_d", "__consumer_offsets", "!"])
IDS = st.integers(1, 6).map(topic_id)
NODES = st.integers(1, 5)
REPLICAS = st.lists(NODES, max_size=3).map(tuple)


def operations() -> st.SearchStrategy[o.Operation]:
    spec = st.builds(
        o.TopicSpec,
        name=NAMES,
        topic_id=IDS,
        partitions=st.integers(-1, 4),
        replication_factor=st.integers(-1, 3),
        configs=st.sampled_from([{}, {"retention.ms": "5"}]),
    )
    key = st.one_of(st.builds(o.TopicKey, name=NAMES), st.builds(o.TopicKey, topic_id=IDS))
    register = st.builds(
        o.RegisterBroker,
        node_id=NODES,
        host=st.sampled_from(["h", "i"]),
        port=st.just(9092),
        raft_address=st.just("r:1"),
        directory_id=st.sampled_from(["d", "e"]),
        rack=st.sampled_from([None, "x", "y"]),
        generation=st.integers(-1, 1),
    )
    change = st.builds(o.ConfigChange, key=st.just("retention.ms"), value=st.sampled_from([None, "1", "2"]))
    broker_change = st.builds(o.ConfigChange, key=st.just("log.retention.ms"), value=st.sampled_from([None, "1", "2"]))
    return st.one_of(
        register,
        st.builds(o.CreateTopics, st.lists(spec, max_size=3).map(tuple), st.booleans()),
        st.builds(o.DeleteTopics, st.lists(key, max_size=2).map(tuple)),
        st.builds(o.CreatePartitions, st.lists(st.builds(o.PartitionsSpec, NAMES, st.integers(0, 6)), max_size=2).map(tuple)),
        st.builds(o.ConfirmDeletion, NODES, st.lists(IDS, max_size=3).map(tuple)),
        st.builds(o.AssignReplicas, NAMES, st.integers(0, 3), REPLICAS),
        st.builds(
            o.AlterReassignments, st.lists(st.builds(o.Reassignment, NAMES, st.integers(0, 3), st.one_of(st.none(), REPLICAS)), max_size=2).map(tuple)
        ),
        st.builds(o.SettleReassignment, IDS, st.integers(0, 1), REPLICAS),
        st.builds(o.ConfirmRemovals, NODES, st.lists(IDS.map(lambda topic: topic + bytes(4)), max_size=2).map(tuple)),
        st.builds(o.UnregisterBroker, NODES),
        st.builds(o.AllocateProducerIds),
        st.builds(o.SetConfigs, st.just(2), NAMES, st.lists(change, max_size=2).map(tuple)),
        st.builds(o.SetConfigs, st.just(4), st.sampled_from(["", "1"]), st.lists(broker_change, max_size=2).map(tuple)),
        st.builds(o.BumpGeneration, NODES, IDS.map(lambda topic: topic + bytes(4)), st.integers(0, 1)),
        st.builds(o.CreateCluster, st.sampled_from(["k", "l"])),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(operations(), max_size=4), max_size=8), st.data())
def test_snapshot_and_rest_equal_straight_replay(batches: list[list[o.Operation]], data: st.DataObject) -> None:
    leader = Replica()
    leader.lead()
    leader.register(3)
    snapshots = []
    request = 0
    for batch in batches:
        answers = []
        for operation in batch:
            request += 1
            answers.append(leader.submit(operation, request.to_bytes(16, "big")))
        leader.settle()
        assert all(len(answer) == 1 for answer in answers)
        snapshots.append((leader.machine.applied_index, leader.machine.snapshot()))
    follower = MetadataMachine()
    follower.apply(leader.log)
    assert follower.image == leader.machine.image
    assert list(follower.image.answers.items()) == list(leader.machine.image.answers.items())
    for topic in follower.image.topics.values():
        assert follower.image.topics_by_id[topic.topic_id] is topic
        assert topic.topic_id not in follower.image.deleting
    assert len(follower.image.topics) == len(follower.image.topics_by_id)
    if snapshots:
        index, snapshot = data.draw(st.sampled_from(snapshots))
        late = MetadataMachine()
        late.install(index, snapshot)
        late.apply(leader.log[index:])
        assert late.image == follower.image
        assert late.snapshot() == MetadataMachine.snapshot(_installed(index, snapshot)) or late.applied_index > index


def _installed(index: int, snapshot: bytes) -> MetadataMachine:
    machine = MetadataMachine()
    machine.install(index, snapshot)
    return machine


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(operations(), max_size=3), max_size=5))
def test_records_survive_their_encoding(batches: list[list[o.Operation]]) -> None:
    leader = Replica()
    leader.lead()
    leader.register(3)
    for batch in batches:
        for operation in batch:
            leader.submit(operation)
        leader.settle()
    for entry in leader.log:
        if entry.record_count:
            records = decode_records(entry.payload())
            assert len(records) == entry.record_count
            assert encode_records(records) == entry.payload()


def cluster(racks: list[str | None]) -> dict[int, BrokerImage]:
    return {n: BrokerImage(n, "h", 1, "a", rack=rack) for n, rack in enumerate(racks, 1)}


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 5), st.binary(min_size=16, max_size=16))
def test_placement_without_racks_is_balanced(brokers: int, count: int, factor: int, topic: bytes) -> None:
    factor = min(factor, brokers)
    placed = place(cluster([None] * brokers), BrokerLoad(), topic, (), count, factor)
    assert placed == place(cluster([None] * brokers), BrokerLoad(), topic, (), count, factor)
    assert len(placed) == count and all(len(set(p)) == factor for p in placed)
    leaders = Counter(p[0] for p in placed)
    replicas = Counter(b for p in placed for b in p)
    assert max(leaders.values()) - min(leaders[b] for b in range(1, brokers + 1)) <= 1
    assert max(replicas.values()) - min(replicas[b] for b in range(1, brokers + 1)) <= 1


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 4), st.integers(1, 3), st.integers(1, 40), st.integers(1, 5), st.binary(min_size=16, max_size=16))
def test_placement_with_racks(racks: int, per_rack: int, count: int, factor: int, topic: bytes) -> None:
    brokers = cluster([f"rack{n % racks}" for n in range(racks * per_rack)])
    factor = min(factor, len(brokers))
    placed = place(brokers, BrokerLoad(), topic, (), count, factor)
    for replicas in placed:
        assert len({brokers[b].rack for b in replicas}) == min(factor, racks)
    leaders = Counter(p[0] for p in placed)
    replicas_of = Counter(b for p in placed for b in p)
    assert max(leaders.values()) - min(leaders[b] for b in brokers) <= 1
    assert max(replicas_of.values()) - min(replicas_of[b] for b in brokers) <= 2


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=60))
def test_many_small_topics_spread(brokers: int, topics: list[bytes]) -> None:
    load = BrokerLoad()
    images = cluster([None] * brokers)
    for topic in topics:
        place(images, load, topic, (), 1, min(2, brokers))
    counts = [load.leaders.get(b, 0) for b in images]
    assert max(counts) - min(counts) <= 1
    assert max(load.replicas.get(b, 0) for b in images) - min(load.replicas.get(b, 0) for b in images) <= 2


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 6), st.integers(1, 20), st.sets(st.integers(1, 6)), st.binary(min_size=16, max_size=16))
def test_brokers_that_are_down_do_not_lead(brokers: int, count: int, down: set[int], topic: bytes) -> None:
    images = cluster([None] * brokers)
    placed = place(images, BrokerLoad(), topic, (), count, 2, frozenset(down))
    if set(images) - down:
        assert not {p[0] for p in placed} & down


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 12), st.binary(min_size=16, max_size=16))
def test_added_partitions_go_on_where_the_others_ended(brokers: int, first: int, added: int, topic: bytes) -> None:
    images = cluster([None] * brokers)
    load = BrokerLoad()
    existing = place(images, load, topic, (), first, 1)
    rest = place(images, load, topic, existing, added, 1)
    leaders = Counter(p[0] for p in existing + rest)
    assert max(leaders.values()) - min(leaders[b] for b in images) <= 1
