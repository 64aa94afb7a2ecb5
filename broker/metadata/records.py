"""The records of `__meta`: what the cluster has decided, one small struct per decision.

Owns the bytes of an entry's payload (docs/formats/metadata-records.md): a format byte, then a msgpack array of tagged maps. One DATA entry holds the
records of one proposal, and each record consumes one offset. A field that is not known is skipped, one that is missing has its default: a field may
be added freely. A record type that is not known stops the node, because skipping a decision would make its image differ from its peers'.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wal.entry import Buffer
from wal.errors import InvariantError

FORMAT_VERSION = 1


class RecordBase(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag=lambda name: name):
    """Base of all records: the map's key "type" holds the class's name."""


class ClusterCreated(RecordBase, frozen=True, omit_defaults=True):
    cluster_id: str


class BrokerRegistered(RecordBase, frozen=True, omit_defaults=True):
    """Replaces what was known of the broker."""

    node_id: int
    host: str
    port: int
    raft_address: str
    admin_port: int = 0
    rack: str | None = None
    incarnation: int = 0
    directory_id: str = ""
    generation: int = 0


class BrokerUnregistered(RecordBase, frozen=True, omit_defaults=True):
    node_id: int


class PartitionSpec(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One partition of a topic. `first_voters` are the replica ids with which the group starts; empty = the broker ids themselves (generation 0)."""

    replicas: tuple[int, ...]
    first_voters: tuple[int, ...] = ()


class TopicCreated(RecordBase, frozen=True, omit_defaults=True):
    name: str
    topic_id: bytes
    partitions: tuple[PartitionSpec, ...]
    configs: dict[str, str] = {}


class PartitionsAdded(RecordBase, frozen=True, omit_defaults=True):
    topic_id: bytes
    partitions: tuple[PartitionSpec, ...]


class TopicDeleted(RecordBase, frozen=True, omit_defaults=True):
    """The only thing that ever lets a broker delete data. Kept in the image until all of `pending` have confirmed."""

    topic_id: bytes
    name: str
    partition_count: int
    pending: tuple[int, ...]


class DeletionConfirmed(RecordBase, frozen=True, omit_defaults=True):
    topic_id: bytes
    node_id: int


class ConfigChanged(RecordBase, frozen=True, omit_defaults=True):
    """`resource_type` as in Kafka: 2 topic (name), 4 broker (its id, "" = all brokers). `value` None removes the key."""

    resource_type: int
    name: str
    key: str
    value: str | None = None


class ProducerIdBlock(RecordBase, frozen=True, omit_defaults=True):
    """All producer ids below `next` have been given away."""

    next: int


class ReplicasAssigned(RecordBase, frozen=True, omit_defaults=True):
    """The wish for one partition; the reconciler moves the group's configuration towards it.

    `original`: the replicas before the reassignment, () when this only changes their order or takes a reassignment back. `leaving`: brokers whose
    replica is to be deleted once the group has let go of it.
    """

    topic_id: bytes
    partition: int
    replicas: tuple[int, ...]
    original: tuple[int, ...] = ()
    leaving: tuple[int, ...] = ()


class ReassignmentSettled(RecordBase, frozen=True, omit_defaults=True):
    """The group's own configuration is as wished: nothing of the partition is moving any more."""

    topic_id: bytes
    partition: int


class ReplicaRemoval(RecordBase, frozen=True, omit_defaults=True):
    """Broker `node_id` shall delete its replica `replica` of `group`, which a reassignment took away. Kept until it has confirmed."""

    group: bytes
    node_id: int
    replica: int


class ReplicaRemoved(RecordBase, frozen=True, omit_defaults=True):
    """The broker holds nothing of that replica any more."""

    group: bytes
    node_id: int


class ReplicaGeneration(RecordBase, frozen=True, omit_defaults=True):
    """The highest generation given to a broker id, or, with `group`, a newer one for its replica of that group alone."""

    node_id: int
    generation: int
    group: bytes = b""


class OperationApplied(RecordBase, frozen=True, omit_defaults=True):
    """The answer of an operation, so that its repetition (after a lost answer) is recognised and answered alike."""

    request_id: bytes
    result: bytes


Record = (
    ClusterCreated
    | BrokerRegistered
    | BrokerUnregistered
    | TopicCreated
    | PartitionsAdded
    | TopicDeleted
    | DeletionConfirmed
    | ConfigChanged
    | ProducerIdBlock
    | ReplicasAssigned
    | ReassignmentSettled
    | ReplicaRemoval
    | ReplicaRemoved
    | ReplicaGeneration
    | OperationApplied
)

_decoder = msgspec.msgpack.Decoder(tuple[Record, ...])
_encode = msgspec.msgpack.encode


def encode_record(record: Record) -> bytes:
    """One element of a payload's array."""
    return _encode(record)


def join_records(encoded: Sequence[bytes]) -> bytes:
    """A payload of records that `encode_record` made."""
    return b"".join((bytes((FORMAT_VERSION, 0xDD)), len(encoded).to_bytes(4, "big"), *encoded))


def encode_records(records: Sequence[Record]) -> bytes:
    return join_records([_encode(record) for record in records])


def decode_records(payload: Buffer) -> tuple[Record, ...]:
    """The records of a payload. Raises InvariantError when they can not be understood: the node must stop rather than skip one."""
    if len(payload) == 0 or payload[0] != FORMAT_VERSION:
        found = payload[0] if len(payload) else "none"
        raise InvariantError(
            f"an entry of __meta has format version {found}, this program knows {FORMAT_VERSION}: start the version that wrote it, or a later one"
        )
    try:
        return _decoder.decode(memoryview(payload)[1:])
    except msgspec.MsgspecError as error:
        raise InvariantError(f"an entry of __meta can not be understood ({error}): start the version that wrote it, or a later one") from error
