"""A lock on a file that the kernel drops when its last holder dies.

flock(2) belongs to the *open file description*: two `FileLock`s of one process exclude each
other like two processes, no thread owns one, and a child that inherits the descriptor holds the
same lock. Python's descriptors are not inherited across exec unless asked for.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_POLL_S = 0.005


class FileLock:
    """One open lock file, created if missing; leaving the `with` block unlocks and closes it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._given_away = False

    def share(self, timeout_s: float) -> bool:
        """Hold it together with other sharers; False when somebody excludes us all the while."""
        return self._take(fcntl.LOCK_SH, timeout_s)

    def exclude(self, timeout_s: float) -> bool:
        """Hold it alone. False when others held it all the while: a share of ours is then lost."""
        return self._take(fcntl.LOCK_EX, timeout_s)

    def _take(self, kind: int, timeout_s: float) -> bool:
        # Polled: a blocking flock has no timeout, and Ctrl-C does not reach it in a thread.
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_POLL_S)
            else:
                return True

    def give_away(self) -> int:
        """Return the descriptor for a child to inherit: the lock is the child's from then on."""
        self._given_away = True
        return self._fd

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._given_away:
            # Closing alone would leave the lock with a child forked in the meantime.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)
