"""Formats of a partition's state and commands: msgpack arrays, the version first. Documented here, read back by every later version.

State 1: [version, high_watermark, log_start_offset, max_timestamp, max_timestamp_offset, [[producer_id, epoch, [batch, …]], …]], a batch =
[base_sequence, last_sequence, base_offset, last_offset, timestamp]. Producers stand in the order in which the log named them first, so that equal
states have equal bytes on all replicas.
Command 1: [version, type, …]: type 1 = log start, then the offset; type 2 = expiry of producers, then their ids.
To change a format: add a version here, read the old ones, write the old one until every node of a cluster reads the new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from broker.partition.producers import AppendedBatch, ProducerEntry
from wal.errors import DamageError, check

STATE_VERSION = 1
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


class LogStart(NamedTuple):
    """Records below `offset` are deleted (DeleteRecords, retention)."""

    offset: int


class ExpireProducers(NamedTuple):
    """The leader has not heard of these producers for producer.id.expiration.ms."""

    producer_ids: tuple[int, ...]


Command = LogStart | ExpireProducers

_encoder = msgspec.msgpack.Encoder()
_StoredProducer = tuple[int, int, list[AppendedBatch]]
_state_decoder = msgspec.msgpack.Decoder(tuple[int, int, int, int, int, list[_StoredProducer]])
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
                found = (entry, msgspec.Raw(_encoder.encode((producer_id, entry.epoch, entry.batches))))
            known[producer_id] = found
        self._known = known
        producers = [raw for _, raw in known.values()]
        return _encoder.encode((STATE_VERSION, *state[:4], producers))


def decode_state(data: bytes) -> PartitionState:
    """Raises DamageError when `data` is no state that this version can read."""
    try:
        version, high_watermark, log_start, newest, newest_offset, producers = _state_decoder.decode(data)
    except msgspec.MsgspecError as cause:
        raise DamageError(f"state of a partition can not be read: {cause}") from cause
    if version != STATE_VERSION:
        raise DamageError(f"state of a partition has version {version}, this program reads {STATE_VERSION}: start the newer program")
    table = {producer_id: ProducerEntry(epoch, tuple(batches)) for producer_id, epoch, batches in producers}
    return PartitionState(high_watermark, log_start, newest, newest_offset, table)


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
    return PartitionState(0, 0, -1, -1, {})


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
