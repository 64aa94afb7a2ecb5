"""Each checker flags its hand-made bad history, and passes the good one."""

from __future__ import annotations

import pytest

from tests.chaos.history import History, Outcome, Send, check


def good() -> History:
    history = History()
    history.sends = [Send(b"a:0", Outcome.OK, 0), Send(b"a:1", Outcome.OK, 1), Send(b"a:2", Outcome.UNKNOWN), Send(b"a:3", Outcome.FAILED), Send(b"a:4", Outcome.OK, 3)]
    history.final = [(0, b"a:0"), (1, b"a:1"), (2, b"a:2"), (3, b"a:4")]
    history.polls["c"] = [[(0, b"a:0"), (1, b"a:1")], [(2, b"a:2")]]
    history.high_watermarks = [("c", 1), ("c", 3), ("d", 2)]
    return history


def test_a_good_history_has_no_anomaly() -> None:
    assert check(good()) == []


def test_an_unknown_write_may_be_missing() -> None:
    history = good()
    history.sends[2] = Send(b"a:9", Outcome.UNKNOWN)
    history.final = [(0, b"a:0"), (1, b"a:1"), (2, b"a:4")]
    history.sends[4] = Send(b"a:4", Outcome.OK, 2)
    history.polls.clear()
    assert check(history) == []


@pytest.mark.parametrize(
    ("name", "break_it"),
    [
        ("lost-write", lambda h: h.final.pop()),
        ("duplicate", lambda h: h.final.append((4, b"a:0"))),
        ("altered", lambda h: h.final.append((4, b"z:0"))),
        ("read-of-failed-write", lambda h: h.final.append((4, b"a:3"))),
        ("offset-changed", lambda h: h.final.__setitem__(slice(0, 2), [(0, b"a:1"), (1, b"a:0")])),
        ("reordered", lambda h: h.final.__setitem__(slice(1, 3), [(1, b"a:2"), (2, b"a:1")])),
        ("gap", lambda h: h.final.__setitem__(3, (4, b"a:4"))),
        ("inconsistent-offset", lambda h: h.sends.append(Send(b"a:5", Outcome.OK, 3))),
        ("offset-order", lambda h: h.sends.__setitem__(4, Send(b"a:4", Outcome.OK, 0))),
        ("skipped", lambda h: h.polls["c"].append([(4, b"a:9")])),
        ("reordered-poll", lambda h: h.polls["c"].append([(0, b"a:0")])),
        ("unseen-suffix", lambda h: h.polls["c"].append([(3, b"a:4"), (4, b"x:1")])),
        ("high-watermark-went-back", lambda h: h.high_watermarks.append(("c", 2))),
        ("high-watermark-past-end", lambda h: h.high_watermarks.append(("c", 9))),
    ],
)
def test_a_bad_history_is_flagged(name: str, break_it) -> None:  # type: ignore[no-untyped-def]
    history = good()
    break_it(history)
    assert any(anomaly.startswith(name + ":") for anomaly in check(history)), check(history)
