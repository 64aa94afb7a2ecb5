"""The settings of topics and brokers as the tools see them: value, where it comes from, and what it overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

from broker.settings import BROKER_SETTINGS, TOPIC_SETTINGS, SettingDefinition, format_value, in_unit_of_topics, parse, topic_default


class ConfigSource(IntEnum):
    """The numbers are those of DescribeConfigs."""

    TOPIC = 1
    DYNAMIC_BROKER = 2
    DYNAMIC_DEFAULT_BROKER = 3
    STATIC_BROKER = 4
    DEFAULT = 5


class Origin(NamedTuple):
    """One place that has a say about a setting: the name that it has there, its text, and what kind of place it is."""

    name: str
    value: str | None
    source: ConfigSource


class DescribedSetting(NamedTuple):
    """`origins` are all that have a say, the one in force first; each in its own unit, `value` in that of `definition`."""

    definition: SettingDefinition
    origins: list[Origin]

    @property
    def value(self) -> str | None:
        if self.definition.sensitive:
            return None
        first = self.origins[0]
        if first.value is None or first.name == self.definition.name or first.name not in BROKER_SETTINGS:
            return first.value
        return format_value(in_unit_of_topics(first.name, parse(BROKER_SETTINGS[first.name], first.value)))

    @property
    def source(self) -> ConfigSource:
        return self.origins[0].source


class SettingsView(NamedTuple):
    """What a broker's own settings (typed, with defaults) and `__meta` (texts, by broker id, -1 = all brokers) say together."""

    settings: Mapping[str, object]
    dynamic: Mapping[int, Mapping[str, str]]
    node_id: int

    def topic(self, overrides: Mapping[str, str], names: Iterable[str] | None = None) -> list[DescribedSetting]:
        """The settings of a topic with `overrides`: all, or those of `names` that exist."""
        described = []
        for definition in _select(TOPIC_SETTINGS, names):
            origins = []
            if definition.name in overrides:
                origins.append(Origin(definition.name, overrides[definition.name], ConfigSource.TOPIC))
            for synonym in definition.synonyms:
                if synonym in BROKER_SETTINGS:
                    origins += [one for one in self._broker_origins(BROKER_SETTINGS[synonym]) if one.source != ConfigSource.DEFAULT]
            value, synonym = topic_default(definition, self.settings)
            if synonym:  # under the broker's name and in its unit
                value = self.settings[synonym]  # type: ignore[assignment]
            origins.append(Origin(synonym or definition.name, format_value(value), ConfigSource.DEFAULT))
            described.append(DescribedSetting(definition, _without_repeated_default(origins)))
        return described

    def broker(self, names: Iterable[str] | None = None) -> list[DescribedSetting]:
        """The settings of this broker."""
        return [DescribedSetting(definition, self._broker_origins(definition)) for definition in _select(BROKER_SETTINGS, names)]

    def cluster_default(self, names: Iterable[str] | None = None) -> list[DescribedSetting]:
        """What `__meta` sets for all brokers, and nothing else."""
        given = self.dynamic.get(-1, {})
        return [
            DescribedSetting(definition, [Origin(definition.name, given[definition.name], ConfigSource.DYNAMIC_DEFAULT_BROKER)])
            for definition in _select(BROKER_SETTINGS, names)
            if definition.name in given
        ]

    def _broker_origins(self, definition: SettingDefinition) -> list[Origin]:
        name = definition.name
        origins = []
        for broker_id, source in ((self.node_id, ConfigSource.DYNAMIC_BROKER), (-1, ConfigSource.DYNAMIC_DEFAULT_BROKER)):
            given = self.dynamic.get(broker_id, {})
            if name in given:
                origins.append(Origin(name, given[name], source))
        value = self.settings.get(name, definition.default_value)
        if value != definition.default_value and (value is None or isinstance(value, bool | int | float | str | tuple)):
            origins.append(Origin(name, format_value(value), ConfigSource.STATIC_BROKER))
        origins.append(Origin(name, format_value(definition.default_value), ConfigSource.DEFAULT))
        return origins


def _select(definitions: Mapping[str, SettingDefinition], names: Iterable[str] | None) -> list[SettingDefinition]:
    if names is None:
        return list(definitions.values())
    return [definitions[name] for name in dict.fromkeys(names) if name in definitions]


def _without_repeated_default(origins: list[Origin]) -> list[Origin]:
    """A default that only repeats a static setting of the broker (the topic's default comes from it) is left out."""
    if len(origins) > 1 and origins[-2].source == ConfigSource.STATIC_BROKER:
        return origins[:-1]
    return origins
