"""Durable writes that end by themselves: Linux's io_uring, told through an eventfd.

A flush by a thread of ours waits for the interpreter's lock twice, many times what a fast disk needs (docs/adr/0042). Here the loop thread tells the
kernel what to write and hears of its end as of any other event. A worker of the kernel's does the write, always: the caller never waits for the
disk. One write is out at a time. Everything is called on the loop thread.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import struct
import sys
from typing import Any

from wal.entry import Buffer
from wal.errors import check

_SETUP, _ENTER, _REGISTER = 425, 426, 427  # the same on every processor; neither Python nor the C library has names for them
_REGISTER_EVENTFD = 4
_SUBMISSIONS_AT = 0x10000000
_WRITE = 23
_BY_A_WORKER = 1 << 4  # IOSQE_ASYNC: not even the beginning of the write is made by the caller
_FEATURES = 1 | 1 << 3  # one mapping for both rings; and what came with the plain write of 5.6
_RWF_DSYNC = 2  # the write ends when data, and what is needed to read it again, are on stable storage: pwrite and fdatasync in one
_PARAMETERS = struct.Struct("<10I8IQ8IQ")
_SUBMISSION = struct.Struct("<BBHiQQIIQ24x")
_COMPLETION = struct.Struct("<QiI")
_NUMBER = struct.Struct("<I")
check(_PARAMETERS.size == 120 and _SUBMISSION.size == 64 and _COMPLETION.size == 16, "sizes of io_uring's structures")


_abandoned: list[KernelWriter] = []
"""Their buffers may still be read by the kernel; at most one a process."""


class KernelWriter:
    """Use: watch `eventfd` for reading; `start`; when the eventfd is readable, `finish`."""

    __slots__ = ("_completed", "_enter", "_out", "_ring", "_shared", "_submissions", "_tail", "eventfd")

    def __init__(self) -> None:
        """OSError when this system has no io_uring, or does not allow it (containers often do not)."""
        if sys.platform != "linux" or sys.byteorder != "little" or not hasattr(os, "eventfd"):
            raise OSError(errno.ENOSYS, "io_uring is Linux's")
        # Telling the kernel takes some microseconds, less than giving up the interpreter's lock and waiting for it: PyDLL keeps it.
        self._enter = ctypes.PyDLL(None, use_errno=True).syscall
        self._enter.restype = ctypes.c_long
        parameters = ctypes.create_string_buffer(_PARAMETERS.size)
        self._ring = self._call(self._enter, _SETUP, ctypes.c_uint(1), parameters)
        found = _PARAMETERS.unpack(parameters.raw)
        submission_entries, completion_entries, features = found[0], found[1], found[5]
        submitted, completed = found[10:18], found[19:27]
        # Offsets in the shared page.
        self._tail = submitted[1]
        self._completed = completed[0], completed[1], completed[5], completion_entries - 1
        self._out: Buffer | None = None  # kept alive while the kernel reads it
        self.eventfd = -1
        try:
            if features & _FEATURES != _FEATURES:
                raise OSError(errno.ENOSYS, "io_uring of a kernel before 5.6")
            size = max(submitted[6] + 4 * submission_entries, completed[5] + _COMPLETION.size * completion_entries)
            self._shared = mmap.mmap(self._ring, size, mmap.MAP_SHARED)
            self._submissions = mmap.mmap(self._ring, _SUBMISSION.size * submission_entries, mmap.MAP_SHARED, offset=_SUBMISSIONS_AT)
            _NUMBER.pack_into(self._shared, submitted[6], 0)  # there is one submission, and it is always the first
            self.eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._call(
                self._enter,
                _REGISTER,
                ctypes.c_uint(self._ring),
                ctypes.c_uint(_REGISTER_EVENTFD),
                ctypes.byref(ctypes.c_int(self.eventfd)),
                ctypes.c_uint(1),
            )
        except OSError:
            self._close()
            raise

    @property
    def busy(self) -> bool:
        return self._out is not None

    def start(self, fd: int, data: Buffer, position: int) -> None:
        """Begin to write `data` (writable, unchanged until the end) at `position` of `fd`. OSError when the kernel does not take it."""
        check(self._out is None, "one write at a time")
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        _SUBMISSION.pack_into(self._submissions, 0, _WRITE, _BY_A_WORKER, 0, fd, position, address, len(data), _RWF_DSYNC, 0)
        shared, tail = self._shared, self._tail
        before = _NUMBER.unpack_from(shared, tail)[0]
        _NUMBER.pack_into(shared, tail, (before + 1) & 0xFFFFFFFF)
        self._out = data
        try:
            taken = self._call(
                self._enter, _ENTER, ctypes.c_uint(self._ring), ctypes.c_uint(1), ctypes.c_uint(0), ctypes.c_uint(0), None, ctypes.c_size_t(0)
            )
            if taken != 1:
                raise OSError(errno.EAGAIN, "io_uring has taken nothing")
        except OSError:
            self._out = None
            _NUMBER.pack_into(shared, tail, before)
            raise

    def finish(self) -> int | None:
        """What became of the write: bytes that are durable, or a negative error number; None while it is out."""
        try:
            os.eventfd_read(self.eventfd)
        except BlockingIOError:
            return None
        shared = self._shared
        head, tail, completions, mask = self._completed
        number = _NUMBER.unpack_from(shared, head)[0]
        if number == _NUMBER.unpack_from(shared, tail)[0]:
            return None
        result: int = _COMPLETION.unpack_from(shared, completions + _COMPLETION.size * (number & mask))[1]
        _NUMBER.pack_into(shared, head, (number + 1) & 0xFFFFFFFF)
        self._out = None
        return result

    def close(self, timeout_s: float = 5.0) -> None:
        """Wait for the write that is out, and end. After `timeout_s` the kernel keeps it: a disk that hangs must not keep the process."""
        if self._ring < 0:
            return
        if self._out is not None:
            select.select([self.eventfd], [], [], timeout_s)
            self.finish()
        if self._out is not None:
            _abandoned.append(self)
            return
        self._shared.close()
        self._submissions.close()
        self._close()

    def _close(self) -> None:
        for fd in (self.eventfd, self._ring):
            if fd >= 0:
                os.close(fd)
        self.eventfd = self._ring = -1

    @staticmethod
    def _call(syscall: Any, number: int, *arguments: Any) -> int:
        result: int = syscall(ctypes.c_long(number), *arguments)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"io_uring: {os.strerror(code)}")
        return result
