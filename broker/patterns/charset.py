"""Sets of characters: ranges of code points, general categories of Unicode, other sets; as a whole negated or not."""

from __future__ import annotations

import unicodedata

Ranges = tuple[tuple[int, int], ...]

_CATEGORIES = frozenset(
    "C Cc Cf Cn Co Cs L Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps S Sc Sk Sm So Z Zl Zp Zs".split()  # noqa: SIM905
)


class Chars:
    """`fold`: a character is in the set if one of its cases is. Immutable; equal only to itself."""

    __slots__ = ("categories", "fold", "negated", "parts", "ranges")

    def __init__(
        self, ranges: Ranges, categories: tuple[str, ...] = (), negated: bool = False, fold: bool = False, parts: tuple[Chars, ...] = ()
    ) -> None:
        """ValueError for a category that is not known."""
        for name in categories:
            if name not in _CATEGORIES:
                raise ValueError(f"{name[:20]!r} is no general category of Unicode (L, Lu, Nd, …)")
        self.ranges = ranges
        self.categories = categories
        self.negated = negated
        self.fold = fold
        self.parts = parts

    def __contains__(self, char: str) -> bool:
        found = self._has(char)
        if not found and self.fold:
            found = any(len(other) == 1 and self._has(other) for other in (char.lower(), char.upper(), char.casefold()))
        return found != self.negated

    def _has(self, char: str) -> bool:
        code = ord(char)
        if any(low <= code <= high for low, high in self.ranges):
            return True
        if self.categories and unicodedata.category(char).startswith(self.categories):
            return True
        return any(char in part for part in self.parts)


def literal(code: int, fold: bool) -> Chars:
    return Chars(((code, code),), fold=fold)


_DIGITS = ((48, 57),)
_SPACES = ((9, 10), (12, 13), (32, 32))
_WORD = ((48, 57), (65, 90), (95, 95), (97, 122))

PERL = {name: Chars(ranges) for name, ranges in (("d", _DIGITS), ("s", _SPACES), ("w", _WORD))}
PERL |= {name.upper(): Chars(chars.ranges, negated=True) for name, chars in PERL.items()}
POSIX = {
    name: Chars(ranges)
    for name, ranges in {
        "alnum": ((48, 57), (65, 90), (97, 122)),
        "alpha": ((65, 90), (97, 122)),
        "ascii": ((0, 127),),
        "blank": ((9, 9), (32, 32)),
        "cntrl": ((0, 31), (127, 127)),
        "digit": _DIGITS,
        "graph": ((33, 126),),
        "lower": ((97, 122),),
        "print": ((32, 126),),
        "punct": ((33, 47), (58, 64), (91, 96), (123, 126)),
        "space": ((9, 13), (32, 32)),
        "upper": ((65, 90),),
        "word": _WORD,
        "xdigit": ((48, 57), (65, 70), (97, 102)),
    }.items()
}
