"""What the admin interface shows of the running node (`admin_api.view.ClusterView`): plain values, read on the loop thread at the moment of asking.

Owns: the words and shapes of health, members, partitions, node. Changes nothing. What is not known yet is said to be unknown, never guessed.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from broker.metrics import Family
from broker.version import KAFKA_PROTOCOL, RAFT_PROTOCOL, VERSION, revision, running
from broker.view_metrics import families
from raft.api import ReplicaStatus
from raft.core.core import Role
from raft.core.message import node_of
from raft.group import RaftGroup
from wal.entry import META_GROUP, META_TOPIC

if TYPE_CHECKING:
    from broker.node import Node

Json = Mapping[str, Any]

_STAGE_TEXT = {
    "not_initialized": "the node is starting",
    "joining": "the node has not joined its cluster yet",
    "catching_up": "the node fetches what it missed",
    "stopping": "the node is stopping",
}
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class NodeView:
    """Fulfils ClusterView. Any part of the node may not be there yet: health must answer while the node waits for its cluster."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._was_ready = False

    # -- parts ----------------------------------------------------------------------------------------------------

    @property
    def meta(self) -> RaftGroup | None:
        """The group of `__meta`, once it is open."""
        found: RaftGroup | None = self._node.meta.group if self._node.meta is not None else None
        return found

    def leader_id(self) -> int:
        """Node id of the leader of `__meta`, 0 unknown. Candidates know none."""
        meta = self.meta
        return meta.leader if meta is not None and meta.core.role in (Role.FOLLOWER, Role.LEADER) else 0

    def replica_status(self) -> dict[int, ReplicaStatus]:
        """Leader only: how it sees each member of `__meta`, by node id."""
        meta = self.meta
        if meta is None or meta.core.role != Role.LEADER:
            return {}
        return {status.node: status for status in meta.replicas()}

    def _address(self, node_id: int) -> str:
        node = self._node
        broker = node.image.brokers.get(node_id)
        if broker is not None:
            return broker.raft_address
        return node.links.own_address if node_id == node.node_id else node.links.peers.get(node_id, "")

    # -- health ---------------------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Why this node does not serve fully; empty when it does."""
        node = self._node
        found = []
        if node.stage != "ready":
            found.append(_STAGE_TEXT.get(node.stage, node.stage))
            found.extend(node.reasons)
        if node.stage in ("ready", "catching_up") and self.leader_id() == 0:
            found.append("no leader is known: a majority of the voters must run and reach each other")
        if node.store is not None:
            if node.store.disk_full:
                found.append("the disk is full: records are refused until there is room")
            sick = [f"{log.topic}-{log.partition} is quarantined: {log.quarantined}" for log in node.store.groups.values() if log.quarantined]
            found.extend(sick[:10])
        if node.failure.done():
            found.append(f"the node is stopping after an error: {node.failure.result()}")
        return found

    def health(self) -> tuple[int, Json]:
        node, leader = self._node, self.leader_id()
        problems = self.problems()
        body: dict[str, Any] = {
            "status": "unhealthy" if problems else "healthy",
            "cluster_size": len(node.image.brokers),
            "is_leader": leader == node.node_id,
            "node_id": node.node_id,
            "leader_id": leader or None,
            "term": self.meta.term if self.meta is not None else 0,
            "stage": node.stage,
        }
        if problems:
            body["reasons"] = problems
        return (503 if problems else 200), body

    def ready(self) -> tuple[int, Json]:
        node, meta = self._node, self.meta
        if node.stage in ("not_initialized", "joining", "stopping") or meta is None:
            return 503, {"status": "not_initialized", "stage": node.stage, "reasons": list(node.reasons)}
        if self.leader_id() == 0:
            return 503, {"status": "no_leader", "reasons": list(node.reasons)}
        if node.stage == "catching_up":
            return 503, {"status": "catching_up", "lag_entries": max(0, meta.log.last_index - meta.applied_index), "reasons": list(node.reasons)}
        return 200, {"status": "ready"}

    def startup(self) -> tuple[int, Json]:
        self._was_ready = self._was_ready or self._node.stage == "ready"
        return (200, {"status": "started"}) if self._was_ready else (503, {"status": "starting", "stage": self._node.stage})

    # -- cluster --------------------------------------------------------------------------------------------------

    def cluster(self) -> Json:
        image = self._node.image
        return {
            "cluster_id": image.cluster_id,
            "leader": self.leader(),
            "members": self.members(),
            "health": self.health()[1],
            "topics": len(image.topics),
            "partitions": sum(len(topic.partitions) for topic in image.topics.values()),
            "metadata_version": image.version,
        }

    def leader(self) -> Json | None:
        meta, leader = self.meta, self.leader_id()
        if meta is None or leader == 0:
            return None
        return {"node_id": leader, "addr": self._address(leader), "term": meta.term}

    def members(self) -> Sequence[Json]:
        node, meta, leader = self._node, self.meta, self.leader_id()
        membership = meta.core.membership if meta is not None else None
        learners = {node_of(replica) for replica in membership.learners} if membership is not None else set()
        known = {node_of(replica) for replica in membership.members} if membership is not None else set()
        status = self.replica_status()
        return [self._member(number, leader, learners, status.get(number)) for number in sorted(known | set(node.image.brokers) or {node.node_id})]

    def _member(self, number: int, leader: int, learners: set[int], status: ReplicaStatus | None) -> Json:
        node = self._node
        broker = node.image.brokers.get(number)
        member: dict[str, Any] = {
            "node_id": number,
            "addr": self._address(number),
            "state": "leader" if number == leader else "learner" if number in learners else "follower",
            "reachable": self._reachable(number),
            "kafka_port": broker.port if broker is not None else None,
            "advertised_host": (broker.host or None) if broker is not None else None,
            "rack": broker.rack if broker is not None else None,
        }
        if status is not None and self.meta is not None:
            member["match_index"] = status.match_index
            member["lag_entries"] = max(0, self.meta.log.last_index - status.match_index)
        return member

    def _reachable(self, number: int) -> bool:
        """Whether we are connected to it; for the leader of `__meta` also, whether it answers our beats."""
        node = self._node
        if number == node.node_id:
            return True
        peer = node.driver.peers.get(number) if node.driver is not None else None
        if peer is None:
            return False
        return any(peer.out) or any(peer.into)

    def partitions(self) -> Iterator[Json]:
        node, meta = self._node, self.meta
        if meta is not None:
            replicas = sorted(node_of(replica) for replica in meta.core.membership.members)
            yield {"topic": META_TOPIC, "partition": 0, "leader": self.leader_id() or -1, "replicas": replicas, "isr": self._meta_isr(meta)}
        for name in sorted(node.image.topics):
            for partition in node.image.topics[name].partitions:
                leader, _ = node.leaders.leader_of(partition.group_id)
                isr = sorted(node.leaders.isr_of(partition.group_id))
                yield {"topic": name, "partition": partition.partition, "leader": leader, "replicas": list(partition.replicas), "isr": isr}

    def _meta_isr(self, meta: RaftGroup) -> list[int]:
        """Voters in sync: as the leader sees it, or has told; else, who of them is known to be up."""
        node = self._node
        if meta.core.role == Role.LEADER:
            oldest = node.clock.now_ms() - _integer(node.settings.get("replica.lag.time.max.ms"), 30_000)
            return sorted(status.node for status in meta.replicas() if status.voter and status.at_end_ms >= oldest)
        told = node.leaders.isr_of(META_GROUP)
        voters = {node_of(replica) for replica in meta.core.membership.voters}
        return sorted(told) if told else sorted(voter for voter in voters if self._reachable(voter))

    # -- node -----------------------------------------------------------------------------------------------------

    def node_info(self) -> Json:
        node, config = self._node, self._node.config
        usage = resource.getrusage(resource.RUSAGE_SELF)
        disk = shutil.disk_usage(config.data_dir)
        groups: Iterable[RaftGroup] = node.driver.groups.values() if node.driver is not None else ()
        led = sum(group.core.role == Role.LEADER for group in groups)
        return {
            "node_id": node.node_id,
            "version": VERSION,
            "revision": revision() or None,
            "hot_modules": running(),
            "kafka_protocol": KAFKA_PROTOCOL,
            "raft_protocol": RAFT_PROTOCOL,
            "cluster_id": node.image.cluster_id or None,
            "stage": node.stage,
            "roles": ["broker", "controller" if self.leader_id() == node.node_id else "voter" if self._is_voter() else "learner"],
            "pid": os.getpid(),
            "incarnation": node.incarnation,
            "uptime_seconds": (node.clock.now_ms() - node.started_ms) // 1000,
            "listeners": {
                "kafka": f"{config.kafka_host}:{config.kafka_port}",
                "raft": f"{config.raft_host}:{config.raft_port}" if config.cluster_enabled else None,
                "admin": f"{config.admin_host}:{config.admin_port}",
            },
            "paths": {"data": str(config.data_dir), "wal": str(config.storage.wal_dir), "snapshots": str(config.storage.snapshot_dir)},
            "disk": {"total_bytes": disk.total, "free_bytes": disk.free, "full": bool(node.store is not None and node.store.disk_full)},
            "resources": {
                "memory_bytes": resident_bytes(),
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
                "connections": node.stats.connections,
                "log_memory_bytes": node.store.memory_bytes if node.store is not None else 0,
            },
            "groups": {"total": len(node.driver.groups) if node.driver is not None else 0, "led": led},
        }

    def _is_voter(self) -> bool:
        return self.meta is not None and self.meta.core.replica in self.meta.core.membership.voters

    def families(self) -> Iterable[Family]:
        return families(self._node, self)


def resident_bytes() -> int:
    """Memory that is resident now (Linux); elsewhere the most it ever was."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _integer(value: object, default: int) -> int:
    return value if isinstance(value, int) else default
