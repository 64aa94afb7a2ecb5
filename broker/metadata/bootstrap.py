"""How a node finds its cluster, or makes it: the decision as a pure function of what is known. `joiner` carries it out.

Rules: a directory that belongs to a cluster starts with it, whatever the seeds say, unless one of them says that the cluster is another. A cluster is
only created by the seed with the lowest id, with an empty directory, when every other seed has answered "no cluster"; so all seeds must be listed, or
a wiped single seed can not know better. Everybody else asks to join.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from broker.metadata.identity import Identity
from broker.metadata.operations import foreign_cluster_text

WORKER_STRIDE = 65_536
"""Worker k of node n is broker n + 65,536·k; all workers of a machine share the address that a seed names."""


class SeedNode(NamedTuple):
    node_id: int
    address: str  # "host:port"

    def __str__(self) -> str:
        return f"{self.node_id}@{self.address}"


class Member(msgspec.Struct, frozen=True):
    """A member of `__meta`'s group."""

    replica_id: int
    address: str


class ClusterInfo(msgspec.Struct, frozen=True):
    """The answer to "cluster.info". `cluster_id` is the identity's, "" if the node belongs to no cluster; `seeds` = the ids that it is given."""

    cluster_id: str
    node_id: int
    leader_id: int = -1
    leader_address: str = ""
    voters: tuple[Member, ...] = ()
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A seed that gave no answer. `reason` is short, as in "ConnectionRefused"."""

    reason: str


Answer = ClusterInfo | Unreachable


@dataclass(frozen=True, slots=True)
class StartExisting:
    identity: Identity


@dataclass(frozen=True, slots=True)
class CreateCluster:
    """Create one, or go on creating the one that the identity names."""


@dataclass(frozen=True, slots=True)
class JoinVia:
    """Ask these addresses to be taken in, the leader's first."""

    cluster_id: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again later; the reasons are for /health and the log."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Do not start; the text says why and what to do."""

    text: str


Decision = StartExisting | CreateCluster | JoinVia | Wait | Refuse


@dataclass(frozen=True, slots=True)
class BootstrapDecision:
    """What a node knows about itself. `data_exists`: the directory holds more than an identity."""

    node_id: int
    seeds: Sequence[SeedNode]
    identity: Identity | None
    data_exists: bool

    def decide(self, answers: Mapping[int, Answer]) -> Decision:
        """`answers` by seed id; one that is missing has not been asked yet."""
        return self._refusal(answers) or self._decide(answers)

    def _decide(self, answers: Mapping[int, Answer]) -> Decision:
        identity = self.identity
        if identity is not None and identity.state == "member":
            return StartExisting(identity)
        others = self.other_seeds()
        infos = [answer for seed in others if isinstance(answer := answers.get(seed.node_id), ClusterInfo)]
        found = [info for info in infos if info.cluster_id]
        if found and (identity is None or identity.state != "creating"):
            return self._join(found, answers)
        if not self._may_create() or (identity is not None and identity.state == "joined"):
            return Wait(self._unreachable(answers) or ("no seed node belongs to a cluster yet; the one with the lowest id creates it",))
        disagreeing = [info.node_id for info in infos if info.seeds and min(info.seeds) != self.node_id]
        if disagreeing:
            return Wait((f"nodes {disagreeing} have other seed_nodes than node {self.node_id}; all need the same list to create a cluster",))
        missing = self._unreachable(answers)
        return Wait(missing) if missing else CreateCluster()

    def other_seeds(self) -> list[SeedNode]:
        """The seeds to ask."""
        return [seed for seed in self.seeds if seed.node_id != self.node_id]

    def _may_create(self) -> bool:
        return not self.seeds or min(seed.node_id for seed in self.seeds) == self.node_id

    def _unreachable(self, answers: Mapping[int, Answer]) -> tuple[str, ...]:
        return tuple(f"Seed node {seed} unreachable" for seed in self.other_seeds() if not isinstance(answers.get(seed.node_id), ClusterInfo))

    def _join(self, found: list[ClusterInfo], answers: Mapping[int, Answer]) -> JoinVia:
        addresses = [info.leader_address for info in found if info.leader_address]
        addresses += [seed.address for seed in self.other_seeds() if (info := answers.get(seed.node_id)) in found and info is not None]
        return JoinVia(found[0].cluster_id, tuple(dict.fromkeys(addresses)))

    def _refusal(self, answers: Mapping[int, Answer]) -> Refuse | None:
        identity = self.identity
        if identity is not None and identity.node_id != self.node_id:
            return Refuse(
                f"the data directory belongs to node {identity.node_id}, but this node's id is {self.node_id}; "
                f"set node_id = {identity.node_id}, or give the node a data directory of its own"
            )
        if self.data_exists and (identity is None or identity.state == "joining"):
            return Refuse(
                "the data directory holds data but no identity (node.json); restore that file from a copy, "
                "or move the data away to start with an empty directory"
            )
        asked = [(seed, answer) for seed in self.other_seeds() if isinstance(answer := answers.get(seed.node_id), ClusterInfo)]
        for seed, info in asked:
            if info.node_id % WORKER_STRIDE != seed.node_id % WORKER_STRIDE:
                return Refuse(f"seed_nodes names {seed}, but the node at {seed.address} says that it is node {info.node_id}; correct the entry")
        clusters = {info.cluster_id: seed for seed, info in asked if info.cluster_id}
        own = identity.cluster_id if identity is not None else ""
        if own:
            for cluster_id in clusters:
                if cluster_id != own:
                    return Refuse(foreign_cluster_text(self.node_id, own, cluster_id))
        elif len(clusters) > 1:
            named = ", ".join(f"{seed} to {cluster_id}" for cluster_id, seed in clusters.items())
            return Refuse(f"the seed nodes belong to different clusters ({named}); name only the nodes of one cluster in seed_nodes")
        return None
