"""For tests only: a real file system that misbehaves on demand, in a real process.

`CHRONIK_TEST_FAULTS` names a JSON file; the variable is read once at start, and a node without it knows nothing of all this. The content says what
goes wrong now: `flush_delay_ms` (every fdatasync takes that much longer), `fsync_error` (every fdatasync fails with EIO), `free_bytes` (the disk
claims to have no more free space than that; at 0 no file can grow). It is looked at before each of these calls, so a test can change it at any time.
Deterministic tests have a better twin in `wal.memory_filesystem`.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from typing import NamedTuple

from wal.entry import Buffer
from wal.filesystem import FileSystem, RealFile, RealFileSystem

log = logging.getLogger("chronik_server")

ENVIRONMENT = "CHRONIK_TEST_FAULTS"


class Faults(NamedTuple):
    """What goes wrong now. `free_bytes` None is what the disk says."""

    flush_delay_ms: int = 0
    fsync_error: bool = False
    free_bytes: int | None = None


class FaultFile:
    """The control file. One that is missing, or half written, changes nothing."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._faults = Faults()

    def now(self) -> Faults:
        try:
            with open(self._path, "rb") as file:
                self._faults = Faults(**json.load(file))
        except (OSError, ValueError, TypeError):
            pass  # the test is writing it; what held goes on
        return self._faults


class FaultyFile(RealFile):
    """A file under the control file's orders."""

    __slots__ = ("_faults",)

    def __init__(self, fd: int, path: str, direct: bool, faults: FaultFile) -> None:
        super().__init__(fd, path, direct)
        self._faults = faults

    def kernel_number(self) -> int:
        return -1  # the kernel knows of no orders

    def fdatasync(self) -> None:
        faults = self._faults.now()
        if faults.flush_delay_ms:
            time.sleep(faults.flush_delay_ms / 1000)
        if faults.fsync_error:
            raise OSError(errno.EIO, "Input/output error (injected)", self.path)
        super().fdatasync()

    def pwrite_durably(self, data: Buffer, position: int) -> None:
        self.pwrite(data, position)
        self.fdatasync()

    def pwrite(self, data: Buffer, position: int) -> None:
        if self._faults.now().free_bytes == 0 and position + len(data) > self.size():
            raise OSError(errno.ENOSPC, "No space left on device (injected)", self.path)
        super().pwrite(data, position)


class FaultyFileSystem(RealFileSystem):
    """See the module."""

    def __init__(self, faults: FaultFile) -> None:
        self._faults = faults

    def open(self, path: str, *, write: bool = False, create: bool = False, direct: bool = False) -> RealFile:
        found = super().open(path, write=write, create=create, direct=direct)
        return FaultyFile(found.fd, found.path, found.direct, self._faults)

    def free_bytes(self, path: str) -> int:
        real, injected = super().free_bytes(path), self._faults.now().free_bytes
        return real if injected is None else min(real, injected)


def file_system() -> FileSystem:
    """The operating system's, unless a test has asked for a faulty one."""
    path = os.environ.get(ENVIRONMENT)
    if not path:
        return RealFileSystem()
    log.warning("%s is set: this node's disk fails as %s says; for tests only", ENVIRONMENT, path)
    return FaultyFileSystem(FaultFile(path))
