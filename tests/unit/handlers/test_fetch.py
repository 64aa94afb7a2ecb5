"""Fetch: limits, waiting, errors, sessions (KIP-227)."""

from __future__ import annotations

from typing import Any

import pytest

from broker.api import ReadResult
from broker.errors import ErrorCode
from broker.handlers.fetch_session import FetchSessionCache
from broker.protocol._generated.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, ForgottenTopic
from broker.protocol.fetch import FetchPartition as Asked
from broker.protocol.fetch import FetchRequest as Decoded
from tests.unit.handlers.fakes import Client, FakePartition, World, batch, decode_answer


def request(*parts: tuple[str, int, int], **fields: Any) -> FetchRequest:
    limit = fields.pop("partition_max_bytes", 1 << 20)
    epoch = fields.pop("current_leader_epoch", -1)
    topics = [
        FetchTopic(
            topic=name,
            topic_id=name.encode().ljust(16, b"\0"),
            partitions=[FetchPartition(partition=index, fetch_offset=offset, partition_max_bytes=limit, current_leader_epoch=epoch)],
        )
        for name, index, offset in parts
    ]
    return FetchRequest(**{"max_wait_ms": 0, "min_bytes": 1, "max_bytes": 1 << 24, "session_epoch": -1, "topics": topics, **fields})


def flat(response: FetchResponse) -> list[tuple[str, int, int, bytes]]:
    return [
        (topic.topic or topic.topic_id.rstrip(b"\0").decode(), one.partition_index, one.error_code, bytes(one.records or b""))
        for topic in response.responses
        for one in topic.partitions
    ]


@pytest.fixture
def world() -> World:
    world = World()
    world.broker.add_topic("events", 4, elsewhere=[3])
    return world


def log(world: World, index: int = 0) -> FakePartition:
    found = world.broker.partitions.get("events", index)
    assert found is not None
    return found


def put(partition: FakePartition, *values: bytes) -> list[bytes]:
    for value in values:
        partition.append(memoryview(bytearray(batch(value))), 1, lambda result: None)
    return partition.batches[-len(values) :]


@pytest.mark.parametrize("version", range(4, 19))
def test_reads_what_is_committed(world: World, version: int) -> None:
    stored = put(log(world), b"a", b"b")
    log(world).auto_commit = False
    put(log(world), b"not committed")
    response = world.client().call(request(("events", 0, 0)), FetchResponse, version)
    assert flat(response) == [("events", 0, 0, b"".join(stored))]
    one = response.responses[0].partitions[0]
    assert (one.high_watermark, one.last_stable_offset) == (2, 2)
    assert one.aborted_transactions is None


def test_read_committed_names_aborted_transactions(world: World) -> None:
    put(log(world), b"a")
    log(world).aborted = [(5, 0)]
    one = world.client().call(request(("events", 0, 0), isolation_level=1), FetchResponse, 12).responses[0].partitions[0]
    assert [(a.producer_id, a.first_offset) for a in one.aborted_transactions] == [(5, 0)]


def test_kip_74_limits(world: World) -> None:
    """The first partition with data gives one batch however small the limit is; the others only what fits."""
    size = len(batch(b"x"))
    stored = [put(log(world, index), b"x", b"y") for index in range(3)]
    got = flat(world.client().call(request(*[("events", i, 0) for i in range(3)], partition_max_bytes=1), FetchResponse, 12))
    assert [records for *_, records in got] == [stored[0][0], b"", b""]
    got = flat(world.client().call(request(*[("events", i, 0) for i in range(3)], partition_max_bytes=size), FetchResponse, 12))
    assert [records for *_, records in got] == [one[0] for one in stored]
    got = flat(world.client().call(request(*[("events", i, 0) for i in range(3)], max_bytes=3 * size), FetchResponse, 12))
    assert [records for *_, records in got] == [b"".join(stored[0]), stored[1][0], b""]


def test_waits_until_there_is_something(world: World) -> None:
    client = world.client()
    sent = client.send(1, 12, request(("events", 0, 0), ("events", 1, 0), max_wait_ms=500).encode(12))
    assert client.answers() == []
    world.clock.advance(300)
    assert client.answers() == []
    stored = put(log(world, 1), b"late")
    response = decode_answer(client.answers()[0], sent, FetchResponse, 12)
    assert flat(response) == [("events", 0, 0, b""), ("events", 1, 0, stored[0])]
    assert log(world, 0).waiters == log(world, 1).waiters == []
    assert len(world.services.wheel) == 0


def test_what_comes_in_one_turn_goes_into_one_answer(world: World) -> None:
    client = world.client()
    sent = client.send(1, 12, request(("events", 0, 0), ("events", 1, 0), max_wait_ms=500).encode(12))
    put(log(world, 0), b"a")
    put(log(world, 1), b"b")
    response = decode_answer(client.answers()[0], sent, FetchResponse, 12)
    assert all(records for *_, records in flat(response))


def test_min_bytes(world: World) -> None:
    size = len(batch(b"x"))
    client = world.client()
    sent = client.send(1, 12, request(("events", 0, 0), max_wait_ms=500, min_bytes=3 * size).encode(12))
    for _ in range(2):
        put(log(world), b"x")
        assert client.answers() == []
    put(log(world), b"x")
    assert len(flat(decode_answer(client.answers()[0], sent, FetchResponse, 12))[0][3]) == 3 * size


@pytest.mark.parametrize("min_bytes", [1, 10_000])
def test_time_limit_answers_with_what_there_is(world: World, min_bytes: int) -> None:
    client = world.client()
    sent = client.send(1, 12, request(("events", 0, 0), max_wait_ms=500, min_bytes=min_bytes).encode(12))
    if min_bytes > 1:
        put(log(world), b"x")
    world.clock.advance(480)
    assert client.answers() == []
    world.clock.advance(40)
    records = flat(decode_answer(client.answers()[0], sent, FetchResponse, 12))[0][3]
    assert records == b"".join(log(world).batches)
    assert log(world).waiters == []


def test_loss_of_leadership_ends_the_waiting(world: World) -> None:
    client = world.client()
    sent = client.send(1, 16, request(("events", 0, 0), max_wait_ms=500).encode(16))
    world.broker.leaders.known[log(world).group_id] = (2, 4)
    log(world).lose_leadership()
    response = decode_answer(client.answers()[0], sent, FetchResponse, 16)
    one = response.responses[0].partitions[0]
    assert one.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert (one.current_leader.leader_id, one.current_leader.leader_epoch) == (2, 4)
    assert [node.host for node in response.node_endpoints] == ["two.example"]


def test_errors_are_answered_at_once(world: World) -> None:
    client = world.client()
    asked = request(("events", 0, 99), ("events", 3, 0), ("events", 7, 0), ("nope", 0, 0), max_wait_ms=10_000)
    codes = [code for _, _, code, _ in flat(client.call(asked, FetchResponse, 12))]
    assert codes == [
        ErrorCode.OFFSET_OUT_OF_RANGE,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ]
    assert [code for _, _, code, _ in flat(client.call(request(("nope", 0, 0)), FetchResponse, 13))] == [ErrorCode.UNKNOWN_TOPIC_ID]


@pytest.mark.parametrize(("version", "code"), [(5, ErrorCode.NOT_LEADER_OR_FOLLOWER), (6, ErrorCode.KAFKA_STORAGE_ERROR)])
def test_a_bad_disk_is_told_so_that_the_client_asks_again(world: World, version: int, code: ErrorCode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log(world), "_read", lambda *_: ReadResult(ErrorCode.KAFKA_STORAGE_ERROR))
    assert flat(world.client().call(request(("events", 0, 0)), FetchResponse, version)) == [("events", 0, code, b"")]


@pytest.mark.parametrize(("epoch", "code"), [(2, ErrorCode.FENCED_LEADER_EPOCH), (3, 0), (4, ErrorCode.UNKNOWN_LEADER_EPOCH)])
def test_leader_epoch_fencing(world: World, epoch: int, code: int) -> None:
    response = world.client().call(request(("events", 0, 0), current_leader_epoch=epoch), FetchResponse, 12)
    assert flat(response)[0][2] == code


def test_reads_from_disk_answer_later(world: World) -> None:
    stored = put(log(world), b"a")
    put(log(world, 1), b"b")
    log(world).from_disk = True
    client = world.client()
    sent = client.send(1, 12, request(("events", 0, 0), ("events", 1, 0), max_wait_ms=500).encode(12))
    assert client.answers() == []
    for read in log(world).disk:
        read()
    response = decode_answer(client.answers()[0], sent, FetchResponse, 12)
    assert flat(response)[0] == ("events", 0, 0, stored[0])
    assert flat(response)[1][3] == log(world, 1).batches[0]


def test_a_client_that_goes_leaves_nothing_behind(world: World) -> None:
    client = world.client()
    client.send(1, 12, request(("events", 0, 0), max_wait_ms=500_000).encode(12))
    assert log(world).waiters
    client.connection.connection_lost(None)
    assert log(world).waiters == []
    assert len(world.services.wheel) == 0


def test_no_partitions(world: World) -> None:
    assert world.client().call(request(max_wait_ms=10_000), FetchResponse, 12).responses == []


class TestSessions:
    """KIP-227."""

    def open(self, client: Client, *parts: tuple[str, int, int], version: int = 12) -> int:
        response = client.call(request(*parts, session_epoch=0), FetchResponse, version)
        assert response.error_code == 0
        assert response.session_id > 0
        assert [(name, index) for name, index, _, _ in flat(response)] == [(name, index) for name, index, _ in parts]
        return int(response.session_id)

    def test_incremental_answers_carry_only_what_changed(self, world: World) -> None:
        client = world.client()
        session = self.open(client, ("events", 0, 0), ("events", 1, 0))
        assert flat(client.call(request(session_id=session, session_epoch=1), FetchResponse, 12)) == []
        stored = put(log(world, 1), b"new")
        response = client.call(request(session_id=session, session_epoch=2), FetchResponse, 12)
        assert response.session_id == session
        assert flat(response) == [("events", 1, 0, stored[0])]
        # The client has moved on and says so; nothing new, nothing told.
        response = client.call(request(("events", 1, 1), session_id=session, session_epoch=3), FetchResponse, 12)
        assert flat(response) == []

    def test_waits_over_the_whole_session(self, world: World) -> None:
        client = world.client()
        session = self.open(client, ("events", 0, 0), ("events", 1, 0))
        sent = client.send(1, 12, request(session_id=session, session_epoch=1, max_wait_ms=500).encode(12))
        assert client.answers() == []
        stored = put(log(world, 0), b"x")
        assert flat(decode_answer(client.answers()[0], sent, FetchResponse, 12)) == [("events", 0, 0, stored[0])]

    def test_forgotten_partitions(self, world: World) -> None:
        client = world.client()
        session = self.open(client, ("events", 0, 0), ("events", 1, 0))
        put(log(world, 0), b"x")
        put(log(world, 1), b"y")
        forgotten = [ForgottenTopic(topic="events", partitions=[0])]
        response = client.call(request(session_id=session, session_epoch=1, forgotten_topics_data=forgotten), FetchResponse, 12)
        assert [index for _, index, _, _ in flat(response)] == [1]

    def test_forgetting_everything_ends_the_session(self, world: World) -> None:
        client = world.client()
        session = self.open(client, ("events", 0, 0))
        forgotten = [ForgottenTopic(topic="events", partitions=[0])]
        response = client.call(request(session_id=session, session_epoch=1, forgotten_topics_data=forgotten), FetchResponse, 12)
        assert (response.error_code, response.session_id) == (0, 0)
        assert len(world.services.sessions) == 0

    def test_what_got_data_goes_to_the_end(self, world: World) -> None:
        client = world.client()
        session = self.open(client, ("events", 0, 0), ("events", 1, 0))
        for index in (0, 1):
            put(log(world, index), b"a", b"b")
        order = []
        for epoch in (1, 2, 3, 4):
            response = client.call(request(session_id=session, session_epoch=epoch, max_bytes=1), FetchResponse, 12)
            order += [index for _, index, _, records in flat(response) if records]
        assert order == [0, 1, 0, 1]

    def test_the_end_of_an_error_is_told(self, world: World) -> None:
        client = world.client()
        session = self.open(client, ("events", 0, 0))
        log(world).leads = False
        assert flat(client.call(request(session_id=session, session_epoch=1), FetchResponse, 12))[0][2] == ErrorCode.NOT_LEADER_OR_FOLLOWER
        log(world).leads = True
        assert flat(client.call(request(session_id=session, session_epoch=2), FetchResponse, 12))[0][2] == 0

    def test_wrong_session_and_wrong_epoch(self, world: World) -> None:
        client = world.client()
        session = self.open(client, ("events", 0, 0))
        unknown = client.call(request(session_id=999, session_epoch=1), FetchResponse, 12)
        assert (unknown.error_code, unknown.session_id) == (ErrorCode.FETCH_SESSION_ID_NOT_FOUND, 0)
        assert client.call(request(session_id=session, session_epoch=7), FetchResponse, 12).error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH
        assert client.call(request(session_id=session, session_epoch=1), FetchResponse, 12).error_code == 0
        repeated = client.call(request(session_id=session, session_epoch=1), FetchResponse, 12)
        assert repeated.error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH

    def test_names_and_ids_do_not_mix(self, world: World) -> None:
        client = world.client()
        session = self.open(client, ("events", 0, 0), version=13)
        assert client.call(request(session_id=session, session_epoch=1), FetchResponse, 12).error_code == ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR

    @pytest.mark.parametrize("epoch", [-1, 0])
    def test_a_full_fetch_forgets_the_old_session(self, world: World, epoch: int) -> None:
        client = world.client()
        session = self.open(client, ("events", 0, 0))
        response = client.call(request(("events", 0, 0), session_id=session, session_epoch=epoch), FetchResponse, 12)
        assert len(world.services.sessions) == (1 if epoch == 0 else 0)
        assert response.session_id != session
        assert client.call(request(session_id=session, session_epoch=1), FetchResponse, 12).error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND

    def test_the_cache_is_bounded(self) -> None:
        now = [0]
        ids = iter(range(1, 1000))
        cache = FetchSessionCache(lambda: now[0], lambda: next(ids), slots=2, eviction_ms=100, partitions_max=10)

        def ask(session_id: int, epoch: int, partitions: int = 1) -> Decoded:
            return Decoded(0, 1, 1, 0, session_id, epoch, [Asked("t", index, -1, 0, 1) for index in range(partitions)], [])

        first, second = cache.open(ask(0, 0), False).session_id, cache.open(ask(0, 0), False).session_id
        assert first and second
        assert cache.open(ask(0, 0), False).session_id == 0
        now[0] = 60
        assert cache.open(ask(first, 1), False).session_id == first
        now[0] = 120
        third = cache.open(ask(0, 0), False).session_id
        assert third
        assert cache.open(ask(second, 1), False).error == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        now[0] = 1000
        assert cache.open(ask(0, 0, 20), False).session_id == 0
        assert cache.open(ask(third, 1, 20), False).error == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        assert cache.partitions == 1
        assert len(cache) == 1

    def test_epoch_wraps_to_1(self) -> None:
        cache = FetchSessionCache(lambda: 0, lambda: 5)
        context = cache.open(Decoded(0, 1, 1, 0, 0, 0, [Asked("t", 0, -1, 0, 1)], []), False)
        assert context.session is not None
        context.session.epoch = 2**31 - 1
        cache.open(Decoded(0, 1, 1, 0, 5, 2**31 - 1, [], []), False)
        assert context.session.epoch == 1
