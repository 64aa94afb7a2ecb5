"""Compiled modules never run in place of sources that are not theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.compiled import build as building
from cli.compiled import loader
from cli.compiled.loader import Build, CompiledError, digest_of
from cli.compiled.modules import MODULES

ROOT = Path(__file__).parents[3]


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_chosen", None)


def made(root: Path, modules: tuple[str, ...] = ("wal.tiny",), suffix: str = loader.SUFFIX) -> Build:
    """A build without extension modules, of the sources as they are now."""
    (root / "wal").mkdir(parents=True, exist_ok=True)
    for name in ("__init__", "tiny"):
        (root / f"wal/{name}.py").write_text("")
    sources = ("wal/__init__.py", "wal/tiny.py")
    directory = root / loader.BUILDS / "one"
    directory.mkdir(parents=True)
    found = Build(directory, digest_of(root, sources), suffix, modules, sources)
    loader.write_manifest(found)
    return found


def choose(root: Path, value: str = "auto") -> loader.Choice:
    return loader.choose({loader.VARIABLE: value} if value else {}, root=root)


@pytest.mark.usefixtures("undecided")
def test_without_a_build_the_sources_run(tmp_path: Path) -> None:
    assert choose(tmp_path) == (False, "nothing was compiled; `make compiled` compiles the hot modules")
    assert loader.chosen() == choose(tmp_path, "")
    assert choose(tmp_path, "0") == (False, "CHRONIK_COMPILED=0")


@pytest.mark.usefixtures("undecided")
@pytest.mark.parametrize("value", ["2", "yes", "AUTO"])
def test_a_wrong_value_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(CompiledError, match="must be 0"):
        choose(tmp_path, value)


@pytest.mark.usefixtures("undecided")
def test_a_build_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(CompiledError, match="nothing was compiled"):
        choose(tmp_path, "1")


@pytest.mark.usefixtures("undecided")
@pytest.mark.parametrize("edit", ["changed", "removed", "other Python", "not JSON", "no manifest", "fields missing"])
def test_a_build_of_anything_else_is_not_used(tmp_path: Path, edit: str) -> None:
    build = made(tmp_path, suffix=".cpython-27.so" if edit == "other Python" else loader.SUFFIX)
    manifest = build.directory / loader.MANIFEST
    match edit:
        case "changed":
            (tmp_path / "wal/tiny.py").write_text("A = 1\n")
        case "removed":
            (tmp_path / "wal/tiny.py").unlink()
        case "not JSON":
            manifest.write_text("{")
        case "no manifest":
            manifest.unlink()
        case "fields missing":
            manifest.write_text(json.dumps({"digest": build.digest}))
        case _:
            pass
    before = list(sys.meta_path)
    assert not choose(tmp_path).compiled
    assert sys.meta_path == before


@pytest.mark.usefixtures("undecided")
def test_nothing_is_mixed(tmp_path: Path) -> None:
    """A module of the build that is imported already was imported from its source."""
    made(tmp_path, modules=("wal.tiny", "wal.entry"))
    assert choose(tmp_path) == (False, "wal.entry was imported before it was decided")


@pytest.mark.interpreted("one build is loaded already")
@pytest.mark.usefixtures("undecided")
def test_a_build_that_can_not_be_loaded_is_not_used(tmp_path: Path) -> None:
    build = made(tmp_path)
    (build.directory / f"{loader.LIBRARY}{loader.SUFFIX}").write_bytes(b"not an extension module")
    before = list(sys.meta_path)
    choice = choose(tmp_path)
    assert not choice.compiled and "can not be loaded" in choice.why
    assert sys.meta_path == before


def test_the_digest_sees_names_and_borders(tmp_path: Path) -> None:
    for name, text in (("a", "xy"), ("b", ""), ("c", "x"), ("d", "y")):
        (tmp_path / name).write_text(text)
    assert len({digest_of(tmp_path, names) for names in (["a"], ["a", "b"], ["b", "a"], ["c", "d"], ["d", "c"])}) == 5


def test_all_that_a_module_is_compiled_against_counts(tmp_path: Path) -> None:
    files = {
        "wal/__init__.py": "",
        "wal/one.py": "import os\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from raft.types import T\n",
        "wal/other.py": "",
        "raft/__init__.py": "",
        "raft/types.py": "def f():\n    import broker.deep.leaf\n",
        "broker/__init__.py": "",
        "broker/deep/__init__.py": "from broker.deep import beside\n",
        "broker/deep/leaf.py": "",
        "broker/deep/beside.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert building.closure(tmp_path, ["wal.one"]) == sorted(files.keys() - {"wal/other.py"})
    (tmp_path / "wal/one.py").write_text("from . import other\n")
    with pytest.raises(building.BuildError, match="relative import"):
        building.closure(tmp_path, ["wal.one"])


def test_what_would_change_its_meaning_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal/kept.py").write_text("class Stored(Base, array_like=True):\n    pass\n")
    with pytest.raises(building.BuildError, match=r"wal/kept.py:1: compiled, class Stored would lose array_like"):
        building.check_compilable(tmp_path, ["wal.kept"])
    building.check_compilable(ROOT, MODULES)


def test_the_listed_modules_exist() -> None:
    assert len(set(MODULES)) == len(MODULES)
    assert [name for name in MODULES if not (ROOT / building.path_of(name)).is_file()] == []


def test_a_node_that_runs_needs_nothing_more_of_its_build() -> None:
    """Builds are removed while nodes run from them."""
    program = f"import sys, broker.node; print([name for name in {MODULES!r} if name not in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_compiled_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -pipe")
    assert building.missing() == "there is no C compiler (no-such-compiler): install gcc or clang, or name one in CC"
    monkeypatch.setattr(building, "build", lambda **_: (_ for _ in ()).throw(building.BuildError(building.missing())))
    assert (building.main([]), building.main(["--if-possible"])) == (1, 0)
    assert capsys.readouterr().out.count("nodes run interpreted") == 2


_MORE = "from wal.tiny import FACTOR\n\n\ndef twice(number: int) -> int:\n    return FACTOR * number\n"
_BUILD = "import sys; from pathlib import Path; from cli.compiled.build import build; build(Path(sys.argv[1]), ['wal.tiny', 'wal.more'], jobs=1)"
_USE = """
import sys
from pathlib import Path
from cli.compiled import loader
print(loader.choose({"CHRONIK_COMPILED": sys.argv[2]}, root=Path(sys.argv[1])).compiled)
from wal import more, tiny
print(type(more.__spec__.loader).__name__, type(tiny.__spec__.loader).__name__, more.twice(21))
"""


@pytest.mark.skipif(bool(building.missing()), reason=f"nothing can be compiled here: {building.missing()}")
def test_compiled_until_edited(tmp_path: Path) -> None:
    package = tmp_path / "wal"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tiny.py").write_text("FACTOR = 2\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}

    def run(program: str, *arguments: str) -> list[str]:
        command = [sys.executable, "-c", program, str(tmp_path), *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    (package / "more.py").write_text(_MORE + '\n\nif FACTOR == 2:\n    raise ValueError("not today")\n')
    refused = subprocess.run(
        [sys.executable, "-c", _BUILD, str(tmp_path)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert refused.returncode and "can not be imported" in refused.stderr and "ValueError: not today" in refused.stderr
    assert loader.read_builds(tmp_path) == [], "a node would try to run it"
    (package / "more.py").write_text(_MORE)
    assert run(_BUILD)[-1].startswith("compiled modules: done in")
    assert run(_BUILD)[-1].endswith("is up to date")
    compiled = "ExtensionFileLoader ExtensionFileLoader 42"
    interpreted = "SourceFileLoader SourceFileLoader 42"
    assert run(_USE, "auto") == ["True", compiled]
    assert run(_USE, "1") == ["True", compiled]
    assert run(_USE, "0") == ["False", interpreted]
    (package / "tiny.py").write_text("FACTOR = 3\n")  # `more` holds a copy of it
    assert run(_USE, "auto") == ["False", "SourceFileLoader SourceFileLoader 63"]
    (package / "tiny.py").write_text("FACTOR = 2\n")
    assert run(_USE, "auto") == ["True", compiled]
