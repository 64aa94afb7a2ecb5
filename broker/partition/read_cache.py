"""Large entries that a consumer reads from disk in pieces: kept until the next piece is asked for, bounded in bytes for the whole node.

An entry may be 16 MiB while a fetch asks for 1 MiB; without this each fetch would read the whole entry again. Only committed entries come here: they
never change, and a group's id is never used again, so that nothing has to be invalidated.
"""

from __future__ import annotations

from collections import OrderedDict

from wal.entry import Entry, GroupId


class ReadCache:
    """Least recently used first out. Invariant: size_bytes = the sum of the sizes of the entries held ≤ max_bytes."""

    __slots__ = ("_by_group", "_order", "max_bytes", "size_bytes")

    def __init__(self, max_bytes: int = 64 * 1024 * 1024) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self._order: OrderedDict[tuple[GroupId, int], Entry] = OrderedDict()
        self._by_group: dict[GroupId, dict[int, Entry]] = {}

    def find(self, group: GroupId, offset: int) -> Entry | None:
        """The entry that holds `offset`. Few entries per group are held: they are looked through."""
        for index, entry in self._by_group.get(group, {}).items():
            if entry.base_offset <= offset < entry.base_offset + entry.record_count:
                self._order.move_to_end((group, index))
                return entry
        return None

    def put(self, group: GroupId, entry: Entry) -> None:
        if entry.size > self.max_bytes or (group, entry.index) in self._order:
            return
        self._order[group, entry.index] = entry
        self._by_group.setdefault(group, {})[entry.index] = entry
        self.size_bytes += entry.size
        while self.size_bytes > self.max_bytes:
            (oldest_group, index), oldest = self._order.popitem(last=False)
            self.size_bytes -= oldest.size
            entries = self._by_group[oldest_group]
            del entries[index]
            if not entries:
                del self._by_group[oldest_group]
