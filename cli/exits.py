"""Exit codes of `chronik-server` and the plain sentences behind them.

An error that a user can cause or mend is told in one line, without a traceback.
"""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import Iterator
from enum import IntEnum

from wal.errors import DamageError, DataDirectoryError, FlushError, InvariantError


class Exit(IntEnum):
    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    PORT_IN_USE = 3
    DATA_DIRECTORY = 4
    DISK = 5
    DAMAGE = 6
    INTERRUPTED = 130


class StartError(Exception):
    """The process can not start or go on; the text says why and what to do."""

    def __init__(self, code: Exit, text: str) -> None:
        super().__init__(text)
        self.code = code


def describe_exit(code: int) -> str:
    """What the exit code of a child process means; negative = killed by that signal."""
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        hint = "; unless somebody sent it, the system ran out of memory" if number == signal.SIGKILL else ""
        return f"killed by {name}{hint}"
    meanings = {
        Exit.OK: "stopped in order",
        Exit.UNEXPECTED: "unexpected error",
        Exit.USAGE: "wrong flag or configuration",
        Exit.PORT_IN_USE: "port in use",
        Exit.DATA_DIRECTORY: "data directory unusable",
        Exit.DISK: "write or fsync failed",
        Exit.DAMAGE: "damaged data",
    }
    return f"exit code {code}" + (f", {meanings[Exit(code)]}" if code in meanings else "")


def port_owner(port: int) -> str:
    """ "pid 17 (java)" of who listens on `port`, or that it can not be seen."""
    import psutil  # dear to import, and only needed when something is wrong

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port and connection.pid:
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
    except (psutil.Error, OSError):
        pass  # what follows is the answer then
    return "another process (its pid is not visible to this user)"


def check_port(host: str, port: int, flag: str) -> None:
    """Raise StartError when `port` can not be bound. `flag` chooses another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except socket.gaierror as error:
        raise StartError(Exit.USAGE, f"Address {host} can not be resolved: {error.strerror}; bind 0.0.0.0 or an address of this machine") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(Exit.PORT_IN_USE, f"Port {port} already in use by {port_owner(port)}; stop it or choose another with {flag}") from error
        if error.errno == errno.EACCES:
            raise StartError(Exit.PORT_IN_USE, f"Port {port} needs privileges that this user lacks; choose one above 1023 with {flag}") from error
        raise StartError(
            Exit.USAGE, f"Address {host}:{port} can not be bound: {error.strerror}; bind 0.0.0.0 or an address of this machine"
        ) from error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def explain(error: BaseException) -> StartError | None:
    """The error as a user shall read it; None when it is none of those that have a cause outside this program."""
    for leaf in _leaves(error):
        match leaf:
            case StartError():
                return leaf
            case DataDirectoryError():
                return StartError(Exit.DATA_DIRECTORY, str(leaf))
            case DamageError():
                return StartError(Exit.DAMAGE, f"{leaf}; look at it with: chronik-server debug wal-verify --path DATA_DIR")
            case FlushError():
                return StartError(Exit.DISK, f"{leaf}; nothing more is acknowledged. Check the disk and the system log before starting again")
            case InvariantError():
                return None
            case OSError(errno=errno.EADDRINUSE):
                text = leaf.strerror or "A port is already in use"
                return StartError(Exit.PORT_IN_USE, text if "--" in text else f"{text}; stop what listens there or choose another port")
            case OSError(errno=errno.ENOSPC):
                return StartError(Exit.DISK, "The disk is full; make room and start again")
            case PermissionError():
                return StartError(
                    Exit.DATA_DIRECTORY, f"{leaf.filename or 'A file'}: permission denied; run as the owner of the data or change its owner"
                )
    return None
