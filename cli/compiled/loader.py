"""Makes a process run the compiled hot modules instead of their sources, all of them or none.

A build is a directory `.compiled/<digest>/` with a manifest: the modules, every source file that they were compiled from or against, and the digest
of those files' contents. It is used only while the digest of the files as they are now is the same: old code can not run in place of edited code.
Decide before anything of `wal`, `raft` or `broker` is imported. Standard library only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

VARIABLE = "CHRONIK_COMPILED"
ROOT = Path(__file__).resolve().parents[2]
BUILDS = ".compiled"
MANIFEST = "manifest.json"
GROUP = "chronik"
LIBRARY = f"{GROUP}__mypyc"
"""The extension module with all the code; the others only point into it. Its name is mypyc's choice."""

SUFFIX = EXTENSION_SUFFIXES[0]
_BUILD_HINT = "`make compiled` compiles the hot modules"


class Choice(NamedTuple):
    """What this process runs, and why, in words for the log."""

    compiled: bool
    why: str


_chosen: Choice | None = None


class CompiledError(Exception):
    """CHRONIK_COMPILED asks for what can not be. The text says what to do."""


class Build(NamedTuple):
    """A manifest that was read. Paths of `sources` are relative to the root of the packages."""

    directory: Path
    digest: str
    suffix: str
    modules: tuple[str, ...]
    sources: tuple[str, ...]


class _Finder:
    """Finds the modules of one build; everything else is left to the finders behind it."""

    def __init__(self, build: Build) -> None:
        self._files = {name: f"{build.directory}/{name.replace('.', '/')}{build.suffix}" for name in (LIBRARY, *build.modules)}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        file = self._files.get(fullname)
        if file is None:
            return None
        spec = ModuleSpec(fullname, ExtensionFileLoader(fullname, file), origin=file)
        spec.has_location = True
        return spec


def digest_of(root: Path, sources: Iterable[str]) -> str:
    """One number for the contents of all the files, names included. Raises OSError when one is missing."""
    found = blake2b(digest_size=16)
    for name in sources:
        with open(f"{root}/{name}", "rb", buffering=0) as file:
            data = file.read()
        found.update(f"{name}\0{len(data)}\0".encode())
        found.update(data)
    return found.hexdigest()


def read_builds(root: Path) -> list[Build]:
    """All complete builds below `root`, the newest first."""
    try:
        found = sorted((root / BUILDS).glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime, reverse=True)
        return [read_build(path) for path in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # half written or of another making: as good as none


def read_build(path: Path) -> Build:
    """Of the manifest at `path`. Raises OSError, ValueError, KeyError or TypeError when it is none."""
    fields = json.loads(path.read_bytes())
    return Build(path.parent, str(fields["digest"]), str(fields["suffix"]), tuple(fields["modules"]), tuple(fields["sources"]))


def write_manifest(build: Build) -> None:
    fields = {"digest": build.digest, "suffix": build.suffix, "modules": build.modules, "sources": build.sources}
    (build.directory / MANIFEST).write_text(json.dumps(fields, indent=1) + "\n")


def current(builds: Iterable[Build], root: Path = ROOT) -> Build | None:
    """The first of `builds` that was made of just the files that are there now."""
    return next((build for build in builds if _is_current(build, root)), None)


def _is_current(build: Build, root: Path) -> bool:
    try:
        return build.suffix == SUFFIX and digest_of(root, build.sources) == build.digest
    except OSError:
        return False


def choose(environment: Mapping[str, str], default: str = "auto", root: Path = ROOT) -> Choice:
    """Use a build from now on if CHRONIK_COMPILED (0, 1, auto) and the files allow it. Raises CompiledError: a wrong value; 1 and no build."""
    global _chosen
    if _chosen is not None and _chosen.compiled:
        return _chosen  # a process decides once
    wanted = environment.get(VARIABLE) or default
    if wanted not in ("0", "1", "auto"):
        raise CompiledError(f"{VARIABLE} is {wanted!r}, but must be 0 (interpreted), 1 (compiled) or auto (compiled if that is up to date)")
    _chosen = Choice(False, f"{VARIABLE}=0") if wanted == "0" else _activate(root)
    if wanted == "1" and not _chosen.compiled:
        raise CompiledError(f"{VARIABLE}=1, but the modules can not run compiled: {_chosen.why}")
    return _chosen


def chosen() -> Choice:
    """What was decided for this process."""
    return _chosen or Choice(False, "nobody has asked")


def _activate(root: Path) -> Choice:
    builds = read_builds(root)
    if not builds:
        return Choice(False, f"nothing was compiled; {_BUILD_HINT}")
    build = current(builds, root)
    if build is None:
        return Choice(False, f"the sources are not those that were compiled; {_BUILD_HINT}")
    return use(build)


def use(build: Build) -> Choice:
    """Import the modules of `build` from it from now on, unless one of them is imported already or the library can not be loaded."""
    early = [name for name in build.modules if name in sys.modules]
    if early:
        return Choice(False, f"{early[0]} was imported before it was decided")
    finder = _Finder(build)
    sys.meta_path.insert(0, finder)
    try:
        import_module(LIBRARY)  # holds the code of all modules: once it is here, none of them can come from elsewhere
    except ImportError as error:
        sys.meta_path.remove(finder)
        return Choice(False, f"{build.directory} can not be loaded ({error}); {_BUILD_HINT}")
    return Choice(True, f"build {build.directory.name}")
