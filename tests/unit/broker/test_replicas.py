"""Looking up a partition takes any number that a client may send."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from broker.replicas import Replicas


@pytest.mark.parametrize("partition", [-(2**31), -1, 0, 2**31 - 1])
def test_a_partition_that_nobody_has(partition: int) -> None:
    nothing = SimpleNamespace(by_id={}, by_name={})
    assert Replicas.get_by_id(nothing, bytes(16), partition) is None  # type: ignore[arg-type]
    assert Replicas.get(nothing, "events", partition) is None  # type: ignore[arg-type]
