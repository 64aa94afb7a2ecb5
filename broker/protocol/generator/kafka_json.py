"""Reads Kafka's own message definitions (JSON with // comments), which the kafka-python package carries."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources.abc import Traversable
from typing import Any

from broker.protocol.generator.schema import EMPTY_STRUCT, FIXED, VARIABLE, Field, MessageSchema, SchemaError, StructSchema, Versions, snake

_COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)


def _folder() -> Traversable:
    return importlib.resources.files("kafka.protocol.schemas") / "resources"


def messages() -> Iterator[MessageSchema]:
    """All requests and responses that have an API key, in order of file name."""
    for path in sorted(_folder().iterdir(), key=lambda path: path.name):
        if path.name.endswith(("Request.json", "Response.json")):
            yield parse(path.read_text("utf-8"))


def header(name: str) -> MessageSchema:
    """`RequestHeader` or `ResponseHeader`."""
    return parse((_folder() / f"{name}.json").read_text("utf-8"))


def parse(text: str) -> MessageSchema:
    definition = json.loads(_COMMENT.sub("", text))
    name = definition["name"]
    common = {struct["name"]: struct["fields"] for struct in definition.get("commonStructs", ())}
    return MessageSchema(
        name=name,
        api_key=definition.get("apiKey", -1),
        versions=Versions.parse(definition["validVersions"]),
        flexible=Versions.parse(definition["flexibleVersions"]),
        root=StructSchema(name, _fields(name, definition["fields"], common)),
    )


def _fields(owner: str, definitions: list[dict[str, Any]], common: Mapping[str, list[dict[str, Any]]]) -> tuple[Field, ...]:
    return tuple(_field(owner, definition, common) for definition in definitions)


def _field(owner: str, definition: dict[str, Any], common: Mapping[str, list[dict[str, Any]]]) -> Field:
    where = f"{owner}.{definition['name']}"
    written_type = definition["type"]
    array = written_type.startswith("[]")
    type_ = written_type.removeprefix("[]")
    struct = None
    if type_ not in FIXED and type_ not in VARIABLE:
        nested = definition.get("fields") or common.get(type_)
        if nested is None:
            raise SchemaError(f"{where}: unknown type {written_type!r}")
        struct = StructSchema(type_, _fields(f"{owner}.{type_}", nested, common))
        type_ = "struct"
    tagged = Versions.parse(definition.get("taggedVersions"))
    return Field(
        name=snake(definition["name"]),
        type=type_,
        array=array,
        struct=struct,
        # Inside a tagged struct Kafka writes "0+"; it is bounded by where the struct itself occurs.
        versions=Versions.parse(definition["versions"]),
        nullable=Versions.parse(definition.get("nullableVersions")),
        tagged=tagged,
        tag=definition.get("tag", -1),
        default=_default(where, type_, array, definition.get("default")),
        never_flexible=definition.get("flexibleVersions") == "none",
    )


def _default(where: str, type_: str, array: bool, written: object) -> object:
    """The Python value of a `default`; without one, Kafka's implicit default of the type."""
    if written in ("null", None) and (array or type_ in ("struct", "string", "bytes", "records")):
        if written == "null":
            return None
        if array:
            return ()
        return {"struct": EMPTY_STRUCT, "string": "", "bytes": b"", "records": None}[type_]
    if array:
        raise SchemaError(f"{where}: the default of an array is null or nothing, not {written!r}")
    if type_ == "string":
        return str(written)
    if type_ == "uuid":
        if written is not None:
            raise SchemaError(f"{where}: a uuid has no default, not {written!r}")
        return bytes(16)
    if type_ == "bool":
        return str(written or False).lower() == "true"
    if type_ == "float64":
        return float(str(written or 0))
    if type_ in FIXED:
        return int(str(written or 0), 0)
    raise SchemaError(f"{where}: default {written!r} of type {type_}")
