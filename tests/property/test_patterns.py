"""Our matcher against Python's `re`, on expressions that mean the same to both."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.patterns import Pattern, PatternError

Both = tuple[str, str]
"""The expression as we read it, and as Python does."""

_ATOMS: list[Both] = [(char, char) for char in ("a", "b", "_", "-", "\n", ".", "[ab]", "[^a]", "[a-]", r"\d", r"\w", r"\W", r"\s", r"\b", "(?s:.)")]
_ATOMS += [(r"\B", r"(?!\b)"), ("^", r"\A"), ("$", r"\Z"), (r"\z", r"\Z"), ("(?m:^)", "(?m:^)"), ("(?m:$)", "(?m:$)"), ("(?i:A)", "(?i:A)"), ("", "")]
_COUNTS = ["*", "+", "?", "{2}", "{0,2}", "{1,}", "*?"]


def _repeated(part: Both, count: str) -> Both:
    return f"(?:{part[0]}){count}", f"(?:{part[1]}){count}"


def _joined(sign: str) -> object:
    return lambda parts: (f"(?:{sign.join(one for one, _ in parts)})", f"(?:{sign.join(other for _, other in parts)})")


def _larger(smaller: st.SearchStrategy[Both]) -> st.SearchStrategy[Both]:
    lists = st.lists(smaller, min_size=1, max_size=4)
    return st.one_of(lists.map(_joined("")), lists.map(_joined("|")), st.builds(_repeated, smaller, st.sampled_from(_COUNTS)))  # type: ignore[arg-type]


EXPRESSIONS = st.recursive(st.sampled_from(_ATOMS), _larger, max_leaves=10)
TEXTS = st.text(alphabet="abA1_- \n", max_size=8)


@settings(max_examples=600, deadline=None)
@given(EXPRESSIONS, st.lists(TEXTS, min_size=1, max_size=6))
def test_it_matches_what_python_matches(expression: Both, texts: list[str]) -> None:
    ours, theirs = Pattern(expression[0]), re.compile(expression[1], re.ASCII)
    for text in texts:
        assert ours.matches(text) == (theirs.fullmatch(text) is not None), (expression, text)


@settings(max_examples=600, deadline=None)
@given(st.text(alphabet="ab()[]{}|*+?^$\\-,:<>=!PipQEdwxz01.&", max_size=25), TEXTS)
def test_any_text_is_an_expression_or_is_refused(pattern: str, text: str) -> None:
    try:
        Pattern(pattern).matches(text)
    except PatternError as error:
        assert str(error)
