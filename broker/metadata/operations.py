"""Changes to the cluster itself (brokers, configurations, producer ids), and the union of all operations. See `topic_operations` for the rules."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import msgspec

from broker import settings
from broker.errors import ErrorCode, KafkaError
from broker.metadata import records as r
from broker.metadata.builder import DEFAULT_BROKER, RESOURCE_BROKER, RESOURCE_TOPIC
from broker.metadata.draft import Draft, OperationResult
from broker.metadata.identity import Identity
from broker.metadata.image import BrokerImage, MetadataImage
from broker.metadata.reassignment_operations import AlterReassignments, AssignReplicas, ConfirmRemovals, Reassignment, SettleReassignment
from broker.metadata.topic_operations import (
    ConfirmDeletion,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    OperationBase,
    PartitionsSpec,
    TopicKey,
    TopicSpec,
)
from wal.entry import GroupId

NODE_ID_MAX = (1 << 31) - 1  # broker ids are int32 in Kafka's protocol
PRODUCER_IDS_MAX = (1 << 63) - 1
PRODUCER_ID_BLOCK_SIZE = 1_000


class CreateCluster(OperationBase, frozen=True, omit_defaults=True):
    """The first record of a cluster; its first node repeats it at each start, without effect."""

    cluster_id: str

    def execute(self, draft: Draft) -> OperationResult:
        existing = draft.image.cluster_id
        if not self.cluster_id:
            raise KafkaError(ErrorCode.INVALID_REQUEST, "a cluster needs an id")
        if existing not in ("", self.cluster_id):
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"this is cluster {existing}, not {self.cluster_id}")
        if not existing:
            draft.add(r.ClusterCreated(self.cluster_id))
        return OperationResult()


class RegisterBroker(OperationBase, frozen=True, omit_defaults=True):
    """A broker tells who and where it is, at each start. `generation` -1: it has an empty directory and joins; otherwise the one its directory holds.

    The result's `value` is the generation that it has now.
    """

    node_id: int
    host: str
    port: int
    raft_address: str
    directory_id: str
    admin_port: int = 0
    rack: str | None = None
    incarnation: int = 0
    generation: int = -1
    cluster_id: str = ""

    def execute(self, draft: Draft) -> OperationResult:
        self._check_fields(draft.image.cluster_id)
        known = draft.image.brokers.get(self.node_id)
        given = [generation for (_, node_id), generation in draft.image.replica_generations.items() if node_id == self.node_id]
        highest = draft.image.generations.get(self.node_id)
        # A replica that was given a newer identity of its own must not get the same one again.
        generation = self._generation(known, highest if highest is None else max(highest, *given, 0))
        broker = BrokerImage(
            self.node_id,
            self.host,
            self.port,
            self.raft_address,
            self.admin_port,
            self.rack,
            self.incarnation,
            self.directory_id,
            generation,
        )
        if broker != known:
            draft.add(
                r.BrokerRegistered(
                    self.node_id,
                    self.host,
                    self.port,
                    self.raft_address,
                    self.admin_port,
                    self.rack,
                    self.incarnation,
                    self.directory_id,
                    generation,
                )
            )
        return OperationResult(value=generation)

    def _check_fields(self, cluster_id: str) -> None:
        if not 1 <= self.node_id <= NODE_ID_MAX:
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"node id {self.node_id} is not in 1…{NODE_ID_MAX}")
        if not self.directory_id or not self.raft_address:
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"broker {self.node_id} must tell its directory id and its Raft address")
        if not (0 <= self.port <= 65_535 and 0 <= self.admin_port <= 65_535):
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"broker {self.node_id} has a port outside 0…65535")
        if self.cluster_id and cluster_id and self.cluster_id != cluster_id:
            raise KafkaError(ErrorCode.INVALID_REQUEST, foreign_cluster_text(self.node_id, self.cluster_id, cluster_id))

    def _generation(self, known: BrokerImage | None, highest: int | None) -> int:
        if known is not None:
            if known.directory_id != self.directory_id:
                raise KafkaError(ErrorCode.INVALID_REQUEST, wiped_directory_text(self.node_id, known))
            return known.generation
        if self.generation < 0:
            return 0 if highest is None else highest + 1
        if highest is not None and self.generation <= highest:
            raise KafkaError(ErrorCode.INVALID_REQUEST, removed_broker_text(self.node_id))
        return self.generation


def foreign_cluster_text(node_id: int, own: str, found: str) -> str:
    return (
        f"node {node_id} belongs to cluster {own}, but the cluster that it reached is {found}; "
        "correct seed_nodes, or start with an empty data directory to join the other cluster"
    )


def wiped_directory_text(node_id: int, known: BrokerImage) -> str:
    return (
        f"node id {node_id} is registered with data directory {known.directory_id} at {known.raft_address}, and this data directory is another one. "
        f"If that node still runs, give this one an id of its own. If its disk is lost, remove the old broker first (unregister {node_id}), "
        "then start this one again: it comes back as a new replica. "
        "Its old identity is never taken over, because votes and data that it acknowledged are gone"
    )


def removed_broker_text(node_id: int) -> str:
    return (
        f"node {node_id} was removed from the cluster, so that its data directory must not be used again; "
        "start with an empty data directory to join as a new replica"
    )


def disowned_text(image: MetadataImage, identity: Identity) -> str:
    """Why a data directory must not be used any more, as far as its own copy of `__meta` knows; "" when nothing is known against it."""
    known = image.brokers.get(identity.node_id)
    if known is not None and known.directory_id and known.directory_id != identity.directory_id and known.generation >= identity.generation:
        return wiped_directory_text(identity.node_id, known)
    if known is None and identity.generation >= 0 and image.generations.get(identity.node_id, -1) >= identity.generation:
        return removed_broker_text(identity.node_id)
    return ""


class UnregisterBroker(OperationBase, frozen=True, omit_defaults=True):
    """Forget a broker for good: its data directory is never accepted again."""

    node_id: int

    def execute(self, draft: Draft) -> OperationResult:
        if self.node_id not in draft.image.brokers:
            raise KafkaError(ErrorCode.BROKER_ID_NOT_REGISTERED, f"Broker ID {self.node_id} is not currently registered.")
        if draft.policy.available is not None and self.node_id in draft.policy.available():
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"Broker {self.node_id} is running; stop it before it is removed.")
        draft.add(r.BrokerUnregistered(self.node_id))
        draft.rollback(len(draft.records))
        return OperationResult()


class AllocateProducerIds(OperationBase, frozen=True, omit_defaults=True):
    """The result's `value` is the first of `size` producer ids that nobody has had."""

    size: int = PRODUCER_ID_BLOCK_SIZE

    def execute(self, draft: Draft) -> OperationResult:
        first = draft.image.next_producer_id
        if not 0 < self.size <= PRODUCER_ID_BLOCK_SIZE or first + self.size > PRODUCER_IDS_MAX:
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"a block of {self.size} producer ids from {first} can not be given")
        draft.add(r.ProducerIdBlock(first + self.size))
        return OperationResult(value=first)


class ConfigOp(IntEnum):
    """The numbers are those of IncrementalAlterConfigs."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


class ConfigChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """`op` as in `ConfigOp`; a value of None removes the setting."""

    key: str
    value: str | None = None
    op: int = 0


class SetConfigs(OperationBase, frozen=True, omit_defaults=True):
    """`resource_type` as in Kafka: 2 topic, 4 broker (`name` = its id, "" = all brokers). `replace`: settings that are not named are removed."""

    resource_type: int
    name: str
    changes: tuple[ConfigChange, ...]
    validate_only: bool = False
    replace: bool = False

    def execute(self, draft: Draft) -> OperationResult:
        if self.resource_type == RESOURCE_TOPIC:
            if not self.name:
                raise KafkaError(ErrorCode.INVALID_REQUEST, "a topic's configuration needs the topic's name")
            current = TopicKey(self.name).find(draft.image).configs
            wished = self._wished(current, settings.TOPIC_SETTINGS)
            stored = draft.policy.validate_topic_configs({key: value for key, value in wished.items() if value is not None})
        elif self.resource_type == RESOURCE_BROKER:
            current = draft.image.broker_configs.get(self._broker(draft), {})
            wished = self._wished(current, settings.BROKER_SETTINGS)
            stored = {key: value for key, value in wished.items() if value is not None}
            for key in sorted(wished):
                if wished[key] != current.get(key):
                    settings.check_dynamic(key)
            for key, value in stored.items():
                draft.policy.validate_broker_config(key, value)
        else:
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unsupported resource type {self.resource_type}; known are 2 (topic) and 4 (broker).")
        if not self.validate_only:
            for key in wished:
                if current.get(key) != stored.get(key):
                    draft.add(r.ConfigChanged(self.resource_type, self.name, key, stored.get(key)))
        return OperationResult()

    def _wished(self, current: Mapping[str, str], definitions: Mapping[str, settings.SettingDefinition]) -> dict[str, str | None]:
        """All settings as they shall be; None = removed."""
        wished: dict[str, str | None] = dict.fromkeys(current) if self.replace else dict(current)
        for change in self.changes:
            wished[change.key] = _changed(change, current, definitions.get(change.key))
        return wished

    def _broker(self, draft: Draft) -> int:
        if not self.name:
            return DEFAULT_BROKER
        if not (self.name.isascii() and self.name.isdigit() and len(self.name) <= 10) or str(int(self.name)) != self.name:
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"'{self.name}' is not a broker id.")
        broker = int(self.name)
        if broker not in draft.image.brokers and broker not in draft.image.broker_configs:
            raise KafkaError(ErrorCode.BROKER_ID_NOT_REGISTERED, f"No broker with id {broker} found.")
        return broker


def _changed(change: ConfigChange, current: Mapping[str, str], definition: settings.SettingDefinition | None) -> str | None:
    """The text of one setting after `change`. Raises KafkaError."""
    if change.op == ConfigOp.DELETE or change.value is None:
        return None
    if change.op == ConfigOp.SET:
        return change.value
    if change.op not in (ConfigOp.APPEND, ConfigOp.SUBTRACT):
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unknown configuration operation {change.op}.")
    if definition is None or definition.type is not settings.SettingType.LIST:
        name = ConfigOp(change.op).name
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"Can't {name} to key {change.key} because its type is not LIST.")
    before = _items(current.get(change.key, definition.default or ""))
    given = _items(change.value)
    if change.op == ConfigOp.APPEND:
        return ",".join(dict.fromkeys((*before, *given)))
    return ",".join(item for item in before if item not in given)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


class BumpGeneration(OperationBase, frozen=True, omit_defaults=True):
    """Give the replica of broker `node_id` in `group` a new identity, because its vote is not known any more. The result's `value` is the generation.

    `than`: the generation that was lost; a repetition of the request changes nothing.
    """

    node_id: int
    group: bytes
    than: int

    def execute(self, draft: Draft) -> OperationResult:
        broker = draft.image.brokers.get(self.node_id)
        if broker is None or len(self.group) != 20 or self.than < 0:
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"broker {self.node_id} has no replica of group {self.group.hex()} to give a new identity to")
        current = max(broker.generation, draft.image.replica_generations.get((GroupId(self.group), self.node_id), 0))
        if current > self.than:
            return OperationResult(value=current)
        draft.add(r.ReplicaGeneration(self.node_id, current + 1, self.group))
        return OperationResult(value=current + 1)


Operation = (
    CreateTopics
    | DeleteTopics
    | CreatePartitions
    | ConfirmDeletion
    | AssignReplicas
    | AlterReassignments
    | SettleReassignment
    | ConfirmRemovals
    | CreateCluster
    | RegisterBroker
    | UnregisterBroker
    | AllocateProducerIds
    | SetConfigs
    | BumpGeneration
)

__all__ = [
    "AllocateProducerIds",
    "AlterReassignments",
    "AssignReplicas",
    "BumpGeneration",
    "ConfigChange",
    "ConfigOp",
    "ConfirmDeletion",
    "ConfirmRemovals",
    "CreateCluster",
    "CreatePartitions",
    "CreateTopics",
    "DeleteTopics",
    "Operation",
    "PartitionsSpec",
    "Reassignment",
    "RegisterBroker",
    "SetConfigs",
    "SettleReassignment",
    "TopicKey",
    "TopicSpec",
    "UnregisterBroker",
]
