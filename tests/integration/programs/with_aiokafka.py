"""aiokafka. All its clients live on one event loop, in a thread of its own; the programs call in from theirs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import pkgutil
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import aiokafka.coordinator.assignors
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalGenerationError, KafkaError, ProducerFenced, RebalanceInProgressError, UnknownMemberIdError

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

ASSIGNORS = {"range": RangePartitionAssignor, "roundrobin": RoundRobinPartitionAssignor}
GENERATION_OVER = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)

logging.getLogger("aiokafka").addHandler(logging.NullHandler())  # pytest still has its lines; they are not the last of a test run's output

_loop: asyncio.AbstractEventLoop | None = None
_loop_lock = threading.Lock()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Its result, from any thread but the loop's."""
    global _loop
    with _loop_lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="aiokafka", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(coroutine, _loop).result(PATIENCE_SECONDS * 2)


async def patiently(step: Any) -> Any:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await step()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)


class _Listener(ConsumerRebalanceListener):
    """The library rebalances in the background: a revocation waits until what is being done is done and committed."""

    def __init__(self, member: Member, busy: asyncio.Lock) -> None:
        self._member, self._busy = member, busy

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._member.assigned({one.partition for one in assigned})

    async def on_partitions_revoked(self, revoked: Any) -> None:
        async with self._busy:
            self._member.revoked({one.partition for one in revoked})


class AioReader:
    def __init__(self, bootstrap: str, reading: Reading, member: Member) -> None:
        self._reading, self._member = reading, member
        run(self._start(bootstrap))

    async def _start(self, bootstrap: str) -> None:
        self._busy = asyncio.Lock()
        self.consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=self._reading.group,
            group_instance_id=self._reading.instance,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            partition_assignment_strategy=[ASSIGNORS[self._reading.strategy]],
            isolation_level="read_committed" if self._reading.read_committed else "read_uncommitted",
            fetch_max_wait_ms=50,
            request_timeout_ms=8_000,
        )
        self.consumer.subscribe([self._reading.topic], listener=_Listener(self._member, self._busy))
        await patiently(self.consumer.start)

    def _place(self, partition: int) -> TopicPartition:
        return TopicPartition(self._reading.topic, partition)

    async def _poll(self, seconds: float) -> list[Row]:
        found = await self.consumer.getmany(timeout_ms=int(seconds * 1000), max_records=50)
        rows = [Row(one.partition, one.offset, one.value, one.timestamp) for batch in found.values() for one in batch]
        self._member.given(rows)
        return rows

    def poll(self, seconds: float) -> list[Row]:
        return list(run(self._poll(seconds)))

    def step(self) -> int:
        return int(run(self._step()))

    async def _step(self) -> int:
        rows = await self._poll(0.05)  # waits for the end of a rebalance: never while busy
        if rows:
            async with self._busy:
                await self._commit(next_offsets(rows))
        return len(rows)

    def commit(self, offsets: Mapping[int, int]) -> bool:
        return bool(run(self._commit(offsets)))

    async def _commit(self, offsets: Mapping[int, int]) -> bool:
        self._member.attempted(offsets)
        try:
            await patiently(lambda: self.consumer.commit({self._place(partition): offset for partition, offset in offsets.items()}))
        except GENERATION_OVER:
            return False
        self._member.acked(offsets)
        return True

    def committed(self) -> dict[int, int]:
        async def ask() -> dict[int, int]:
            partitions = self.consumer.partitions_for_topic(self._reading.topic)
            return {p: await patiently(lambda place=self._place(p): self.consumer.committed(place)) or 0 for p in partitions}

        return dict(run(ask()))

    def seek(self, partition: int, offset: int) -> None:
        async def do() -> None:
            self._member.sought(partition)
            self.consumer.seek(self._place(partition), offset)

        run(do())

    def offsets_for_time(self, timestamp_ms: int) -> dict[int, int | None]:
        asked = dict.fromkeys(self.consumer.assignment(), timestamp_ms)
        found = run(patiently(lambda: self.consumer.offsets_for_times(asked)))
        return {place.partition: None if one is None else one.offset for place, one in found.items()}

    def rewind(self) -> None:
        for partition, offset in self.committed().items():
            if self._place(partition) in self.consumer.assignment():
                self.seek(partition, offset)

    def close(self) -> None:
        async def do() -> None:
            async with self._busy:
                self._member.revoked({one.partition for one in self.consumer.assignment()})
            # When a task of the library's own waited for a coordinator, stop() says that it was cancelled and breaks off there. What it leaves would
            # go on for ever.
            for step in (self.consumer.stop, self.consumer._fetcher.close, self.consumer._client.close):
                with contextlib.suppress(asyncio.CancelledError):
                    await step()

        run(do())


class AioWriter:
    def __init__(self, bootstrap: str, transactional_id: str) -> None:
        run(self._start(bootstrap, transactional_id))

    async def _start(self, bootstrap: str, transactional_id: str) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            request_timeout_ms=8_000,
        )
        self._told: list[Any] = []
        await self._producer.start()

    async def _do(self, step: Any) -> Any:
        try:
            return await patiently(step)
        except ProducerFenced as error:
            raise FencedError(str(error)) from None
        except KafkaError as error:
            raise AbortableError(repr(error)) from None

    def begin(self) -> None:
        self._told = []
        run(self._do(self._producer.begin_transaction))

    def send(self, topic: str, values: Sequence[tuple[int, bytes]]) -> None:
        async def do() -> None:
            for partition, value in values:
                self._told.append(await self._do(functools.partial(self._producer.send, topic, value, partition=partition)))

        run(do())

    def flush(self) -> None:
        async def wait() -> None:
            await self._producer.flush()
            for one in self._told:
                await one

        run(self._do(wait))

    def send_offsets(self, reader: Any, offsets: Mapping[int, int]) -> None:
        places = {reader._place(partition): offset for partition, offset in offsets.items()}
        run(self._do(lambda: self._producer.send_offsets_to_transaction(places, reader._reading.group)))

    def commit(self) -> None:
        run(self._do(self._producer.commit_transaction))

    def abort(self) -> None:
        run(self._do(self._producer.abort_transaction))

    def close(self) -> None:
        run(self._producer.stop())


class AioKafka:
    name = "aiokafka"
    lacks: Mapping[str, str] = {"cooperative": "it has no cooperative assignor"}
    traits = Traits(fences_members=False, generation_in_transactions=False)

    def check_lacks(self) -> None:
        package = aiokafka.coordinator.assignors
        found = {one.name for one in pkgutil.iter_modules(package.__path__)}
        assert not any("cooperative" in name for name in found), f"aiokafka has a cooperative assignor now: {found}"

    def reader(self, bootstrap: str, reading: Reading, member: Member) -> AioReader:
        return AioReader(bootstrap, reading, member)

    def writer(self, bootstrap: str, transactional_id: str) -> AioWriter:
        return AioWriter(bootstrap, transactional_id)
