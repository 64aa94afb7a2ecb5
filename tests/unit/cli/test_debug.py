"""`debug wal-*`: presentation and exit codes over a stand-in for what `wal.inspect` finds."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import wal
from cli.debug import dump, plain, stats, verify
from cli.exits import Exit, StartError
from wal.inspect import FrameInfo, Problem, VerifyReport

GOOD = FrameInfo("wal_0_00000001.log", 4096, 3, 17, "data", 100, 5, 1024, "ok", "07", 0, 0)


@pytest.fixture
def inspect(monkeypatch):
    module = ModuleType("wal.inspect")
    module.report = VerifyReport(2, 10, 4096)
    module.frames = [GOOD]
    module.dump = lambda path: iter(module.frames)
    module.stats = lambda path: {"segments": 1, "log_bytes": 2048, "sizes": {"<1KiB": 3}, "terms": [1, 3]}
    module.verify = lambda path, progress: progress(1, 2) or module.report
    monkeypatch.setitem(sys.modules, "wal.inspect", module)
    monkeypatch.setattr(wal, "inspect", module, raising=False)
    return module


def test_dump_prints_a_line_per_frame(inspect, tmp_path, capsys):
    assert dump(tmp_path, "text") == Exit.OK
    line = capsys.readouterr().out
    assert line == (
        "segment=wal_0_00000001.log  position=4096  term=3  index=17  type=data  base_offset=100  record_count=5  size=1024  checksum=ok"
        "  topic_id=07  partition=0  flush=0\n"
    )
    dump(tmp_path, "json")
    assert json.loads(capsys.readouterr().out)["type"] == "data"
    inspect.frames = [GOOD, replace(GOOD, checksum="wrong")]
    assert dump(tmp_path, "text") == Exit.DAMAGE


def test_verify_fails_only_for_damage(inspect, tmp_path, capsys):
    assert verify(tmp_path, "text") == Exit.OK
    assert capsys.readouterr().out == "2 files, 10 frames, 4.0 KiB: all is right\n"
    inspect.report = VerifyReport(2, 10, 4096, [Problem("journal_1", 8192, "half a flush", True)])
    assert verify(tmp_path, "text") == Exit.OK
    assert capsys.readouterr().out.startswith("journal_1, position 8192: torn tail, not acknowledged: half a flush\n")
    inspect.report = VerifyReport(2, 10, 4096, [Problem("wal_0_00000001.log", 12288, "checksum is wrong", False)])
    assert verify(tmp_path, "text") == Exit.DAMAGE
    assert capsys.readouterr().out.startswith("wal_0_00000001.log, position 12288: DAMAGE: checksum is wrong\n")
    assert verify(tmp_path, "json") == Exit.DAMAGE
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_stats_as_tree_and_as_json(inspect, tmp_path, capsys):
    assert stats(tmp_path, "text") == Exit.OK
    assert capsys.readouterr().out.splitlines() == ["segments: 1", "log_bytes: 2048 (2.0 KiB)", "sizes:", "  <1KiB: 3", "terms:", "  0: 1", "  1: 3"]
    stats(tmp_path, "json")
    assert json.loads(capsys.readouterr().out)["terms"] == [1, 3]


def test_a_path_that_is_not_there():
    with pytest.raises(StartError, match="does not exist"):
        dump(Path("/does/not/exist"), "text")


def test_plain_values():
    assert plain({"a": (b"\x01", Path("/x"), Problem("f", 1, "r", True))}) == {
        "a": ["01", "/x", {"file": "f", "position": 1, "reason": "r", "torn_tail": True}]
    }
