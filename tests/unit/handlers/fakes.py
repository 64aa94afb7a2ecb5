"""A broker in memory for these tests: a clock moved by hand, partitions of plain lists, a transport that keeps what is written."""

from __future__ import annotations

import asyncio
import heapq
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from broker.api import AppendResult, NewTopic, QuorumStatus, ReadResult, ReplicaSize, TopicResult
from broker.coordinator.coordination import Coordination
from broker.coordinator.transactions.machine import Answer as TransactionAnswer
from broker.coordinator.transactions.state import Transaction
from broker.errors import ErrorCode, KafkaError
from broker.handlers.registry import register_all
from broker.metadata.image import BrokerImage, MetadataImage, PartitionImage, TopicImage
from broker.network.connection import Connection, ConnectionLimits
from broker.network.dispatcher import Dispatcher
from broker.network.listener import KafkaListener
from broker.network.pressure import Pressure
from broker.network.stats import NetworkStats
from broker.protocol.api_keys import APIS
from broker.settings import broker_settings
from wal.entry import GroupId, group_id


class ManualClock:
    """Time stands still until `advance`; `turn` runs what was called soon."""

    def __init__(self) -> None:
        self.time_ms = 1_000_000
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._soon: list[Callable[[], None]] = []
        self._count = 0

    def now_ms(self) -> int:
        return self.time_ms

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._timers, (self.time_ms + delay_ms, self._count, callback))

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def turn(self) -> None:
        while self._soon:
            soon, self._soon = self._soon, []
            for callback in soon:
                callback()

    def advance(self, delay_ms: int) -> None:
        end = self.time_ms + delay_ms
        self.turn()
        while self._timers and self._timers[0][0] <= end:
            self.time_ms, _, callback = heapq.heappop(self._timers)
            callback()
            self.turn()
        self.time_ms = end


class FakePartition:
    """Keeps appended bytes; one append = one record. `commit()` moves the high watermark and answers acks=-1."""

    def __init__(self, topic: str, index: int, topic_id: bytes) -> None:
        self.topic = topic
        self.index = index
        self.topic_id = topic_id
        self.group_id = group_id(topic_id, index)
        self.batches: list[bytes] = []
        self.high_watermark = 0
        self.log_start_offset = 0
        self.leader_epoch = 3
        self.leads = True
        self.auto_commit = True
        self.from_disk = False
        self.waiters: list[Callable[[], None]] = []
        self.pending: list[tuple[int, Callable[[AppendResult], None]]] = []
        self.disk: list[Callable[[], None]] = []
        self.reads = 0
        self.aborted: Sequence[tuple[int, int]] = ()
        self.transactional: list[tuple[str, bool]] = []

    @property
    def log_end_offset(self) -> int:
        return len(self.batches)

    @property
    def last_stable_offset(self) -> int:
        return self.high_watermark

    def append(self, records: memoryview, acks: int, done: Callable[[AppendResult], None]) -> None:
        if not self.leads:
            done(AppendResult(ErrorCode.NOT_LEADER_OR_FOLLOWER))
            return
        offset = len(self.batches)
        struct.pack_into(">q", records, 0, offset)  # stamped in place: the view must be writable
        self.batches.append(bytes(records))
        if acks == 0:
            done(AppendResult(ErrorCode.NONE, offset))
        else:
            self.pending.append((offset, done))
        if self.auto_commit:
            self.commit()

    def append_transactional(self, records: memoryview, acks: int, transactional_id: str, add: bool, done: Callable[[AppendResult], None]) -> None:
        self.transactional.append((transactional_id, add))
        self.append(records, acks, done)

    def commit(self) -> None:
        self.high_watermark = len(self.batches)
        pending, self.pending = self.pending, []
        for offset, done in pending:
            done(AppendResult(ErrorCode.NONE, offset, self.log_start_offset))
        self.wake()

    def wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter()

    def lose_leadership(self) -> None:
        self.leads = False
        self.wake()

    def read(
        self, offset: int, max_bytes: int, current_leader_epoch: int, read_committed: bool, min_one: bool, done: Callable[[ReadResult], None]
    ) -> None:
        self.reads += 1
        result = self._read(offset, max_bytes, current_leader_epoch, min_one)
        if self.from_disk and result.size:
            self.disk.append(lambda: done(result))
        else:
            done(result)

    def _read(self, offset: int, max_bytes: int, epoch: int, min_one: bool) -> ReadResult:
        if not self.leads:
            return ReadResult(ErrorCode.NOT_LEADER_OR_FOLLOWER)
        if epoch >= 0 and epoch != self.leader_epoch:
            return ReadResult(ErrorCode.FENCED_LEADER_EPOCH if epoch < self.leader_epoch else ErrorCode.UNKNOWN_LEADER_EPOCH)
        if not self.log_start_offset <= offset <= self.log_end_offset:
            return ReadResult(ErrorCode.OFFSET_OUT_OF_RANGE, log_start_offset=self.log_start_offset)
        chunks: list[memoryview] = []
        size = 0
        for batch in self.batches[offset : self.high_watermark]:
            if size + len(batch) > max_bytes and (chunks or not min_one):
                break
            chunks.append(memoryview(batch))
            size += len(batch)
        return ReadResult(ErrorCode.NONE, chunks, size, self.high_watermark, self.high_watermark, self.log_start_offset, self.aborted)

    def advance_log_start(self, offset: int, done: Callable[[ErrorCode, int], None]) -> None:
        if not self.leads:
            done(ErrorCode.NOT_LEADER_OR_FOLLOWER, -1)
            return
        offset = self.high_watermark if offset == -1 else offset
        if not 0 <= offset <= self.high_watermark:
            done(ErrorCode.OFFSET_OUT_OF_RANGE, -1)
            return
        self.log_start_offset = max(self.log_start_offset, offset)
        done(ErrorCode.NONE, self.log_start_offset)

    def available_bytes(self, offset: int) -> int:
        return sum(map(len, self.batches[offset : self.high_watermark]))

    def add_waiter(self, waiter: Callable[[], None]) -> None:
        self.waiters.append(waiter)

    def remove_waiter(self, waiter: Callable[[], None]) -> None:
        if waiter in self.waiters:
            self.waiters.remove(waiter)

    def list_offset(
        self, timestamp_ms: int, current_leader_epoch: int, read_committed: bool, done: Callable[[ErrorCode, int, int, int], None]
    ) -> None:
        if not self.leads:
            done(ErrorCode.NOT_LEADER_OR_FOLLOWER, -1, -1, -1)
        elif timestamp_ms == -1:
            done(ErrorCode.NONE, -1, self.high_watermark, self.leader_epoch)
        elif timestamp_ms in (-2, -4):
            done(ErrorCode.NONE, -1, self.log_start_offset, self.leader_epoch)
        elif timestamp_ms == -5:
            done(ErrorCode.NONE, -1, -1, -1)
        else:
            self.disk.append(lambda: done(ErrorCode.NONE, 77, 0, self.leader_epoch))

    def end_of_epoch(self, current_leader_epoch: int, leader_epoch: int) -> tuple[ErrorCode, int, int]:
        if current_leader_epoch >= 0 and current_leader_epoch < self.leader_epoch:
            return ErrorCode.FENCED_LEADER_EPOCH, -1, -1
        return ErrorCode.NONE, min(leader_epoch, self.leader_epoch), self.log_end_offset


class FakePartitions:
    def __init__(self) -> None:
        self.by_name: dict[tuple[str, int], FakePartition] = {}
        self.by_id: dict[tuple[bytes, int], FakePartition] = {}

    def add(self, partition: FakePartition) -> None:
        self.by_name[(partition.topic, partition.index)] = partition
        self.by_id[(partition.topic_id, partition.index)] = partition

    def get(self, topic: str, partition: int) -> FakePartition | None:
        return self.by_name.get((topic, partition))

    def get_by_id(self, topic_id: bytes, partition: int) -> FakePartition | None:
        return self.by_id.get((topic_id, partition))


class FakeLeaders:
    def __init__(self) -> None:
        self.version = 0
        self.known: dict[GroupId, tuple[int, int]] = {}
        self.silent: set[GroupId] = set()  # groups of which nothing was ever heard

    def heard_of(self, group: GroupId) -> bool:
        return group not in self.silent

    def leader_of(self, group: GroupId) -> tuple[int, int]:
        return self.known.get(group, (-1, -1))

    def isr_of(self, group: GroupId) -> Sequence[int]:
        return ()


class FakeController:
    """Changes the image at once. `error` makes every call fail as a whole."""

    def __init__(self, broker: FakeBroker) -> None:
        self.controller_id = 1
        self.error: Exception | None = None
        self.calls: list[tuple[Any, ...]] = []
        self._broker = broker
        self._next_producer_id = 1000

    async def create_topics(self, topics: Sequence[NewTopic], timeout_ms: int, validate_only: bool) -> Sequence[TopicResult]:
        self._called("create", topics, timeout_ms, validate_only)
        results = []
        for one in topics:
            if one.name in self._broker.image.topics:
                results.append(TopicResult(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{one.name}' already exists."))
                continue
            count = len(one.assignments) or max(one.partitions, 1)
            topic = self._broker.add_topic(one.name, count, {k: v or "" for k, v in one.configs.items()}, keep=not validate_only)
            results.append(TopicResult(ErrorCode.NONE, None, topic))
        return results

    async def delete_topics(self, topics: Sequence[str | bytes], timeout_ms: int) -> Sequence[TopicResult]:
        self._called("delete", topics, timeout_ms)
        return [TopicResult(ErrorCode.NONE) for _ in topics]

    async def create_partitions(
        self, topics: Sequence[tuple[str, int, Sequence[Sequence[int]] | None]], timeout_ms: int, validate_only: bool
    ) -> Sequence[TopicResult]:
        self._called("partitions", topics, timeout_ms, validate_only)
        return [TopicResult(ErrorCode.NONE) for _ in topics]

    async def alter_configs(
        self, resource_type: int, name: str, changes: Sequence[tuple[str, str | None, int]], timeout_ms: int, validate_only: bool, replace: bool
    ) -> None:
        self._called("configs", resource_type, name, list(changes), validate_only, replace)
        if any(value == "wrong" for _, value, _ in changes):
            raise KafkaError(ErrorCode.INVALID_CONFIG, "Invalid value wrong")

    async def alter_reassignments(
        self, items: Sequence[tuple[str, int, Sequence[int] | None]], timeout_ms: int, change_factor: bool = True
    ) -> Sequence[TopicResult]:
        self._called("reassign", list(items), timeout_ms, change_factor)
        return [
            TopicResult(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"Topic '{name}' has no partition {partition}.")
            if name not in self._broker.image.topics
            else TopicResult(ErrorCode.NONE)
            for name, partition, _ in items
        ]

    async def unregister_broker(self, node_id: int, timeout_ms: int) -> None:
        self._called("unregister", node_id)
        if node_id not in self._broker.image.brokers:
            raise KafkaError(ErrorCode.BROKER_ID_NOT_REGISTERED, f"Broker ID {node_id} is not currently registered.")

    async def allocate_producer_id(self) -> int:
        self._called("producer_id")
        self._next_producer_id += 1
        return self._next_producer_id

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error


class FakeAdministration:
    """Node 1's: both nodes run; a transfer is done at once unless `stuck`."""

    def __init__(self, broker: FakeBroker) -> None:
        self.log_dir = "/data"
        self.running = frozenset({1, 2})
        self.stuck = False
        self.status: QuorumStatus | None = None
        self.transfers: list[tuple[GroupId, int, int]] = []
        self._broker = broker

    def alive(self) -> frozenset[int]:
        return self.running

    def transfer_leader(self, group: GroupId, leader: int, target: int) -> None:
        self.transfers.append((group, leader, target))
        if not self.stuck:
            self._broker.leaders.known[group] = (target, 4)

    def disk_bytes(self) -> tuple[int, int]:
        return 1000, 400

    def replica_sizes(self) -> Iterable[ReplicaSize]:
        return [ReplicaSize(topic, index, 100 + index, 0) for topic, index in self._broker.partitions.by_name]

    async def quorum(self) -> QuorumStatus:
        if self.status is None:
            raise KafkaError(ErrorCode.LEADER_NOT_AVAILABLE, "No leader of the metadata is known.")
        return self.status


class FakeTransactions:
    """Remembers what it is asked; answers with `answer`, at once."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answer = TransactionAnswer(ErrorCode.NONE, 42, 1)
        self.found: list[Transaction] = []
        self.failure: KafkaError | None = None

    def init_producer(self, *call: Any) -> None:
        self._answer("init", *call)

    def add_partitions(self, *call: Any) -> None:
        self._answer("add", *call)

    def end(self, *call: Any) -> None:
        self._answer("end", *call)

    def verify(self, transactional_id: str, producer: tuple[int, int], partitions: Sequence[Any], done: Callable[[Any], None]) -> None:
        self.calls.append(("verify", transactional_id, producer, partitions))
        done(dict.fromkeys(partitions, self.answer.error))

    def _answer(self, *call: Any) -> None:
        self.calls.append(call[:-1])
        call[-1](self.answer)

    def describe(self, transactional_id: str) -> Transaction:
        if self.failure is not None:
            raise self.failure
        return self.found[0]

    def all_here(self) -> list[Transaction]:
        if self.failure is not None:
            raise self.failure
        return self.found


class FakeBroker:
    """Node 1 of nodes 1 and 2. Node 1 advertises no host."""

    def __init__(self, clock: Any = None, settings: Mapping[str, str] | None = None) -> None:
        self.node_id = 1
        self.clock = clock if clock is not None else ManualClock()
        self.image = MetadataImage(
            version=1,
            cluster_id="test-cluster",
            brokers={1: BrokerImage(1, "", 0, "n1:9093"), 2: BrokerImage(2, "two.example", 9092, "n2:9093", rack="b")},
        )
        self.leaders = FakeLeaders()
        self.partitions = FakePartitions()
        self.controller = FakeController(self)
        self.administration = FakeAdministration(self)
        self.settings: Mapping[str, object] = broker_settings(dict(settings or {}))
        self.static_settings = self.settings
        self.transactions = FakeTransactions()
        self.coordination = Coordination(self, lambda: 1)

    def wall_time_ms(self) -> int:
        return 1_700_000_000_000

    def change_image(self, **changes: Any) -> None:
        old = self.image
        fields = {name: getattr(old, name) for name in MetadataImage.__dataclass_fields__}
        self.image = MetadataImage(**{**fields, "version": old.version + 1, **changes})

    def add_topic(
        self, name: str, count: int = 1, configs: Mapping[str, str] | None = None, keep: bool = True, elsewhere: Iterable[int] = ()
    ) -> TopicImage:
        """A topic led here, apart from the partitions `elsewhere`, which node 2 leads."""
        topic_id = (name.encode() + bytes(16))[:16]
        images = tuple(PartitionImage(index, group_id(topic_id, index), (1, 2), (1, 2)) for index in range(count))
        topic = TopicImage(name, topic_id, images, dict(configs or {}))
        if keep:
            self.change_image(topics={**self.image.topics, name: topic}, topics_by_id={**self.image.topics_by_id, topic_id: topic})
            for one in images:
                away = one.partition in set(elsewhere)
                self.leaders.known[one.group_id] = (2 if away else 1, 3)
                if not away:
                    self.partitions.add(FakePartition(name, one.partition, topic_id))
            self.leaders.version += 1
        return topic


class MemoryTransport(asyncio.Transport):
    """Keeps what is written; can pretend that the client does not read."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.9", 5555), "sockname": ("10.0.0.1", 9092)})
        self.written = bytearray()
        self.writes = 0
        self.closing = False
        self.paused = False
        self.aborted = False
        self.protocol: Connection | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: Any) -> None:
        self.writes += 1
        self.written += data

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.writes += 1
        for data in list_of_data:
            self.written += data

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


class Client:
    """One connection to the handlers under test, without sockets."""

    def __init__(self, listener: KafkaListener, clock: ManualClock) -> None:
        self.transport = MemoryTransport()
        self.connection = Connection(listener)
        self.connection.connection_made(self.transport)
        self._listener = listener
        self._clock = clock
        self._correlation = 0
        self._read = 0

    def feed(self, data: bytes) -> None:
        """Deliver `data` as the event loop does, in as many pieces as the offered buffers need."""
        position = 0
        while position < len(data) and not self.transport.closing:
            buffer = self.connection.get_buffer(-1)
            piece = data[position : position + len(buffer)]
            buffer[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))
            position += len(piece)

    def frame(self, key: int, version: int, body: bytes, correlation: int | None = None, client_id: bytes | None = b"test") -> bytes:
        if correlation is None:
            self._correlation += 1
            correlation = self._correlation
        header = struct.pack(">hhih", key, version, correlation, -1 if client_id is None else len(client_id)) + (client_id or b"")
        if key in APIS and version >= APIS[key].first_flexible_version:
            header += b"\0"
        return struct.pack(">i", len(header) + len(body)) + header + body

    def send(self, key: int, version: int, body: bytes) -> int:
        """Send one request; returns its correlation id."""
        self.feed(self.frame(key, version, body))
        return self._correlation

    def answers(self) -> list[bytes]:
        """Whole response frames (with header, without length) that have come since the last call."""
        self._clock.turn()
        out = []
        data = self.transport.written
        while self._read + 4 <= len(data):
            (size,) = struct.unpack_from(">i", data, self._read)
            if self._read + 4 + size > len(data):
                break
            out.append(bytes(data[self._read + 4 : self._read + 4 + size]))
            self._read += 4 + size
        return out

    def call(self, request: Any, response_type: Any, version: int) -> Any:
        """Send a request of the generated classes; the decoded response."""
        correlation = self.send(request.api_key, version, request.encode(version))
        answers = self.answers()
        if len(answers) != 1:
            raise AssertionError(f"{len(answers)} answers instead of one")
        return decode_answer(answers[0], correlation, response_type, version)

    async def acall(self, request: Any, response_type: Any, version: int) -> Any:
        """The same for an API that is answered by a task."""
        correlation = self.send(request.api_key, version, request.encode(version))
        for _ in range(20):
            answers = self.answers()
            if answers:
                return decode_answer(answers[0], correlation, response_type, version)
            await asyncio.sleep(0)
        raise AssertionError("no answer")


def decode_answer(answer: bytes, correlation: int, response_type: Any, version: int) -> Any:
    got = struct.unpack_from(">i", answer)[0]
    if got != correlation:
        raise AssertionError(f"correlation id {got}, expected {correlation}")
    flexible = version >= response_type.first_flexible_version and response_type.api_key != 18
    response, end = response_type.decode(answer, 5 if flexible else 4, version)
    if end != len(answer):
        raise AssertionError(f"{len(answer) - end} bytes behind the response")
    return response


class World:
    """A fake broker with all real handlers in front of it."""

    def __init__(self, settings: Mapping[str, str] | None = None, limits: ConnectionLimits | None = None, max_connections: int = 1000) -> None:
        self.clock = ManualClock()
        self.broker = FakeBroker(self.clock, settings)
        self.stats = NetworkStats()
        self.pressure = Pressure()
        self.dispatcher = Dispatcher(self.stats)
        self.services = register_all(self.broker, self.dispatcher, _session_ids())
        self.listener = KafkaListener(self.dispatcher.dispatch, self.clock, self.stats, self.pressure, limits, max_connections)

    def client(self) -> Client:
        return Client(self.listener, self.clock)


def _session_ids() -> Callable[[], int]:
    state = SimpleNamespace(last=100)

    def new_id() -> int:
        state.last += 1
        return int(state.last)

    return new_id


def batch(value: bytes = b"value", attributes: int = 0) -> bytes:
    """Bytes with the shape of a record batch, which is all that these layers look at."""
    return struct.pack(">qiibih", 0, 49 + len(value), -1, 2, 0, attributes) + bytes(38) + value


__all__ = ["Client", "FakeBroker", "FakePartition", "KafkaError", "ManualClock", "MemoryTransport", "World", "batch", "decode_answer"]
