"""What must hold of the coordinators' state on every replica, whenever it has applied something."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from broker.coordinator.transactions.state import DECIDED, VERSION_EPOCH_BUMP, TopicPartition, Transaction, TransactionState
from tests.simulation.invariants import Invariant
from wal.entry import GroupId

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.node import SimNode

Key = tuple[int, int, GroupId]


def key_of(node: SimNode, group_id: GroupId) -> Key:
    return node.id, node.incarnation, group_id


class AppliedInvariant(Invariant):
    """`applied` is called when a replica has applied more than at the last look."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.reached: dict[Key, int] = {}

    def look(self, node: SimNode, group: Any) -> None:
        key = key_of(node, group.group_id)
        if self.reached.get(key) != group.applied_index and group.group_id in self.cluster.topics:
            self.reached[key] = group.applied_index
            self.applied(node, group)

    def applied(self, node: SimNode, group: Any) -> None:
        """Raises Broken."""

    def on_rebuilt(self, node: SimNode, group_id: GroupId) -> None:
        self.reached.pop(key_of(node, group_id), None)


class CoordinatorStatesEqual(AppliedInvariant):
    """A coordinator's state is a function of its partition's log: equal bytes at an equal index, on every replica, after every restart."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.states: dict[tuple[GroupId, int], bytes] = {}

    def applied(self, node: SimNode, group: Any) -> None:
        observer: Any = node.partitions[group.group_id]._observer
        if observer is not None:
            self.see(group, group.applied_index, observer.capture())

    def see(self, group: Any, index: int, state: bytes) -> None:
        digest = blake2b(state, digest_size=8).digest()
        if self.states.setdefault((group.group_id, index), digest) != digest:
            self.fail(group, f"the coordinator's state at index {index} differs between replicas")


class StableOffsetMonotonic(AppliedInvariant):
    """On a replica, the last stable offset never goes back, and is at most the high watermark."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.last: dict[Key, int] = {}

    def applied(self, node: SimNode, group: Any) -> None:
        partition = node.partitions[group.group_id]
        self.see(group, key_of(node, group.group_id), partition.last_stable_offset, partition.high_watermark)

    def see(self, group: Any, key: Key, stable: int, high_watermark: int) -> None:
        if stable > high_watermark:
            self.fail(group, f"last stable offset {stable} above high watermark {high_watermark} on node {key[0]}")
        if stable < self.last.get(key, 0):
            self.fail(group, f"last stable offset of node {key[0]} went back from {self.last[key]} to {stable}")
        self.last[key] = stable

    def on_rebuilt(self, node: SimNode, group_id: GroupId) -> None:
        super().on_rebuilt(node, group_id)
        self.last.pop(key_of(node, group_id), None)


class TransactionSteps(AppliedInvariant):
    """No epoch of a transactional id goes back on a replica, and what was decided is never decided otherwise (KIP-890: at most
    one decision in an epoch)."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.producers: dict[Key, dict[str, tuple[int, int]]] = {}
        self.decisions: dict[tuple[str, int, int], tuple[TransactionState, frozenset[TopicPartition]]] = {}

    def applied(self, node: SimNode, group: Any) -> None:
        machine = node.hosted.transaction_machine(group.group_id)
        if machine is not None:
            self.see(group, key_of(node, group.group_id), machine.transactions.values())

    def see(self, group: Any, key: Key, transactions: Iterable[Transaction]) -> None:
        known = self.producers.setdefault(key, {})
        for t in transactions:
            name, producer = t.transactional_id, (t.producer_id, t.epoch)
            if producer < known.get(name, (-1, -1)):
                self.fail(group, f"{name}: the producer went back from {known[name]} to {producer} on node {key[0]}")
            known[name] = producer
            if t.state in DECIDED and t.client_version >= VERSION_EPOCH_BUMP:
                found = self.decisions.setdefault((name, *producer), (t.state, t.partitions))
                if found != (t.state, t.partitions):
                    self.fail(group, f"{name} {producer}: {found[0].name} of {sorted(found[1])}, now {t.state.name} of {sorted(t.partitions)}")

    def on_rebuilt(self, node: SimNode, group_id: GroupId) -> None:
        super().on_rebuilt(node, group_id)
        self.producers.pop(key_of(node, group_id), None)


class GroupOffsetsMonotonic(AppliedInvariant):
    """Members of the simulated groups only ever commit more than before: on a replica, no committed offset goes back, and no generation."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.known: dict[Key, dict[object, int]] = {}

    def applied(self, node: SimNode, group: Any) -> None:
        machine = node.hosted.groups_machine(group.group_id)
        if machine is None:
            return
        found: dict[object, int] = {}
        for name, entry in machine.state.entries.items():
            if entry.group is not None:
                found[name] = entry.group.generation_id
            for topic, partition, value in entry.all_offsets():
                found[name, topic, partition] = value.offset
        self.see(group, key_of(node, group.group_id), found)

    def see(self, group: Any, key: Key, found: dict[object, int]) -> None:
        for what, number in self.known.get(key, {}).items():
            if found.get(what, -1) < number:
                self.fail(group, f"{what} of node {key[0]} went back from {number} to {found.get(what)}")
        self.known[key] = found

    def on_rebuilt(self, node: SimNode, group_id: GroupId) -> None:
        super().on_rebuilt(node, group_id)
        self.known.pop(key_of(node, group_id), None)
