"""Reads the definitions of keys that kafka-python lacks from kio's classes: one dataclass per message and version, merged here into one definition.

kio translates some types (durations, points in time, error codes); they are translated back to what is on the wire, and names get their `_ms` back.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import pkgutil
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from broker.protocol.generator.schema import EMPTY_STRUCT, FIXED, NEVER, NO_LAST, VARIABLE, Field, MessageSchema, SchemaError, StructSchema, Versions

_WIRE_TYPES = {"error_code": "int16", "timedelta_i32": "int32", "timedelta_i64": "int64", "datetime_i64": "int64"}
_WITH_UNIT = frozenset({"timedelta_i32", "timedelta_i64", "datetime_i64"})


def messages() -> Iterator[MessageSchema]:
    """Every request and response that kio knows."""
    schema = importlib.import_module("kio.schema")
    for package in sorted(pkgutil.iter_modules(schema.__path__), key=lambda package: package.name):
        if package.ispkg:
            yield from of_package(package.name)


def of_package(name: str) -> Iterator[MessageSchema]:
    """The request and the response of one of kio's packages, such as `share_fetch`; nothing for packages of another kind."""
    package = importlib.import_module(f"kio.schema.{name}")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    versions = sorted(int(module[1:]) for module in modules if re.fullmatch(r"v\d+", module))
    for kind in ("request", "response"):
        classes = {}
        for version in versions:
            folder = importlib.import_module(f"kio.schema.{name}.v{version}")
            if any(module.name == kind for module in pkgutil.iter_modules(folder.__path__)):
                classes[version] = _root_class(importlib.import_module(f"kio.schema.{name}.v{version}.{kind}"), kind)
        if classes:
            yield _message(classes)


def _root_class(module: types.ModuleType, kind: str) -> type[Any]:
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__ and getattr(value, "__type__", None) is not None:
            entity: Any = value
            if entity.__type__.name == kind:
                return value
    raise SchemaError(f"{module.__name__} has no {kind}")


def _message(classes: dict[int, type[Any]]) -> MessageSchema:
    last = max(classes)
    newest = classes[last]
    flexible = [version for version, cls in classes.items() if cls.__flexible__]
    return MessageSchema(
        name=newest.__name__,
        api_key=int(newest.__api_key__),
        versions=Versions(min(classes), last),
        flexible=Versions(min(flexible), NO_LAST) if flexible else NEVER,
        root=_struct(classes, last),
    )


def _struct(classes: dict[int, type[Any]], last: int) -> StructSchema:
    """`classes`: the struct's class in each version that has it; `last`: the last version of the message."""
    order: list[str] = []
    by_name: dict[str, dict[int, dataclasses.Field[Any]]] = {}
    for version in sorted(classes, reverse=True):
        previous = -1
        for field in dataclasses.fields(classes[version]):
            if field.name in by_name:
                previous = order.index(field.name)
            else:
                previous += 1
                order.insert(previous, field.name)
            by_name.setdefault(field.name, {})[version] = field
    newest = classes[max(classes)]
    return StructSchema(newest.__name__, tuple(_field(f"{newest.__name__}.{name}", by_name[name], last) for name in order))


def _range(versions: list[int], last: int) -> Versions:
    if not versions:
        return NEVER
    return Versions(min(versions), NO_LAST if max(versions) == last else max(versions))


def _field(where: str, by_version: dict[int, dataclasses.Field[Any]], last: int) -> Field:
    newest = by_version[max(by_version)]
    inner, array, _ = _unwrap(newest.type)
    kio_type = newest.metadata.get("kafka_type")
    struct = None
    if kio_type is None:
        struct = _struct({version: _unwrap(field.type)[0] for version, field in by_version.items()}, last)
        type_ = "struct"
    else:
        type_ = _WIRE_TYPES.get(kio_type, kio_type)
        if type_ not in FIXED and type_ not in VARIABLE:
            raise SchemaError(f"{where}: unknown type {kio_type!r} of {inner}")
    # kio shows the zero uuid and the time -1 as None; on the wire these are values.
    can_be_null = array or type_ not in FIXED
    return Field(
        name=newest.name + ("_ms" if kio_type in _WITH_UNIT else ""),
        type=type_,
        array=array,
        struct=struct,
        versions=_range(list(by_version), last),
        nullable=_range([version for version, field in by_version.items() if can_be_null and _unwrap(field.type)[2]], last),
        tagged=_range([version for version, field in by_version.items() if "tag" in field.metadata], last),
        tag=newest.metadata.get("tag", -1),
        default=_default(where, type_, array, newest.default),
    )


def _unwrap(annotation: Any) -> tuple[Any, bool, bool]:
    """(inner type, is an array, may be None)."""
    optional = False
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        optional = True
        annotation = next(argument for argument in typing.get_args(annotation) if argument is not type(None))
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0], True, optional
    return annotation, False, optional


def _default(where: str, type_: str, array: bool, written: object) -> object:
    if written is dataclasses.MISSING:
        if array:
            return ()
        implicit = {"struct": EMPTY_STRUCT, "string": "", "bytes": b"", "records": None, "uuid": bytes(16), "bool": False, "float64": 0.0}
        return implicit.get(type_, 0)
    if array:
        return None if written is None else ()
    if type_ == "struct":
        return None if written is None else EMPTY_STRUCT
    if isinstance(written, datetime.timedelta):
        return written // datetime.timedelta(milliseconds=1)
    if written is None and type_ in FIXED:
        return bytes(16) if type_ == "uuid" else -1
    if type_ == "bool":
        return bool(written)
    if isinstance(written, int):
        return int(written)
    if written is None or isinstance(written, str | bytes | float):
        return written
    raise SchemaError(f"{where}: default {written!r}")
