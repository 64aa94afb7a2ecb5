"""Logging: `[LEVEL] text` lines on stderr, JSON by one switch, priorities for journald.

Owns: levels, formats and the `target=level` lists of CHRONIK_LOG and RUST_LOG. The targets are chronik_raft, chronik_cluster and chronik_server;
`logger(target)` gives one. A line break inside a message is escaped, so that a client's text can not forge a line.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

TRACE = 5
RAFT, CLUSTER, SERVER = "chronik_raft", "chronik_cluster", "chronik_server"
TARGETS = (RAFT, CLUSTER, SERVER)

_LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 10,
}
_NAMES = {TRACE: "TRACE", logging.DEBUG: "DEBUG", logging.INFO: "INFO", logging.WARNING: "WARN", logging.ERROR: "ERROR", logging.CRITICAL: "ERROR"}
_PRIORITIES = {TRACE: 7, logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_LIBRARY_LEVEL = logging.WARNING


def parse_levels(text: str) -> dict[str, int]:
    """Levels by target, "" for all others, of a list like "info,chronik_raft=trace". Raises ValueError that says which part is wrong."""
    levels: dict[str, int] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        target, equals, level = part.rpartition("=")
        if equals and not target:
            raise ValueError(f"log part '{part}' has no target; write target=level, as in chronik_raft=debug")
        if level.lower() not in _LEVELS:
            if equals or level not in TARGETS:
                raise ValueError(f"log level '{level}' is unknown; levels are {', '.join(_LEVELS)}")
            target, level = level, "trace"  # a target alone means everything of it, as in RUST_LOG
        levels[target] = _LEVELS[level.lower()]
    return levels


class _Formatter(logging.Formatter):
    """One line per record, then the traceback if there is one."""

    def __init__(self, timestamps: bool, journal: bool) -> None:
        super().__init__()
        self._timestamps = timestamps
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"[{_NAMES.get(record.levelno, 'INFO')}] {message}"
        if self._journal:  # journald keeps the time itself
            line = f"<{_PRIORITIES.get(record.levelno, 6)}>{line}"
        elif self._timestamps:
            line = f"{_utc(record)} {line}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, target, message and, if there is one, exception."""

    def format(self, record: logging.LogRecord) -> str:
        content = {"time": _utc(record), "level": _NAMES.get(record.levelno, "INFO"), "target": record.name, "message": record.getMessage()}
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)


def _utc(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(record.msecs):03d}Z"


def writes_to_journal(stream: TextIO, env: Mapping[str, str]) -> bool:
    """Whether `stream` is the connection to journald that JOURNAL_STREAM names; a child whose output went elsewhere inherits the variable too."""
    device, _, inode = env.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def configure(levels: str, style: str = "text", timestamps: bool = False, stream: TextIO | None = None, env: Mapping[str, str] = os.environ) -> None:
    """Set logging up for the process. `levels`: see parse_levels; `style`: text or json. Raises ValueError for a wrong `levels`."""
    parsed = parse_levels(levels)
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonFormatter() if style == "json" else _Formatter(timestamps, writes_to_journal(stream, env)))
    for number, name in _NAMES.items():
        logging.addLevelName(number, name)
    logging.raiseExceptions = False  # a closed stderr must not stop the node
    root = logging.getLogger()
    root.handlers[:] = [handler]
    default = parsed.pop("", logging.INFO)
    root.setLevel(max(default, _LIBRARY_LEVEL))
    for target in TARGETS:
        logging.getLogger(target).setLevel(default)
    for target, level in parsed.items():
        logging.getLogger(target).setLevel(level)


def logger(target: str) -> logging.Logger:
    """The logger of one of the targets."""
    return logging.getLogger(target)
