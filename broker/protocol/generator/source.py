"""Builds the text of one generated module: lines, shared `struct` constants, and the names of the functions for each struct layout."""

from __future__ import annotations

from collections.abc import Mapping

from broker.protocol.generator.schema import StructLayout, StructSchema, snake


class Source:
    """Lines of Python at a current depth of indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def __call__(self, line: str = "") -> None:
        self.lines.append("    " * self.depth + line if line else "")


class Names:
    """Constants and functions that the code of one module refers to; each is asked for by meaning and gets a name once.

    Invariant: a function name is unique per (struct, layout); layouts that occur in several versions share the function of the first of them.
    """

    def __init__(self, classes: Mapping[StructSchema, str]) -> None:
        self._classes = classes
        self.structs: dict[str, str] = {}
        self.primitives: set[str] = set()
        self.errors: set[str] = set()
        self._functions: dict[tuple[str, StructLayout], str] = {}
        self.version = 0

    def class_of(self, schema: StructSchema) -> str:
        return self._classes[schema]

    def unpack(self, code: str) -> str:
        return self._struct(code) + ".unpack_from"

    def pack(self, code: str) -> str:
        return self._struct(code) + ".pack"

    def _struct(self, code: str) -> str:
        return self.structs.setdefault(code, f"_S_{code.replace('?', 't')}")

    def primitive(self, name: str) -> str:
        self.primitives.add(name)
        return name

    def error(self, name: str) -> str:
        self.errors.add(name)
        return name

    def function(self, verb: str, layout: StructLayout, suffix: str = "") -> tuple[str, bool]:
        """(name, is new) of the function that does `verb` to `layout`; a new one is named after the version being generated."""
        key = (verb + suffix, layout)
        name = self._functions.get(key)
        if name is not None:
            return name, False
        name = f"_{verb}_{snake(self.class_of(layout.schema))}{suffix}_v{self.version}"
        self._functions[key] = name
        return name, True
