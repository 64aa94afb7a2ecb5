"""Every message in every version, both ways, against kafka-python and kio: the same bytes, and the same values back."""

from __future__ import annotations

import random
import zlib

import pytest

from broker.protocol.generator import kafka_json
from broker.protocol.generator.served import SERVED
from tests.unit.protocol.oracles import (
    KIO_KEYS,
    NEXT_KEYS,
    case_name,
    cases,
    from_ours,
    kafka_decode,
    kafka_encode,
    kio_class,
    kio_decode,
    kio_encode,
    layout,
    our_class,
    random_tree,
    to_ours,
)

FROM_KAFKA = {schema.name for schema in kafka_json.messages()}
SAMPLES = 4


@pytest.mark.parametrize(("schema", "version"), cases([*SERVED, *NEXT_KEYS, *KIO_KEYS]), ids=case_name)
def test_round_trip_with_both_oracles(schema, version):
    of = layout(schema, version)
    source = random.Random(zlib.crc32(f"{schema.name} {version}".encode()))
    for _ in range(SAMPLES):
        tree = random_tree(of, source)
        encoded = to_ours(schema, of, tree).encode(version)

        decoded, position = our_class(schema).decode(memoryview(b"head" + encoded), 4, version)
        assert position == 4 + len(encoded)
        assert from_ours(of, decoded) == tree

        if schema.name in FROM_KAFKA:
            assert kafka_encode(schema, of, tree, version) == encoded
            assert kafka_decode(schema, of, encoded, version) == tree
        kio = kio_class(schema, version)
        if kio is not None:
            assert kio_encode(kio, of, tree) == encoded
            assert kio_decode(kio, of, encoded) == (tree, len(encoded))


def test_each_message_has_an_oracle():
    for schema, version in cases([*SERVED, *NEXT_KEYS, *KIO_KEYS]):
        assert schema.name in FROM_KAFKA or kio_class(schema, version) is not None
