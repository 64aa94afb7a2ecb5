"""What the admin interface asks of the running node. The broker fulfils it (`broker.view`); tests use a small fake.

Everything is called on the loop thread, must not block, and returns plain values that JSON can carry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from broker.metrics import Family

Json = Mapping[str, Any]


class ClusterView(Protocol):
    def health(self) -> tuple[int, Json]:
        """(200 or 503, {"status", "cluster_size", "is_leader", ..., "reasons"})."""

    def ready(self) -> tuple[int, Json]:
        """(200, {"status":"ready"}) or (503, {"status": "not_initialized", "catching_up" with "lag_entries", or "no_leader"})."""

    def startup(self) -> tuple[int, Json]:
        """(200 or 503, {"status"}): whether the start is over; it never goes back."""

    def cluster(self) -> Json:
        """One summary of everything below."""

    def members(self) -> Sequence[Json]:
        """{"node_id", "addr", "state": "leader", "follower" or "learner", ...} of each node."""

    def leader(self) -> Json | None:
        """{"node_id", "addr", "term"} of the leader of the metadata, None while there is none."""

    def partitions(self) -> Iterable[Json]:
        """{"topic", "partition", "leader", "replicas", "isr"} of each partition, `__meta` first."""

    def node_info(self) -> Json:
        """Id, version, uptime, paths, disk, roles, resource use of this node."""

    def families(self) -> Iterable[Family]:
        """All metrics."""
