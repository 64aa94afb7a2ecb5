"""Every golden scenario must leave exactly the trace that is written below each of its commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.raft.runner import play, scenarios


@pytest.mark.parametrize("path", scenarios(), ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    before = path.read_text()
    after = play(before)
    if request.config.getoption("--rewrite-golden", default=False):
        path.write_text(after)
    else:
        assert after == before, f"{path.name} differs: look at the trace; when it is right, run pytest tests/golden/raft --rewrite-golden"


def test_there_are_scenarios() -> None:
    assert len(scenarios()) >= 12
