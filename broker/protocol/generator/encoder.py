"""Emits encoders: one straight-line function per struct layout, appending to a bytearray.

Neighbouring fields of fixed size, and the length that follows them, are written by one `pack`. A tagged field is written only when it differs from
its default, as Kafka does.
"""

from __future__ import annotations

from broker.protocol.generator.decoder import numbers_call
from broker.protocol.generator.schema import EMPTY_STRUCT, FIXED, FieldLayout, SchemaError, StructLayout
from broker.protocol.generator.source import Names, Source


class EncoderEmitter:
    """Writes functions into `out`; nested functions are written before those that call them."""

    def __init__(self, out: Source, names: Names) -> None:
        self._out = out
        self._names = names
        self._pending: list[tuple[str, str]] = []
        self._target = "out"

    def emit_struct(self, layout: StructLayout) -> str:
        name, new = self._names.function("encode", layout)
        if new:
            self._emit_nested(layout)
            out = self._out
            out(f"def {name}(out, item):")
            out.depth += 1
            self._emit_body(layout)
            out.depth -= 1
            out()
            out()
        return name

    def emit_list(self, layout: StructLayout) -> str:
        name, new = self._names.function("encode", layout, "_list")
        if new:
            self._emit_nested(layout)
            out = self._out
            out(f"def {name}(out, items):")
            out.depth += 1
            if _is_fixed(layout):
                self._emit_fixed_list(layout)
            else:
                out("for item in items:")
                out.depth += 1
                self._emit_body(layout)
                out.depth -= 1
            out.depth -= 1
            out()
            out()
        return name

    def _emit_fixed_list(self, layout: StructLayout) -> None:
        code = "".join(FIXED[field.field.type][0] for field in layout.fields) + ("x" if layout.flexible else "")
        values = ", ".join(f"item.{field.field.name}" for field in layout.fields)
        self._out(f"_pack = {self._names.pack(code)}")
        self._out(f'out += b"".join([_pack({values}) for item in items])')

    def _emit_nested(self, layout: StructLayout) -> None:
        for field in layout.fields:
            if field.struct is not None:
                if field.field.array:
                    self.emit_list(field.struct)
                else:
                    self.emit_struct(field.struct)

    def _emit_body(self, layout: StructLayout) -> None:
        for field in layout.plain():
            self._emit_field(field)
        if layout.flexible:
            tagged = layout.tagged()
            if tagged:
                self._emit_tagged_fields(tagged)
            else:
                self._pending.append(("x", ""))
        self._flush()
        if not layout.fields and not layout.flexible:
            self._out("pass")

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if pending:
            self._out(self._write(pending))

    def _write(self, pending: list[tuple[str, str]]) -> str:
        code = "".join(code for code, _ in pending)
        if code == "x":
            return f"{self._target}.append(0)"
        if code == "B":
            return f"{self._target}.append({pending[0][1]})"
        return f"{self._target} += {self._names.pack(code)}({', '.join(expression for _, expression in pending if expression)})"

    def _flush_with_uvarint(self, expression: str) -> None:
        """Write what is pending and then `expression`, a varint that is nearly always one byte."""
        out = self._out
        out(f"if {expression} < 128:")
        out(f"    {self._write([*self._pending, ('B', expression)])}")
        out("else:")
        out.depth += 1
        self._flush()
        out(f"{self._names.primitive('write_uvarint')}({self._target}, {expression})")
        out.depth -= 1

    def _emit_field(self, layout: FieldLayout) -> None:
        field = layout.field
        if field.array:
            self._emit_array(layout)
        elif layout.struct is not None:
            self._emit_single_struct(layout, layout.struct)
        elif field.type in FIXED:
            self._pending.append((FIXED[field.type][0], f"item.{field.name}"))
        else:
            self._emit_bytes(layout)

    def _emit_single_struct(self, layout: FieldLayout, struct: StructLayout) -> None:
        out = self._out
        self._flush()
        call = f"{self.emit_struct(struct)}({self._target}, item.{layout.field.name})"
        if not layout.nullable:
            out(call)
            return
        out(f"if item.{layout.field.name} is None:")
        out(f"    {self._target}.append(255)")
        out("else:")
        out(f"    {self._target}.append(1)")
        out(f"    {call}")

    def _emit_bytes(self, layout: FieldLayout) -> None:
        """string, bytes or records."""
        out = self._out
        field = layout.field
        extra = " + 1" if layout.flexible else ""
        encoded = ".encode()" if field.type == "string" else ""
        if layout.nullable:
            out(f"_raw = item.{field.name}")
            out("if _raw is None:")
            out('    _raw = b""')
            out(f"    _n = {'0' if layout.flexible else '-1'}")
            out("else:")
            if encoded:
                out("    _raw = _raw.encode()")
            out(f"    _n = len(_raw){extra}")
        else:
            out(f"_raw = item.{field.name}{encoded}")
            out(f"_n = len(_raw){extra}")
        self._flush_length(layout, "h" if field.type == "string" else "i")
        out(f"{self._target} += _raw")

    def _flush_length(self, layout: FieldLayout, code: str) -> None:
        if layout.flexible:
            self._flush_with_uvarint("_n")
        else:
            self._pending.append((code, "_n"))
            self._flush()

    def _emit_array(self, layout: FieldLayout) -> None:
        out = self._out
        field = layout.field
        extra = " + 1" if layout.flexible else ""
        out(f"_items = item.{field.name}")
        if layout.nullable:
            out(f"_n = {'0' if layout.flexible else '-1'} if _items is None else len(_items){extra}")
        else:
            out(f"_n = len(_items){extra}")
        self._flush_length(layout, "i")
        out("if _items:")
        if layout.struct is not None:
            out(f"    {self.emit_list(layout.struct)}({self._target}, _items)")
        elif field.type == "string":
            out(f"    {self._names.primitive('write_compact_strings' if layout.flexible else 'write_strings')}({self._target}, _items)")
        elif field.type == "uuid":
            out(f"    {self._target} += {self._names.primitive('pack_uuids')}(_items)")
        elif field.type in FIXED:
            out(f"    {self._target} += {numbers_call(self._names, 'pack', FIXED[field.type][0], '_items')}")
        else:
            raise SchemaError(f"{field.name}: an array of {field.type}")

    def _emit_tagged_fields(self, tagged: list[FieldLayout]) -> None:
        out = self._out
        self._flush()
        out(f"if {' or '.join(_differs(field, 'item') for field in tagged)}:")
        out.depth += 1
        out("_count = 0")
        out("_section = bytearray()")
        for field in tagged:
            out(f"if {_differs(field, 'item')}:")
            out.depth += 1
            out("_count += 1")
            out("_body = bytearray()")
            target, self._target = self._target, "_body"
            self._emit_field(field)
            self._flush()
            self._target = target
            out(f"{self._names.primitive('write_tag')}(_section, {field.tag}, _body)")
            out.depth -= 1
        out(f"{self._names.primitive('write_uvarint')}({self._target}, _count)")
        out(f"{self._target} += _section")
        out.depth -= 1
        out("else:")
        out(f"    {self._target}.append(0)")


def _is_fixed(layout: StructLayout) -> bool:
    return bool(layout.fields) and all(field.field.type in FIXED and not field.field.array and field.tag < 0 for field in layout.fields)


def _differs(layout: FieldLayout, owner: str) -> str:
    """The condition that a field does not have its default."""
    field = layout.field
    value = f"{owner}.{field.name}"
    if field.array:
        if field.default is None:
            return f"{value} is not None"
        return f"({value} is None or len({value}))" if layout.nullable else value
    if layout.struct is not None:
        if field.default != EMPTY_STRUCT:
            return f"{value} is not None"
        conditions = " or ".join(_differs(nested, value) for nested in layout.struct.fields)
        return f"({value} is None or {conditions})" if layout.nullable else f"({conditions})"
    if field.default is None:
        return f"{value} is not None"
    if field.type == "bool":
        return f"not {value}" if field.default else value
    if field.type == "uuid":
        return f"{value} != _ZERO_UUID"
    return f"{value} != {field.default!r}"
