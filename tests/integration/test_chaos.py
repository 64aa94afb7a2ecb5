"""A short form of `make chaos`: every kind of fault once on real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import run


@pytest.mark.timeout(300)
def test_nothing_is_lost_when_nodes_are_killed(tmp_path: Path) -> None:
    assert run(cycles=5, seed=7, rate=300, directory=tmp_path, kinds=("leader", "follower", "majority", "all", "stop")) == 0
