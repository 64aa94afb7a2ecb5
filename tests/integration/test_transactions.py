"""Transactions with unmodified clients on three real nodes: exactly once, aborts, fencing, time-outs; each also across kill -9 of a node."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from broker.coordinator.shards import partition_for
from broker.records.batch import TRANSACTIONAL_BIT
from broker.records.builder import build_batch
from broker.records.reader import Record
from tests.processes import ProcessCluster, wait_until

COORDINATORS = 3
ENVIRONMENT = {
    "CHRONIK_KAFKA__TRANSACTION_STATE_LOG_NUM_PARTITIONS": str(COORDINATORS),
    "CHRONIK_KAFKA__OFFSETS_TOPIC_NUM_PARTITIONS": str(COORDINATORS),
    "CHRONIK_KAFKA__GROUP_INITIAL_REBALANCE_DELAY_MS": "100",
}
ACCOUNTS = 4
START_BALANCE = 1_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with ProcessCluster(tmp_path_factory.mktemp("transactions"), environment=ENVIRONMENT) as running:
        yield running
        assert running.surprises() == []


@pytest.fixture(scope="module")
def admin(cluster: ProcessCluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": cluster.bootstrap})


def make_topic(admin: AdminClient, name: str, partitions: int = 1) -> str:
    admin.create_topics([NewTopic(name, partitions, 3)])[name].result(30)
    return name


def transactional(cluster: ProcessCluster, name: str, **more: Any) -> Producer:
    made = Producer({"bootstrap.servers": cluster.bootstrap, "transactional.id": name, "linger.ms": 1, "transaction.timeout.ms": 20_000, **more})
    made.init_transactions(60)
    return made


def read_all(cluster: ProcessCluster, topic: str, partitions: int, isolation: str = "read_committed") -> list[Message]:
    """Everything up to the end that this isolation sees, by partition and offset."""
    consumer = Consumer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "group.id": "reader",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(partitions)])
    found: list[Message] = []
    ended: set[int] = set()
    deadline = time.monotonic() + 60
    try:
        while len(ended) < partitions:
            assert time.monotonic() < deadline, f"partitions {ended} of {partitions} ended"
            message = consumer.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error is None:
                found.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
    finally:
        consumer.close()
    return found


def values(messages: list[Message]) -> list[str]:
    return sorted((m.value() or b"").decode() for m in messages)


def in_transaction(producer: Producer, work: Callable[[], None], attempts: int = 30) -> bool:
    """Run `work` in a transaction until it is committed; False when the producer is fenced. Raises any other fatal error."""
    for _ in range(attempts):
        try:
            producer.begin_transaction()
            work()
            commit(producer)
        except KafkaException as caught:
            error = caught.args[0]
            if error.fatal():
                if error.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED):
                    return False
                raise
            retried(lambda: producer.abort_transaction(30))
            continue
        return True
    raise AssertionError("no transaction went through")


def commit(producer: Producer) -> None:
    retried(lambda: producer.commit_transaction(30))


def retried(step: Callable[[], None]) -> None:
    """librdkafka's rule: a retriable error of a step is answered by the same step."""
    for _ in range(20):
        try:
            step()
            return
        except KafkaException as caught:
            if not caught.args[0].retriable():
                raise
    step()


def coordinator_of(cluster: ProcessCluster, transactional_id: str) -> int:
    return cluster.partition_leader("__transaction_state", partition_for(transactional_id, COORDINATORS))


def kill_and_restart(cluster: ProcessCluster, node: int) -> None:
    assert node, "somebody leads"
    cluster.nodes[node].kill()
    time.sleep(2.0)
    cluster.nodes[node].start()
    cluster.wait_ready()


def no_transaction_hangs(cluster: ProcessCluster, topic: str, partitions: int) -> None:
    """Every marker is written: read_committed readers reach the end."""
    plain = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "a", "isolation.level": "read_uncommitted"})
    stable = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "b", "isolation.level": "read_committed"})

    def reached() -> bool:
        places = [TopicPartition(topic, partition) for partition in range(partitions)]
        return all(plain.get_watermark_offsets(p, 5)[1] == stable.get_watermark_offsets(p, 5)[1] for p in places)

    try:
        wait_until(f"the end of all transactions on {topic}", reached, 40)
    finally:
        plain.close()
        stable.close()


# -- read_committed ---------------------------------------------------------------------------------------------------


def test_read_committed_sees_whole_transactions_and_no_aborted_ones(cluster: ProcessCluster, admin: AdminClient) -> None:
    topic = make_topic(admin, "visible", 3)
    producer = transactional(cluster, "visible-1")
    committed = []
    for number in range(12):
        producer.begin_transaction()
        for partition in range(3):
            producer.produce(topic, f"{number}-{partition}", partition=partition)
        producer.flush(20)
        if number % 3 == 2:
            producer.abort_transaction(20)
        else:
            producer.commit_transaction(20)
            committed += [f"{number}-{partition}" for partition in range(3)]
    assert values(read_all(cluster, topic, 3)) == sorted(committed)
    assert len(read_all(cluster, topic, 3, "read_uncommitted")) == 36
    producer.begin_transaction()
    producer.produce(topic, "open", partition=0)
    producer.flush(20)
    assert values(read_all(cluster, topic, 3)) == sorted(committed), "an open transaction is not shown"
    producer.commit_transaction(20)
    assert values(read_all(cluster, topic, 3)) == sorted([*committed, "open"])


def test_kafka_python(cluster: ProcessCluster, admin: AdminClient) -> None:
    from kafka import KafkaConsumer, KafkaProducer
    from kafka import TopicPartition as Place

    topic = make_topic(admin, "with-kafka-python")
    producer = KafkaProducer(bootstrap_servers=cluster.bootstrap, transactional_id="kafka-python-1", acks="all")
    producer.init_transactions()
    for number in range(6):
        producer.begin_transaction()
        sent = producer.send(topic, f"{number}".encode(), partition=0)
        producer.flush()
        sent.get(20)
        if number % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    producer.close()
    consumer = KafkaConsumer(
        bootstrap_servers=cluster.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest", consumer_timeout_ms=5_000
    )
    consumer.assign([Place(topic, 0)])
    found = []
    for record in consumer:
        found.append(record.value.decode())
        if len(found) == 3:
            break
    assert found == ["0", "2", "4"]
    consumer.close()


def test_aiokafka(cluster: ProcessCluster, admin: AdminClient) -> None:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    topic = make_topic(admin, "with-aiokafka", 2)

    async def run() -> list[str]:
        producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, transactional_id="aiokafka-1")
        await producer.start()
        for number in range(6):
            await producer.begin_transaction()
            for partition in range(2):
                await producer.send_and_wait(topic, f"{number}-{partition}".encode(), partition=partition)
            if number % 2:
                await producer.abort_transaction()
            else:
                await producer.commit_transaction()
        await producer.stop()
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=cluster.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest")
        await consumer.start()
        found = []
        while len(found) < 6:
            record = await asyncio.wait_for(consumer.getone(), 20)
            found.append(record.value.decode())
        await consumer.stop()
        return found

    assert sorted(asyncio.run(run())) == sorted(f"{n}-{p}" for n in (0, 2, 4) for p in range(2))


# -- fencing and time-outs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", ["", "coordinator", "leader"])
def test_a_zombie_is_fenced(cluster: ProcessCluster, admin: AdminClient, kill: str) -> None:
    topic, name = make_topic(admin, f"fenced-{kill}"), f"fenced-{kill}"
    zombie = transactional(cluster, name)
    zombie.begin_transaction()
    zombie.produce(topic, "never", partition=0)
    zombie.flush(20)
    if kill:
        kill_and_restart(cluster, coordinator_of(cluster, name) if kill == "coordinator" else cluster.partition_leader(topic))
    heir = transactional(cluster, name)
    assert in_transaction(heir, lambda: heir.produce(topic, "heir", partition=0))
    with pytest.raises(KafkaException) as caught:
        zombie.produce(topic, "late", partition=0)
        zombie.flush(20)
        zombie.commit_transaction(20)
    assert caught.value.args[0].fatal() or caught.value.args[0].txn_requires_abort()
    no_transaction_hangs(cluster, topic, 1)
    assert values(read_all(cluster, topic, 1)) == ["heir"]


@pytest.mark.parametrize("kill", ["", "coordinator", "leader"])
def test_an_open_transaction_times_out(cluster: ProcessCluster, admin: AdminClient, kill: str) -> None:
    topic, name = make_topic(admin, f"timeout-{kill}"), f"timeout-{kill}"
    slow = transactional(cluster, name, **{"transaction.timeout.ms": 3_000})
    slow.begin_transaction()
    slow.produce(topic, "never", partition=0)
    slow.flush(20)
    if kill:
        kill_and_restart(cluster, coordinator_of(cluster, name) if kill == "coordinator" else cluster.partition_leader(topic))
    no_transaction_hangs(cluster, topic, 1)
    with pytest.raises(KafkaException):
        slow.produce(topic, "late", partition=0)
        slow.flush(20)
        slow.commit_transaction(20)
    no_transaction_hangs(cluster, topic, 1)
    assert values(read_all(cluster, topic, 1)) == []


# -- bank -------------------------------------------------------------------------------------------------------------


class Bank(threading.Thread):
    """Moves money between accounts, one partition each: both halves of a transfer in one transaction; every fourth is aborted on purpose."""

    def __init__(self, cluster: ProcessCluster, topic: str, name: str, stop: threading.Event) -> None:
        super().__init__(name=name)
        self.cluster, self.topic, self.stop = cluster, topic, stop
        self.committed: list[str] = []
        self.aborted: list[str] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            producer = transactional(self.cluster, self.name)
            number = 0
            while not self.stop.is_set():
                self._transfer(producer, f"{self.name}/{number}", number)
                number += 1
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failure = error

    def _transfer(self, producer: Producer, transfer: str, number: int) -> None:
        attempt = 0

        def work() -> None:
            nonlocal attempt
            attempt += 1
            source, target, amount = number % ACCOUNTS, (number * 7 + 1) % ACCOUNTS, 1 + number % 9
            for account, change in ((source, -amount), (target, amount)):
                record = {"id": transfer, "attempt": attempt, "change": change}
                producer.produce(self.topic, json.dumps(record), partition=account)

        if number % 4 == 3:
            try:
                producer.begin_transaction()
                work()
                producer.flush(20)
            finally:
                retried(lambda: producer.abort_transaction(30))
            self.aborted.append(transfer)
        else:
            assert in_transaction(producer, work), "nobody else has this transactional id"
            self.committed.append(transfer)


def check_bank(cluster: ProcessCluster, topic: str, banks: list[Bank]) -> int:
    """Sums hold, every committed transfer is there once and whole, no aborted one is."""
    halves: dict[str, list[tuple[int, int]]] = {}
    for message in read_all(cluster, topic, ACCOUNTS):
        record = json.loads(message.value() or b"")
        halves.setdefault(record["id"], []).append((record["attempt"], record["change"]))
    for transfer, found in halves.items():
        assert len(found) == 2 and found[0][0] == found[1][0], f"torn or doubled: {transfer}: {found}"
        assert sum(change for _, change in found) == 0
    committed = {transfer for bank in banks for transfer in bank.committed}
    assert committed <= halves.keys(), f"lost: {sorted(committed - halves.keys())[:5]}"
    assert not halves.keys() & {transfer for bank in banks for transfer in bank.aborted}
    return len(halves)


@pytest.mark.parametrize("kill", ["", "coordinator", "leader"])
def test_bank_transfers_keep_their_sum(cluster: ProcessCluster, admin: AdminClient, kill: str) -> None:
    topic = make_topic(admin, f"bank-{kill or 'quiet'}", ACCOUNTS)
    stop = threading.Event()
    banks = [Bank(cluster, topic, f"bank-{kill}-{number}", stop) for number in range(2)]
    for bank in banks:
        bank.start()
    wait_until("the first transfers", lambda: all(len(bank.committed) >= 5 or bank.failure for bank in banks))
    if kill:
        kill_and_restart(cluster, coordinator_of(cluster, banks[0].name) if kill == "coordinator" else cluster.partition_leader(topic))
    goals = [len(bank.committed) + 10 for bank in banks]
    wait_until("further transfers", lambda: all(len(bank.committed) >= goal or bank.failure for bank, goal in zip(banks, goals, strict=True)), 90)
    stop.set()
    for bank in banks:
        bank.join(90)
        assert bank.failure is None, bank.failure
    no_transaction_hangs(cluster, topic, ACCOUNTS)
    assert check_bank(cluster, topic, banks) >= 30


# -- consume, transform, produce --------------------------------------------------------------------------------------


class Transformer(threading.Thread):
    """A member of a group that copies records exactly once: output and offsets in one transaction."""

    def __init__(self, cluster: ProcessCluster, source: str, target: str, name: str, stop: threading.Event) -> None:
        super().__init__(name=name)
        self.cluster, self.source, self.target, self.stop = cluster, source, target, stop
        self.copied = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failure = error

    def _run(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self.cluster.bootstrap,
                "group.id": f"copy-{self.source}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": 10_000,
            }
        )
        producer = transactional(self.cluster, self.name)
        consumer.subscribe([self.source])
        try:
            while not self.stop.is_set():
                batch = [m for m in consumer.consume(20, 0.5) if m.error() is None]
                if batch and not self._copy(consumer, producer, batch):
                    for place in consumer.committed(consumer.assignment(), 30):
                        consumer.seek(TopicPartition(place.topic, place.partition, place.offset if place.offset >= 0 else OFFSET_BEGINNING))
        finally:
            consumer.close()

    def _copy(self, consumer: Consumer, producer: Producer, batch: list[Message]) -> bool:
        try:
            producer.begin_transaction()
            for message in batch:
                producer.produce(self.target, message.value(), partition=message.partition())
            places = {m.partition(): TopicPartition(self.source, m.partition(), (m.offset() or 0) + 1) for m in batch}
            retried(lambda: producer.send_offsets_to_transaction(list(places.values()), consumer.consumer_group_metadata(), 30))
            commit(producer)
        except KafkaException as caught:
            if caught.args[0].fatal():
                raise
            retried(lambda: producer.abort_transaction(30))
            return False
        self.copied += len(batch)
        return True


@pytest.mark.parametrize("kill", ["", "coordinator", "leader"])
def test_consume_transform_produce_exactly_once(cluster: ProcessCluster, admin: AdminClient, kill: str) -> None:
    partitions, count = 4, 400
    source = make_topic(admin, f"source-{kill or 'quiet'}", partitions)
    target = make_topic(admin, f"target-{kill or 'quiet'}", partitions)
    plain = Producer({"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True})
    stop = threading.Event()
    members = [Transformer(cluster, source, target, f"copy-{kill}-{number}", stop) for number in range(2)]
    for number in range(count // 2):
        plain.produce(source, f"{number}", partition=number % partitions)
    assert plain.flush(30) == 0
    for member in members:
        member.start()
    wait_until("the first copies", lambda: sum(m.copied for m in members) >= 50 or any(m.failure for m in members), 90)
    if kill:
        kill_and_restart(cluster, coordinator_of(cluster, members[0].name) if kill == "coordinator" else cluster.partition_leader(target))
    for number in range(count // 2, count):
        plain.produce(source, f"{number}", partition=number % partitions)
    assert plain.flush(60) == 0
    wait_until("all copies", lambda: sum(m.copied for m in members) >= count or any(m.failure for m in members), 120)
    stop.set()
    for member in members:
        member.join(60)
        assert member.failure is None, member.failure
    no_transaction_hangs(cluster, target, partitions)
    assert values(read_all(cluster, target, partitions)) == sorted(str(number) for number in range(count))


def test_aiokafka_copies_with_two_members(cluster: ProcessCluster, admin: AdminClient) -> None:
    """aiokafka names no member and generation (KIP-447): while members come and go, a record may be copied by both, as with Kafka."""
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    source, target, count = make_topic(admin, "source-aiokafka", 4), make_topic(admin, "target-aiokafka", 4), 200
    fill(cluster, source, count, 4)
    copied = [0]

    async def member(number: int) -> None:
        consumer = AIOKafkaConsumer(
            source,
            bootstrap_servers=cluster.bootstrap,
            group_id="copy-aiokafka",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, transactional_id=f"copy-aiokafka-{number}")
        await consumer.start()
        await producer.start()
        try:
            while copied[0] < count:
                batch = await consumer.getmany(timeout_ms=300, max_records=15)
                if not batch:
                    continue
                async with producer.transaction():
                    for place, records in batch.items():
                        for record in records:
                            await producer.send(target, record.value, partition=place.partition)
                    await producer.send_offsets_to_transaction({place: records[-1].offset + 1 for place, records in batch.items()}, "copy-aiokafka")
                copied[0] += sum(len(records) for records in batch.values())
        finally:
            await consumer.stop()
            await producer.stop()

    async def run() -> None:
        await asyncio.wait_for(asyncio.gather(*(member(number) for number in range(2))), 90)

    asyncio.run(run())
    no_transaction_hangs(cluster, target, 4)
    assert set(values(read_all(cluster, target, 4))) == {str(number) for number in range(count)}


def fill(cluster: ProcessCluster, topic: str, count: int, partitions: int) -> None:
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "enable.idempotence": True})
    for number in range(count):
        producer.produce(topic, f"{number}", partition=number % partitions)
    assert producer.flush(30) == 0


def test_admin_sees_transactions(cluster: ProcessCluster, admin: AdminClient) -> None:
    """DescribeTransactions, ListTransactions, DescribeProducers with kafka-python's admin client where it has them, else on the wire."""
    from broker.protocol._generated.describe_transactions import DescribeTransactionsRequest, DescribeTransactionsResponse
    from broker.protocol._generated.list_transactions import ListTransactionsRequest, ListTransactionsResponse

    topic, name = make_topic(admin, "described"), "described-1"
    producer = transactional(cluster, name)
    producer.begin_transaction()
    producer.produce(topic, "open", partition=0)
    producer.flush(20)
    port = cluster.nodes[coordinator_of(cluster, name)].kafka
    described = ask(port, 65, DescribeTransactionsRequest(transactional_ids=[name, "nobody"]), DescribeTransactionsResponse, 0)
    states = {one.transactional_id: one for one in described.transaction_states}
    assert (states[name].transaction_state, states[name].error_code) == ("Ongoing", 0)
    assert [(one.topic, one.partitions) for one in states[name].topics] == [(topic, [0])]
    assert states["nobody"].error_code in (105, 16)
    listed = ask(port, 66, ListTransactionsRequest(state_filters=["Ongoing", "Odd"]), ListTransactionsResponse, 1)
    assert listed.unknown_state_filters == ["Odd"]
    assert name in [one.transactional_id for one in listed.transaction_states]
    producer.abort_transaction(20)


def test_transaction_version_2_on_the_wire(cluster: ProcessCluster, admin: AdminClient) -> None:
    """KIP-890 as Java's clients do it: no AddPartitionsToTxn, the end bumps the epoch, TxnOffsetCommit adds the offsets' partition."""
    from broker.protocol._generated.end_txn import EndTxnRequest, EndTxnResponse
    from broker.protocol._generated.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
    from broker.protocol._generated.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
    from broker.protocol._generated.txn_offset_commit import (
        TxnOffsetCommitRequest,
        TxnOffsetCommitRequestPartition,
        TxnOffsetCommitRequestTopic,
        TxnOffsetCommitResponse,
    )

    topic, name, group = make_topic(admin, "version-2"), "version-2", "group-v2"
    transactional(cluster, name)  # makes the coordinators' topic
    plain = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": group, "enable.auto.commit": False})
    plain.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
    coordinator = cluster.nodes[coordinator_of(cluster, name)].kafka
    leader = cluster.nodes[cluster.partition_leader(topic)].kafka
    groups = cluster.nodes[cluster.partition_leader("__consumer_offsets", partition_for(group, COORDINATORS))].kafka

    def produce(producer_id: int, epoch: int, value: bytes) -> int:
        records = build_batch([Record(0, 1_700_000_000_000, None, value)], producer=(producer_id, epoch, 0), attributes=TRANSACTIONAL_BIT)
        data = [TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=0, records=bytes(records))])]
        request = ProduceRequest(transactional_id=name, acks=-1, timeout_ms=20_000, topic_data=data)
        return int(ask(leader, 0, request, ProduceResponse, 12).responses[0].partition_responses[0].error_code)

    def commit_offset(producer_id: int, epoch: int, offset: int) -> int:
        topics = [TxnOffsetCommitRequestTopic(name=topic, partitions=[TxnOffsetCommitRequestPartition(partition_index=0, committed_offset=offset)])]
        request = TxnOffsetCommitRequest(transactional_id=name, group_id=group, producer_id=producer_id, producer_epoch=epoch, topics=topics)
        return int(ask(groups, 28, request, TxnOffsetCommitResponse, 5).topics[0].partitions[0].error_code)

    def end(producer_id: int, epoch: int, commit: bool) -> tuple[int, int, int]:
        request = EndTxnRequest(transactional_id=name, producer_id=producer_id, producer_epoch=epoch, committed=commit)
        answer = ask(coordinator, 26, request, EndTxnResponse, 5)
        return answer.error_code, answer.producer_id, answer.producer_epoch

    given = ask(coordinator, 22, InitProducerIdRequest(transactional_id=name, transaction_timeout_ms=30_000), InitProducerIdResponse, 5)
    producer_id, epoch = given.producer_id, given.producer_epoch
    for number in range(5):
        assert produce(producer_id, epoch, f"{number}".encode()) == 0
        assert commit_offset(producer_id, epoch, 10 + number) == 0
        assert end(producer_id, epoch, number % 2 == 0) == (0, producer_id, epoch + 1)
        assert end(producer_id, epoch, number % 2 == 0)[0] in (0, 51), "a repetition"
        epoch += 1
        assert produce(producer_id, epoch - 1, b"late") in (47, 90), "fenced by the marker, or by the coordinator before it"
    assert end(producer_id, epoch, False) == (0, producer_id, epoch + 1), "an abort of nothing bumps, too"
    no_transaction_hangs(cluster, topic, 1)
    assert values(read_all(cluster, topic, 1)) == ["0", "2", "4"]
    assert plain.committed([TopicPartition(topic, 0)], 20)[0].offset == 14
    plain.close()


def ask(port: int, key: int, request: Any, response: Any, version: int) -> Any:
    """One request on a connection of its own; flexible versions only."""
    import socket
    import struct

    body = struct.pack(">hhih", key, version, 7, 4) + b"test" + b"\0" + request.encode(version)
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(struct.pack(">i", len(body)) + body)
        data = b""
        while len(data) < 4 or len(data) < 4 + struct.unpack(">i", data[:4])[0]:
            more = connection.recv(65536)
            assert more, "closed"
            data += more
    return response.decode(data, 9, version)[0]
