"""Which modules are compiled: those that every produce and fetch runs through, and what they hand to each other.

A module is here because it was measured to cost less compiled (docs/adr/0040), and because all of it is plainly typed. Left out: subclasses of
asyncio's protocols, coroutines of the transport (their time is spent in grpc and the loop), generated code, and everything that runs seldom.
"""

from __future__ import annotations

MODULES = (
    "wal.durable",
    "wal.entry",
    "wal.errors",
    "wal.frame",
    "wal.group_log",
    "wal.jobs",
    "wal.journal",
    "wal.metrics",
    "wal.read_job",
    "wal.region",
    "wal.store",
    "wal.write_behind",
    "raft.core.core",
    "raft.core.election",
    "raft.core.follower",
    "raft.core.leader",
    "raft.core.log_view",
    "raft.core.membership",
    "raft.core.memory_log",
    "raft.core.message",
    "raft.core.progress",
    "raft.core.quorum",
    "raft.core.reconfiguration",
    "raft.core.replication",
    "raft.core.state",
    "raft.driver",
    "raft.elections",
    "raft.flushing",
    "raft.group",
    "raft.liveness",
    "raft.post",
    "raft.telling",
    "raft.wire",
)
