"""Frames that no honest client sends: random, cut, flipped, with huge counts, of other protocols. One random source decides everything."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

from broker.protocol.api_keys import APIS
from broker.records.builder import build_batch
from broker.records.reader import Record
from tests.property.test_malformed_frames import SYNC, example

TLS_HELLO = bytes.fromhex("16030100f5010000f10303") + bytes(240)
HTTP_GET = b"GET / HTTP/1.1\r\nHost: localhost:9092\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"
INT32_EDGES = (-(2**31), -2, -1, 0, 1, 127, 2**16, 2**24, 2**31 - 1)

KEYS = [*SYNC, 19, 20, 22, 37]
"""APIs whose requests have something in every array."""


def framed(key: int, version: int, body: bytes) -> bytes:
    header = struct.pack(">hhih", key, version, 7, 4) + b"fuzz"
    if key in APIS and version >= APIS[key].first_flexible_version:
        header += b"\0"
    return struct.pack(">i", len(header) + len(body)) + header + body


def valid(rng: Random) -> bytes:
    key = rng.choice(KEYS)
    version = rng.randint(APIS[key].first_version, APIS[key].last_version)
    return framed(key, version, example(key, version))


def reframed(payload: bytes) -> bytes:
    return struct.pack(">i", len(payload)) + payload


def random_bytes(rng: Random) -> bytes:
    return rng.randbytes(rng.randint(1, 400))


def random_body(rng: Random) -> bytes:
    key = rng.choice(KEYS)
    return framed(key, rng.randint(APIS[key].first_version, APIS[key].last_version), rng.randbytes(rng.randint(0, 200)))


def cut(rng: Random) -> bytes:
    payload = valid(rng)[4:]
    return reframed(payload[: rng.randint(0, len(payload) - 1)])


def flipped(rng: Random) -> bytes:
    payload = bytearray(valid(rng)[4:])
    for _ in range(rng.randint(1, 4)):
        payload[rng.randrange(4, len(payload))] ^= 1 << rng.randrange(8)
    return reframed(bytes(payload))


def huge_count(rng: Random) -> bytes:
    payload = bytearray(valid(rng)[4:])
    position = rng.randint(8, max(8, len(payload) - 4))
    payload[position : position + 4] = struct.pack(">i", rng.choice(INT32_EDGES))
    return reframed(bytes(payload))


def huge_varint(rng: Random) -> bytes:
    payload = bytearray(valid(rng)[4:])
    position = rng.randint(8, len(payload))
    payload[position : position + 1] = b"\xff" * rng.randint(1, 10) + bytes([rng.randint(0, 127)])
    return reframed(bytes(payload))


def bad_length(rng: Random) -> bytes:
    return struct.pack(">i", rng.choice((-(2**31), -1, 0, 1, 3, 101 << 20, 2**31 - 1))) + rng.randbytes(rng.randint(0, 60))


def unknown_key(rng: Random) -> bytes:
    return framed(rng.choice((-1, 4, 5, 6, 7, 93, 200, 32767, -32768)), rng.randint(-1, 20), b"")


def unknown_version(rng: Random) -> bytes:
    key = rng.choice(KEYS)
    return framed(key, rng.choice((-1, APIS[key].last_version + 1, 99, 32767)), rng.randbytes(rng.randint(0, 40)))


def other_protocol(rng: Random) -> bytes:
    return rng.choice((TLS_HELLO, HTTP_GET, b"SSH-2.0-OpenSSH_9.6\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 64, b"\n" * 64))


def produce_frame(records: bytes, acks: int = -1) -> bytes:
    """Produce v7 of `records` to partition 0 of `events`."""
    body = struct.pack(">hhii", -1, acks, 1000, 1) + struct.pack(">h", 6) + b"events" + struct.pack(">iii", 1, 0, len(records)) + records
    return framed(0, 7, body)


def good_records(count: int = 3) -> bytearray:
    return build_batch([Record(0, 1000 + n, b"key", b"value") for n in range(count)])


def bad_batch(rng: Random) -> bytes:
    records = good_records()
    kind = rng.randrange(4)
    if kind == 0:
        records[rng.randrange(17, len(records))] ^= 1 << rng.randrange(8)  # what the CRC covers
    elif kind == 1:
        struct.pack_into(">i", records, 57, rng.choice(INT32_EDGES))  # record count
    elif kind == 2:
        struct.pack_into(">i", records, 8, rng.choice(INT32_EDGES))  # batch length
    else:
        records = records[: rng.randrange(len(records))]
    return produce_frame(bytes(records), rng.choice((-1, 1)))


KINDS: dict[str, Callable[[Random], bytes]] = {
    made.__name__: made
    for made in (
        random_bytes,
        random_body,
        cut,
        flipped,
        huge_count,
        huge_varint,
        bad_length,
        unknown_key,
        unknown_version,
        other_protocol,
        bad_batch,
    )
}
