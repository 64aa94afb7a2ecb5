"""confluent-kafka (librdkafka)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tests.integration.programs.clients import (
    HEARTBEAT_MS,
    PATIENCE_SECONDS,
    SESSION_TIMEOUT_MS,
    TRANSACTION_TIMEOUT_MS,
    AbortableError,
    FencedError,
    Reading,
    Traits,
)
from tests.integration.programs.journal import Member, Row, next_offsets

FENCED = {KafkaError._FENCED, KafkaError.FENCED_INSTANCE_ID, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError._FATAL}
GENERATION_OVER = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._NO_OFFSET,
}
PASSING = {
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._WAIT_COORD,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}
COMMON = {"socket.timeout.ms": 5000, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 300, "log_level": 0}


def patiently(step: Callable[[], Any]) -> Any:
    """Repeat `step` while its error says so."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return step()
        except KafkaException as caught:
            error = caught.args[0]
            if error.code() in FENCED:
                raise FencedError(str(error)) from None
            if error.txn_requires_abort():
                raise AbortableError(str(error)) from None
            if not (error.retriable() or error.code() in PASSING) or time.monotonic() > end:
                raise
            time.sleep(0.02)


class ConfluentReader:
    def __init__(self, bootstrap: str, reading: Reading, member: Member) -> None:
        self._reading, self._member = reading, member
        self._cooperative = reading.strategy.startswith("cooperative")
        self._owned: set[int] = set()
        self._sought: dict[int, int] = {}  # where the next record is expected; what was fetched before the seek may still come
        self._refused: dict[int, int] = {}  # in the midst of a rebalance; said again before the partition goes
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": reading.group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "heartbeat.interval.ms": HEARTBEAT_MS,
                "partition.assignment.strategy": reading.strategy,
                "isolation.level": "read_committed" if reading.read_committed else "read_uncommitted",
                "fetch.wait.max.ms": 50,
                **({"group.instance.id": reading.instance} if reading.instance else {}),
                **COMMON,
            }
        )
        self.consumer.subscribe([reading.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        new = {one.partition for one in partitions}
        self._owned |= new
        self._member.assigned(new)
        consumer.incremental_assign(partitions) if self._cooperative else consumer.assign(partitions)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {one.partition for one in partitions}
        again = {partition: offset for partition, offset in self._refused.items() if partition in gone}
        if again:
            self.commit(again)
        self._refused = {partition: offset for partition, offset in self._refused.items() if partition not in gone}
        self._owned -= gone
        self._sought = {partition: offset for partition, offset in self._sought.items() if partition not in gone}
        self._member.revoked(gone)
        consumer.incremental_unassign(partitions) if self._cooperative else consumer.unassign()

    def poll(self, seconds: float) -> list[Row]:
        first = self.consumer.poll(seconds)
        if first is None:
            return []
        rows = []
        for message in [first, *self.consumer.consume(50, 0)]:
            error = message.error()
            if error is None:
                if self._sought.get(message.partition(), message.offset()) != message.offset():
                    continue
                self._sought.pop(message.partition(), None)
                rows.append(Row(message.partition(), message.offset(), message.value(), message.timestamp()[1]))
            elif error.code() in FENCED:
                raise FencedError(str(error))
        self._member.given(rows)
        return rows

    def step(self) -> int:
        rows = self.poll(0.1)
        if rows:
            offsets = next_offsets(rows)
            self._refused = {} if self.commit(self._refused | offsets) else self._refused | offsets
        return len(rows)

    def commit(self, offsets: Mapping[int, int]) -> bool:
        places = [TopicPartition(self._reading.topic, partition, offset) for partition, offset in offsets.items()]
        self._member.attempted(offsets)
        try:
            answers = patiently(lambda: self.consumer.commit(offsets=places, asynchronous=False))
        except KafkaException as caught:
            if caught.args[0].code() in GENERATION_OVER:
                return False
            raise
        wrong = [one.error for one in answers if one.error is not None]
        if wrong:
            raise AssertionError(f"commit: {wrong}")
        self._member.acked(offsets)
        return True

    def _places(self) -> list[TopicPartition]:
        topics = patiently(lambda: self.consumer.list_topics(self._reading.topic, 10)).topics
        return [TopicPartition(self._reading.topic, partition) for partition in topics[self._reading.topic].partitions]

    def committed(self) -> dict[int, int]:
        return {one.partition: max(0, one.offset) for one in patiently(lambda: self.consumer.committed(self._places(), 10))}

    def seek(self, partition: int, offset: int) -> None:
        self._member.sought(partition)
        self._sought[partition] = offset
        self.consumer.seek(TopicPartition(self._reading.topic, partition, offset))

    def offsets_for_time(self, timestamp_ms: int) -> dict[int, int | None]:
        asked = [TopicPartition(self._reading.topic, partition, timestamp_ms) for partition in self._owned]
        found = patiently(lambda: self.consumer.offsets_for_times(asked, 2))
        return {one.partition: one.offset if one.offset >= 0 else None for one in found}

    def rewind(self) -> None:
        mine = [TopicPartition(self._reading.topic, partition) for partition in self._owned]
        for one in patiently(lambda: self.consumer.committed(mine, 10)):
            self.seek(one.partition, max(0, one.offset))

    def close(self) -> None:
        self._member.revoked(set(self._owned))
        self.consumer.close()


class ConfluentWriter:
    def __init__(self, bootstrap: str, transactional_id: str) -> None:
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "transactional.id": transactional_id, "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS, **COMMON}
        )
        patiently(lambda: self._producer.init_transactions(30))

    def begin(self) -> None:
        patiently(self._producer.begin_transaction)

    def send(self, topic: str, values: Sequence[tuple[int, bytes]]) -> None:
        for partition, value in values:
            self._producer.produce(topic, value, partition=partition)

    def flush(self) -> None:
        self._producer.flush(30)

    def send_offsets(self, reader: Any, offsets: Mapping[int, int]) -> None:
        places = [TopicPartition(reader._reading.topic, partition, offset) for partition, offset in offsets.items()]
        patiently(lambda: self._producer.send_offsets_to_transaction(places, reader.consumer.consumer_group_metadata(), 30))

    def commit(self) -> None:
        patiently(lambda: self._producer.commit_transaction(30))

    def abort(self) -> None:
        patiently(lambda: self._producer.abort_transaction(30))

    def close(self) -> None:
        self._producer.flush(5)


class ConfluentKafka:
    name = "confluent-kafka"
    lacks: Mapping[str, str] = {}
    traits = Traits()

    def check_lacks(self) -> None:
        """Nothing is lacking."""

    def reader(self, bootstrap: str, reading: Reading, member: Member) -> ConfluentReader:
        return ConfluentReader(bootstrap, reading, member)

    def writer(self, bootstrap: str, transactional_id: str) -> ConfluentWriter:
        return ConfluentWriter(bootstrap, transactional_id)
