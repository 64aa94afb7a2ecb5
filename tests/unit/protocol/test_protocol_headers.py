"""Request and response headers against kafka-python's and kio's; unknown keys and versions keep their correlation id."""

from __future__ import annotations

import io
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.api_header import RequestHeader as KafkaRequestHeader

from broker.protocol.api_keys import APIS, NEVER_FLEXIBLE
from broker.protocol.errors import ProtocolError
from broker.protocol.headers import decode_request_header, response_header

int32 = st.integers(-(2**31), 2**31 - 1)
known = st.sampled_from(sorted(APIS)).flatmap(lambda key: st.tuples(st.just(key), st.integers(0, APIS[key].last_version)))


@given(known, int32, st.none() | st.text(max_size=200), st.binary(max_size=5))
def test_known_requests_as_kafka_python_writes_them(api, correlation_id, client_id, body):
    key, version = api
    flexible = version >= APIS[key].first_flexible_version
    header = KafkaRequestHeader(request_api_key=key, request_api_version=version, correlation_id=correlation_id, client_id=client_id)
    encoded = header.encode(flexible=flexible)
    for frame in (encoded + body, memoryview(bytearray(encoded + body))):
        assert decode_request_header(frame) == (key, version, correlation_id, client_id, len(encoded))


def test_header_versions_are_kio_s():
    from kio.index import load_request_schema, load_response_schema
    from kio.schema.index import api_key_map, schema_name_map

    for key, name in api_key_map.items():
        for version in schema_name_map[name]:
            request, response = load_request_schema(key, version), load_response_schema(key, version)
            assert (version >= APIS[key].first_flexible_version) == (int(request.__header_schema__.__version__) == 2)
            assert len(response_header(key, version, 1)) == (5 if int(response.__header_schema__.__version__) == 1 else 4)


def test_tagged_fields_of_the_header_are_skipped():
    frame = pack(">hhih", 3, 9, 7, 2) + b"me" + b"\x01\x00\x03abc" + b"body"
    assert decode_request_header(frame) == (3, 9, 7, "me", len(frame) - 4)


@given(st.integers(-(2**15), 2**15 - 1), st.integers(-(2**15), 2**15 - 1), int32, st.binary(max_size=40))
def test_unknown_key_or_version_still_gives_the_correlation_id(key, version, correlation_id, rest):
    frame = pack(">hhi", key, version, correlation_id) + rest
    try:
        decoded = decode_request_header(frame)
    except ProtocolError:
        assert key in APIS and 0 <= version <= APIS[key].last_version
    else:
        assert decoded[:3] == (key, version, correlation_id)
        assert 0 <= decoded[4] <= max(len(frame), 10)


def test_an_api_versions_request_from_the_future_is_understood():
    """KIP-511: the broker answers it in version 0, so it must get the correlation id and may use the client id."""
    frame = pack(">hhih", 18, 77, 42, 3) + b"new" + b"\x00" + b"anything"
    assert decode_request_header(frame) == (18, 77, 42, "new", 14)


@pytest.mark.parametrize("frame", [b"", b"\0" * 7, pack(">hhi", 3, 9, 1), pack(">hhih", 3, 9, 1, -2), pack(">hhih", 3, 9, 1, 9) + b"short"])
def test_malformed_headers(frame):
    with pytest.raises(ProtocolError):
        decode_request_header(frame)


def test_a_client_id_that_is_not_utf8_or_too_long_is_refused():
    for text in (b"\xff\xfe", b"\xff" * 100):
        with pytest.raises(ProtocolError, match="UTF-8"):
            decode_request_header(pack(">hhih", 3, 1, 1, len(text)) + text)
    with pytest.raises(ProtocolError, match="truncated"):
        decode_request_header(pack(">hhih", 3, 1, 1, 32767) + b"x" * 100)


def test_every_truncation_of_a_flexible_header_is_refused():
    frame = KafkaRequestHeader(request_api_key=3, request_api_version=12, correlation_id=5, client_id="client").encode(flexible=True)
    for length in range(len(frame)):
        with pytest.raises(ProtocolError):
            decode_request_header(frame[:length])


def test_response_headers():
    assert response_header(3, 8, 7) == pack(">i", 7)
    assert response_header(3, 9, 7) == pack(">ix", 7)
    assert response_header(18, 4, -1) == pack(">i", -1)
    assert response_header(999, 3, 7) == pack(">i", 7)
    assert all(len(response_header(key, NEVER_FLEXIBLE - 1, 0)) == 4 for key in (17, 18, 47))


def test_kafka_python_reads_our_response_header():
    from kafka.protocol.api_header import ResponseHeader

    assert ResponseHeader.decode(io.BytesIO(response_header(3, 9, 77)), flexible=True).correlation_id == 77
