"""Counting what machines do not blur: calls of Python functions, and bytes that Python code copies.

Calls are seen by `sys.setprofile`. Copies are seen by compiling the packages under test with a counter around each operation that copies bytes
(`bytes`, `bytearray`, `join`, `tobytes`, `extend`, `+`, `+=`, slices of bytes and bytearrays, assignment to slices); copies inside C libraries are
not seen. The two are counted in different processes, because the counters are calls themselves.
"""

from __future__ import annotations

import ast
import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("wal", "raft", "broker")
STAND_INS = ("wal/memory_filesystem.py",)
"""In the packages, but in place of what is not ours: the disk."""
INLINED_LATER = frozenset(("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"))
"""Calls in one version of Python and none in the next."""


def place_of(file: str) -> str:
    """The file's path in the repository if it is counted, else ""."""
    try:
        path = Path(file).relative_to(ROOT).as_posix()
    except ValueError:
        return ""
    return path if path.partition("/")[0] in PACKAGES and path not in STAND_INS else ""


class CallCounter:
    """Use as a context manager. `places`: calls by function, as file:name."""

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self._names: dict[CodeType, str] = {}

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        name = self._names.get(code)
        if name is None:
            place = place_of(code.co_filename)
            name = self._names[code] = f"{place}:{code.co_qualname}" if place and code.co_name not in INLINED_LATER else ""
        if name:
            self.places[name] += 1

    def __enter__(self) -> CallCounter:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


class Ledger:
    """`places`: bytes copied by file and line. Written to while `running`."""

    def __init__(self) -> None:
        self.running = False
        self.places: Counter[str] = Counter()

    def made(self, result: Any, place: str) -> Any:
        """An operation that made new bytes, unless it made something else."""
        if self.running and type(result) in (bytes, bytearray):
            self.places[place] += len(result)
        return result

    def moved(self, source: Any, place: str) -> Any:
        """Bytes that are about to be copied into something."""
        if self.running and type(source) in (bytes, bytearray, memoryview):
            self.places[place] += source.nbytes if type(source) is memoryview else len(source)
        return source

    def __enter__(self) -> Ledger:
        self.running = True
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False


MADE, MOVED = "__path_costs_made__", "__path_costs_moved__"


class _Counted(ast.NodeTransformer):
    """Puts counters around operations that copy."""

    def __init__(self, place: str) -> None:
        self._place = place

    def _wrap(self, counter: str, node: ast.expr) -> ast.expr:
        arguments: list[ast.expr] = [node, ast.Constant(f"{self._place}:{node.lineno}")]
        return ast.copy_location(ast.Call(ast.Name(counter, ast.Load()), arguments, []), node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        called = node.func
        if isinstance(called, ast.Name) and called.id in ("bytes", "bytearray") and node.args:
            return self._wrap(MADE, node)
        if isinstance(called, ast.Attribute):
            if called.attr in ("join", "tobytes"):
                return self._wrap(MADE, node)
            if called.attr == "extend" and len(node.args) == 1 and not isinstance(node.args[0], ast.Starred):
                node.args = [self._wrap(MOVED, node.args[0])]
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        return self._wrap(MADE, node) if isinstance(node.slice, ast.Slice) and isinstance(node.ctx, ast.Load) else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        return self._wrap(MADE, node) if isinstance(node.op, (ast.Add, ast.Mult)) else node

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        self.generic_visit(node)
        if any(isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice) for target in node.targets):
            node.value = self._wrap(MOVED, node.value)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        self.generic_visit(node)
        if isinstance(node.op, ast.Add):
            node.value = self._wrap(MOVED, node.value)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles with counters, and neither reads nor writes compiled files."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = _Counted(place_of(path)).visit(ast.parse(self.get_data(path), path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None or not place_of(spec.origin) or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return None
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=_Loader(fullname, spec.origin), submodule_search_locations=spec.submodule_search_locations
        )


def count_copies() -> Ledger:
    """Install the counters, before anything of the packages is imported."""
    if any(name.partition(".")[0] in PACKAGES for name in sys.modules):
        raise RuntimeError("copies are counted only in modules that are imported afterwards; a package is imported already")
    ledger = Ledger()
    setattr(builtins, MADE, ledger.made)
    setattr(builtins, MOVED, ledger.moved)
    sys.meta_path.insert(0, _Finder())
    return ledger
