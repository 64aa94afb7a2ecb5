"""What a workload cost: CPU seconds, memory and disk traffic of the brokers alone, and the state of the machine meanwhile.

Reads /proc by psutil. The clients are processes of their own and are never counted; what else ran on the machine is told with each figure, so
that one that was taken beside other work is recognized.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over processes since their start; `rss_mb` is the largest process's, now."""

    cpu_s: float = 0.0
    rss_mb: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0

    def since(self, before: Usage) -> Usage:
        return Usage(self.cpu_s - before.cpu_s, self.rss_mb, self.read_bytes - before.read_bytes, self.written_bytes - before.written_bytes)


def usage(pids: Iterable[int]) -> Usage:
    """Of processes that live; one that is gone counts nothing."""
    cpu = rss = 0.0
    read = written = 0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            times = process.cpu_times()
            counters = process.io_counters()
            cpu += times.user + times.system
            rss = max(rss, process.memory_info().rss / 1e6)
            read += counters.read_bytes
            written += counters.write_bytes
        except psutil.NoSuchProcess:
            continue
    return Usage(cpu, rss, read, written)


@dataclass(frozen=True, slots=True)
class Machine:
    """The whole machine's CPU seconds so far."""

    busy_s: float
    stolen_s: float

    @classmethod
    def now(cls) -> Machine:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        stolen = getattr(times, "steal", 0.0)
        # Guests' time is part of the users' already.
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        return cls(sum(times) - idle - stolen - guests, stolen)


class Meter:
    """From its making to `read`: what the brokers used, and what everybody else did."""

    __slots__ = ("_machine", "_pids", "_start", "_usage")

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = tuple(pids)
        self._machine = Machine.now()
        self._usage = usage(self._pids)
        self._start = time.perf_counter()

    def read(self, client_cpu_s: float = 0.0) -> Cost:
        seconds = time.perf_counter() - self._start
        used = usage(self._pids).since(self._usage)
        machine = Machine.now()
        others = machine.busy_s - self._machine.busy_s - used.cpu_s - client_cpu_s
        state = {
            "load": os.getloadavg()[0],
            "others_cpu_percent": max(0.0, others) / max(seconds, 1e-3) * 100,
            "stolen_percent": (machine.stolen_s - self._machine.stolen_s) / max(seconds, 1e-3) * 100,
        }
        return Cost(seconds, used, state, bool(self._pids))


@dataclass(frozen=True, slots=True)
class Cost:
    """`machine`: load average, CPU of processes that belong neither to the brokers nor to the client, and time stolen by the host (% of one core)."""

    seconds: float
    used: Usage
    machine: dict[str, float]
    known: bool

    def values(self, size_bytes: float = 0.0) -> dict[str, float]:
        """As metrics; those per GB when `size_bytes` of payload went through. Empty when the brokers' processes are not known."""
        if not self.known:
            return {}
        found = {
            "cpu_percent": self.used.cpu_s / self.seconds * 100,
            "rss_mb": self.used.rss_mb,
            "read_mb": self.used.read_bytes / 1e6,
            "written_mb": self.used.written_bytes / 1e6,
        }
        if size_bytes:
            found["cpu_s_per_gb"] = self.used.cpu_s / (size_bytes / 1e9)
            found["written_per_byte"] = self.used.written_bytes / size_bytes
        return found


def drop_page_cache(directory: str) -> None:
    """Ask the kernel to forget the files' pages, so that a reader finds them on the disk. Pages that are not written back yet are written first."""
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
            except OSError:
                continue  # removed meanwhile
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
