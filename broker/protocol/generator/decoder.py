"""Emits decoders: one straight-line function per struct layout, over one struct or over a list of them.

Neighbouring fields of fixed size, the length or count that follows them, and the count of tagged fields are read by one `unpack_from`. Every length
is compared with the bytes left before it is used; running out inside a fixed run raises struct.error or IndexError, translated by `Message.decode`.
"""

from __future__ import annotations

from broker.protocol.generator.schema import EMPTY_STRUCT, FIXED, Field, FieldLayout, StructLayout, element_min_size
from broker.protocol.generator.source import Names, Source

_RESERVED = frozenset({"buffer", "position", "size", "count", "items", "append", "item"})


class DecoderEmitter:
    """Writes functions into `out`; nested functions are written before those that call them."""

    def __init__(self, out: Source, names: Names, copies_to_bytes: bool) -> None:
        self._out = out
        self._names = names
        self._copies_to_bytes = copies_to_bytes
        self._pending: list[tuple[str, str]] = []

    def emit_struct(self, layout: StructLayout) -> str:
        name, new = self._names.function("decode", layout)
        if new:
            self._emit_nested(layout)
            out = self._out
            out(f"def {name}(buffer, position, size):")
            out.depth += 1
            self._emit_body(layout)
            out("return item, position")
            out.depth -= 1
            out()
            out()
        return name

    def emit_list(self, layout: StructLayout) -> str:
        name, new = self._names.function("decode", layout, "_list")
        if new:
            self._emit_nested(layout)
            out = self._out
            out(f"def {name}(buffer, position, size, count):")
            out.depth += 1
            out("items = []")
            out("append = items.append")
            out("for _ in range(count):")
            out.depth += 1
            self._emit_body(layout)
            out("append(item)")
            out.depth -= 1
            out("return items, position")
            out.depth -= 1
            out()
            out()
        return name

    def _emit_nested(self, layout: StructLayout) -> None:
        for field in layout.fields:
            if field.struct is not None:
                if field.field.array:
                    self.emit_list(field.struct)
                else:
                    self.emit_struct(field.struct)

    def _emit_body(self, layout: StructLayout) -> None:
        out = self._out
        class_name = self._names.class_of(layout.schema)
        for field in layout.plain():
            self._emit_field(field, class_name)
        if layout.flexible:
            self._emit_tagged_fields(layout, class_name)
        self._flush()
        out(f"item = _new({class_name})")
        present = {field.field.name for field in layout.fields}
        for schema in layout.schema.fields:
            value = _variable(schema) if schema.name in present else self._default(schema)
            out(f"item.{schema.name} = {value}")

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        code = "".join(code for code, _ in pending)
        size = sum(_SIZES[code] for code, _ in pending)
        if code == "B":
            self._out(f"{pending[0][1]} = buffer[position]")
        elif len(pending) == 1:
            self._out(f"{pending[0][1]} = {self._names.unpack(code)}(buffer, position)[0]")
        else:
            self._out(f"{', '.join(variable for _, variable in pending)} = {self._names.unpack(code)}(buffer, position)")
        self._out(f"position += {size}")

    def _emit_field(self, layout: FieldLayout, owner: str) -> None:
        field = layout.field
        variable = _variable(field)
        where = f'"{owner}.{field.name}"'
        if field.array:
            self._emit_array(layout, variable, where)
        elif layout.struct is not None:
            self._emit_single_struct(layout, layout.struct, variable)
        elif field.type in FIXED:
            self._pending.append((FIXED[field.type][0], variable))
        else:
            self._emit_bytes(layout, variable, where)

    def _emit_single_struct(self, layout: FieldLayout, struct: StructLayout, variable: str) -> None:
        out = self._out
        call = f"{variable}, position = {self.emit_struct(struct)}(buffer, position, size)"
        if not layout.nullable:
            self._flush()
            out(call)
            return
        # KIP-893: a nullable struct is preceded by one signed byte, negative for null.
        self._pending.append(("b", "_present"))
        self._flush()
        out("if _present < 0:")
        out(f"    {variable} = None")
        out("else:")
        out(f"    {call}")

    def _emit_bytes(self, layout: FieldLayout, variable: str, where: str) -> None:
        """string, bytes or records."""
        out = self._out
        if layout.flexible:
            self._pending.append(("B", "_n"))
            self._flush()
            self._emit_long_varint("_n")
            out("if _n:")
            length = "_n - 1"
        else:
            self._pending.append(("h" if layout.field.type == "string" else "i", "_n"))
            self._flush()
            out("if _n >= 0:")
            length = "_n"
        out(f"    _end = position + {length}")
        out("    if _end > size:")
        out(f"        raise {self._names.error('truncated')}({where}, position, {length}, size - position)")
        out(f"    {variable} = {self._slice(layout.field.type)}")
        out("    position = _end")
        self._emit_null(layout, variable, where)

    def _slice(self, type_: str) -> str:
        if type_ == "string":
            return "buffer[position:_end].decode()" if self._copies_to_bytes else 'str(buffer[position:_end], "utf-8")'
        if type_ == "records":
            return "memoryview(buffer)[position:_end]"
        return "buffer[position:_end]" if self._copies_to_bytes else "bytes(buffer[position:_end])"

    def _emit_null(self, layout: FieldLayout, variable: str, where: str) -> None:
        """The branches after `if <length or count is not null>:`."""
        out = self._out
        length = "-1" if layout.flexible else "_n"
        if layout.nullable and layout.flexible:
            out("else:")
            out(f"    {variable} = None")
            return
        if layout.nullable:
            out("elif _n == -1:")
            out(f"    {variable} = None")
        out("else:")
        out(f"    raise {self._names.error('bad_length')}({where}, position, {length})")

    def _emit_array(self, layout: FieldLayout, variable: str, where: str) -> None:
        out = self._out
        field = layout.field
        if layout.flexible:
            self._pending.append(("B", "_n"))
            self._flush()
            self._emit_long_varint("_n")
            out("if _n:")
            out("    _n -= 1")
        else:
            self._pending.append(("i", "_n"))
            self._flush()
            out("if _n >= 0:")
        size = element_min_size(layout)
        out(f"    if _n{f' * {size}' if size > 1 else ''} > size - position:")
        out(f"        raise {self._names.error('too_many')}({where}, position, _n, size - position)")
        if layout.struct is not None:
            out(f"    {variable}, position = {self.emit_list(layout.struct)}(buffer, position, size, _n)")
        elif field.type == "string":
            reader = self._names.primitive("read_compact_strings" if layout.flexible else "read_strings")
            out(f"    {variable}, position = {reader}(buffer, position, size, _n, {where})")
        else:
            code, width = FIXED[field.type]
            if field.type == "uuid":
                out(f"    {variable} = {self._names.primitive('read_uuids')}(buffer, position, _n)")
            else:
                out(f"    {variable} = {numbers_call(self._names, 'read', code, 'buffer, position, _n')}")
            out(f"    position += _n{f' * {width}' if width > 1 else ''}")
        self._emit_null(layout, variable, where)

    def _emit_long_varint(self, variable: str) -> None:
        self._out(f"if {variable} > 127:")
        self._out(f"    {variable}, position = {self._names.primitive('read_uvarint')}(buffer, position - 1)")

    def _emit_tagged_fields(self, layout: StructLayout, owner: str) -> None:
        out = self._out
        tagged = layout.tagged()
        self._pending.append(("B", "_tags"))
        self._flush()
        for field in tagged:
            out(f"{_variable(field.field)} = {self._default(field.field)}")
        out("if _tags:")
        out.depth += 1
        if not tagged:
            out(f"position = {self._names.primitive('skip_tagged_fields')}(buffer, position - 1, size)")
            out.depth -= 1
            return
        read_uvarint = self._names.primitive("read_uvarint")
        self._emit_long_varint("_tags")
        out("if _tags * 2 > size - position:")
        out(f'    raise {self._names.error("too_many")}("{owner}\'s tagged fields", position, _tags, size - position)')
        out("for _ in range(_tags):")
        out.depth += 1
        out(f"_tag, position = {read_uvarint}(buffer, position)")
        out(f"_length, position = {read_uvarint}(buffer, position)")
        out("_tag_end = position + _length")
        out("if _tag_end > size:")
        out(f'    raise {self._names.error("truncated")}("{owner}\'s tagged fields", position, _length, size - position)')
        word = "if"
        for field in tagged:
            out(f"{word} _tag == {field.tag}:")
            word = "elif"
            out.depth += 1
            self._emit_field(field, owner)
            self._flush()
            out("if position != _tag_end:")
            out(f'    raise {self._names.error("bad_tag")}("{owner}.{field.field.name}", position, _tag_end)')
            out.depth -= 1
        out("else:")
        out("    position = _tag_end")
        out.depth -= 2

    def _default(self, field: Field) -> str:
        return default_text(field, self._names)


_SIZES = dict(FIXED.values()) | {"B": 1}


def _variable(field: Field) -> str:
    return field.name + "_" if field.name in _RESERVED else field.name


def numbers_call(names: Names, verb: str, code: str, arguments: str) -> str:
    """A call of read_int32s or pack_int32s, or for the rarer types of the general function."""
    if code == "i":
        return f"{names.primitive(verb + '_int32s')}({arguments})"
    return f'{names.primitive(verb + "_numbers")}({arguments}, "{code}")'


def default_text(field: Field, names: Names) -> str:
    """The Python expression of a field's default; a fresh object where it is mutable."""
    if field.array and field.default is not None:
        return "[]"
    if field.default == EMPTY_STRUCT and field.struct is not None:
        return f"{names.class_of(field.struct)}()"
    if field.type == "uuid" and not field.array:
        return "_ZERO_UUID"
    return repr(field.default)
