"""What is measured: requests through the whole path on three nodes, several of each after a warm-up. Figures are means per request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from broker.protocol._generated.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from broker.protocol._generated.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from broker.records.builder import build_batch
from broker.records.reader import Record
from tests.path_costs.world import TOPIC, World
from tests.unit.handlers.fakes import decode_answer

PRODUCE_VERSION, FETCH_VERSION = 9, 12
PARTITIONS = 6
WARM_UP, MEASURED = 20, 100


@dataclass(frozen=True, slots=True)
class Case:
    """`together`: so many requests arrive before anybody answers. `from_disk`: old entries must be read. `make(world, number)` is a frame."""

    name: str
    make: Callable[[World, int], bytes]
    check: Callable[[bytes, int], None]
    together: int = 1
    from_disk: bool = False


def _record(size: int) -> Record:
    return Record(0, 1_700_000_000_000, None, bytes(size), ())


def _batch(records: int, size: int) -> bytes:
    return bytes(build_batch([_record(size)] * records))


def _produce(parts: Sequence[int], batch: bytes) -> Callable[[World, int], bytes]:
    def make(world: World, number: int) -> bytes:
        data = [PartitionProduceData(index=(index + number) % PARTITIONS, records=batch) for index in parts]
        request = ProduceRequest(acks=-1, timeout_ms=30_000, topic_data=[TopicProduceData(name=TOPIC, partition_data=data)])
        return world.client.frame(0, PRODUCE_VERSION, request.encode(PRODUCE_VERSION))

    return make


def _produced(answer: bytes, _number: int) -> None:
    response = decode_answer(answer, int.from_bytes(answer[:4], "big"), ProduceResponse, PRODUCE_VERSION)
    errors = [part.error_code for topic in response.responses for part in topic.partition_responses]
    if any(errors):
        raise AssertionError(f"produce answered the errors {errors}")


def _fetch(offset: int, max_bytes: int) -> Callable[[World, int], bytes]:
    """From the first record, which is in a segment by now, or from a later one. `offset` below 0 counts from the end."""

    def make(world: World, number: int) -> bytes:
        index = number % PARTITIONS
        start = offset if offset >= 0 else world.nodes[1].partitions[index].high_watermark + offset
        part = FetchPartition(partition=index, fetch_offset=start, partition_max_bytes=max_bytes, current_leader_epoch=-1)
        request = FetchRequest(max_wait_ms=0, min_bytes=1, max_bytes=max_bytes, session_epoch=-1, topics=[FetchTopic(topic=TOPIC, partitions=[part])])
        return world.client.frame(1, FETCH_VERSION, request.encode(FETCH_VERSION))

    return make


def _fetched(least: int) -> Callable[[bytes, int], None]:
    def check(answer: bytes, _number: int) -> None:
        response = decode_answer(answer, int.from_bytes(answer[:4], "big"), FetchResponse, FETCH_VERSION)
        (part,) = response.responses[0].partitions
        if part.error_code or len(part.records or b"") < least:
            raise AssertionError(f"fetch answered error {part.error_code} and {len(part.records or b'')} bytes instead of {least} or more")

    return check


SMALL, LARGE = _batch(1, 100), _batch(256, 1000)
CASES = (
    Case("produce, one record of 100 B", _produce([0], SMALL), _produced),
    Case("produce, one record of 100 B, 20 requests together", _produce([0], SMALL), _produced, together=20),
    Case("produce, 256 KB", _produce([0], LARGE), _produced),
    Case("produce, 256 KB, 10 requests together", _produce([0], LARGE), _produced, together=10),
    Case("produce, six partitions of 100 B", _produce(range(PARTITIONS), SMALL), _produced),
    Case("fetch of one batch at the end", _fetch(-1, 1 << 20), _fetched(len(SMALL) // 2)),
    Case("fetch of 1 MB from memory", _fetch(-1024, 1 << 20), _fetched(len(LARGE))),
    Case("fetch of 1 MB from a segment", _fetch(0, 1 << 20), _fetched(len(LARGE)), from_disk=True),
)


def frames(world: World, case: Case, requests: int) -> list[list[bytes]]:
    """So many requests, in the groups in which they arrive."""
    return [[case.make(world, number) for number in range(start, start + case.together)] for start in range(0, requests, case.together)]


def check(case: Case, answers: Sequence[bytes]) -> None:
    """Every request did what it asked for: what is cheap because it fails is not cheap."""
    for number, answer in enumerate(answers):
        case.check(answer, number)
