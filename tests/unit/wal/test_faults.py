"""The disk that fails on demand: without its variable nothing is different; with it, each fault does what it says, and can be taken back."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path

import pytest

from wal.faults import ENVIRONMENT, FaultyFileSystem, file_system
from wal.filesystem import RealFileSystem


def test_an_ordinary_node_has_the_ordinary_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert type(file_system()) is RealFileSystem


def test_faults_come_and_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    control = tmp_path / "faults.json"
    monkeypatch.setenv(ENVIRONMENT, str(control))
    fs = file_system()
    assert isinstance(fs, FaultyFileSystem)
    file = fs.open(str(tmp_path / "file"), write=True, create=True)
    file.pwrite(b"x", 0)
    file.fdatasync()  # there is no control file yet
    control.write_text(json.dumps({"fsync_error": True}))
    with pytest.raises(OSError) as caught:
        file.fdatasync()
    assert caught.value.errno == errno.EIO
    control.write_text(json.dumps({"free_bytes": 0}))
    file.pwrite(b"y", 0)  # nothing grows
    with pytest.raises(OSError) as caught:
        file.pwrite(b"y", 1)
    assert caught.value.errno == errno.ENOSPC and fs.free_bytes(str(tmp_path)) == 0
    control.write_text(json.dumps({"flush_delay_ms": 30}))
    start = time.monotonic()
    file.fdatasync()
    assert time.monotonic() - start >= 0.03
    control.write_text("{half")
    start = time.monotonic()
    file.fdatasync()  # what held goes on
    assert time.monotonic() - start >= 0.03
    control.write_text("{}")
    file.pwrite(b"z", 1)
    assert file.pread(9, 0) == b"yz" and fs.free_bytes(str(tmp_path)) > 0
    file.close()
