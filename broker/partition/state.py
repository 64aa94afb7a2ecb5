"""Formats of a partition's state and commands: msgpack arrays, the version first. Documented here, read back by every later version.

State 2: [version, high_watermark, log_start_offset, max_timestamp, max_timestamp_offset, [[producer_id, epoch, [batch, …], last_offset, first_offset,
coordinator_epoch], …], aborted], a batch = [base_sequence, last_sequence, base_offset, last_offset, timestamp], aborted = rows of four little-endian
i64 (producer id, first offset, last offset, last stable offset). Producers stand in the order in which the log named them first, so that equal states
have equal bytes on all replicas. State 1 had neither `aborted` nor the last three fields of a producer: there were no transactions.
Command 1: [version, type, …]: type 1 = log start, then the offset; type 2 = expiry of producers, then their ids.
To change a format: add a version here, read the old ones, write the old one until every node of a cluster reads the new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from broker.partition.producers import AppendedBatch, ProducerEntry
from broker.partition.transactions import AbortedIndex, TransactionIndex
from wal.errors import DamageError, check

STATE_VERSION = 2
COMMAND_VERSION = 1
_LOG_START = 1
_EXPIRE = 2


class PartitionState(NamedTuple):
    """What `apply` has made of the log. `max_timestamp_offset` is the base offset of the first batch with the largest timestamp."""

    high_watermark: int
    log_start_offset: int
    max_timestamp: int
    max_timestamp_offset: int
    producers: dict[int, ProducerEntry]
    transactions: TransactionIndex


class LogStart(NamedTuple):
    """Records below `offset` are deleted (DeleteRecords, retention)."""

    offset: int


class ExpireProducers(NamedTuple):
    """The leader has not heard of these producers for producer.id.expiration.ms."""

    producer_ids: tuple[int, ...]


Command = LogStart | ExpireProducers

_encoder = msgspec.msgpack.Encoder()


class _StoredProducer(msgspec.Struct, frozen=True, array_like=True):
    producer_id: int
    epoch: int
    batches: list[AppendedBatch]
    last_offset: int = -1
    first_offset: int = -1
    coordinator_epoch: int = -1

    def entry(self) -> ProducerEntry:
        last_offset = self.last_offset if self.last_offset >= 0 or not self.batches else self.batches[-1].last_offset
        return ProducerEntry(self.epoch, tuple(self.batches), last_offset, self.first_offset, self.coordinator_epoch)


class _StoredState(msgspec.Struct, frozen=True, array_like=True):
    version: int
    high_watermark: int
    log_start_offset: int
    max_timestamp: int
    max_timestamp_offset: int
    producers: list[_StoredProducer]
    aborted: bytes = b""


_state_decoder = msgspec.msgpack.Decoder(_StoredState)
_command_decoder = msgspec.msgpack.Decoder(tuple[int, int, int | list[int]])


class StateEncoder:
    """Encodes states one after the other and keeps the bytes of producers that did not change, so that a checkpoint costs what has changed."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, tuple[ProducerEntry, msgspec.Raw]] = {}

    def encode(self, state: PartitionState) -> bytes:
        known: dict[int, tuple[ProducerEntry, msgspec.Raw]] = {}
        for producer_id, entry in state.producers.items():
            found = self._known.get(producer_id)
            if found is None or found[0] is not entry:
                found = (entry, msgspec.Raw(_encoder.encode((producer_id, *entry))))
            known[producer_id] = found
        self._known = known
        producers = [raw for _, raw in known.values()]
        return _encoder.encode((STATE_VERSION, *state[:4], producers, state.transactions.aborted.encode()))


def decode_state(data: bytes) -> PartitionState:
    """Raises DamageError when `data` is no state that this version can read."""
    try:
        stored = _state_decoder.decode(data)
    except msgspec.MsgspecError as cause:
        raise DamageError(f"state of a partition can not be read: {cause}") from cause
    if not 1 <= stored.version <= STATE_VERSION:
        raise DamageError(f"state of a partition has version {stored.version}, this program reads up to {STATE_VERSION}: start the newer program")
    table = {producer.producer_id: producer.entry() for producer in stored.producers}
    opened = ((producer_id, entry.first_offset) for producer_id, entry in table.items() if entry.first_offset >= 0)
    transactions = TransactionIndex(opened, AbortedIndex.decode(stored.aborted))
    return PartitionState(stored.high_watermark, stored.log_start_offset, stored.max_timestamp, stored.max_timestamp_offset, table, transactions)


def encode_command(command: Command) -> bytes:
    if isinstance(command, LogStart):
        return _encoder.encode((COMMAND_VERSION, _LOG_START, command.offset))
    return _encoder.encode((COMMAND_VERSION, _EXPIRE, command.producer_ids))


def decode_command(data: bytes) -> Command:
    """Raises InvariantError for an unknown command: skipping it would make replicas differ."""
    try:
        version, kind, argument = _command_decoder.decode(data)
    except msgspec.MsgspecError as cause:
        raise DamageError(f"command of a partition can not be read: {cause}") from cause
    check(version == COMMAND_VERSION, f"command version {version} is newer than this program; start the newer program")
    if kind == _LOG_START and isinstance(argument, int):
        return LogStart(argument)
    check(kind == _EXPIRE and isinstance(argument, list), f"command type {kind} is unknown to this program; start the newer program")
    ids: Sequence[int] = argument if isinstance(argument, list) else ()
    return ExpireProducers(tuple(ids))


def empty_state() -> PartitionState:
    return PartitionState(0, 0, -1, -1, {}, TransactionIndex())


__all__ = [
    "Command",
    "ExpireProducers",
    "LogStart",
    "PartitionState",
    "StateEncoder",
    "decode_command",
    "decode_state",
    "empty_state",
    "encode_command",
]
