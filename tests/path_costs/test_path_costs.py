"""Calls and copies of the produce and fetch paths against the committed figures: no machine is too noisy for it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests.path_costs import measure
from tests.path_costs.counting import ROOT, CallCounter, Ledger, _Counted, place_of

pytestmark = pytest.mark.interpreted("counts calls of Python functions, and rewrites sources")


def test_no_path_costs_more_than_is_committed() -> None:
    told = measure.too_much(measure.measure(), measure.load())
    if told:
        pytest.fail(
            "\n".join(told) + f"\n\nA path has become more expensive. If that is the price of something wanted, run\n    {measure.COMMAND}\n"
            "and commit tests/path_costs/figures.json with the reason; otherwise find it among the places above."
        )


def _figures(value: float) -> dict[str, measure.Figures]:
    return {"calls": {"a case": {"per_request": value, "places": {"wal/x.py:f": value}}}}


def test_what_is_too_much() -> None:
    committed = {"calls": {"a case": 100.0}}
    assert measure.too_much(_figures(100.0), committed) == []
    assert measure.too_much(_figures(80.0), committed) == []
    assert measure.too_much(_figures(105.9), committed) == []
    (text,) = measure.too_much(_figures(107.0), committed)
    assert "107.0 Python calls" in text and "100.0 are committed" in text and "wal/x.py:f" in text
    (text,) = measure.too_much(_figures(1.0), {})
    assert "no figure" in text and measure.COMMAND in text


COPYING = """
def work(data, view, out):
    a = bytes(view)             # 10
    b = b"".join([data, data])  # 20
    c = data[2:5]               # 3
    d = view[2:5]               # none: a view
    out[0:4] = view[0:4]        # 4
    out += data                 # 10
    out.extend(data)            # 10
    e = data + b"xy"            # 12
    f = d.tobytes()             # 3
    g = [1, 2, 3][0:2] + [4]    # none: a list
    h = "text"[1:3] + "s"       # none: a text
    i = 0
    i += 5                      # none: a number
    return a, b, c, d, e, f, g, h, i
"""


def test_copies_are_seen_and_views_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import ast
    import builtins

    ledger = Ledger()
    monkeypatch.setattr(builtins, "__path_costs_made__", ledger.made, raising=False)
    monkeypatch.setattr(builtins, "__path_costs_moved__", ledger.moved, raising=False)
    tree = ast.fix_missing_locations(_Counted("sample.py").visit(ast.parse(COPYING)))
    names: dict[str, object] = {}
    exec(compile(tree, "sample.py", "exec"), names)
    data = bytes(10)
    work = names["work"]
    with ledger:
        work(data, memoryview(data), bytearray(10))  # type: ignore[operator]
    assert {place.rpartition(":")[2]: count for place, count in ledger.places.items()} == {
        "3": 10, "4": 20, "5": 3, "7": 4, "8": 10, "9": 10, "10": 12, "11": 3
    }  # fmt: skip
    ledger.places.clear()
    work(data, memoryview(data), bytearray(10))  # type: ignore[operator]
    assert not ledger.places


def test_only_the_product_is_counted() -> None:
    from wal.frame import pad_length

    with CallCounter() as counter:
        pad_length(1)
        measure.too_much({}, {})
    assert dict(counter.places) == {"wal/frame.py:pad_length": 1}
    assert place_of(str(ROOT / "wal/frame.py")) == "wal/frame.py"
    assert place_of(str(ROOT / "wal/memory_filesystem.py")) == place_of(str(ROOT / "tests/processes.py")) == place_of("/elsewhere/x.py") == ""


def test_copies_of_imported_modules_can_not_be_counted() -> None:
    program = textwrap.dedent("""
        import wal.frame
        from tests.path_costs.counting import count_copies
        count_copies()
    """)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "is imported already" in done.stderr
