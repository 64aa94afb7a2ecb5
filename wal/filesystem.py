"""The few things that the log asks of a file system, and the real one.

`wal.memory_filesystem` is the faulty twin. Paths are strings with "/". Errors are OSError. Nothing here caches or buffers; `File` objects
may be used from any thread, but writes to one file come from one thread at a time. This is the only module that may call fsync.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Protocol

from wal.entry import Buffer
from wal.errors import DataDirectoryError
from wal.settings import BLOCK_BYTES

_DURABLE_WRITES = hasattr(os, "pwritev") and hasattr(os, "RWF_DSYNC")


class File(Protocol):
    """One open file. `direct` says that writes bypass the page cache, so that buffer, position and length must be aligned to 4 KiB."""

    direct: bool

    def kernel_number(self) -> int:
        """The descriptor under which the kernel may be told to write by itself (`wal.uring`); -1 when each write has to come through here."""

    def pread(self, length: int, position: int) -> bytes:
        """Up to `length` bytes; fewer only at the end of the file."""

    def pwrite(self, data: Buffer, position: int) -> None:
        """Write all of `data`."""

    def fdatasync(self) -> None: ...

    def pwrite_durably(self, data: Buffer, position: int) -> None:
        """pwrite and fdatasync, in one call where the system has one. Says nothing of what other calls have written."""

    def truncate(self, size: int) -> None: ...

    def size(self) -> int: ...

    def close(self) -> None: ...


class Lock(Protocol):
    """Held until closed or until the process ends."""

    def close(self) -> None: ...


class FileSystem(Protocol):
    """Files and directories. A new name is durable only after `sync_directory` of its parent."""

    def open(self, path: str, *, write: bool = False, create: bool = False, direct: bool = False) -> File: ...

    def exists(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def list(self, path: str) -> list[str]:
        """Names in a directory, sorted; empty when it does not exist."""

    def mkdir(self, path: str) -> None:
        """Make a directory and its parents; no error when it exists. Each new name is made durable."""

    def rename(self, source: str, target: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def rmdir(self, path: str) -> None: ...

    def sync_directory(self, path: str) -> None: ...

    def free_bytes(self, path: str) -> int: ...

    def lock(self, path: str) -> Lock:
        """Take the exclusive lock `path`; DataDirectoryError when another process has it."""

    def random_bytes(self, count: int) -> bytes: ...


def parent(path: str) -> str:
    """The directory that holds `path`."""
    return path.rpartition("/")[0] or "/"


def write_durably(fs: FileSystem, path: str, data: bytes) -> None:
    """Replace the file `path` by `data` so that a crash at any point leaves the old or the new one whole."""
    aside = path + ".new"
    file = fs.open(aside, write=True, create=True)
    try:
        file.truncate(0)
        file.pwrite(data, 0)
        file.fdatasync()
    finally:
        file.close()
    fs.rename(aside, path)
    fs.sync_directory(parent(path))


class RealFile:
    """A file descriptor."""

    __slots__ = ("direct", "fd", "path")

    def __init__(self, fd: int, path: str, direct: bool) -> None:
        self.fd = fd
        self.path = path
        self.direct = direct

    def kernel_number(self) -> int:
        return self.fd

    def pread(self, length: int, position: int) -> bytes:
        data = os.pread(self.fd, length, position)
        if len(data) == length or not data:
            return data
        parts = [data]
        got = len(data)
        while got < length:
            data = os.pread(self.fd, length - got, position + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def pwrite(self, data: Buffer, position: int) -> None:
        length = len(data)
        written = os.pwrite(self.fd, data, position)
        if written == length:
            return
        view = memoryview(data)
        while written < length:
            if written == 0 or (self.direct and written % BLOCK_BYTES):
                raise OSError(errno.EIO, f"short write of {written} of {length} bytes at {position}", self.path)
            more = os.pwrite(self.fd, view[written:], position + written)
            if more == 0:
                raise OSError(errno.EIO, f"short write of {written} of {length} bytes at {position}", self.path)
            written += more

    def fdatasync(self) -> None:
        os.fdatasync(self.fd)  # noqa: TID251 - the one place

    def pwrite_durably(self, data: Buffer, position: int) -> None:
        if self.direct and _DURABLE_WRITES:
            try:
                if os.pwritev(self.fd, (data,), position, os.RWF_DSYNC) == len(data):
                    return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
        self.pwrite(data, position)
        self.fdatasync()

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class RealLock:
    """An flock on an open file."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class RealFileSystem:
    """The operating system's. Falls back to buffered writes where O_DIRECT is refused (tmpfs, some network file systems)."""

    def open(self, path: str, *, write: bool = False, create: bool = False, direct: bool = False) -> RealFile:
        flags = os.O_CLOEXEC | (os.O_RDWR if write else os.O_RDONLY) | (os.O_CREAT if create else 0)
        if direct and hasattr(os, "O_DIRECT"):
            try:
                return RealFile(os.open(path, flags | os.O_DIRECT, 0o644), path, True)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
        return RealFile(os.open(path, flags, 0o644), path, False)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def list(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def mkdir(self, path: str) -> None:
        if os.path.isdir(path):
            return
        above = parent(path)
        if path.startswith("/") or "/" in path:
            self.mkdir(above)
        else:
            above = "."
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            if not os.path.isdir(path):
                raise
        self.sync_directory(above)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def remove(self, path: str) -> None:
        os.remove(path)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def sync_directory(self, path: str) -> None:
        fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)  # noqa: TID251 - the one place
        finally:
            os.close(fd)

    def free_bytes(self, path: str) -> int:
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def lock(self, path: str) -> RealLock:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            os.close(fd)
            whose = f" (process {holder})" if holder else ""
            raise DataDirectoryError(
                f"{parent(path)} is in use by another process{whose}: stop it, or give this node its own data directory"
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return RealLock(fd)

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)
