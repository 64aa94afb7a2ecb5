"""Durable writes that end by themselves: Linux's native asynchronous I/O, told through an eventfd.

A flush by a thread costs two waits for the interpreter's lock and for a processor, many times what a fast disk needs (docs/adr/0042). Here the loop
thread hands an aligned buffer to the kernel and hears of its end as of any other event. Only O_DIRECT files that have all their blocks take this
way: for others the kernel would block the caller. One write is out at a time. Everything is called on the loop thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

from wal.entry import Buffer
from wal.errors import check

_PWRITE = 1  # IOCB_CMD_PWRITE
_TELL = 1  # IOCB_FLAG_RESFD
_RWF_DSYNC = 2  # the write ends when data, and what is needed to read it again, are on stable storage: pwrite and fdatasync in one
_IOCB = struct.Struct("<QIIHhIQQqQII")
_EVENT = struct.Struct("<QQqq")
_NUMBERS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}
"""io_setup, io_destroy, io_submit, io_getevents: neither Python nor the C library has names for them."""

REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EAGAIN, errno.EPERM)
"""Errors that say that the kernel did not take the write, and not that the disk failed."""


class AsyncWriter:
    """Use: watch `eventfd` for reading; `start`; when the eventfd is readable, `finish`."""

    __slots__ = ("_blocking", "_context", "_events", "_iocb", "_list", "_numbers", "_out", "_quick", "eventfd")

    def __init__(self) -> None:
        """OSError when this system has no such thing, or does not allow it."""
        numbers = _NUMBERS.get(platform.machine())
        if sys.platform != "linux" or sys.byteorder != "little" or numbers is None:
            raise OSError(errno.ENOSYS, "asynchronous writes are known for Linux on x86_64 and aarch64 only")
        self._numbers = numbers
        # Handing over a write takes some microseconds: shorter than giving up the interpreter's lock and waiting for it. What may block gives it up.
        self._quick = ctypes.PyDLL(None, use_errno=True).syscall
        self._blocking = ctypes.CDLL(None, use_errno=True).syscall
        self._quick.restype = self._blocking.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        self._iocb = ctypes.create_string_buffer(_IOCB.size)
        self._list = (ctypes.c_void_p * 1)(ctypes.addressof(self._iocb))
        self._events = ctypes.create_string_buffer(_EVENT.size)
        self._out: Buffer | None = None  # kept alive while the kernel reads it
        if self._blocking(ctypes.c_long(numbers[0]), ctypes.c_uint(1), ctypes.byref(self._context)) != 0:
            raise _error("io_setup")
        self.eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @property
    def busy(self) -> bool:
        return self._out is not None

    def start(self, fd: int, data: Buffer, position: int) -> None:
        """Begin to write `data` (writable, aligned, unchanged until the end) at `position` of `fd`. OSError when the kernel does not take it."""
        check(self._out is None, "one write at a time")
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        _IOCB.pack_into(self._iocb, 0, 0, 0, _RWF_DSYNC, _PWRITE, 0, fd, address, len(data), position, 0, _TELL, self.eventfd)
        if self._quick(ctypes.c_long(self._numbers[2]), self._context, ctypes.c_long(1), self._list) != 1:
            raise _error("io_submit")
        self._out = data

    def finish(self) -> int | None:
        """What became of the write: bytes that are durable, or a negative error number; None while it is out."""
        try:
            os.eventfd_read(self.eventfd)
        except BlockingIOError:
            return None
        got = self._quick(ctypes.c_long(self._numbers[3]), self._context, ctypes.c_long(0), ctypes.c_long(1), self._events, None)
        if got < 0:
            raise _error("io_getevents")
        if got == 0:
            return None
        self._out = None
        result: int = _EVENT.unpack(self._events.raw)[2]
        return result

    def close(self) -> None:
        """Wait for the write that is out, and end."""
        if self.eventfd < 0:
            return
        self._blocking(ctypes.c_long(self._numbers[1]), self._context)  # returns when nothing is out
        self._out = None
        os.close(self.eventfd)
        self.eventfd = -1


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
