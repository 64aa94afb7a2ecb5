"""Make the Python classes of the .proto files beside this module: `python -m raft.transport.generate [--check]`.

The result is committed, so that running needs no compiler; `--check` says whether it is up to date and changes nothing. Needs grpcio-tools.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NAMES = ("chronik_raft", "chronik_cluster")


def generate(target: Path) -> None:
    """Write the modules of all .proto files below `target` (as raft/transport/...). RuntimeError when the compiler refuses one."""
    import grpc_tools  # type: ignore[import-untyped,unused-ignore]
    from grpc_tools import protoc  # type: ignore[import-untyped,unused-ignore]

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    for name in NAMES:
        code = protoc.main(
            [
                "protoc",
                f"-I{ROOT}",
                f"-I{well_known}",
                f"--python_out={target}",
                f"--pyi_out={target}",
                f"--grpc_python_out={target}",
                f"raft/transport/{name}.proto",
            ]
        )
        if code:
            raise RuntimeError(f"raft/transport/{name}.proto does not compile; the compiler's message is above")


def outdated() -> list[str]:
    """File names of the committed modules that differ from what the .proto files say."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        made = {path.name: path.read_bytes() for path in (Path(scratch) / "raft" / "transport").iterdir()}
    return sorted(name for name, content in made.items() if not (HERE / name).exists() or (HERE / name).read_bytes() != content)


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        stale = outdated()
        for name in stale:
            print(f"raft/transport/{name} is out of date; run: python -m raft.transport.generate", file=sys.stderr)
        return 1 if stale else 0
    if arguments:
        print("usage: python -m raft.transport.generate [--check]", file=sys.stderr)
        return 2
    generate(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
