"""Kafka's topic and broker settings under Kafka's names: definitions, validation, and the typed values that the code uses.

Everything is accepted as text and checked once, here; what is passed on is typed. Pure: reads no file and no environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from broker.errors import ErrorCode, KafkaError
from broker.settings.broker import BROKER_SETTINGS
from broker.settings.definition import Choices, Range, SettingDefinition, SettingType, SettingValue, format_value, parse
from broker.settings.topic import MAX_MESSAGE_BYTES_LIMIT, TOPIC_SETTINGS

_UNIT_MS = {".minutes": 60_000, ".hours": 3_600_000}


def validate_topic_config(name: str, value: str | None) -> SettingValue:
    """Check one setting of a topic and return its typed value. Raises KafkaError(INVALID_CONFIG) with Kafka's wording."""
    definition = TOPIC_SETTINGS.get(name)
    if definition is None:
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"Unknown topic config name: {name}")
    if value is None:
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"Null value not supported for topic configs: {name}")
    return parse(definition, value)


def validate_topic_configs(configs: Mapping[str, str | None]) -> dict[str, str]:
    """Check all settings of a topic, each and together, and return them as they shall be stored. Raises KafkaError(INVALID_CONFIG)."""
    typed = {name: validate_topic_config(name, value) for name, value in configs.items()}
    low, high = typed.get("min.compaction.lag.ms"), typed.get("max.compaction.lag.ms")
    if isinstance(low, int) and isinstance(high, int) and low > high:
        text = f"conflict topic config setting min.compaction.lag.ms ({low}) > max.compaction.lag.ms ({high})"
        raise KafkaError(ErrorCode.INVALID_CONFIG, text)
    return {name: format_value(value) or "" for name, value in typed.items()}


def validate_broker_config(name: str, value: str) -> SettingValue:
    """Check one broker setting and return its typed value. Raises KafkaError(INVALID_CONFIG)."""
    definition = BROKER_SETTINGS.get(name)
    if definition is None:
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"Unknown broker config name: {name}")
    return parse(definition, value)


def check_dynamic(name: str) -> None:
    """Raise KafkaError(INVALID_REQUEST) for a broker setting that only the configuration file and a restart change."""
    definition = BROKER_SETTINGS.get(name)
    if definition is not None and definition.read_only:
        text = f"Cannot update these configs dynamically: {name}. Change it in the configuration file and restart the broker."
        raise KafkaError(ErrorCode.INVALID_REQUEST, text)


def broker_settings(overrides: Mapping[str, str]) -> dict[str, SettingValue]:
    """Typed values of all broker settings: `overrides` over the defaults. Raises KafkaError(INVALID_CONFIG)."""
    values = dict(_BROKER_DEFAULTS)
    for name, text in overrides.items():
        values[name] = validate_broker_config(name, text)
    return values


def topic_default(definition: SettingDefinition, settings: Mapping[str, object]) -> tuple[SettingValue, str]:
    """(value, name of the broker setting that gave it) of a topic's setting that is not overridden; the name is "" for the built-in default."""
    for synonym in definition.synonyms:
        value = settings.get(synonym)
        if value is not None:
            return in_unit_of_topics(synonym, value), synonym  # type: ignore[arg-type]
    return definition.default_value, ""


def in_unit_of_topics(name: str, value: SettingValue) -> SettingValue:
    """The value of the broker's setting `name` as the topics' setting of the same meaning has it: hours and minutes in ms."""
    for suffix, factor in _UNIT_MS.items():
        if name.endswith(suffix) and isinstance(value, int):
            return value * factor if value >= 0 else value
    return value


def topic_config(overrides: Mapping[str, str], settings: Mapping[str, object]) -> dict[str, SettingValue]:
    """Typed values of all settings of one topic: its own `overrides`, else the broker's (`settings`, as broker_settings gives), else the default.

    An override that is unknown here (written by a later version) is left out; one that is stored and not valid any more raises KafkaError.
    """
    values = {name: topic_default(definition, settings)[0] for name, definition in TOPIC_SETTINGS.items()}
    for name, text in overrides.items():
        definition = TOPIC_SETTINGS.get(name)
        if definition is not None:
            values[name] = parse(definition, text)
    return values


def without_effect(names: Iterable[str], definitions: Mapping[str, SettingDefinition]) -> list[str]:
    """Those of `names` that are known and do not act yet, for the one warning about them."""
    return sorted(name for name in names if name in definitions and not definitions[name].acts)


_BROKER_DEFAULTS: dict[str, SettingValue] = {name: definition.default_value for name, definition in BROKER_SETTINGS.items()}

__all__ = [
    "BROKER_SETTINGS",
    "MAX_MESSAGE_BYTES_LIMIT",
    "TOPIC_SETTINGS",
    "Choices",
    "Range",
    "SettingDefinition",
    "SettingType",
    "SettingValue",
    "broker_settings",
    "check_dynamic",
    "format_value",
    "in_unit_of_topics",
    "parse",
    "topic_config",
    "topic_default",
    "validate_broker_config",
    "validate_topic_config",
    "validate_topic_configs",
    "without_effect",
]
