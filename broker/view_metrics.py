"""All metrics of a node as families. The names of the first part are promised to users and may not change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from broker.metrics import COUNTER, GAUGE, HISTOGRAM, Family, Sample, counter, gauge, histogram
from raft.core.core import Role
from raft.group import RaftGroup
from wal.entry import META_TOPIC
from wal.metrics import Histogram

if TYPE_CHECKING:
    from broker.network.stats import ApiStats
    from broker.node import Node
    from broker.view import NodeView

_STATES = {Role.FOLLOWER: 0, Role.LEADER: 1, Role.CANDIDATE: 2, Role.PRE_CANDIDATE: 2}
_MS_TO_SECONDS = 0.001
_US_TO_SECONDS = 0.000_001


def families(node: Node, view: NodeView) -> Iterator[Family]:
    """Everything, with what is there yet."""
    yield gauge("chronik_cluster_nodes", "Nodes registered in the cluster.", len(node.image.brokers))
    yield gauge("kraft_leader_id", "Node id of the leader of the metadata, 0 when none is known.", view.leader_id())
    if view.meta is not None:
        yield from _meta(node, view, view.meta)
    yield gauge("chronik_raft_snapshot_size_bytes", "Size of the newest metadata snapshot.", node.meta.snapshot_size if node.meta is not None else 0)
    yield histogram("chronik_raft_append_latency_ms", "Time from handing a flush to the disk until it is durable.", node.flush_ms)
    yield histogram("chronik_wal_fsync_latency_seconds", "The same in seconds.", node.flush_ms, _MS_TO_SECONDS)
    yield from _node(node)
    yield from _network(node)


def _meta(node: Node, view: NodeView, meta: RaftGroup) -> Iterator[Family]:
    yield gauge("chronik_raft_state", "Role in the metadata's group: 0 follower, 1 leader, 2 candidate.", _STATES[meta.core.role])
    yield gauge("chronik_raft_term", "Current term.", meta.term, partition=META_TOPIC)
    yield gauge("chronik_raft_log_index", "Last index of the metadata's log.", meta.log.last_index)
    yield gauge("chronik_raft_commit_index", "Last committed index of the metadata's log.", meta.commit_index)
    yield gauge("chronik_raft_applied_index", "Last applied index of the metadata's log.", meta.applied_index)
    entries, times = [], []
    now, last = node.clock.now_ms(), meta.log.last_index
    for number, status in view.replica_status().items():
        if number == node.node_id:
            continue
        behind = max(0, last - status.match_index)
        since_ms = max(0, now - (status.at_end_ms if status.at_end_ms >= 0 else node.started_ms)) if behind else 0
        entries.append(Sample({"node": str(number)}, behind))
        times.append(Sample({"node": str(number)}, since_ms))
    yield Family("chronik_raft_replication_lag_entries", GAUGE, "Entries that a follower lacks (told by the leader).", tuple(entries))
    yield Family("chronik_raft_replication_lag_ms", GAUGE, "Time since a follower last had everything (told by the leader).", tuple(times))


def _node(node: Node) -> Iterator[Family]:
    yield gauge("chronik_node_ready", "1 when the node serves.", node.stage == "ready")
    yield gauge("chronik_node_uptime_seconds", "Time since the start.", (node.clock.now_ms() - node.started_ms) / 1000)
    if node.store is not None:
        yield gauge("chronik_wal_memory_bytes", "Bytes of entries that are not in segments yet.", node.store.memory_bytes)
        yield gauge("chronik_wal_memory_limit_bytes", "Above this, producers are slowed down.", node.store.memory_limit_bytes)
        yield gauge("chronik_wal_disk_full", "1 while records are refused for lack of space.", bool(node.store.disk_full))
        yield gauge("chronik_quarantined_replicas", "Replicas with damaged files.", sum(bool(log.quarantined) for log in node.store.groups.values()))
    if node.driver is not None:
        groups = list(node.driver.groups.values())
        led = sum(group.core.role == Role.LEADER for group in groups)
        help_text = "Raft groups of this node by role, metadata included."
        yield Family("chronik_raft_groups", GAUGE, help_text, (Sample({"role": "leader"}, led), Sample({"role": "follower"}, len(groups) - led)))
    yield counter("chronik_producers_paused_total", "How often producers were slowed down.", node.pressure.times_paused)


def _network(node: Node) -> Iterator[Family]:
    stats = node.stats
    yield gauge("chronik_connections", "Open client connections.", stats.connections)
    yield gauge("chronik_requests_in_flight", "Requests that wait for their answer.", stats.requests_in_flight)
    yield counter("chronik_connections_opened_total", "Client connections accepted.", stats.connections_opened)
    yield counter("chronik_connections_refused_total", "Client connections refused by a limit.", stats.connections_refused)
    reasons = (("idle", stats.connections_closed_idle), ("slow", stats.connections_closed_slow), ("malformed", stats.connections_closed_malformed))
    closed = tuple(Sample({"reason": reason}, value) for reason, value in reasons)
    yield Family("chronik_connections_closed_total", COUNTER, "Client connections closed by this node.", closed)
    yield counter("chronik_network_received_bytes_total", "Bytes received from clients.", stats.bytes_in)
    yield counter("chronik_network_sent_bytes_total", "Bytes sent to clients.", stats.bytes_out)
    apis = sorted(stats.apis.values(), key=lambda api: api.name)
    yield Family("chronik_requests_total", COUNTER, "Requests by API.", tuple(Sample({"api": api.name}, api.requests) for api in apis))
    yield Family(
        "chronik_request_errors_total", COUNTER, "Requests that failed unexpectedly.", tuple(Sample({"api": api.name}, api.errors) for api in apis)
    )
    help_text = "Time from a request's last byte to its answer."
    yield Family(
        "chronik_request_latency_seconds", HISTOGRAM, help_text, tuple(Sample({"api": api.name}, 0, _latency_us(api), _US_TO_SECONDS) for api in apis)
    )


def _latency_us(api: ApiStats) -> Histogram:
    """The network layer counts by powers of two of microseconds; its last bucket is open."""
    buckets = api.latency_buckets
    found = Histogram([2**exponent - 1 for exponent in range(len(buckets) - 1)])
    found.counts = list(buckets)
    found.total = api.latency_total_us
    return found
