"""A file system in memory that loses what a real one may lose: the faulty twin for tests and for the simulator.

Keeps what is durable apart from what is only visible. `crash` loses any subset of unsynced sectors and of directory changes whose directory was not
fsynced, keeping the order within a directory. Deterministic: the random source is passed in. Every fault that was really injected is counted in
`faults`.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from wal.entry import Buffer
from wal.errors import DataDirectoryError
from wal.filesystem import parent
from wal.settings import BLOCK_BYTES

SECTOR_BYTES = 512
Keep = Literal["random", "all", "none"]
Writes = list[tuple[int, bytes | int]]


class Inode:
    """One file: `data` is what readers see, `durable` what a crash leaves, `pending` the writes in between (position, bytes); position -1 is a
    truncation."""

    __slots__ = ("data", "durable", "pending")

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        self.pending: list[tuple[int, bytes | int]] = []


Steps = list[tuple[str, str, Inode | None]]
"""A change of directories: (directory, name, new inode or None) each."""


@dataclass(slots=True)
class Faults:
    """What goes wrong next. Counts go down to 0; `free_bytes` None is without limit."""

    sync_errors: int = 0
    write_errors: int = 0
    read_errors: int = 0
    short_writes: int = 0
    free_bytes: int | None = None
    path_part: str = ""  # only files whose path contains this
    counted: Counter[str] = field(default_factory=Counter)


class MemoryFile:
    """An open file; unusable after a crash."""

    __slots__ = ("_fs", "_incarnation", "_inode", "_writable", "direct", "path")

    def __init__(self, fs: MemoryFileSystem, path: str, inode: Inode, writable: bool, direct: bool) -> None:
        self._fs = fs
        self._inode = inode
        self._writable = writable
        self._incarnation = fs.incarnation
        self.path = path
        self.direct = direct

    def kernel_number(self) -> int:
        return -1

    def pread(self, length: int, position: int) -> bytes:
        self._alive()
        self._fs.maybe_fail("read_errors", self.path)
        return bytes(self._inode.data[position : position + length])

    def pwrite(self, data: Buffer, position: int) -> None:
        self._alive()
        fs = self._fs
        if not self._writable:
            raise OSError(errno.EBADF, "file is not open for writing", self.path)
        if self.direct and (position % BLOCK_BYTES or len(data) % BLOCK_BYTES):
            raise OSError(errno.EINVAL, f"unaligned direct write of {len(data)} bytes at {position}", self.path)
        fs.maybe_fail("write_errors", self.path)
        written = bytes(data)
        short = fs.faults.short_writes and fs.faults.path_part in self.path
        if short:
            written = written[: len(written) // 2]
        inode = self._inode
        grown = max(0, position + len(written) - len(inode.data))
        fs.take_space(grown, self.path)
        if grown:
            inode.data.extend(bytes(grown))
        inode.data[position : position + len(written)] = written
        inode.pending.append((position, written))
        fs.writes += 1
        if short:
            fs.maybe_fail("short_writes", self.path)

    def pwrite_durably(self, data: Buffer, position: int) -> None:
        self.pwrite(data, position)
        self.fdatasync()

    def fdatasync(self) -> None:
        self._alive()
        inode = self._inode
        fs = self._fs
        if fs.faults.sync_errors and fs.faults.path_part in self.path:
            inode.pending.clear()  # the pages are marked clean: a second fsync would succeed, and the data is gone
        fs.maybe_fail("sync_errors", self.path)
        apply_writes(inode.durable, inode.pending)
        inode.pending.clear()
        fs.syncs += 1

    def truncate(self, size: int) -> None:
        self._alive()
        inode = self._inode
        self._fs.take_space(max(0, size - len(inode.data)), self.path)
        del inode.data[size:]
        inode.data.extend(bytes(size - len(inode.data)))
        inode.pending.append((-1, size))

    def size(self) -> int:
        self._alive()
        return len(self._inode.data)

    def close(self) -> None:
        self._writable = False

    def _alive(self) -> None:
        if self._incarnation != self._fs.incarnation:
            raise OSError(errno.EBADF, "file was open before the crash", self.path)


class MemoryLock:
    __slots__ = ("_fs", "_path")

    def __init__(self, fs: MemoryFileSystem, path: str) -> None:
        self._fs = fs
        self._path = path

    def close(self) -> None:
        self._fs.locks.discard(self._path)


class MemoryFileSystem:
    """See the module. Paths begin with "/" or not; directories are implicit up to the root, which is durable.

    `names`: directory → name → inode, as visible; `_durable_names` as after a crash; None stands for a directory.
    """

    __slots__ = ("_changes", "_durable_names", "_random", "faults", "incarnation", "locks", "names", "syncs", "writes")

    def __init__(self, random: Random) -> None:
        self._random = random
        self.names: dict[str, dict[str, Inode | None]] = {"": {}, "/": {}}
        self._durable_names: dict[str, dict[str, Inode | None]] = {"": {}, "/": {}}
        self._changes: list[Steps] = []
        self.faults = Faults()
        self.incarnation = 0
        self.locks: set[str] = set()
        self.writes = 0
        self.syncs = 0

    # -- the protocol -------------------------------------------------------------------------------------------------

    def open(self, path: str, *, write: bool = False, create: bool = False, direct: bool = False) -> MemoryFile:
        inode = self._find(path)
        if inode is None:
            folder, name = parent(path), path.rpartition("/")[2]
            if not create or folder not in self.names:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            inode = Inode()
            self.take_space(0, path)
            self._change([(folder, name, inode)])
        return MemoryFile(self, path, inode, write, direct)

    def exists(self, path: str) -> bool:
        return self._find(path) is not None or path in self.names

    def size(self, path: str) -> int:
        inode = self._find(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return len(inode.data)

    def mkdir(self, path: str) -> None:
        if path in self.names:
            return
        above = parent(path)
        if "/" in path and above not in self.names:
            self.mkdir(above)
        self.names[path] = {}
        self._durable_names[path] = {}
        if "/" in path:
            name = path.rpartition("/")[2]
            self.names[above][name] = None
            self._durable_names[above][name] = None

    def rename(self, source: str, target: str) -> None:
        inode = self._find(source)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", source)
        self._change([(parent(target), target.rpartition("/")[2], inode), (parent(source), source.rpartition("/")[2], None)])

    def remove(self, path: str) -> None:
        if self._find(path) is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        self._change([(parent(path), path.rpartition("/")[2], None)])

    def rmdir(self, path: str) -> None:
        if self.names.get(path):
            raise OSError(errno.ENOTEMPTY, "directory is not empty", path)
        self._flush_changes(path)
        del self.names[path]
        self._durable_names.pop(path, None)
        self.names[parent(path)].pop(path.rpartition("/")[2], None)
        self._durable_names[parent(path)].pop(path.rpartition("/")[2], None)

    def sync_directory(self, path: str) -> None:
        self.maybe_fail("sync_errors", path)
        self._flush_changes(path)

    def free_bytes(self, path: str) -> int:
        return (1 << 40) if self.faults.free_bytes is None else self.faults.free_bytes

    def lock(self, path: str) -> MemoryLock:
        if path in self.locks:
            raise DataDirectoryError(f"{parent(path)} is in use by another process: stop it, or give this node its own data directory")
        self.locks.add(path)
        return MemoryLock(self, path)

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    # -- faults -------------------------------------------------------------------------------------------------------

    def crash(self, random: Random, keep: Keep = "random") -> None:
        """The power fails: all open files are dead, unsynced data and names are lost as `keep` says (random: any subset of sectors)."""
        self.incarnation += 1
        self.locks.clear()
        self._crash_names(random, keep)
        for folder in self.names.values():
            for inode in folder.values():
                if inode is not None:
                    self._crash_file(inode, random, keep)

    def flip_bit(self, path: str, position: int, bit: int = 0) -> None:
        """Change one bit of a file, on the disk and in the cache."""
        inode = self._find(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        for data in (inode.data, inode.durable):
            if position < len(data):
                data[position] ^= 1 << bit
        self.faults.counted["bit_flips"] += 1

    def paths(self) -> list[str]:
        """All files, sorted."""
        return sorted(f"{folder}/{name}" for folder, names in self.names.items() for name, inode in names.items() if inode is not None)

    def clone(self) -> MemoryFileSystem:
        """The same files and names, all of them durable, for trying something out."""
        other = MemoryFileSystem(Random(0))
        copies: dict[int, Inode] = {}
        for folder, names in self.names.items():
            other.names[folder] = {}
            for name, inode in names.items():
                if inode is not None and id(inode) not in copies:
                    fresh = Inode()
                    fresh.data[:] = inode.data
                    fresh.durable[:] = inode.data
                    copies[id(inode)] = fresh
                other.names[folder][name] = None if inode is None else copies[id(inode)]
            other._durable_names[folder] = dict(other.names[folder])
        return other

    def maybe_fail(self, kind: str, path: str) -> None:
        """Raise EIO if a fault of `kind` is due for `path`."""
        faults = self.faults
        left = getattr(faults, kind)
        if left and faults.path_part in path:
            setattr(faults, kind, left - 1)
            faults.counted[kind] += 1
            raise OSError(errno.EIO, f"injected ({kind})", path)

    def take_space(self, count: int, path: str) -> None:
        """Use `count` bytes of the space that is left."""
        free = self.faults.free_bytes
        if free is None:
            return
        if count > free:
            self.faults.counted["disk_full"] += 1
            raise OSError(errno.ENOSPC, "no space left", path)
        self.faults.free_bytes = free - count

    # -- inside -------------------------------------------------------------------------------------------------------

    def _find(self, path: str) -> Inode | None:
        return self.names.get(parent(path), {}).get(path.rpartition("/")[2])

    def _change(self, steps: Steps) -> None:
        apply_steps(self.names, steps)
        self._changes.append(steps)

    def _flush_changes(self, folder: str) -> None:
        """Make durable what touches `folder`, and with it what came before in the directories concerned (a journaling file system keeps the
        order)."""
        last = max((at for at, change in enumerate(self._changes) if any(step[0] == folder for step in change)), default=-1)
        for change in self._changes[: last + 1]:
            apply_steps(self._durable_names, change)
        del self._changes[: last + 1]

    def _crash_names(self, random: Random, keep: Keep) -> None:
        stopped: set[str] = set()
        for change in self._changes:
            folders = {step[0] for step in change}
            lost = keep == "none" or (keep == "random" and random.getrandbits(1))
            if lost or folders & stopped:
                stopped |= folders
                self.faults.counted["lost_names"] += 1
            else:
                apply_steps(self._durable_names, change)
        self._changes.clear()
        self.names = {folder: dict(names) for folder, names in self._durable_names.items()}

    def _crash_file(self, inode: Inode, random: Random, keep: Keep) -> None:
        kept: Writes = []
        for position, data in inode.pending:
            if isinstance(data, int):
                if keep == "all" or (keep == "random" and random.getrandbits(1)):
                    kept.append((position, data))
                continue
            if keep == "all" or (keep == "random" and random.getrandbits(2) == 0):
                kept.append((position, data))
                continue
            whole = True
            odds = random.random() if keep == "random" else 0.0
            for start in range(0, len(data), SECTOR_BYTES):
                if keep == "random" and random.random() < odds:
                    kept.append((position + start, data[start : start + SECTOR_BYTES]))
                else:
                    whole = False
            if not whole:
                self.faults.counted["lost_writes"] += 1
        apply_writes(inode.durable, kept)
        inode.data[:] = inode.durable
        inode.pending.clear()

    def list(self, path: str) -> list[str]:
        return sorted(self.names.get(path, {}))


def apply_steps(names: dict[str, dict[str, Inode | None]], steps: Steps) -> None:
    for folder, name, inode in steps:
        if inode is None:
            names.setdefault(folder, {}).pop(name, None)
        else:
            names.setdefault(folder, {})[name] = inode


def apply_writes(target: bytearray, writes: Writes) -> None:
    """Apply writes and truncations in order."""
    for position, data in writes:
        if isinstance(data, int):
            del target[data:]
            target.extend(bytes(data - len(target)))
        else:
            end = position + len(data)
            if end > len(target):
                target.extend(bytes(end - len(target)))
            target[position:end] = data
