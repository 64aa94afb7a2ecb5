"""What a consumer subscribes to: the topics in its metadata (ConsumerProtocolSubscription: version, topics, and more that is left)."""

from __future__ import annotations

import struct

CONSUMER_PROTOCOL_TYPE = "consumer"
_SHORT = struct.Struct(">h")
_INT = struct.Struct(">i")


def subscribed_topics(metadata: bytes) -> frozenset[str] | None:
    """Topic names; None when the bytes are no subscription. The counts are a client's: each is checked against the bytes that are left."""
    try:
        (version,) = _SHORT.unpack_from(metadata, 0)
        (count,) = _INT.unpack_from(metadata, 2)
        position = 6
        if version < 0 or not 0 <= count <= (len(metadata) - position) // 2:
            return None
        topics = set()
        for _ in range(count):
            (length,) = _SHORT.unpack_from(metadata, position)
            position += 2
            if not 0 <= length <= len(metadata) - position:
                return None
            topics.add(metadata[position : position + length].decode())
            position += length
    except (struct.error, UnicodeDecodeError):
        return None
    return frozenset(topics)
