"""Values for any message and version as plain trees, and their translation to and from our classes, kafka-python's and kio's.

A tree is a dict of the fields that the version carries; structs are dicts, arrays lists, ids and records bytes.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import io
import random
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from broker.protocol.generator.catalogue import Pair, generate, load
from broker.protocol.generator.schema import EMPTY_STRUCT, Field, MessageSchema, StructLayout, layout_of
from broker.protocol.generator.served import SERVED

# Keys that come after the ones served now: groups, transactions, administration, and some that only kio defines.
NEXT_KEYS = (8, 9, 10, 11, 12, 13, 14, 15, 16, 21, 24, 25, 26, 28, 33, 34, 35, 42, 43, 44, 45, 46, 47, 55, 61, 65, 66, 74, 75)
KIO_KEYS = (38, 39, 40, 41, 68, 69, 71, 72, 76, 77, 78, 79, 80, 81, 88, 89, 90, 91, 92)

_INTEGERS = {"int8": 7, "int16": 15, "int32": 31, "int64": 63}
_WITH_UNIT = {"timedelta_i32", "timedelta_i64", "datetime_i64"}


@functools.cache
def catalogue() -> dict[int, Pair]:
    return load()


@functools.cache
def _further_modules() -> Path:
    """A package folder with the modules of the keys that are not committed."""
    folder = Path(tempfile.mkdtemp(prefix="chronik-codec-")) / "generated_for_tests"
    folder.mkdir()
    pairs = catalogue()
    wanted = {key: (pairs[key][0].versions.first, pairs[key][0].versions.last) for key in pairs if key not in SERVED}
    for name, text in generate(pairs, wanted).items():
        (folder / name).write_text(text, "utf-8")
    sys.path.insert(0, str(folder.parent))
    return folder


@functools.cache
def our_class(schema: MessageSchema) -> Any:
    from broker.protocol.generator.module import file_name

    name = file_name(schema).removesuffix(".py")
    if schema.api_key in SERVED:
        module = importlib.import_module(f"broker.protocol._generated.{name}")
    else:
        module = importlib.import_module(f"{_further_modules().name}.{name}")
    return getattr(module, schema.name)


def cases(keys: Any) -> list[tuple[MessageSchema, int]]:
    """Every request and response of `keys` in every generated version."""
    found = []
    for key in keys:
        request, response = catalogue()[key]
        first, last = SERVED.get(key, (request.versions.first, request.versions.last))
        found += [(schema, version) for schema in (request, response) for version in range(first, last + 1)]
    return found


def case_name(value: Any) -> str:
    return value.name if isinstance(value, MessageSchema) else f"v{value}"


def layout(schema: MessageSchema, version: int) -> StructLayout:
    return layout_of(schema.root, version, version in schema.flexible)


# Trees -------------------------------------------------------------------------------------------------------------------


def random_tree(of: StructLayout, source: random.Random, depth: int = 0) -> dict[str, Any]:
    tree = {}
    for item in of.fields:
        field = item.field
        if item.tag >= 0 and source.random() < 0.4:
            tree[field.name] = default_value(item)
        elif item.nullable and source.random() < 0.25:
            tree[field.name] = None
        elif field.array:
            longest = 3 if depth < 2 else 2
            count = 200 if item.struct is None and source.random() < 0.03 else source.randint(0, longest)
            tree[field.name] = [random_tree(item.struct, source, depth + 1) if item.struct else _scalar(field, source) for _ in range(count)]
        elif item.struct is not None:
            tree[field.name] = random_tree(item.struct, source, depth + 1)
        else:
            tree[field.name] = _scalar(field, source)
    return tree


def default_value(item: Any) -> Any:
    field = item.field
    if field.default == EMPTY_STRUCT and item.struct is not None and not field.array:
        return {nested.field.name: default_value(nested) for nested in item.struct.fields}
    return [] if field.array and field.default is not None else field.default


def _scalar(field: Field, source: random.Random) -> Any:
    type_ = field.type
    if type_ == "bool":
        return source.random() < 0.5
    if type_ == "float64":
        return source.choice((0.0, -1.5, 1e300, source.uniform(-1e6, 1e6)))
    if type_ == "uint16":
        return source.randint(0, 65535)
    if type_ == "uint32":
        return source.randint(0, 2**32 - 1)
    if type_ == "uuid":
        return source.choice((bytes(16), source.randbytes(16)))
    if type_ in ("bytes", "records"):
        return source.randbytes(source.choice((0, 1, 7, 126, 127, 128, 300)))
    if type_ == "string":
        return source.choice(("", "a", "topic-1", "große Münze", "日本語のトピック", "🦜" * source.randint(1, 40), "x" * 126, "x" * 127, "x" * 16400))
    if "error_code" in field.name:
        return source.randint(-1, 100)
    if type_ == "int64" and field.name.endswith("_ms"):
        # kio shows these as durations and points in time of whole seconds, and refuses negative ones that are not "none".
        return source.choice((-1 if field.default == -1 else 0, 1000 * source.randint(0, 2_000_000_000)))
    bits = _INTEGERS[type_]
    return source.choice((0, -1, 1, -(2**bits), 2**bits - 1, source.randint(-(2**bits), 2**bits - 1)))


# Ours --------------------------------------------------------------------------------------------------------------------


def to_ours(schema: MessageSchema, of: StructLayout, tree: dict[str, Any]) -> Any:
    message = our_class(schema)
    return _to_ours(sys.modules[message.__module__], schema, of, tree)


def _to_ours(module: Any, schema: MessageSchema, of: StructLayout, tree: dict[str, Any]) -> Any:
    values = {}
    for item in of.fields:
        value = tree[item.field.name]
        if item.struct is not None and value is not None:
            value = (
                [_to_ours(module, schema, item.struct, one) for one in value] if item.field.array else _to_ours(module, schema, item.struct, value)
            )
        values[item.field.name] = value
    cls = getattr(module, schema.name + of.schema.name, None) or getattr(module, of.schema.name)
    return cls(**values)


def from_ours(of: StructLayout, value: Any) -> dict[str, Any]:
    tree = {}
    for item in of.fields:
        field_value = getattr(value, item.field.name)
        if item.struct is not None and field_value is not None:
            field_value = [from_ours(item.struct, one) for one in field_value] if item.field.array else from_ours(item.struct, field_value)
        tree[item.field.name] = bytes(field_value) if isinstance(field_value, memoryview) else field_value
    return tree


# kafka-python ------------------------------------------------------------------------------------------------------------


@functools.cache
def kafka_class(name: str) -> Any:
    """A class straight from the schema, without the changes that kafka-python makes to some fields for its users."""
    import types

    from kafka.protocol.api_header import ResponseClassRegistry
    from kafka.protocol.api_message import ApiMessage

    registry = dict(ResponseClassRegistry._response_class_registry)
    cls = types.new_class(name, (ApiMessage,))
    ResponseClassRegistry._response_class_registry.clear()
    ResponseClassRegistry._response_class_registry.update(registry)
    return cls


def kafka_encode(schema: MessageSchema, of: StructLayout, tree: dict[str, Any], version: int) -> bytes:
    cls = kafka_class(schema.name)
    return bytes(cls(version=version, **_kafka_values(cls._struct, of, tree)).encode())


def kafka_decode(schema: MessageSchema, of: StructLayout, data: bytes, version: int) -> dict[str, Any]:
    return _from_kafka(of, kafka_class(schema.name).decode(data, version=version))


def _kafka_values(struct: Any, of: StructLayout, tree: dict[str, Any]) -> dict[str, Any]:
    values = {}
    for item in of.fields:
        name = item.field.name
        value = tree[name]
        field = struct.fields[name]
        if item.struct is not None and value is not None:
            if item.field.array:
                value = [field.data_class(**_kafka_values(field, item.struct, one)) for one in value]
            elif item.tag >= 0 and value == default_value(item):
                continue
            else:
                value = field.data_class(**_kafka_values(field, item.struct, value))
        elif item.field.type == "uuid":
            value = [uuid.UUID(bytes=one) for one in value] if item.field.array else uuid.UUID(bytes=value)
            if item.tag >= 0 and value == uuid.UUID(int=0):
                continue
        values[name] = value
    return values


def _from_kafka(of: StructLayout, value: Any) -> dict[str, Any]:
    tree = {}
    for item in of.fields:
        field_value = getattr(value, item.field.name)
        if item.struct is not None and field_value is not None:
            field_value = [_from_kafka(item.struct, one) for one in field_value] if item.field.array else _from_kafka(item.struct, field_value)
        elif field_value is None and item.tag >= 0 and not item.nullable:
            field_value = default_value(item)
        elif item.field.type == "uuid":
            field_value = [_uuid_bytes(one) for one in field_value] if item.field.array else _uuid_bytes(field_value)
        elif isinstance(field_value, memoryview | bytearray):
            field_value = bytes(field_value)
        tree[item.field.name] = field_value
    return tree


def _uuid_bytes(value: uuid.UUID | None) -> bytes:
    return bytes(16) if value is None else value.bytes


# kio ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def kio_class(schema: MessageSchema, version: int) -> Any:
    """None where kio does not have the version."""
    from kio.index import load_request_schema, load_response_schema
    from kio.schema.index import api_key_map, schema_name_map

    name = api_key_map.get(schema.api_key)
    if name is None or version not in schema_name_map[name]:
        return None
    return (load_request_schema if schema.name.endswith("Request") else load_response_schema)(schema.api_key, version)


def kio_encode(cls: Any, of: StructLayout, tree: dict[str, Any]) -> bytes:
    from kio.serial import entity_writer

    out = io.BytesIO()
    entity_writer(cls)(out, _to_kio(cls, of, tree))
    return out.getvalue()


def kio_decode(cls: Any, of: StructLayout, data: bytes) -> tuple[dict[str, Any], int]:
    from kio.serial import entity_reader

    value, size = entity_reader(cls)(data, 0)
    return _from_kio(of, value), size


def _kio_fields(cls: Any) -> dict[str, Any]:
    import dataclasses

    return {field.name + ("_ms" if field.metadata.get("kafka_type") in _WITH_UNIT else ""): field for field in dataclasses.fields(cls)}


def _to_kio(cls: Any, of: StructLayout, tree: dict[str, Any]) -> Any:
    from broker.protocol.generator.kio_source import _unwrap

    fields = _kio_fields(cls)
    values = {}
    for item in of.fields:
        field = fields[item.field.name]
        value = tree[item.field.name]
        if item.struct is not None and value is not None:
            inner = _unwrap(field.type)[0]
            value = tuple(_to_kio(inner, item.struct, one) for one in value) if item.field.array else _to_kio(inner, item.struct, value)
        elif item.field.array and value is not None:
            value = tuple(_scalar_to_kio(field, one) for one in value)
        elif item.struct is None:
            value = _scalar_to_kio(field, value)
        values[field.name] = value
    return cls(**values)


def _scalar_to_kio(field: Any, value: Any) -> Any:
    from kio.schema.errors import ErrorCode
    from kio.static.primitive import TZAware

    match field.metadata["kafka_type"]:
        case "uuid":
            return uuid.UUID(bytes=value) if value != bytes(16) else None
        case "error_code":
            return ErrorCode(value)
        case "timedelta_i32" | "timedelta_i64":
            return datetime.timedelta(milliseconds=value)
        case "datetime_i64":
            return None if value == -1 else TZAware.parse(datetime.datetime.fromtimestamp(value / 1000, datetime.UTC))
    return value


def _from_kio(of: StructLayout, value: Any) -> dict[str, Any]:
    fields = _kio_fields(type(value))
    tree = {}
    for item in of.fields:
        field = fields[item.field.name]
        field_value = getattr(value, field.name)
        if item.struct is not None and field_value is not None:
            field_value = [_from_kio(item.struct, one) for one in field_value] if item.field.array else _from_kio(item.struct, field_value)
        elif item.field.array and field_value is not None:
            field_value = [_scalar_from_kio(field, one) for one in field_value]
        elif item.struct is None:
            field_value = _scalar_from_kio(field, field_value)
        tree[item.field.name] = field_value
    return tree


def _scalar_from_kio(field: Any, value: Any) -> Any:
    match field.metadata["kafka_type"]:
        case "uuid":
            return _uuid_bytes(value)
        case "error_code":
            return value.value
        case "timedelta_i32" | "timedelta_i64":
            return value // datetime.timedelta(milliseconds=1)
        case "datetime_i64":
            return -1 if value is None else round(value.timestamp() * 1000)
    return bytes(value) if isinstance(value, memoryview | bytes) else value
