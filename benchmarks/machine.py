"""The machine: pins processes to two cores, and measures what they use."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from darkq_local.server_binary import find_server


def _two_cores() -> tuple[int, int] | None:
    """Return the cores to use; None if there is only one, or no way to choose."""
    if sys.platform != "linux":
        return None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else None


_CORES = _two_cores()
UNDER_TEST, THE_REST = 0, 1


@contextmanager
def on_core(role: int) -> Iterator[None]:
    """Run this process and the children that it starts meanwhile on the core of a role."""
    with _on(set() if _CORES is None else {_CORES[role]}):
        yield


@contextmanager
def on_both_cores() -> Iterator[None]:
    """Do not pin the children that this process starts meanwhile."""
    with _on(set(_CORES or ())):
        yield


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    if not cores or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu_s() -> float:
    """Return the processor time that everything on all cores has used."""
    user, nice, system, _, _, irq, softirq = Path("/proc/stat").read_text().split()[1:8]
    ticks = sum(map(int, (user, nice, system, irq, softirq)))
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class CpuShare:
    """The share of a core that a process uses from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu_s, self._at_s = cpu_s(pid), time.monotonic()

    def used_s(self) -> float:
        return cpu_s(self._pid) - self._cpu_s

    def __call__(self) -> float:
        return self.used_s() / (time.monotonic() - self._at_s)


def describe() -> list[str]:
    """Describe the machine and its load."""
    server = find_server()
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("redis", "hiredis", "arq", "aiohttp", "uvloop")
    )
    pinned = "pinned" if _CORES else "not pinned"
    return [
        f"{_cpu_model()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}, {packages}, {server.path.name} {server.dotted}",
        f"processes {pinned}; load average {load()} at the start, "
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    ]


def load() -> str:
    """Return the load averages of 1, 5 and 15 minutes."""
    return " ".join(f"{average:.2f}" for average in os.getloadavg())


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
