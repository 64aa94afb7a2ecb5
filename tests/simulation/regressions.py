"""Seeds that once failed, each with what it found. They run in every test run; a seed that no longer means what it did costs nothing to keep."""

REGRESSIONS: dict[int, str] = {}
