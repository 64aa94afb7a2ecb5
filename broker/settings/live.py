"""The broker's settings as they act now: what the node was started with, and over it what `__meta` changes while it runs.

The broker's own dynamic setting wins over the one for all brokers, which wins over the file. A stored text that is not valid any more (another
version wrote it) is left out, and so is a setting that only a restart changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from broker.errors import KafkaError
from broker.settings.broker import BROKER_SETTINGS
from broker.settings.definition import SettingValue, parse

ALL_BROKERS = -1


class LiveSettings(Mapping[str, object]):
    """Reading is one lookup. Changed by `update` alone."""

    __slots__ = ("_now", "node_id", "static")

    def __init__(self, static: Mapping[str, object], node_id: int) -> None:
        self.static = static
        self.node_id = node_id
        self._now: dict[str, object] = dict(static)

    def update(self, dynamic: Mapping[int, Mapping[str, str]]) -> set[str]:
        """Take the dynamic settings of an image (by broker id, -1 = all brokers); the names of those whose value is another one now."""
        now: dict[str, object] = dict(self.static)
        for broker in (ALL_BROKERS, self.node_id):
            for name, text in dynamic.get(broker, {}).items():
                now.update(_typed(name, text))
        changed = {name for name in now.keys() | self._now.keys() if now.get(name) != self._now.get(name)}
        self._now = now
        return changed

    def __getitem__(self, name: str) -> object:
        return self._now[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)


def _typed(name: str, text: str) -> dict[str, SettingValue]:
    definition = BROKER_SETTINGS.get(name)
    if definition is None or definition.read_only:
        return {}
    try:
        return {name: parse(definition, text)}
    except KafkaError:
        return {}
