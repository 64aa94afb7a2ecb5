"""Version of this program, of what it speaks, and the revision that it was built from if that can be known."""

from __future__ import annotations

from importlib.machinery import ExtensionFileLoader
from pathlib import Path

from wal import entry

VERSION = "0.1.0"
KAFKA_PROTOCOL = "4.3"
RAFT_PROTOCOL = 1


def revision() -> str:
    """Short git revision: a file REVISION beside the packages (images have one), else the checkout's own; "" when unknown. Runs no program."""
    root = Path(__file__).resolve().parent.parent
    try:
        if (root / "REVISION").is_file():
            return (root / "REVISION").read_text()[:12].strip()
        head = (root / ".git" / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head[:12]
        name = head.removeprefix("ref: ")
        loose = root / ".git" / name
        if loose.is_file():
            return loose.read_text()[:12]
        packed = (root / ".git" / "packed-refs").read_text().splitlines()
    except OSError:
        return ""
    return next((line[:12] for line in packed if line.endswith(" " + name)), "")


def running() -> str:
    """ "compiled" or "interpreted": how the hot modules of this process run, seen at one of them; they are all of one kind (docs/adr/0040)."""
    spec = entry.__spec__
    return "compiled" if spec is not None and isinstance(spec.loader, ExtensionFileLoader) else "interpreted"


def describe() -> str:
    known = revision()
    parts = [f"Kafka protocol {KAFKA_PROTOCOL}", f"Raft protocol {RAFT_PROTOCOL}", *([f"revision {known}"] if known else []), running()]
    return f"chronik-server {VERSION} ({', '.join(parts)})"
