"""The replicated state of the groups of one coordinator partition: what `replay` has made of its records, equal on every replica.

Owns no decision: who may write what is decided before, on the leader. Pure; knows no clock.
State format 1 (msgpack): [1, groups], a group = [group id, group or nil, [[topic, [[partition, offset], …]], …], pending], pending =
[[producer id, [[topic, partition, offset], …]], …]; group and offset as arrays of the fields of StoredGroup and StoredOffset.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec

from broker.coordinator.groups.records import (
    GroupKey,
    OffsetKey,
    RecordFormatError,
    StoredGroup,
    StoredOffset,
    decode_group,
    decode_key,
    decode_offset,
)
from broker.coordinator.runtime import Applied
from wal.errors import DamageError

log = logging.getLogger("chronik_cluster")

STATE_VERSION = 1

_Offsets = list[tuple[str, list[tuple[int, StoredOffset]]]]
_Pending = list[tuple[int, list[tuple[str, int, StoredOffset]]]]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, list[tuple[str, StoredGroup | None, _Offsets, _Pending]]])


class GroupEntry:
    """One group: its last completed rebalance (None for one that only commits), its offsets by topic and partition, and by producer id the offsets of
    transactions that are not decided. Invariant: no empty inner dict."""

    __slots__ = ("encoded", "group", "offsets", "pending")

    def __init__(self) -> None:
        self.group: StoredGroup | None = None
        self.offsets: dict[str, dict[int, StoredOffset]] = {}
        self.pending: dict[int, dict[tuple[str, int], StoredOffset]] = {}
        self.encoded: msgspec.Raw | None = None  # for capture; None when changed

    @property
    def vacant(self) -> bool:
        return self.group is None and not self.offsets and not self.pending

    def offset(self, topic: str, partition: int) -> StoredOffset | None:
        partitions = self.offsets.get(topic)
        return partitions.get(partition) if partitions is not None else None

    def is_pending(self, topic: str, partition: int) -> bool:
        """Whether an undecided transaction has an offset for the partition."""
        return bool(self.pending) and any((topic, partition) in offsets for offsets in self.pending.values())

    def all_offsets(self) -> Iterator[tuple[str, int, StoredOffset]]:
        for topic, partitions in self.offsets.items():
            for partition, offset in partitions.items():
                yield topic, partition, offset

    def all_partitions(self) -> list[tuple[str, int]]:
        """(topic, partition) of everything that has, or may be about to have, an offset; sorted."""
        found = {(topic, partition) for topic, partitions in self.offsets.items() for partition in partitions}
        return sorted(found.union(*self.pending.values()))

    def values_of(self, topic: str) -> dict[int, list[StoredOffset]]:
        """All that is stored for the partitions of a topic: what is committed, and what transactions have not decided."""
        found = {partition: [offset] for partition, offset in self.offsets.get(topic, {}).items()}
        for offsets in self.pending.values():
            for (name, partition), offset in offsets.items():
                if name == topic:
                    found.setdefault(partition, []).append(offset)
        return found

    def put(self, topic: str, partition: int, offset: StoredOffset) -> None:
        self.offsets.setdefault(topic, {})[partition] = offset

    def drop(self, topic: str, partition: int) -> None:
        partitions = self.offsets.get(topic)
        if partitions is not None:
            partitions.pop(partition, None)
            if not partitions:
                del self.offsets[topic]


class GroupsState:
    """All groups of the partition. Changed by `replay`, `replay_marker` and `restore` alone."""

    __slots__ = ("_writers", "entries")

    def __init__(self) -> None:
        self.entries: dict[str, GroupEntry] = {}
        self._writers: dict[int, set[str]] = {}  # producer id -> groups with pending offsets of it

    def replay(self, record: Applied) -> None:
        """A record that is none of ours is left out, by every replica alike."""
        if record.key is None:
            return
        try:
            key = decode_key(record.key)
            if isinstance(key, OffsetKey):
                self._replay_offset(key, record)
            elif isinstance(key, GroupKey):
                self._replay_group(key.group, None if record.value is None else decode_group(record.value))
        except RecordFormatError as error:
            log.error("__consumer_offsets: the record at offset %d is left out: %s", record.offset, error)

    def _entry(self, group_id: str) -> GroupEntry:
        entry = self.entries.get(group_id)
        if entry is None:
            entry = self.entries[group_id] = GroupEntry()
        entry.encoded = None
        return entry

    def _replay_group(self, group_id: str, group: StoredGroup | None) -> None:
        entry = self._entry(group_id)
        entry.group = group
        self._maybe_forget(group_id, entry)

    def _replay_offset(self, key: OffsetKey, record: Applied) -> None:
        group_id, topic, partition = key
        value = None if record.value is None else decode_offset(record.value, record.headers)._replace(record_offset=record.offset)
        entry = self._entry(group_id)
        if value is None:
            entry.drop(topic, partition)
            for offsets in entry.pending.values():
                offsets.pop((topic, partition), None)  # a deletion is meant for all that was there
            self._drop_empty_pending(group_id, entry)
        elif record.producer_id < 0:
            entry.put(topic, partition, value)
        else:
            entry.pending.setdefault(record.producer_id, {})[topic, partition] = value
            self._writers.setdefault(record.producer_id, set()).add(group_id)
        self._maybe_forget(group_id, entry)

    def replay_marker(self, producer_id: int, committed: bool) -> None:
        """The transaction is decided. Its offsets show now, unless a later record has overtaken them."""
        for group_id in self._writers.pop(producer_id, ()):
            entry = self._entry(group_id)
            for (topic, partition), value in entry.pending.pop(producer_id, {}).items():
                known = entry.offset(topic, partition)
                if committed and (known is None or known.record_offset < value.record_offset):
                    entry.put(topic, partition, value)
            self._maybe_forget(group_id, entry)

    def _drop_empty_pending(self, group_id: str, entry: GroupEntry) -> None:
        for producer_id in [producer_id for producer_id, offsets in entry.pending.items() if not offsets]:
            del entry.pending[producer_id]
            groups = self._writers.get(producer_id)
            if groups is not None:
                groups.discard(group_id)
                if not groups:
                    del self._writers[producer_id]

    def _maybe_forget(self, group_id: str, entry: GroupEntry) -> None:
        if entry.vacant:
            del self.entries[group_id]

    def capture(self) -> bytes:
        parts = []
        for group_id, entry in self.entries.items():
            if entry.encoded is None:
                entry.encoded = msgspec.Raw(_encoder.encode(_stored(group_id, entry)))
            parts.append(entry.encoded)
        return _encoder.encode((STATE_VERSION, parts))

    def restore(self, data: bytes) -> None:
        """Raises DamageError."""
        self.entries = {}
        self._writers = {}
        if not data:
            return
        try:
            version, groups = _decoder.decode(data)
        except msgspec.MsgspecError as cause:
            raise DamageError(f"state of a group coordinator can not be read: {cause}") from cause
        if version != STATE_VERSION:
            raise DamageError(f"state of a group coordinator has version {version}, this program reads {STATE_VERSION}: start the newer program")
        for group_id, group, offsets, pending in groups:
            entry = self.entries[group_id] = GroupEntry()
            entry.group = group
            entry.offsets = {topic: dict(partitions) for topic, partitions in offsets}
            for producer_id, written in pending:
                entry.pending[producer_id] = {(topic, partition): value for topic, partition, value in written}
                self._writers.setdefault(producer_id, set()).add(group_id)


def _stored(group_id: str, entry: GroupEntry) -> tuple[str, StoredGroup | None, _Offsets, _Pending]:
    offsets = [(topic, list(partitions.items())) for topic, partitions in entry.offsets.items()]
    pending = [(producer_id, [(*where, value) for where, value in written.items()]) for producer_id, written in entry.pending.items()]
    return group_id, entry.group, offsets, pending
