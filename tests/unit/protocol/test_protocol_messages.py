"""Behaviour of the generated classes that the oracles do not show: defaults, errors, views, unknown tagged fields."""

from __future__ import annotations

import pytest

from broker.protocol._generated.api_versions import ApiVersionsRequest, ApiVersionsResponse
from broker.protocol._generated.create_topics import CreatableTopic, CreateTopicsRequest
from broker.protocol._generated.fetch import FetchableTopicResponse, FetchResponse, PartitionData
from broker.protocol._generated.list_offsets import ListOffsetsRequest
from broker.protocol._generated.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from broker.protocol.errors import EncodeError, ProtocolError
from broker.protocol.message import Message


def test_defaults_are_the_schemas_and_never_shared():
    request = MetadataRequest()
    assert (request.topics, request.allow_auto_topic_creation) == ([], True)
    assert MetadataRequest(topics=None).topics is None
    assert MetadataRequest().topics is not request.topics
    assert MetadataResponse().controller_id == -1 and MetadataResponse().cluster_id is None
    assert CreateTopicsRequest().timeout_ms == 60000


def test_fields_of_other_versions_have_their_defaults_after_decoding():
    encoded = MetadataRequest(topics=[MetadataRequestTopic(name="a", topic_id=b"i" * 16)], allow_auto_topic_creation=False).encode(1)
    decoded, _ = MetadataRequest.decode(encoded, 0, 1)
    assert decoded == MetadataRequest(topics=[MetadataRequestTopic(name="a")])


def test_equality_and_representation():
    topic = MetadataRequestTopic(name="a")
    assert topic == MetadataRequestTopic(name="a") != MetadataRequestTopic(name="b")
    assert topic != "a"
    assert repr(topic) == f"MetadataRequestTopic(topic_id={bytes(16)!r}, name='a')"
    with pytest.raises(TypeError):
        hash(topic)
    with pytest.raises(AttributeError):
        topic.nmae = "typo"


@pytest.mark.parametrize("version", [-1, 14, 32767])
def test_unknown_versions(version):
    with pytest.raises(ProtocolError, match="MetadataRequest"):
        MetadataRequest.decode(b"\0" * 20, 0, version)
    with pytest.raises(EncodeError, match="MetadataRequest"):
        MetadataRequest().encode(version)


def test_versions_below_the_first_have_no_decoder():
    with pytest.raises(ProtocolError, match="version 0 is outside 1-11"):
        ListOffsetsRequest.decode(b"\0" * 20, 0, 0)


@pytest.mark.parametrize(
    "message",
    [
        MetadataRequest(topics=[MetadataRequestTopic(name=None)]),
        MetadataRequest(topics=[MetadataRequestTopic(name="\ud800")]),
        MetadataRequest(topics=[MetadataRequestTopic(name="x" * 40000)]),
        MetadataResponse(throttle_time_ms=2**31),
        MetadataResponse(brokers=None),
        CreateTopicsRequest(topics=[CreatableTopic(name="a", replication_factor="3")]),
    ],
)
def test_values_without_an_encoding_are_our_fault_and_leave_the_buffer_as_it_was(message: Message):
    out = bytearray(b"before")
    with pytest.raises(EncodeError, match=type(message).__name__):
        message.encode_into(out, message.min_version + 3)
    assert out == b"before"


def test_records_stay_views_of_the_buffer():
    message = FetchResponse(responses=[FetchableTopicResponse(topic="t", partitions=[PartitionData(records=b"batch"), PartitionData(records=None)])])
    frame = bytearray(message.encode(12))
    decoded, _ = FetchResponse.decode(memoryview(frame), 0, 12)
    first, second = decoded.responses[0].partitions
    assert isinstance(first.records, memoryview) and first.records.obj is frame
    assert second.records is None
    frame[frame.index(b"batch")] = ord("B")
    assert bytes(first.records) == b"Batch"


def test_unknown_tagged_fields_are_skipped():
    encoded = MetadataRequest(topics=[MetadataRequestTopic(name="a")]).encode(12)
    assert encoded.endswith(b"\0")
    with_unknown = encoded[:-1] + b"\x02" + b"\x05\x03abc" + b"\xe8\x07\x00"
    decoded, position = MetadataRequest.decode(with_unknown, 0, 12)
    assert position == len(with_unknown)
    assert decoded == MetadataRequest.decode(encoded, 0, 12)[0]
    response = ApiVersionsResponse(finalized_features_epoch=7).encode(3)
    between = response.replace(b"\x01\x01\x08" + (7).to_bytes(8, "big"), b"\x03\x01\x08" + (7).to_bytes(8, "big") + b"\x09\x01x" + b"\x63\x00")
    decoded_response, position = ApiVersionsResponse.decode(between, 0, 3)
    assert position == len(between) and decoded_response.finalized_features_epoch == 7


def test_a_known_tagged_field_must_fill_its_announced_length():
    response = ApiVersionsResponse(finalized_features_epoch=7).encode(3)
    for length in (b"\x07", b"\x09"):
        with pytest.raises(ProtocolError, match="finalized_features_epoch"):
            ApiVersionsResponse.decode(response.replace(b"\x01\x01\x08", b"\x01\x01" + length) + b"\0", 0, 3)


def test_null_where_the_schema_has_none_is_refused_with_the_name_of_the_field():
    with pytest.raises(ProtocolError, match=r"MetadataRequest\.topics: null"):
        MetadataRequest.decode(b"\xff\xff\xff\xff", 0, 0)
    with pytest.raises(ProtocolError, match=r"MetadataRequest\.topics: negative length -2"):
        MetadataRequest.decode(b"\xff\xff\xff\xfe", 0, 1)
    with pytest.raises(ProtocolError, match=r"ApiVersionsRequest\.client_software_name: null"):
        ApiVersionsRequest.decode(b"\x00\x02a\x00", 0, 3)
    with pytest.raises(ProtocolError, match=r"MetadataRequestTopic\.name: null"):
        MetadataRequest.decode(b"\x00\x00\x00\x01\xff\xff", 0, 1)


def test_text_that_is_not_utf8_is_refused():
    with pytest.raises(ProtocolError, match="UTF-8"):
        MetadataRequest.decode(b"\x00\x00\x00\x01\x00\x01\xff", 0, 1)


def test_any_kind_of_buffer():
    encoded = MetadataRequest(topics=[MetadataRequestTopic(name="topic")]).encode(9)
    for buffer in (encoded, bytearray(encoded), memoryview(encoded), memoryview(bytearray(b"xx" + encoded))[2:]):
        assert MetadataRequest.decode(buffer, 0, 9)[0].topics[0].name == "topic"
