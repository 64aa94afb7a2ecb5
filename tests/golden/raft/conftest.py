"""The flag that writes golden traces anew."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    try:
        parser.addoption("--rewrite-golden", action="store_true", default=False, help="write the traces of golden scenarios anew")
    except ValueError:
        pass  # another folder of golden files has added the same flag
