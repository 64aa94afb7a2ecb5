"""One Kafka setting: its name, type, default and what is valid; parsing and formatting of its text.

Owns: the rules of Kafka's configuration texts and the wording of what is wrong with one. Knows neither topics nor the broker. Pure functions.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import IntEnum

from broker.errors import ErrorCode, KafkaError

SettingValue = bool | int | float | str | tuple[str, ...] | None

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}\Z")
_DOUBLE = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\Z")


class SettingType(IntEnum):
    """The numbers are those of DescribeConfigs."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


_INTEGER_BITS = {SettingType.SHORT: 15, SettingType.INT: 31, SettingType.LONG: 63}


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included; None = open on that side."""

    low: float | None = None
    high: float | None = None

    def problem(self, value: SettingValue) -> str:
        """Why `value` is refused, "" when it is not."""
        if isinstance(value, int | float):
            if self.low is not None and value < self.low:
                return f"Value must be at least {self.low}"
            if self.high is not None and value > self.high:
                return f"Value must be no more than {self.high}"
        return ""

    def describe(self) -> str:
        return f"[{'...' if self.low is None else self.low},{',...' if self.high is None else self.high}]".replace(",,", ",")


@dataclass(frozen=True, slots=True)
class Choices:
    """One of `values`; for a list, each of its items."""

    values: tuple[str, ...]

    def problem(self, value: SettingValue) -> str:
        """Why `value` is refused, "" when it is not."""
        items = value if isinstance(value, tuple) else (value,)
        for item in items:
            if item is not None and item not in self.values:
                return f"String must be one of: {', '.join(self.values)}"
        return ""

    def describe(self) -> str:
        return f"[{', '.join(self.values)}]"


Valid = Range | Choices | None


@dataclass(frozen=True, slots=True)
class SettingDefinition:
    """A setting that Kafka's tools know.

    `default` is a text as a tool would write it, None for unset. `synonyms`: of a topic's setting the broker settings that give its default, the
    strongest first. `read_only`: only the file and a restart change it. `acts`: whether this broker does what the setting says; one that does
    not is accepted, stored, described, and warned about once.
    """

    name: str
    type: SettingType
    default: str | None
    doc: str
    valid: Valid = None
    read_only: bool = False
    synonyms: tuple[str, ...] = ()
    acts: bool = False

    @property
    def sensitive(self) -> bool:
        """Its value is never shown."""
        return self.type is SettingType.PASSWORD

    @property
    def default_value(self) -> SettingValue:
        return None if self.default is None else parse(self, self.default)


def _invalid(definition: SettingDefinition, text: str, why: str) -> KafkaError:
    shown = "[hidden]" if definition.sensitive else text
    return KafkaError(ErrorCode.INVALID_CONFIG, f"Invalid value {shown} for configuration {definition.name}: {why}")


def parse(definition: SettingDefinition, text: str) -> SettingValue:
    """The typed value of `text`. Raises KafkaError(INVALID_CONFIG) with the wording of Kafka's own check."""
    text = text.strip()
    value: SettingValue
    match definition.type:
        case SettingType.BOOLEAN:
            lowered = text.lower()
            if lowered not in ("true", "false"):
                raise _invalid(definition, text, "Expected value to be either true or false")
            value = lowered == "true"
        case SettingType.INT | SettingType.SHORT | SettingType.LONG:
            bound = 1 << _INTEGER_BITS[definition.type]
            if not _INTEGER.match(text) or not -bound <= int(text) < bound:
                raise _invalid(definition, text, f"Not a number of type {definition.type.name}")
            value = int(text)
        case SettingType.DOUBLE:
            if not _DOUBLE.match(text):
                raise _invalid(definition, text, f"Not a number of type {definition.type.name}")
            value = float(text)
            if not math.isfinite(value):
                raise _invalid(definition, text, f"Not a number of type {definition.type.name}")
        case SettingType.LIST:
            value = tuple(item.strip() for item in text.split(",")) if text else ()
        case _:
            value = text
    problem = definition.valid.problem(value) if definition.valid is not None else ""
    if problem:
        raise _invalid(definition, text, problem)
    return value


def format_value(value: SettingValue) -> str | None:
    """The text of a typed value, as DescribeConfigs shows it."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)
