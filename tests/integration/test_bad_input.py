"""What no honest client sends, to a live node; and damage on its disk."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.frames import HTTP_GET, TLS_HELLO, framed, good_records, produce_frame
from tests.fuzz.run import fuzz
from tests.integration.support import consume, make_topic, produce, producer_of
from tests.processes import ProcessCluster, wait_until

CORRUPT_MESSAGE, MESSAGE_TOO_LARGE, UNSUPPORTED_VERSION, INVALID_RECORD = 2, 10, 35, 87


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with ProcessCluster(tmp_path_factory.mktemp("single"), 1) as running:
        make_topic(running, "events", 2, 1)
        yield running
        assert running.surprises() == []


def exchange(cluster: ProcessCluster, data: bytes, seconds: float = 5) -> bytes:
    """What comes back for `data`: one answer without its length, or b"" when the connection is closed."""
    with socket.create_connection(("127.0.0.1", cluster.nodes[1].kafka), seconds) as client:
        client.settimeout(seconds)
        client.sendall(data)
        try:
            length = client.recv(4, socket.MSG_WAITALL)
            return client.recv(struct.unpack(">i", length)[0], socket.MSG_WAITALL) if len(length) == 4 else b""
        except ConnectionResetError:
            return b""


def produce_error(answer: bytes) -> int:
    """Error code of the only partition in a Produce v7 response."""
    code: int = struct.unpack_from(">h", answer, 4 + 4 + 2 + len("events") + 4 + 4)[0]
    return code


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (TLS_HELLO, "TLS"),
        (HTTP_GET, "HTTP"),
        (b"\xff\xff\xff\xff", "-1"),
        (struct.pack(">i", 2**31 - 1), str(2**31 - 1)),
    ],
)
def test_what_is_no_request_closes_the_connection_with_one_line(single: ProcessCluster, data: bytes, why: str) -> None:
    node = single.nodes[1]
    time.sleep(1.1)  # complaints are limited per second
    before = node.log.read_text().splitlines()
    assert exchange(single, data) == b""
    wait_until("a log line", lambda: len(node.log.read_text().splitlines()) > len(before), 5)
    lines = node.log.read_text().splitlines()[len(before) :]
    assert len(lines) == 1 and "[WARN]" in lines[0] and why in lines[0], lines


@pytest.mark.parametrize(("key", "version"), [(93, 0), (3, 99), (-1, 0)])
def test_an_unknown_key_or_version_is_answered_so(single: ProcessCluster, key: int, version: int) -> None:
    assert exchange(single, framed(key, version, b""))[:6] == struct.pack(">ih", 7, UNSUPPORTED_VERSION)


def test_api_versions_of_the_future_is_answered_with_what_there_is(single: ProcessCluster) -> None:
    answer = exchange(single, framed(18, 99, b""))
    assert struct.unpack_from(">ih", answer) == (7, UNSUPPORTED_VERSION) and len(answer) > 50


def test_bad_batches_get_their_error(single: ProcessCluster) -> None:
    wrong_crc = good_records()
    wrong_crc[-1] ^= 1
    assert produce_error(exchange(single, produce_frame(bytes(wrong_crc)))) == CORRUPT_MESSAGE
    wrong_count = good_records()
    struct.pack_into(">i", wrong_count, 57, 2**31 - 1)
    assert produce_error(exchange(single, produce_frame(bytes(wrong_count)))) in (CORRUPT_MESSAGE, INVALID_RECORD)
    assert produce_error(exchange(single, produce_frame(b""))) in (CORRUPT_MESSAGE, INVALID_RECORD)
    large = good_records(100_000)
    assert len(large) > 1_048_588
    assert produce_error(exchange(single, produce_frame(bytes(large)))) == MESSAGE_TOO_LARGE
    assert produce_error(exchange(single, produce_frame(bytes(good_records())))) == 0


def test_a_few_thousand_bad_frames(single: ProcessCluster) -> None:
    assert fuzz(single, 3_000, seed=11) == []


def test_a_damaged_segment_is_noticed_and_others_serve(tmp_path: Path) -> None:
    """A byte is flipped while a node is down. It comes back as the preferred leader, is asked for that record, and must not serve it."""
    values = [b"%06d" % n + b"v" * 10_000 for n in range(300)]
    with ProcessCluster(tmp_path) as cluster:
        topic = make_topic(cluster, "damage")
        leader = cluster.nodes[cluster.wait_leader(topic)]
        produce(producer_of(cluster), topic, values)
        assert leader.terminate() == 0, leader.log_tail()
        segment = leader.directory / "data" / "wal" / topic / "wal_0_00000001.log"
        content = bytearray(segment.read_bytes())
        position = content.index(b"%06dvvv" % 20) + 100
        content[position] ^= 1
        segment.write_bytes(content)
        leader.start()
        leader.wait_ready()
        end = time.monotonic() + 15
        while "chronik_quarantined_replicas 1.0" not in leader.get("/metrics")[1] and time.monotonic() < end:
            assert consume(cluster, topic, len(values)) == values
        assert "chronik_quarantined_replicas 1.0" in leader.get("/metrics")[1], leader.log_tail()
        assert consume(cluster, topic, len(values)) == values
        assert produce(producer_of(cluster), topic, [b"more"]) == [len(values)]
        assert cluster.partition_leader(topic) != leader.node
        assert any("damage-0" in line and "wal_0_00000001" in line for line in leader.log.read_text().splitlines()), leader.log_tail()
        assert cluster.surprises() == []
