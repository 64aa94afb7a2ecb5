"""The page of APIs is what the handlers say."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.handlers.registry import HANDLERS
from broker.handlers.table import REASONS, main, render
from broker.protocol.api_keys import APIS


@pytest.mark.interpreted("the page is made of docstrings of modules, which compiled ones do not have")
def test_page_is_up_to_date() -> None:
    assert main(["--check"]) == 0, "run python -m broker.handlers.table"


def test_every_key_is_on_the_page_once() -> None:
    rows = [line.split("|")[1].strip() for line in render().splitlines() if line.startswith("|")]
    numbers = [int(cell) for cell in rows if cell.isdigit()]
    assert sorted(numbers) == sorted(APIS)


def test_what_is_not_served_has_a_reason() -> None:
    assert set(APIS) - {module.KEY for module in HANDLERS} <= set(REASONS)


def test_the_highest_version_of_the_definitions_is_served() -> None:
    """But two-phase commit, which is unstable in Kafka itself (KIP-939)."""
    lower = {module.KEY: module.VERSIONS[1] for module in HANDLERS if module.VERSIONS[1] != APIS[module.KEY].last_version}
    assert lower == {22: 5}


def test_check_tells_a_difference(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    assert main(["--check", "--output", str(page)]) == 1
    assert main(["--output", str(page)]) == 0
    assert main(["--check", "--output", str(page)]) == 0
