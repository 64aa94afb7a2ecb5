"""Who leads what and who is in sync, as this node knows it: from its own groups and from what leaders tell their peers. Never from `__meta`.

Rules: a higher term always wins; within a term the leader does not change once it is known, and only the leader itself tells the isr. A leader whose
node is gone or silent is unknown until somebody leads again (or it comes back in the same term): clients ask again instead of waiting for a node
that may be frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from wal.entry import GroupId

NO_LEADER = -1


class LeaderNews(NamedTuple):
    """What a leader tells its peers about one of its groups."""

    group: bytes
    term: int
    isr: tuple[int, ...]


_decoder = msgspec.msgpack.Decoder(list[LeaderNews])


def encode_news(news: Sequence[LeaderNews]) -> bytes:
    """A message for peers: each element means "I lead this group in this term"."""
    return msgspec.msgpack.encode(news)


def decode_news(data: bytes) -> list[LeaderNews]:
    """Raises msgspec.MsgspecError: the peer's fault."""
    return _decoder.decode(data)


class _Leadership(NamedTuple):
    term: int
    leader: int
    isr: tuple[int, ...]


_UNKNOWN = _Leadership(-1, NO_LEADER, ())


class LeaderTable:
    """Fulfils `broker.api.LeaderTable`. `version` grows with each change of a leader, term or isr: caches of Metadata answers compare it.

    Invariant: the term of a group never goes down.
    """

    __slots__ = ("_gone", "_groups", "_listeners", "_silent", "version")

    def __init__(self) -> None:
        self._groups: dict[GroupId, _Leadership] = {}
        self._gone: dict[GroupId, int] = {}  # who led, of the groups whose leader's node is gone
        self._silent: dict[int, list[GroupId]] = {}  # node -> of those, the groups whose leader is only silent
        self._listeners: list[Callable[[GroupId], None]] = []
        self.version = 0

    def leader_of(self, group: GroupId) -> tuple[int, int]:
        """(broker id or -1, leader epoch; -1 when nothing is known)."""
        known = self._groups.get(group, _UNKNOWN)
        return known.leader, known.term

    def isr_of(self, group: GroupId) -> Sequence[int]:
        return self._groups.get(group, _UNKNOWN).isr

    def heard_of(self, group: GroupId) -> bool:
        known = self._groups.get(group, _UNKNOWN)
        return known.leader != NO_LEADER or bool(known.isr) or group in self._gone

    def add_listener(self, listener: Callable[[GroupId], None]) -> None:
        """Call `listener(group)` after each change."""
        self._listeners.append(listener)

    def set(self, group: GroupId, term: int, leader: int, isr: Iterable[int] | None = None) -> bool:
        """What the node's own replica of `group` knows: `leader` ≤ 0 unknown; `isr` only if this node leads. True when something changed."""
        known = self._groups.get(group, _UNKNOWN)
        if term < known.term:
            return False
        if leader <= 0:
            # Our replica has lost its leader; within the same term that does not unmake what its leader told.
            return term > known.term and self._put(group, _Leadership(term, NO_LEADER, known.isr))
        return self._learn(group, known, term, leader, None if isr is None else tuple(isr))

    def observe(self, source: int, news: Iterable[tuple[bytes, int, Sequence[int]]]) -> None:
        """What the peer `source` says about groups that it leads itself."""
        for group, term, isr in news:
            name = GroupId(group)
            known = self._groups.get(name, _UNKNOWN)
            if term >= known.term:
                self._learn(name, known, term, source, tuple(isr))

    def _learn(self, group: GroupId, known: _Leadership, term: int, leader: int, isr: tuple[int, ...] | None) -> bool:
        if term == known.term and leader != known.leader:
            former = known.leader if known.leader != NO_LEADER else self._gone.get(group, leader)
            if former != leader:
                return False  # there is one leader per term: this is an echo or a mistake of the peer
        return self._put(group, _Leadership(term, leader, known.isr if isr is None else isr))

    def node_gone(self, node: int) -> None:
        """The node does not answer: who it led has no leader that clients could reach."""
        self._silent.pop(node, None)
        self._hide(node)

    def node_silent(self, node: int) -> None:
        """The node is connected and says nothing. It may lead on, unknown to us, until others have a new leader."""
        self._silent[node] = self._hide(node)

    def node_heard(self, node: int) -> None:
        """The silent node says something: what it led it leads, unless we have heard otherwise."""
        for group in self._silent.pop(node, ()):
            known = self._groups.get(group, _UNKNOWN)
            if known.leader == NO_LEADER and self._gone.get(group) == node:
                self._put(group, known._replace(leader=node))

    def _hide(self, node: int) -> list[GroupId]:
        groups = [group for group, known in self._groups.items() if known.leader == node]
        for group in groups:
            self._put(group, self._groups[group]._replace(leader=NO_LEADER))
            self._gone[group] = node
        return groups

    def remove(self, group: GroupId) -> None:
        """The topic is deleted."""
        self._gone.pop(group, None)
        if self._groups.pop(group, None) is not None:
            self._changed(group)

    def led_by(self, node: int) -> list[LeaderNews]:
        """All groups that `node` leads: what it tells a peer that has just connected."""
        return [LeaderNews(group, known.term, known.isr) for group, known in self._groups.items() if known.leader == node]

    def _put(self, group: GroupId, new: _Leadership) -> bool:
        if self._groups.get(group) == new:
            return False
        self._gone.pop(group, None)
        self._groups[group] = new
        self._changed(group)
        return True

    def _changed(self, group: GroupId) -> None:
        self.version += 1
        for listener in tuple(self._listeners):
            listener(group)
