"""Who is in sync: voters that held everything the leader had within replica.lag.time.max.ms, the leader included."""

from __future__ import annotations

from raft.api import Group, ReplicaStatus

_KEEP_MS = 100


class InSyncReplicas:
    """How many are in sync, counted at most every 100 ms unless a replica moved. Use: before an append."""

    __slots__ = ("_count", "_counted_at_ms", "_lag_time_max_ms")

    def __init__(self) -> None:
        self._count = 0
        self._counted_at_ms = -1
        self._lag_time_max_ms = -1

    def invalidate(self) -> None:
        self._counted_at_ms = -1

    def count(self, group: Group, now_ms: int, lag_time_max_ms: int) -> int:
        if self._counted_at_ms < 0 or now_ms - self._counted_at_ms > _KEEP_MS or lag_time_max_ms != self._lag_time_max_ms:
            self._count = len(members(group, now_ms, lag_time_max_ms))
            self._counted_at_ms = now_ms
            self._lag_time_max_ms = lag_time_max_ms
        return self._count


def members(group: Group, now_ms: int, lag_time_max_ms: int) -> list[int]:
    """Broker ids in sync, the leader first (unless it is no voter any more and leads only until its removal commits)."""
    replicas = group.replicas()
    end = group.log.last_index
    found = [group.leader] if _leader_votes(group, replicas) else []
    for replica in replicas:
        caught_up = replica.match_index >= end or (replica.at_end_ms >= 0 and now_ms - replica.at_end_ms <= lag_time_max_ms)
        if replica.voter and replica.node != group.leader and caught_up:
            found.append(replica.node)
    return found


def stored_on(group: Group, index: int) -> int:
    """How many voters have the entry `index` on disk."""
    replicas = group.replicas()
    count = 1 if _leader_votes(group, replicas) and group.log.flushed_index >= index else 0
    return count + sum(1 for replica in replicas if replica.voter and replica.node != group.leader and replica.match_index >= index)


def majority(group: Group) -> int:
    replicas = group.replicas()
    others = sum(1 for replica in replicas if replica.voter and replica.node != group.leader)
    return (others + (1 if _leader_votes(group, replicas) else 0)) // 2 + 1


def _leader_votes(group: Group, replicas: list[ReplicaStatus]) -> bool:
    for replica in replicas:
        if replica.node == group.leader:
            return replica.voter
    return True
