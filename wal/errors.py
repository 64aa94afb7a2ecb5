"""Errors of the log, by whose fault they are."""


class WalError(Exception):
    """Base class."""


class InvariantError(WalError):
    """Our own fault: going on could lose data. The worker stops."""


class DamageError(WalError):
    """Bytes on disk are not what was written. The text names file, position and reason."""


class FlushError(WalError):
    """A write or fsync of the journal failed. Never retried: the worker stops and acknowledges nothing more."""


class DiskFullError(WalError):
    """No space left. Background work is tried again later; produce is refused meanwhile."""


class DataDirectoryError(WalError):
    """The data directory can not be used: locked, foreign, unwritable, or of an unknown format version. The text says what to do."""


def check(condition: bool, message: str) -> None:
    """Raise InvariantError with `message` unless `condition` holds (stays on in production, unlike `assert`)."""
    if not condition:
        raise InvariantError(message)
