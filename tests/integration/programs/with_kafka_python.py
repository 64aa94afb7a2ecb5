"""kafka-python."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaError,
    KafkaTimeoutError,
    ProducerFencedError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from kafka.structs import OffsetAndMetadata

from tests.integration.programs.clients import (
    HEARTBEAT_MS,
    PATIENCE_SECONDS,
    SESSION_TIMEOUT_MS,
    STUCK_SECONDS,
    TRANSACTION_TIMEOUT_MS,
    AbortableError,
    FencedError,
    Reading,
    StuckError,
    Traits,
)
from tests.integration.programs.journal import Member, Row, next_offsets

ASSIGNORS = {"range": RangePartitionAssignor, "roundrobin": RoundRobinPartitionAssignor, "cooperative-sticky": CooperativeStickyAssignor}
GENERATION_OVER = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)
COMMON = {"request_timeout_ms": 8_000, "reconnect_backoff_ms": 20, "reconnect_backoff_max_ms": 300, "metrics_enabled": False}


def patiently(step: Callable[[], Any]) -> Any:
    """Repeat `step` while its error says so: what the library repeats itself ends with its own time-outs."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return step()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > end:
                raise
            time.sleep(0.05)


class _Listener(ConsumerRebalanceListener):
    def __init__(self, member: Member) -> None:
        self._member = member

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._member.assigned({one.partition for one in assigned})

    def on_partitions_revoked(self, revoked: Any) -> None:
        self._member.revoked({one.partition for one in revoked})


class KafkaPythonReader:
    def __init__(self, bootstrap: str, reading: Reading, member: Member) -> None:
        self._reading, self._member = reading, member
        self.consumer = KafkaConsumer(
            bootstrap_servers=bootstrap.split(","),
            group_id=reading.group,
            group_instance_id=reading.instance,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            partition_assignment_strategy=[ASSIGNORS[reading.strategy]],
            isolation_level="read_committed" if reading.read_committed else "read_uncommitted",
            fetch_max_wait_ms=50,
            max_poll_records=50,
            **COMMON,
        )
        self.consumer.subscribe([reading.topic], listener=_Listener(member))

    def _place(self, partition: int) -> TopicPartition:
        return TopicPartition(self._reading.topic, partition)

    def poll(self, seconds: float) -> list[Row]:
        try:
            found = self.consumer.poll(timeout_ms=int(seconds * 1000))
        except FencedInstanceIdError as error:
            raise FencedError(str(error)) from None
        rows = [Row(one.partition, one.offset, one.value, one.timestamp) for batch in found.values() for one in batch]
        self._member.given(rows)
        return rows

    def step(self) -> int:
        rows = self.poll(0.1)
        if rows:
            self.commit(next_offsets(rows))
        return len(rows)

    def commit(self, offsets: Mapping[int, int]) -> bool:
        self._member.attempted(offsets)
        places = {self._place(partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
        try:
            patiently(lambda: self.consumer.commit(places))
        except FencedInstanceIdError as error:
            raise FencedError(str(error)) from None
        except GENERATION_OVER:
            return False
        self._member.acked(offsets)
        return True

    def committed(self) -> dict[int, int]:
        partitions = patiently(lambda: self.consumer.partitions_for_topic(self._reading.topic))
        return {partition: patiently(lambda p=partition: self.consumer.committed(self._place(p))) or 0 for partition in partitions}

    def seek(self, partition: int, offset: int) -> None:
        self._member.sought(partition)
        self.consumer.seek(self._place(partition), offset)

    def offsets_for_time(self, timestamp_ms: int) -> dict[int, int | None]:
        # One by one: in a larger request the library leaves out, without a word, partitions that have no leader at the moment.
        found: dict[int, int | None] = {}
        for place in self.consumer.assignment():
            one = patiently(lambda p=place: self.consumer.offsets_for_times({p: timestamp_ms}))[place]
            found[place.partition] = None if one is None else one.offset
        return found

    def rewind(self) -> None:
        for place in self.consumer.assignment():
            self.seek(place.partition, patiently(lambda p=place: self.consumer.committed(p)) or 0)

    def close(self) -> None:
        self.consumer.close(autocommit=False, timeout_ms=10_000)


class KafkaPythonWriter:
    """The library forgets what it was about to send to a transaction coordinator whose node refuses the connection (kafka/producer/sender.py: a
    request is repeated only when no node was chosen), and waits for ever. A program has to begin anew then, with a new producer of the same name."""

    def __init__(self, bootstrap: str, transactional_id: str) -> None:
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap.split(","),
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            acks="all",
            **COMMON,
        )
        self._told: list[Any] = []
        try:
            self._do(self._producer.init_transactions)
        except StuckError:
            self.close()
            raise

    def _do(self, step: Callable[[], Any]) -> Any:
        done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                done.put((patiently(step), None))
            except BaseException as error:  # noqa: BLE001 - raised by who waits
                done.put((None, error))

        threading.Thread(target=run, daemon=True).start()
        try:
            result, error = done.get(timeout=STUCK_SECONDS)
        except queue.Empty:
            raise StuckError(f"no answer within {STUCK_SECONDS:.0f} s") from None
        return self._judge(result, error)

    @staticmethod
    def _judge(result: Any, caught: BaseException | None) -> Any:
        try:
            if caught is not None:
                raise caught
            return result
        except ProducerFencedError as error:
            raise FencedError(str(error)) from None
        except KafkaError as error:
            raise AbortableError(repr(error)) from None

    def begin(self) -> None:
        self._told = []
        self._do(self._producer.begin_transaction)

    def send(self, topic: str, values: Sequence[tuple[int, bytes]]) -> None:
        try:
            self._told += [self._producer.send(topic, value, partition=partition) for partition, value in values]
        except KafkaError as error:
            self._judge(None, error)

    def flush(self) -> None:
        self._do(lambda: self._producer.flush(timeout=30))
        self._do(lambda: [told.get(timeout=30) for told in self._told])

    def send_offsets(self, reader: Any, offsets: Mapping[int, int]) -> None:
        places = {reader._place(partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
        self._do(lambda: self._producer.send_offsets_to_transaction(places, reader.consumer.group_metadata()))

    def commit(self) -> None:
        self._do(self._producer.commit_transaction)

    def abort(self) -> None:
        self._do(self._producer.abort_transaction)

    def close(self) -> None:
        try:
            self._producer.close(timeout=1)
        except KafkaTimeoutError:
            # It has forgotten a request and waits for it, and close() breaks off there: its thread would go on, at full speed, for ever.
            self._producer._sender.force_close()


class KafkaPython:
    name = "kafka-python"
    lacks: Mapping[str, str] = {}
    traits = Traits()

    def check_lacks(self) -> None:
        """Nothing is lacking."""

    def reader(self, bootstrap: str, reading: Reading, member: Member) -> KafkaPythonReader:
        return KafkaPythonReader(bootstrap, reading, member)

    def writer(self, bootstrap: str, transactional_id: str) -> KafkaPythonWriter:
        return KafkaPythonWriter(bootstrap, transactional_id)
