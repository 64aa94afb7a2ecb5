"""What a partition obeys of its topic's settings, parsed once. A new object replaces the old one when a setting changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.errors import ErrorCode, KafkaError
from broker.records.compression import CODEC_NAMES

MAX_ENTRY_BYTES = 16 * 1024 * 1024
"""One raft entry, and with it one produce request's records for one partition; a larger max.message.bytes is refused."""

_LONG_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """Settings by Kafka's names; times in ms. `compression_codec` -1 = producer (as sent), else every batch is stored with that codec."""

    max_message_bytes: int = 1_048_588
    min_insync_replicas: int = 1
    compression_codec: int = -1
    log_append_time: bool = False
    timestamp_before_max_ms: int = _LONG_MAX
    timestamp_after_max_ms: int = 3_600_000
    replica_lag_time_max_ms: int = 30_000
    producer_id_expiration_ms: int = 86_400_000

    @staticmethod
    def parse(configs: Mapping[str, str], defaults: Mapping[str, object] | None = None) -> TopicConfig:
        """From the topic's own settings over the broker's `defaults`, which may use the broker's names. Raises KafkaError(INVALID_CONFIG)."""
        source = _Source(configs, defaults or {})
        compression = source.text("compression.type", "producer")
        if compression != "producer" and compression not in CODEC_NAMES:
            raise KafkaError(ErrorCode.INVALID_CONFIG, f"compression.type is {compression!r}; use producer or one of {', '.join(CODEC_NAMES)}")
        timestamp_type = source.text("message.timestamp.type", "CreateTime", "log.message.timestamp.type")
        if timestamp_type not in ("CreateTime", "LogAppendTime"):
            raise KafkaError(ErrorCode.INVALID_CONFIG, f"message.timestamp.type is {timestamp_type!r}; use CreateTime or LogAppendTime")
        return TopicConfig(
            max_message_bytes=source.number("max.message.bytes", 1_048_588, 0, MAX_ENTRY_BYTES, "message.max.bytes"),
            min_insync_replicas=source.number("min.insync.replicas", 1, 1, 32_767),
            compression_codec=-1 if compression == "producer" else int(CODEC_NAMES[compression]),
            log_append_time=timestamp_type == "LogAppendTime",
            timestamp_before_max_ms=source.number("message.timestamp.before.max.ms", _LONG_MAX, 0, _LONG_MAX, "log.message.timestamp.before.max.ms"),
            timestamp_after_max_ms=source.number("message.timestamp.after.max.ms", 3_600_000, 0, _LONG_MAX, "log.message.timestamp.after.max.ms"),
            replica_lag_time_max_ms=source.number("replica.lag.time.max.ms", 30_000, 1, _LONG_MAX),
            producer_id_expiration_ms=source.number("producer.id.expiration.ms", 86_400_000, 1, _LONG_MAX),
        )


class _Source:
    """Topic settings first, then the broker's default under the topic's or the broker's name."""

    __slots__ = ("_configs", "_defaults")

    def __init__(self, configs: Mapping[str, str], defaults: Mapping[str, object]) -> None:
        self._configs = configs
        self._defaults = defaults

    def text(self, name: str, fallback: str, broker_name: str = "") -> str:
        if name in self._configs:
            return self._configs[name]
        for default in (self._defaults.get(name), self._defaults.get(broker_name)):
            if default is not None:
                return str(default)
        return fallback

    def number(self, name: str, fallback: int, low: int, high: int, broker_name: str = "") -> int:
        text = self.text(name, str(fallback), broker_name)
        try:
            value = int(text)
        except ValueError:
            raise KafkaError(ErrorCode.INVALID_CONFIG, f"{name} is {text!r}; it must be a whole number") from None
        if not low <= value <= high:
            raise KafkaError(ErrorCode.INVALID_CONFIG, f"{name} is {value}; it must be between {low} and {high}")
        return value
