"""`chronik-server debug wal-*`: what `wal.inspect` finds, as text or as JSON lines. Never writes to the log.

Owns: presentation and exit codes. What a frame is and what damage is, `wal.inspect` knows.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from cli.exits import Exit, StartError
from cli.render import size_text

Progress = Callable[[int, int], None]


def plain(value: Any) -> Any:
    """A value of `wal.inspect` as JSON can carry it."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: plain(item) for name, item in zip(value._fields, value, strict=True)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _check_path(path: Path) -> None:
    if not path.exists():
        raise StartError(Exit.USAGE, f"{path} does not exist; give a file or directory below the node's data directory, as in data/wal/__meta")


def dump(path: Path, output_format: str) -> int:
    """Print every frame below `path`, one per line. Exit code DAMAGE when a checksum is wrong."""
    _check_path(path)
    from wal import inspect

    code = Exit.OK
    for info in inspect.dump(path):
        row = {("type" if name == "kind" else name): value for name, value in plain(info).items()}
        if info.checksum != "ok":
            code = Exit.DAMAGE
        if output_format == "json":
            print(json.dumps(row, separators=(",", ":")))
        else:
            print("  ".join(f"{name}={_cell(value)}" for name, value in row.items()))
    return code


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, "") else str(value)


def verify(path: Path, output_format: str) -> int:
    """Verify everything below `path`. Exit code DAMAGE when there is damage; a torn tail, as a crash leaves it, is told and is none."""
    _check_path(path)
    from wal import inspect

    with progress_bar("verifying") as progress:
        report = inspect.verify(path, progress)
    damaged = any(not problem.torn_tail for problem in report.problems)
    if output_format == "json":
        print(json.dumps({**plain(report), "ok": not damaged}, separators=(",", ":")))
    else:
        for problem in report.problems:
            kind = "torn tail, not acknowledged" if problem.torn_tail else "DAMAGE"
            print(f"{problem.file}, position {problem.position}: {kind}: {problem.reason}")
        print(f"{report.files} files, {report.frames} frames, {size_text(report.bytes)}: {'damaged' if damaged else 'all is right'}")
        if damaged:
            print("The node refills a damaged replica from its peers; do not delete files by hand.")
    return Exit.DAMAGE if damaged else Exit.OK


def stats(path: Path, output_format: str) -> int:
    """Print counts and sizes of the log below `path`."""
    _check_path(path)
    from wal import inspect

    row = plain(inspect.stats(path))
    if output_format == "json":
        print(json.dumps(row, separators=(",", ":")))
    else:
        for line in _tree(row, ""):
            print(line)
    return Exit.OK


def _tree(value: Any, indent: str) -> Iterator[str]:
    """Nested names and values as indented lines."""
    items = value.items() if isinstance(value, dict) else ((str(number), item) for number, item in enumerate(value))
    for name, item in items:
        if isinstance(item, dict | list) and item:
            yield f"{indent}{name}:"
            yield from _tree(item, indent + "  ")
        else:
            shown = f"{item} ({size_text(item)})" if "bytes" in name and isinstance(item, int) and item >= 1024 else _cell(item)
            yield f"{indent}{name}: {shown}"


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """A bar on a terminal's stderr, nothing elsewhere. Yields a function of (bytes done, bytes in all)."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
