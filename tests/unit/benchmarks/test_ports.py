"""Ports of servers that are started again: none that an outgoing connection could be given, none that is taken."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from benchmarks import ports


@pytest.mark.parametrize(
    ("outgoing", "first", "last"),
    [
        ((32_768, 60_999), 10_000, 32_767),  # Linux
        ((49_152, 65_535), 10_000, 49_151),  # IANA
        ((10_000, 20_000), 20_001, 65_535),
        ((1_024, 65_535), 10_000, 65_535),  # nothing is left: better any port than none
    ],
)
def test_the_larger_part_beside_the_outgoing_ports_is_taken(outgoing: tuple[int, int], first: int, last: int) -> None:
    found = ports.candidates(outgoing)
    assert (found[0], found[-1]) == (first, last)


def test_ports_are_different_and_of_that_part() -> None:
    found = ports.free_ports(30)
    assert len(set(found)) == 30
    assert set(found) <= set(ports.candidates(ports.outgoing_ports()))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """One of the only three ports that there are is taken; the other two are its successors."""
    base = ports.free_base([0, 1, 2])
    monkeypatch.setattr(ports, "candidates", lambda outgoing: range(base, base + 3))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", base))
        yield base


def test_a_taken_port_is_not_given(taken: int) -> None:
    assert sorted(ports.free_ports(2)) == [taken + 1, taken + 2]
    assert ports.free_base([0, 1]) == taken + 1


def test_when_there_is_none_it_says_so(taken: int) -> None:
    with pytest.raises(OSError, match=f"no 3 free ports found in 1000 tries between {taken} and {taken + 2}"):
        ports.free_ports(3)
    with pytest.raises(OSError, match="no free ports found"):
        ports.free_base([0, 1, 2])


def test_a_system_that_does_not_tell_has_the_usual_range(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(ports, "_OUTGOING", tmp_path / "none")
    assert ports.outgoing_ports() == (49_152, 65_535)
    (tmp_path / "range").write_text("1000\t2000\n")
    monkeypatch.setattr(ports, "_OUTGOING", tmp_path / "range")
    assert ports.outgoing_ports() == (1000, 2000)
