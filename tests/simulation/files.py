"""The simulated disk: the faulty file system in memory, with a fuse that cuts the power in the middle of a job."""

from __future__ import annotations

from wal.entry import Buffer
from wal.memory_filesystem import MemoryFile, MemoryFileSystem


class PowerCut(BaseException):
    """The power failed. Not an Exception, so that nothing in the store can take it for an I/O error."""


class SimFile(MemoryFile):
    __slots__ = ()

    _fs: SimFileSystem

    def kernel_number(self) -> int:
        """Of a journal file; what the simulated kernel finds it by."""
        return self._fs.number_of(self) if self.direct else -1

    def pwrite(self, data: Buffer, position: int) -> None:
        self._fs.burn()
        super().pwrite(data, position)

    def fdatasync(self) -> None:
        self._fs.burn()
        super().fdatasync()

    def truncate(self, size: int) -> None:
        self._fs.burn()
        super().truncate(size)


class SimFileSystem(MemoryFileSystem):
    """`fuse`: the number of changes of the disk that still happen before the power fails, None without end."""

    __slots__ = ("fuse", "numbered")

    fuse: int | None
    numbered: dict[int, SimFile]

    def number_of(self, file: SimFile) -> int:
        if getattr(self, "numbered", None) is None:
            self.numbered = {}
        for number, known in self.numbered.items():
            if known is file:
                return number
        self.numbered[len(self.numbered)] = file
        return len(self.numbered) - 1

    def burn(self) -> None:
        fuse = getattr(self, "fuse", None)
        if fuse is None:
            return
        if fuse <= 0:
            raise PowerCut
        self.fuse = fuse - 1

    def open(self, path: str, *, write: bool = False, create: bool = False, direct: bool = False) -> MemoryFile:
        plain = super().open(path, write=write, create=create, direct=direct)
        return SimFile(self, path, plain._inode, write, direct)

    def rename(self, source: str, target: str) -> None:
        self.burn()
        super().rename(source, target)

    def remove(self, path: str) -> None:
        self.burn()
        super().remove(path)

    def sync_directory(self, path: str) -> None:
        self.burn()
        super().sync_directory(path)
