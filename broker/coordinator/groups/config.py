"""What the group coordinator obeys of the broker's settings, parsed once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_MINUTE_MS = 60_000


class GroupConfig(NamedTuple):
    """Kafka's settings in ms, bytes and members, with Kafka's defaults."""

    session_timeout_ms_min: int = 6_000
    session_timeout_ms_max: int = 1_800_000
    initial_rebalance_delay_ms: int = 3_000
    members_max: int = 2**31 - 1
    metadata_bytes_max: int = 4096
    retention_ms: int = 7 * 24 * 60 * _MINUTE_MS
    retention_check_ms: int = 600_000

    @staticmethod
    def parse(settings: Mapping[str, object]) -> GroupConfig:
        """From typed broker settings; what is missing has its default."""

        def number(name: str, default: int) -> int:
            value = settings.get(name)
            return value if isinstance(value, int) else default

        default = GroupConfig()
        return GroupConfig(
            number("group.min.session.timeout.ms", default.session_timeout_ms_min),
            number("group.max.session.timeout.ms", default.session_timeout_ms_max),
            number("group.initial.rebalance.delay.ms", default.initial_rebalance_delay_ms),
            number("group.max.size", default.members_max),
            number("offset.metadata.max.bytes", default.metadata_bytes_max),
            number("offsets.retention.minutes", default.retention_ms // _MINUTE_MS) * _MINUTE_MS,
            number("offsets.retention.check.interval.ms", default.retention_check_ms),
        )
