"""What a topic may be called."""

from __future__ import annotations

import re

_NAME = re.compile(r"[a-zA-Z0-9._-]+\Z")
NAME_LENGTH_MAX = 249


def name_problem(name: str) -> str:
    """Why `name` is no valid topic name, "" when it is one. Names with two underscores in front of `meta` are the broker's own."""
    if not name:
        return "the name is empty"
    if name in (".", "..", "__meta"):
        return f"the name {name!r} is reserved"
    if len(name) > NAME_LENGTH_MAX:
        return f"the name has {len(name)} characters, at most {NAME_LENGTH_MAX} are allowed"
    if not _NAME.match(name):
        return f"the name {name!r} contains a character other than ASCII letters, digits, '.', '_' and '-'"
    return ""
