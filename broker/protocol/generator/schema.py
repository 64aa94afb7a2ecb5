"""A message definition as the emitters see it, whatever it was read from. Immutable; equal definitions are equal values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

NO_LAST: Final = 32767

# Schema type → struct code and bytes. bool is `?`: any byte but zero is true, as in Kafka.
FIXED: Final[dict[str, tuple[str, int]]] = {
    "bool": ("?", 1),
    "int8": ("b", 1),
    "int16": ("h", 2),
    "uint16": ("H", 2),
    "int32": ("i", 4),
    "uint32": ("I", 4),
    "int64": ("q", 8),
    "float64": ("d", 8),
    "uuid": ("16s", 16),
}
VARIABLE: Final = frozenset({"string", "bytes", "records"})


class SchemaError(Exception):
    """A definition says something that the generator does not know. The text names message and field."""


@dataclass(frozen=True, slots=True)
class Versions:
    """An inclusive range; empty when last < first."""

    first: int
    last: int

    def __contains__(self, version: int) -> bool:
        return self.first <= version <= self.last

    @classmethod
    def parse(cls, text: str | None) -> Versions:
        """`"3"`, `"0-5"`, `"2+"`, `"none"` or None."""
        if text is None or text.strip() in ("", "none"):
            return NEVER
        text = text.strip()
        if text.endswith("+"):
            return cls(int(text[:-1]), NO_LAST)
        first, _, last = text.partition("-")
        return cls(int(first), int(last or first))


NEVER: Final = Versions(NO_LAST, -1)


@dataclass(frozen=True, slots=True)
class Field:
    """`type` is a key of FIXED, a member of VARIABLE, or "struct" (then `struct` is set).

    `default` is a Python value; of a struct it is None or EMPTY_STRUCT, of an array None or ().
    """

    name: str
    type: str
    array: bool
    struct: StructSchema | None
    versions: Versions
    nullable: Versions
    tagged: Versions
    tag: int
    default: object
    never_flexible: bool = False


@dataclass(frozen=True, slots=True)
class StructSchema:
    name: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class MessageSchema:
    """`name` ends in Request or Response (headers: RequestHeader, ResponseHeader with api_key -1)."""

    name: str
    api_key: int
    versions: Versions
    flexible: Versions
    root: StructSchema


EMPTY_STRUCT: Final = "empty struct"


@dataclass(frozen=True, slots=True)
class FieldLayout:
    """A field as one version carries it."""

    field: Field
    nullable: bool
    tag: int  # -1: not tagged
    flexible: bool
    struct: StructLayout | None


@dataclass(frozen=True, slots=True)
class StructLayout:
    """A struct as one version carries it. Versions with equal layouts share code."""

    schema: StructSchema
    flexible: bool
    fields: tuple[FieldLayout, ...]

    def plain(self) -> list[FieldLayout]:
        return [field for field in self.fields if field.tag < 0]

    def tagged(self) -> list[FieldLayout]:
        return sorted((field for field in self.fields if field.tag >= 0), key=lambda field: field.tag)


def layout_of(struct: StructSchema, version: int, flexible: bool) -> StructLayout:
    fields = []
    for field in struct.fields:
        if version not in field.versions:
            continue
        tag = field.tag if flexible and version in field.tagged else -1
        nested = layout_of(field.struct, version, flexible) if field.struct else None
        fields.append(FieldLayout(field, version in field.nullable, tag, flexible and not field.never_flexible, nested))
    return StructLayout(struct, flexible, tuple(fields))


def min_size(layout: StructLayout) -> int:
    """The fewest bytes that an encoding of `layout` has (at least 1, so that a count never exceeds the bytes left)."""
    return max(1, sum(_field_min_size(field) for field in layout.plain()) + (1 if layout.flexible else 0))


def _field_min_size(layout: FieldLayout) -> int:
    field = layout.field
    if field.array:
        return 1 if layout.flexible else 4
    if field.type == "string":
        return 1 if layout.flexible else 2
    if field.type in VARIABLE:
        return 1 if layout.flexible else 4
    if layout.struct is not None:
        return 1 if layout.nullable else min_size(layout.struct)
    return FIXED[field.type][1]


def element_min_size(layout: FieldLayout) -> int:
    """The fewest bytes of one element of an array field."""
    if layout.struct is not None:
        return min_size(layout.struct)
    if layout.field.type == "string":
        return 1 if layout.flexible else 2
    return FIXED[layout.field.type][1]


def snake(name: str) -> str:
    """`AllowAutoTopicCreation` → `allow_auto_topic_creation`; a run of capitals is one word."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
