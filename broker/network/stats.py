"""Plain integers that the network layer counts; the metrics collector reads them. Written on the loop thread only."""

from __future__ import annotations

LATENCY_BUCKETS = 28


class ApiStats:
    """Counters of one API key.

    `latency_buckets[i]` counts answers that took less than 2^i microseconds and at least 2^(i-1), from the whole frame to the handed-over answer.
    """

    __slots__ = ("errors", "latency_buckets", "latency_total_us", "name", "requests")

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = 0
        self.errors = 0  # requests that ended in an unexpected error, a malformed body or a closed connection
        self.latency_total_us = 0
        self.latency_buckets = [0] * LATENCY_BUCKETS

    def observe(self, elapsed_ns: int) -> None:
        elapsed_us = elapsed_ns // 1000
        self.latency_total_us += elapsed_us
        bucket = elapsed_us.bit_length()
        self.latency_buckets[bucket if bucket < LATENCY_BUCKETS else LATENCY_BUCKETS - 1] += 1


class NetworkStats:
    """Counters of all client connections of one worker."""

    __slots__ = (
        "apis",
        "bytes_in",
        "bytes_out",
        "connections",
        "connections_closed_idle",
        "connections_closed_malformed",
        "connections_closed_slow",
        "connections_opened",
        "connections_refused",
        "errors",
        "requests_in_flight",
        "unsupported",
    )

    def __init__(self) -> None:
        self.apis: dict[int, ApiStats] = {}
        self.bytes_in = 0
        self.bytes_out = 0
        self.connections = 0
        self.connections_opened = 0
        self.connections_refused = 0
        self.connections_closed_idle = 0
        self.connections_closed_slow = 0
        self.connections_closed_malformed = 0
        self.errors = 0
        self.requests_in_flight = 0
        self.unsupported = 0

    def api(self, key: int, name: str) -> ApiStats:
        """The counters of `key`, made at first use."""
        found = self.apis.get(key)
        if found is None:
            found = self.apis[key] = ApiStats(name)
        return found
