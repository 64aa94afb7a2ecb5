"""Regular expressions of clients: RE2's syntax, and that none of them costs much."""

from __future__ import annotations

import time

import pytest

from broker.patterns import Pattern, PatternError
from broker.patterns.matcher import MOVES_MAX, STATES_MAX


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("", [""], ["a"]),
        ("app-1", ["app-1"], ["app-11", "xapp-1", ""]),
        ("app-.*", ["app-", "app-größe"], ["app", "app-\n"]),
        ("(?s)app-.*", ["app-\n"], ["ap"]),
        ("a|bc|", ["a", "bc", ""], ["b", "abc"]),
        ("(a|b)*c", ["c", "ababc"], ["abab"]),
        ("a{2}b{1,}c{0,2}", ["aab", "aabbcc"], ["ab", "aabccc"]),
        ("a{,3}|{x}|a{", ["a{,3}", "{x}", "a{"], ["aaa"]),
        ("a+?b*?c??", ["ab", "aabbc"], ["b"]),
        ("[a-c_x-]+", ["abc_x-"], ["d", ""]),
        ("[^a-c]+", ["xyz\n"], ["xay"]),
        ("[]a]+|[^]a]", ["]a", "b"], ["]b"]),
        (r"[\d\-\]a-]+", ["1-]a"], ["\\"]),
        (r"\d+\w\s\D\W\S", ["12_ x-y"], ["12_ 1-y"]),
        ("[[:alpha:]]+[[:^digit:]][[:punct:]]", ["abx!"], ["ab1!"]),
        (r"\pL+\p{Nd}\PL\p{^Lu}\p{Any}", ["ß٣-a!"], ["1٣-a!"]),
        (r"\x41\x{1F600}\101\0\t\.\*", ["A😀A\0\t.*"], ["A"]),
        (r"\Qa.b*\E+c\Q(", ["a.b*c(", "a.b***c("], ["axb*c("]),
        ("(?i)größe[K-L]", ["GRÖßEk", "GRÖßEl"], ["großek"]),
        ("a(?i)b(?-i)c", ["aBc", "abc"], ["aBC", "ABc"]),
        ("a(?i:b)c|(?im-s:X)", ["aBc", "x"], ["aBC"]),
        ("(?P<name>a)(?<other>b)(?:c)", ["abc"], ["ab"]),
        (r"^a$|\Ab\z", ["a", "b"], ["a\n", "\nb"]),
        (r"(?m)^a$\n^b$", ["a\nb"], ["ab"]),
        (r"\bfoo\b-\bbar\B.", ["foo-bars"], ["foo-bar-"]),
        ("(a*)*|(b?)+", ["", "aaa", "bb"], ["ab"]),
        ("()*", [""], ["a"]),
        ("x{0}", [""], ["x"]),
    ],
)
def test_what_matches(pattern: str, matching: list[str], others: list[str]) -> None:
    compiled = Pattern(pattern)
    for _ in range(2):  # the second time from memory
        assert [text for text in matching if not compiled.matches(text)] == []
        assert [text for text in others if compiled.matches(text)] == []


REFUSED = [
    "*a",
    "(",
    "a)",
    "(a",
    "[a",
    "[b-a]",
    "a**",
    "a+*",
    "a{2}{3}",
    "a{1001}",
    "a{3,2}",
    "(?=a)",
    "(?!a)",
    "(?<=a)",
    "(?<!a)",
    r"\1",
    r"\C",
    r"\Z",
    "\\",
]
REFUSED += ["(?P<a", "(?P<>a)", "(?x)", r"\x4", r"\x{110000}", r"\p{Greek}", r"\pX", "[[:letter:]]", "|*", "(*)", "(?i)*", r"\ä", "(?", "[a-"]


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        Pattern(pattern)


class TestBounds:
    """By counting what is kept and refused; the clock only guards against what would take for ever."""

    @pytest.mark.parametrize(
        "pattern",
        [
            "(" * 2_000 + ")" * 2_000,
            "a" * 5_000,
            "((a{1000}){1000}){1000}",
            "(((((){1000}){1000}){1000}){1000}){1000}",
            "((a?){50}){50}",
            "[^a]{1000}" * 3,
        ],
    )
    def test_what_would_be_too_large_is_refused(self, pattern: str) -> None:
        start = time.monotonic()
        with pytest.raises(PatternError):
            Pattern(pattern)
        assert time.monotonic() - start < 5

    def test_nesting_is_read_as_deep_as_it_is_allowed(self) -> None:
        assert Pattern("(" * 60 + "a" + ")" * 60).matches("a")

    @pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a|aa)+b", "(.*)*b", "(a*)*(a*)*(a*)*b", "a?" * 25 + "a" * 25 + "b"])
    def test_what_stops_others_takes_no_time_here(self, pattern: str) -> None:
        assert not Pattern(pattern).matches("a" * 30_000)

    def test_a_text_that_would_take_too_long_is_refused(self) -> None:
        """Each of its steps leads to places where nobody has been."""
        text = "".join("ab"[number * number % 7 % 2] for number in range(5_000))
        with pytest.raises(PatternError, match="too long"):
            Pattern("(a|b)*a(a|b){400}c").matches(text * 2)

    def test_memory_is_bounded(self) -> None:
        pattern = Pattern(".*a.{12}")
        for number in range(3_000):
            pattern.matches(f"{number:b}".replace("1", "a"))
        assert len(pattern._states) <= STATES_MAX
        wide = Pattern(".*")
        for code in range(2_000):
            assert wide.matches(chr(0x4E00 + code))
        assert all(len(state.moves) <= MOVES_MAX for state in wide._states.values())
