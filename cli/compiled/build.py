"""`python -m cli.compiled.build`: compiles the modules of `cli.compiled.modules` with mypyc into `.compiled/<digest>/`.

Works on a copy of the packages, so that what is compiled is what the digest says even if somebody edits meanwhile; a build appears under its name
only when it is whole. `--if-possible` (for `make setup`) tells why nothing was compiled and succeeds: everything runs interpreted as well.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cli.compiled.loader import BUILDS, GROUP, MANIFEST, ROOT, SUFFIX, Build, digest_of, read_build, read_builds, use, write_manifest
from cli.compiled.modules import MODULES

PACKAGES = ("wal", "raft", "broker")
BUILDS_KEPT = 3
"""Nodes may still run from an earlier build, and somebody may go back to earlier sources."""

_MYPY_CONFIG = """[mypy]
ignore_missing_imports = true

[mypy-broker.protocol._generated.*,raft.transport.chronik_raft_pb2,raft.transport.chronik_raft_pb2_grpc]
ignore_errors = true

[mypy-raft.transport.chronik_cluster_pb2,raft.transport.chronik_cluster_pb2_grpc]
ignore_errors = true
"""
_OUTPUT_LINES = 40


class BuildError(Exception):
    """Nothing was compiled; the text says why and what to do."""


def path_of(module: str) -> str:
    return module.replace(".", "/") + ".py"


def closure(root: Path, modules: Iterable[str]) -> list[str]:
    """The files of `modules` and of all modules of ours that these import, at whatever place, directly or through others.

    The types that mypyc compiles against, and constants that it copies, come from these files and from no other of ours.
    """
    waiting = list(modules)
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        file = path_of(name) if (root / path_of(name)).is_file() else f"{name.replace('.', '/')}/__init__.py"
        if name.partition(".")[0] not in PACKAGES or file in found or not (root / file).is_file():
            continue
        found.add(file)
        waiting.extend(_imported(name, ast.parse((root / file).read_bytes(), file)))
        waiting.append(name.rpartition(".")[0])
    return sorted(found)


def _imported(module: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise BuildError(f"{module} has a relative import; write it in full")
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def check_compilable(root: Path, modules: Iterable[str]) -> None:
    """Refuse what mypyc would translate into something else without a word: it drops the keywords of a class, as those of msgspec's structs."""
    for name in modules:
        for node in ast.walk(ast.parse((root / path_of(name)).read_bytes(), path_of(name))):
            if isinstance(node, ast.ClassDef) and node.keywords:
                keywords = ", ".join(str(keyword.arg) for keyword in node.keywords)
                raise BuildError(f"{path_of(name)}:{node.lineno}: compiled, class {node.name} would lose {keywords}; take {name} off the list")


def missing() -> str:
    """What is not there and would be needed to compile; "" when everything is."""
    if sys.implementation.name != "cpython":
        return f"this Python is {sys.implementation.name}, not CPython"
    if importlib.util.find_spec("mypyc") is None:
        return "mypy is not installed: pip install 'chronik[compile]'"
    compiler = _words("CC", "cc")[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler}): install gcc or clang, or name one in CC"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return f"Python.h is not in {sysconfig.get_path('include')}: install the headers of this Python (python3-dev)"
    return ""


def _words(variable: str, otherwise: str = "") -> list[str]:
    """A command or flags: from the environment, else as this Python was built."""
    return shlex.split(os.environ.get(variable) or str(sysconfig.get_config_var(variable) or otherwise))


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        output = "\n".join(done.stdout.splitlines()[-_OUTPUT_LINES:])
        raise BuildError(f"{' '.join(command[:1])} ended with status {done.returncode}:\n{output}")


def _compile(extension: Any, source: str) -> str:
    """Object file of one C file. -O2 without debug information takes a third of the time of mypyc's default and runs as fast."""
    target = f"{source}.o"
    include = [f"-I{path}" for path in (sysconfig.get_path("include"), *extension.include_dirs)]
    flags = [*_words("CFLAGS"), *_words("CCSHARED"), *extension.extra_compile_args, "-Wno-error", *include]
    _run([*_words("CC", "cc"), *flags, "-c", source, "-o", target])
    return target


def _link(target: Path, objects: Sequence[str]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _run([*_words("LDSHARED"), *_words("LDFLAGS"), *objects, "-o", str(target)])


def _make(copy: Path, modules: Sequence[str], out: Path, jobs: int) -> None:
    """Compile `modules` of the packages in `copy` into `out`."""
    from mypyc.build import mypycify

    Path(copy, "mypy.ini").write_text(_MYPY_CONFIG)
    os.chdir(copy)  # mypyc names modules by their path from here
    started = time.perf_counter()
    options = ["--config-file", "mypy.ini", "--cache-dir", os.devnull]
    try:
        extensions = mypycify(
            [*options, *map(path_of, modules)], opt_level="2", debug_level="0", multi_file=True, group_name=GROUP, target_dir="generated"
        )
    except SystemExit as refused:
        raise BuildError("mypyc refuses the sources, as said above; `make check` should say the same") from refused
    _say(f"translated to C in {time.perf_counter() - started:.0f} s; compiling")
    with ThreadPoolExecutor(jobs) as pool:
        work = [(extension, source) for extension in extensions for source in extension.sources]
        work.sort(key=lambda item: -os.stat(item[1]).st_size)  # the longest first, so that no processor is idle at the end
        objects: dict[str, list[str]] = {extension.name: [] for extension in extensions}
        for (extension, _), made in zip(work, pool.map(lambda item: _compile(*item), work), strict=True):
            objects[extension.name].append(made)
        for _ in pool.map(lambda name: _link(out / f"{name.replace('.', '/')}{SUFFIX}", objects[name]), objects):
            pass


def _check(made: Build, copy: Path) -> None:
    """Import every module of the build, in a process of its own: what can not be imported must not be found by a node that starts."""
    program = "import sys; from pathlib import Path; from cli.compiled.build import import_all; sys.exit(import_all(Path(sys.argv[1])) or 0)"
    paths = [str(copy), str(Path(__file__).resolve().parents[2]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-P", "-c", program, str(made.directory)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        output = "\n".join(done.stdout.splitlines()[-_OUTPUT_LINES:])
        raise BuildError(f"what was compiled can not be imported; mend the module or take it off the list:\n{output}")


def import_all(directory: Path) -> str:
    """Import every module of the build in `directory`; why that was not possible, else ""."""
    made = read_build(directory / MANIFEST)
    choice = use(made)
    if not choice.compiled:
        return choice.why
    for name in made.modules:
        importlib.import_module(name)
    return ""


def build(root: Path = ROOT, modules: Sequence[str] = MODULES, jobs: int = 0, force: bool = False) -> Build:
    """Compile, unless there is a build of just these sources. Raises BuildError."""
    absent = [module for module in modules if not (root / path_of(module)).is_file()]
    if absent:
        raise BuildError(f"cli/compiled/modules.py lists {absent[0]}, which does not exist")
    check_compilable(root, modules)
    sources = tuple(closure(root, modules))
    digest = digest_of(root, sources)
    made = [one for one in read_builds(root) if (one.digest, one.suffix, one.modules) == (digest, SUFFIX, tuple(modules))]
    if made and not force:
        os.utime(made[0].directory / MANIFEST)  # the newest is looked at first
        _say(f"{made[0].directory} is up to date")
        return made[0]
    lacking = missing()
    if lacking:
        raise BuildError(lacking)
    home = root / BUILDS
    home.mkdir(exist_ok=True)
    started = time.perf_counter()
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="making-", dir=home) as workshop:
        copy, out = Path(workshop, "copy"), Path(workshop, "out")
        for package in (name for name in PACKAGES if (root / name).is_dir()):
            shutil.copytree(root / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
        sources = tuple(closure(copy, modules))
        found = Build(out, digest_of(copy, sources), SUFFIX, tuple(modules), sources)
        _say(f"{len(modules)} modules, with {len(sources)} source files behind them")
        try:
            _make(copy, modules, out, jobs or len(os.sched_getaffinity(0)))
        finally:
            os.chdir(here)
        write_manifest(found)
        _check(found, copy)
        place = home / found.digest
        if place.exists():
            place.rename(Path(workshop, "former"))  # made by somebody else meanwhile, or to be made again
        out.rename(place)
    _prune(root)
    _say(f"done in {time.perf_counter() - started:.0f} s: {place}")
    return found._replace(directory=place)


def _prune(root: Path) -> None:
    for old in read_builds(root)[BUILDS_KEPT:]:
        shutil.rmtree(old.directory, ignore_errors=True)


def _say(text: str) -> None:
    print(f"compiled modules: {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cli.compiled.build", description="Compile the hot modules with mypyc.")
    parser.add_argument("--if-possible", action="store_true", help="succeed, with a line that says why, when they can not be compiled")
    parser.add_argument("--force", action="store_true", help="compile even if there is a build of these sources")
    parser.add_argument("--jobs", type=int, default=0, help="C files at a time; all processors when not given")
    options = parser.parse_args(arguments)
    try:
        build(jobs=options.jobs, force=options.force)
    except (BuildError, OSError) as error:
        _say(f"not compiled: {error}")
        _say("nodes run interpreted: their own part of a small request takes about twice the CPU")
        return 0 if options.if_possible else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
