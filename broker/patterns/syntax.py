"""Reads a regular expression in the syntax of RE2, as Kafka's brokers do (KIP-848, KIP-1152), into a tree.

All of RE2 that says what matches as a whole: literals, classes, groups, alternatives, repetition, anchors, word boundaries, flags. Captures and greed
mean nothing here and are read past. Not read: scripts (\\p{Greek}); general categories are. Refused as in RE2: backreferences and looking around.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from enum import IntEnum

from broker.patterns.charset import PERL, POSIX, Chars, literal

PATTERN_CHARS_MAX = 4_096
REPEAT_MAX = 1_000
DEPTH_MAX = 60

_ESCAPES = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_OCTAL = frozenset("01234567")


class PatternError(Exception):
    """The expression is refused: what is wrong with it, for its author."""


class Place(IntEnum):
    """What an anchor asks of the place between two characters."""

    TEXT_START = 1
    TEXT_END = 2
    LINE_START = 3
    LINE_END = 4
    WORD_EDGE = 5
    NO_WORD_EDGE = 6


@dataclass(frozen=True, slots=True)
class One:
    """One character out of `chars`."""

    chars: Chars


@dataclass(frozen=True, slots=True)
class Anchor:
    place: Place


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other; nothing when empty."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`low` to `high` times, -1 for any number."""

    part: Node
    low: int
    high: int


Node = One | Anchor | Sequence | Choice | Repeat


@dataclass(slots=True)
class _Flags:
    fold: bool = False
    lines: bool = False
    dot_all: bool = False

    def copy(self) -> _Flags:
        return _Flags(self.fold, self.lines, self.dot_all)


def parse(text: str) -> Node:
    """Raises PatternError."""
    if len(text) > PATTERN_CHARS_MAX:
        raise PatternError(f"the expression has {len(text)} characters, at most {PATTERN_CHARS_MAX} are read")
    parser = _Parser(text)
    node = parser.choice(_Flags(), 0)
    if parser.position < len(text):
        raise PatternError(f"unexpected ) at {parser.position}")
    return node


class _Parser:
    """Recursive descent, one method for each level. Invariant: `position` is behind what has been read."""

    __slots__ = ("position", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    # -- reading --------------------------------------------------------------------------------------------------

    def _more(self) -> bool:
        return self.position < len(self.text)

    def _next(self) -> str:
        if not self._more():
            raise PatternError("the expression ends in the middle of something")
        found = self.text[self.position]
        self.position += 1
        return found

    def _maybe(self, wanted: str) -> bool:
        """Read `wanted` if it comes next."""
        if self.text.startswith(wanted, self.position):
            self.position += len(wanted)
            return True
        return False

    # -- structure ------------------------------------------------------------------------------------------------

    def choice(self, flags: _Flags, depth: int) -> Node:
        """Alternatives, up to the end or to a closing parenthesis. `flags` may be changed inside; they are the group's own."""
        if depth > DEPTH_MAX:
            raise PatternError(f"groups are nested more than {DEPTH_MAX} deep")
        parts = [self._sequence(flags, depth)]
        while self._maybe("|"):
            parts.append(self._sequence(flags, depth))
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self, flags: _Flags, depth: int) -> Node:
        parts: list[Node] = []
        while self._more() and self.text[self.position] not in "|)":
            if self._maybe("\\Q"):
                quoted, end, _ = self.text[self.position :].partition("\\E")
                self.position += len(quoted) + len(end)
                parts += [One(literal(ord(char), flags.fold)) for char in quoted]
                if quoted and (count := self._count()) is not None:
                    parts[-1] = Repeat(parts[-1], *count)
                continue
            start = self.position
            node = self._atom(flags, depth)
            count = self._count()
            if count is not None:
                if node is None:
                    raise PatternError(f"nothing to repeat at {start}")
                node = Repeat(node, *count)
            if node is not None:
                parts.append(node)
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _count(self) -> tuple[int, int] | None:
        """The repetition that comes next, if one does."""
        count = self._one_count()
        if count is None:
            return None
        self._maybe("?")  # lazy: the same texts match
        start = self.position
        if self._one_count() is not None:
            raise PatternError(f"a repetition is repeated at {start}; put parentheses around what shall be")
        return count

    def _one_count(self) -> tuple[int, int] | None:
        for sign, count in (("*", (0, -1)), ("+", (1, -1)), ("?", (0, 1))):
            if self._maybe(sign):
                return count
        return self._braces()

    def _braces(self) -> tuple[int, int] | None:
        """{n}, {n,}, {n,m}; anything else in braces is text."""
        if not self.text.startswith("{", self.position):
            return None
        inside, end, _ = self.text[self.position + 1 : self.position + 24].partition("}")
        low, comma, high = inside.partition(",")
        if not end or not _is_number(low) or (high and not _is_number(high)):
            return None
        self.position += len(inside) + 2
        count = (int(low), (int(high) if high else -1) if comma else int(low))
        if max(count) > REPEAT_MAX or (count[1] >= 0 and count[0] > count[1]):
            raise PatternError(f"{{{inside}}} is no count; at most {REPEAT_MAX} repetitions, the lower number first")
        return count

    def _atom(self, flags: _Flags, depth: int) -> Node | None:
        """One thing that can be repeated; None for flags alone."""
        start = self.position
        char = self._next()
        match char:
            case "(":
                return self._group(flags, depth)
            case "[":
                return One(self._class(flags))
            case ".":
                return One(Chars(((0, 0x10FFFF),) if flags.dot_all else ((0, 9), (11, 0x10FFFF))))
            case "^":
                return Anchor(Place.LINE_START if flags.lines else Place.TEXT_START)
            case "$":
                return Anchor(Place.LINE_END if flags.lines else Place.TEXT_END)
            case "\\":
                return self._escaped(flags)
            case "*" | "+" | "?":
                raise PatternError(f"nothing to repeat at {start}")
        return One(literal(ord(char), flags.fold))

    def _group(self, flags: _Flags, depth: int) -> Node | None:
        inner = flags.copy()
        if self._maybe("?"):
            if self._maybe("P<") or (not self.text.startswith(("<=", "<!"), self.position) and self._maybe("<")):
                self._name()
            elif self._set_flags(inner):
                flags.fold, flags.lines, flags.dot_all = inner.fold, inner.lines, inner.dot_all
                return None
        node = self.choice(inner, depth + 1)
        if not self._maybe(")"):
            raise PatternError("a closing ) is missing")
        return node

    def _name(self) -> None:
        name, end, _ = self.text[self.position :].partition(">")
        if not end or not name or not set(name) <= _NAME:
            raise PatternError("the name of a group is missing or has other characters than letters, digits and _")
        self.position += len(name) + 1

    def _set_flags(self, flags: _Flags) -> bool:
        """(?flags) and (?flags:; True for the first, which holds from here to the end of the group around it."""
        value = True
        while (char := self._next()) not in ":)":
            match char:
                case "-" if value:
                    value = False
                case "i":
                    flags.fold = value
                case "m":
                    flags.lines = value
                case "s":
                    flags.dot_all = value
                case "U":
                    pass  # what is greedy
                case _:
                    raise PatternError(f"(?{char} is not known; looking ahead or behind is not possible here")
        return char == ")"

    # -- characters -----------------------------------------------------------------------------------------------

    def _escaped(self, flags: _Flags) -> Node:
        places = {"A": Place.TEXT_START, "z": Place.TEXT_END, "b": Place.WORD_EDGE, "B": Place.NO_WORD_EDGE}
        char = self.text[self.position : self.position + 1]
        if char in places:
            self.position += 1
            return Anchor(places[char])
        chars = self._escaped_set(flags)
        return One(chars if chars is not None else literal(self._code(), flags.fold))

    def _escaped_set(self, flags: _Flags) -> Chars | None:
        r"""\d, \pL and the like, behind their backslash; None when something else comes."""
        char = self.text[self.position : self.position + 1]
        if char in PERL:
            self.position += 1
            return PERL[char]
        if char not in ("p", "P"):
            return None
        self.position += 1
        name = self._next()
        if name == "{":
            name, end, _ = self.text[self.position :].partition("}")
            self.position += len(name) + len(end)
        negated = (char == "P") != name.startswith("^")
        name = name.removeprefix("^")
        try:
            return Chars(((0, 0x10FFFF),), negated=negated) if name == "Any" else Chars((), (name,), negated, flags.fold)
        except ValueError as error:
            raise PatternError(str(error)) from None

    def _code(self) -> int:
        """The character that an escape stands for, behind its backslash."""
        char = self._next()
        if char in _ESCAPES:
            return _ESCAPES[char]
        if char == "x":
            return self._hex()
        if char in _OCTAL and (char == "0" or self.text[self.position : self.position + 1] in _OCTAL):
            while len(char) < 3 and self.text[self.position : self.position + 1] in _OCTAL:
                char += self._next()
            return int(char, 8)
        if char in string.ascii_letters + string.digits + "_" or ord(char) >= 0x80:
            raise PatternError(f"\\{char} is not known; there are no backreferences")
        return ord(char)

    def _hex(self) -> int:
        if self._maybe("{"):
            digits, end, _ = self.text[self.position :].partition("}")
        else:
            digits, end = self.text[self.position : self.position + 2], "" if len(self.text) >= self.position + 2 else "?"
        if not digits or len(digits) > 8 or not set(digits) <= set(string.hexdigits) or int(digits, 16) > 0x10FFFF or end == "?":
            raise PatternError("\\x needs two hexadecimal digits, or the number of a character in braces")
        self.position += len(digits) + len(end)
        return int(digits, 16)

    def _class(self, flags: _Flags) -> Chars:
        negated = self._maybe("^")
        ranges: list[tuple[int, int]] = []
        parts: list[Chars] = []
        first = True
        while first or not self._maybe("]"):
            first = False
            if self._maybe("[:"):
                parts.append(self._posix())
                continue
            if self.text.startswith("\\", self.position):
                self.position += 1
                found = self._escaped_set(flags)
                if found is not None:
                    parts.append(found)
                    continue
                low = self._code()
            else:
                low = ord(self._next())
            ranges.append((low, self._range_end(low)))
        return Chars(tuple(ranges), negated=negated, fold=flags.fold, parts=tuple(parts))

    def _range_end(self, low: int) -> int:
        following = self.text[self.position : self.position + 2]
        if len(following) < 2 or following[0] != "-" or following[1] == "]":
            return low
        self.position += 1
        char = self._next()
        high = self._code() if char == "\\" else ord(char)
        if high < low:
            raise PatternError(f"a range of characters goes from {chr(low)!r} back to {chr(high)!r}")
        return high

    def _posix(self) -> Chars:
        name, end, _ = self.text[self.position :].partition(":]")
        negated = name.startswith("^")
        found = POSIX.get(name.removeprefix("^"))
        if not end or found is None:
            raise PatternError(f"there is no class [:{name[:20]}:]")
        self.position += len(name) + 2
        return Chars(found.ranges, negated=negated)


_NAME = frozenset(string.ascii_letters + string.digits + "_")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")
