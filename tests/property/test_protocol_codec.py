"""Properties of the codec: values survive both ways; bad bytes give ProtocolError and nothing else, within bounded memory."""

from __future__ import annotations

import functools
import random
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.protocol.errors import ProtocolError
from broker.protocol.generator import kafka_json
from broker.protocol.generator.served import SERVED
from tests.unit.protocol.oracles import (
    KIO_KEYS,
    NEXT_KEYS,
    case_name,
    cases,
    default_value,
    from_ours,
    kafka_decode,
    kafka_encode,
    layout,
    our_class,
    random_tree,
    to_ours,
)

ALL = cases([*SERVED, *NEXT_KEYS, *KIO_KEYS])
SERVED_CASES = cases(SERVED)
FROM_KAFKA = {schema.name for schema in kafka_json.messages()}
DEADLINE = settings(deadline=None)


@DEADLINE
@given(st.sampled_from(ALL), st.randoms(use_true_random=False))
def test_round_trip(case, source):
    schema, version = case
    of = layout(schema, version)
    tree = random_tree(of, source)
    encoded = to_ours(schema, of, tree).encode(version)
    decoded, position = our_class(schema).decode(encoded, 0, version)
    assert (from_ours(of, decoded), position) == (tree, len(encoded))
    assert decoded.encode(version) == encoded
    if schema.name in FROM_KAFKA:
        assert kafka_encode(schema, of, tree, version) == encoded
        assert kafka_decode(schema, of, encoded, version) == tree


@functools.cache
def sample(schema, version) -> bytes:
    """An encoding of at most a few hundred bytes with something in it."""
    of = layout(schema, version)
    best = b""
    for seed in range(12):
        encoded = to_ours(schema, of, random_tree(of, random.Random(zlib.crc32(f"{schema.name}{version}{seed}".encode())))).encode(version)
        if len(best) < len(encoded) < 400:
            best = encoded
    return best or to_ours(schema, of, random_tree(of, random.Random(1))).encode(version)[:400]


def decode(schema, version, data) -> bool:
    """False when the bytes are refused. Anything but ProtocolError fails the test."""
    try:
        our_class(schema).decode(data, 0, version)
    except ProtocolError as error:
        assert str(error)
        return False
    return True


@pytest.mark.parametrize(("schema", "version"), SERVED_CASES, ids=case_name)
def test_every_truncation_is_refused(schema, version):
    encoded = sample(schema, version)
    assert our_class(schema).decode(encoded, 0, version)[1] == len(encoded)
    for length in range(len(encoded)):
        assert not decode(schema, version, memoryview(encoded)[:length])


@DEADLINE
@given(st.sampled_from(ALL), st.binary(max_size=200))
def test_random_bytes(case, data):
    decode(*case, data)


@DEADLINE
@given(st.sampled_from(ALL), st.data())
def test_damaged_messages(case, data):
    schema, version = case
    damaged = bytearray(sample(schema, version))
    if not damaged:
        return
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        damaged[position : position + 1] = data.draw(
            st.sampled_from([b"\xff", b"\x00", b"\x80", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff\x7f"])
        )
    decode(schema, version, memoryview(damaged))


# Objects cost more than their bytes. The worst element is a struct of a few bytes with empty arrays in it; what matters is that the factor is fixed:
# no count in a message can raise it.
FACTOR = 64
ROOM = 16 * 1024


def peak_while_decoding(schema, version, data) -> int:
    tracemalloc.start()
    try:
        decode(schema, version, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("schema", "version"), SERVED_CASES, ids=case_name)
def test_announced_counts_allocate_nothing(schema, version):
    """The largest count and length at every place of a message: memory stays in proportion to the bytes that are there."""
    encoded = sample(schema, version)
    our_class(schema)
    source = random.Random(7)
    positions = range(len(encoded)) if len(encoded) < 40 else sorted(source.sample(range(len(encoded)), 40))
    huge = b"\xff\xff\xff\xff\x07" if version in schema.flexible else b"\x7f\xff\xff\xff"
    tracemalloc.start()
    try:
        for position in positions:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            data = encoded[:position] + huge + encoded[position + len(huge) :]
            decode(schema, version, data)
            assert tracemalloc.get_traced_memory()[1] - before < FACTOR * len(data) + ROOM
    finally:
        tracemalloc.stop()


def smallest(of) -> dict:
    """The tree with the shortest encoding."""
    tree = {}
    for item in of.fields:
        if item.tag >= 0 or item.field.array or item.struct is None:
            tree[item.field.name] = [] if item.field.array and item.field.default is not None else default_value(item)
        else:
            tree[item.field.name] = smallest(item.struct)
        if tree[item.field.name] is None and not item.nullable:
            tree[item.field.name] = b""
    return tree


def with_long_arrays(of, count):
    """One tree for each array in the struct or below it: that array has `count` smallest elements, everything else is as small as can be."""
    for item in of.fields:
        tree = smallest(of)
        name = item.field.name
        if item.field.array:
            tree[name] = [smallest(item.struct) if item.struct else smallest_scalar(item.field)] * count
            yield tree
        if item.struct is not None and not item.nullable:
            for nested in with_long_arrays(item.struct, count):
                yield {**tree, name: [nested] if item.field.array else nested}


def smallest_scalar(field):
    return {"string": "", "uuid": bytes(16), "bool": False}.get(field.type, 0)


def test_memory_is_in_proportion_to_the_request():
    """Counts that are true, as many elements as fit."""
    newest = {schema.name: (schema, version) for schema, version in ALL if schema.name.endswith("Request")}
    for schema, version in newest.values():
        of = layout(schema, version)
        for tree in with_long_arrays(of, 1000):
            data = to_ours(schema, of, tree).encode(version)
            assert decode(schema, version, data)
            assert peak_while_decoding(schema, version, data) < FACTOR * len(data)


def test_a_message_without_records_has_a_largest_size():
    from broker.protocol._generated.metadata import MetadataRequest
    from broker.protocol.message import MAX_BYTES_WITHOUT_RECORDS

    with pytest.raises(ProtocolError, match="larger than"):
        MetadataRequest.decode(bytes(MAX_BYTES_WITHOUT_RECORDS + 1), 0, 1)
    assert MetadataRequest.decode(bytes(MAX_BYTES_WITHOUT_RECORDS), 0, 1)[0].topics == []


def test_an_array_that_is_as_long_as_it_can_be():
    from broker.protocol._generated.create_topics import CreateTopicsRequest

    topic = b"\x01" + struct.pack(">ih", 1, 1) + b"\x01\x01\x00"
    count = 5000
    data = b"\x89\x27" + topic * count + struct.pack(">i?x", 1000, False)
    assert len(CreateTopicsRequest.decode(data, 0, 7)[0].topics) == count
    with pytest.raises(ProtocolError, match="5001 elements"):
        CreateTopicsRequest.decode(b"\x8a\x27" + data[2:-6], 0, 7)
