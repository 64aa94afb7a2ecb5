"""Child processes that never outlive the run.

Each child is the leader of a session of its own, so that Ctrl-C reaches the harness alone, which then ends whole process groups. Where the kernel
can do so (Linux), a child is also killed when the harness itself dies without a chance to clean up. Children must be started by the main thread.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent
STOP_SECONDS = 15.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended, and nobody of its group is left


class Interrupted(BaseException):
    """A signal asked the harness to end. Not an Exception: a workload that fails is told and passed over, this is not."""


class Children:
    """All processes of one run. `guard` makes every way out of the harness end them; `stop_all` may be called any number of times."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[Any]] = []

    def guard(self) -> None:
        """From now on an exit, SIGINT, SIGTERM and SIGHUP leave no child behind."""
        atexit.register(self.stop_all)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._interrupted)

    def _interrupted(self, number: int, _frame: object) -> None:
        # A second signal must not interrupt the cleaning up that the first one began.
        for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    def start(
        self,
        command: Sequence[str],
        *,
        output: IO[bytes] | int | None = None,
        errors: IO[bytes] | int | None = subprocess.STDOUT,
        source: int = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `command` in the checkout's directory; `environment` is added to ours."""
        process = subprocess.Popen(
            list(command),
            stdin=source,
            stdout=output,
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        self._running.append(process)
        return process

    def stop(self, process: subprocess.Popen[Any], seconds: float = STOP_SECONDS) -> None:
        """SIGTERM to the group, SIGKILL when it takes too long; a stopped process is continued first."""
        if process.poll() is None:
            _signal_group(process, signal.SIGCONT)
            _signal_group(process, signal.SIGTERM)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                pass
        self.kill(process)

    def kill(self, process: subprocess.Popen[Any]) -> None:
        """SIGKILL to the group, and wait."""
        _signal_group(process, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        if process in self._running:
            self._running.remove(process)

    def stop_all(self) -> None:
        """Kill every child that is left, all at once and without manners: their data is thrown away."""
        for process in self._running:
            _signal_group(process, signal.SIGKILL)
        for process in list(self._running):
            self.kill(process)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._running]
