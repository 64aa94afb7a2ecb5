"""Says how the hot modules run, and leaves out, visibly, what can only be tested of sources."""

from __future__ import annotations

import pytest

from broker.version import running


def pytest_report_header() -> str:
    return f"hot modules: {running()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if running() == "interpreted":
        return
    for item in items:
        mark = item.get_closest_marker("interpreted")
        if mark is not None:
            item.add_marker(pytest.mark.skip(reason=f"only of sources: {mark.args[0]}"))
