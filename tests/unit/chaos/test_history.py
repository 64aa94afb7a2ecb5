"""Each checker of the history flags a history that was made bad by hand, and nothing in a good one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.history import History, Outcome, Send, check


def good() -> History:
    """Five records of one producer: three acknowledged, one of them without an offset, one unknown and in the log, one unknown and not."""
    values = [b"p:%d" % n for n in range(5)]
    history = History(
        sends=[
            Send(values[0], Outcome.OK, 0),
            Send(values[1], Outcome.OK, -1),
            Send(values[2], Outcome.UNKNOWN),
            Send(values[3], Outcome.UNKNOWN),
            Send(values[4], Outcome.OK, 3),
        ],
        high_watermarks=[("tail", 1), ("tail", 4)],
        final=[(0, values[0]), (1, values[1]), (2, values[2]), (3, values[4])],
    )
    history.polls["tail"] = [history.final[:1], history.final[1:]]
    return history


def names(history: History) -> set[str]:
    return {text.split(":")[0] for text in check(history)}


def test_a_good_history() -> None:
    assert check(good()) == []


def lost(history: History) -> None:
    history.final.pop()


def lost_without_offset(history: History) -> None:
    history.final[1] = (1, b"p:3")


def duplicate(history: History) -> None:
    history.final.append((4, b"p:4"))


def gap(history: History) -> None:
    history.final = [*history.final[:2], *((offset + 1, value) for offset, value in history.final[2:])]


def altered(history: History) -> None:
    history.final[2] = (2, b"p:2 and more")


def moved(history: History) -> None:
    history.sends[0].offset = 2


def twice_acknowledged(history: History) -> None:
    history.sends[2] = Send(b"p:2", Outcome.OK, 3)


def refused_and_read(history: History) -> None:
    history.sends[2].outcome = Outcome.FAILED


def reordered(history: History) -> None:
    history.final[1], history.final[2] = (1, b"p:2"), (2, b"p:1")


def offsets_against_sends(history: History) -> None:
    history.sends[0].offset, history.sends[4].offset = 3, 0


def skipped(history: History) -> None:
    history.polls["tail"] = [history.final[:1], history.final[2:]]


def read_again(history: History) -> None:
    history.polls["tail"].append(history.final[:1])


def unseen_suffix(history: History) -> None:
    history.polls["tail"].append([(4, b"p:3")])


def two_values(history: History) -> None:
    history.polls["tail"][0] = [(0, b"p:3")]


def watermark_back(history: History) -> None:
    history.high_watermarks.append(("tail", 2))


def watermark_past_end(history: History) -> None:
    history.high_watermarks.append(("tail", 9))


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lost, "lost-write"),
        (lost_without_offset, "lost-write"),
        (duplicate, "duplicate"),
        (gap, "gap"),
        (altered, "altered"),
        (moved, "offset-changed"),
        (twice_acknowledged, "inconsistent-offset"),
        (refused_and_read, "read-of-failed-write"),
        (reordered, "reordered"),
        (offsets_against_sends, "offset-order"),
        (skipped, "skipped"),
        (read_again, "reordered-poll"),
        (unseen_suffix, "unseen-suffix"),
        (two_values, "inconsistent-offset"),
        (watermark_back, "high-watermark-went-back"),
        (watermark_past_end, "high-watermark-past-end"),
    ],
)
def test_a_bad_history(spoil: Callable[[History], None], name: str) -> None:
    history = good()
    spoil(history)
    assert name in names(history), check(history)
