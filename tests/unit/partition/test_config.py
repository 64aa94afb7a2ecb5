"""A topic's settings as a partition obeys them."""

from __future__ import annotations

import pytest

from broker.errors import ErrorCode, KafkaError
from broker.partition.config import MAX_ENTRY_BYTES, TopicConfig


def test_nothing_set_is_kafkas_default() -> None:
    assert TopicConfig.parse({}) == TopicConfig()


def test_topic_over_broker_over_default() -> None:
    defaults = {"message.max.bytes": 5000, "min.insync.replicas": 2, "compression.type": None, "log.message.timestamp.type": "LogAppendTime"}
    config = TopicConfig.parse({"min.insync.replicas": "3"}, defaults)
    assert config == TopicConfig(max_message_bytes=5000, min_insync_replicas=3, log_append_time=True)


@pytest.mark.parametrize(("name", "codec"), [("producer", -1), ("uncompressed", 0), ("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)])
def test_compression_type(name: str, codec: int) -> None:
    assert TopicConfig.parse({"compression.type": name}).compression_codec == codec


@pytest.mark.parametrize(
    "configs",
    [
        {"compression.type": "brotli"},
        {"message.timestamp.type": "now"},
        {"max.message.bytes": str(MAX_ENTRY_BYTES + 1)},
        {"max.message.bytes": "-1"},
        {"min.insync.replicas": "0"},
        {"min.insync.replicas": "two"},
    ],
)
def test_what_is_not_allowed_says_so(configs: dict[str, str]) -> None:
    with pytest.raises(KafkaError) as caught:
        TopicConfig.parse(configs)
    assert caught.value.code is ErrorCode.INVALID_CONFIG and next(iter(configs)) in caught.value.message
