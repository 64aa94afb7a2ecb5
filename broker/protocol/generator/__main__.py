"""`python -m broker.protocol.generator [--check]`: write `_generated`, or say whether it is up to date (exit status 1 when it is not)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from broker.protocol.generator.catalogue import generate, load
from broker.protocol.generator.served import SERVED

FOLDER = Path(__file__).resolve().parent.parent / "_generated"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m broker.protocol.generator", description="Generate the codec of the served Kafka APIs.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the files are not what would be written")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write to")
    options = parser.parse_args(arguments)
    files = generate(load(), SERVED)
    folder: Path = options.output
    present = {path.name: path.read_text("utf-8") for path in folder.glob("*.py")} if folder.is_dir() else {}
    differing = sorted(name for name in files.keys() | present.keys() if files.get(name) != present.get(name))
    if options.check:
        if differing:
            print(f"not up to date in {folder}: {', '.join(differing)}; run python -m broker.protocol.generator", file=sys.stderr)
        return 1 if differing else 0
    folder.mkdir(parents=True, exist_ok=True)
    for name in differing:
        if name in files:
            (folder / name).write_text(files[name], "utf-8")
        else:
            (folder / name).unlink()
    print(f"{len(files)} files in {folder}, {len(differing)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
