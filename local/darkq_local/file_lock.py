"""A lock on a file, which the kernel releases when its last holder dies.

flock(2) belongs to the *open file description*. So two `FileLock`s of one process exclude each
other as two processes do, no thread owns a lock, and a child that inherits the descriptor holds
the same lock. A child inherits a descriptor of Python only if it is passed on explicitly.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_POLL_INTERVAL_S = 0.005


class FileLock:
    """An open lock file, created if missing. The end of the `with` block unlocks and closes it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._transferred = False

    def share(self, timeout_s: float) -> bool:
        """Take a shared lock. Return False if it was held exclusively until the timeout."""
        return self._take(fcntl.LOCK_SH, timeout_s)

    def exclude(self, timeout_s: float) -> bool:
        """Take an exclusive lock. Return False at the timeout; our shared lock is then lost."""
        return self._take(fcntl.LOCK_EX, timeout_s)

    def _take(self, kind: int, timeout_s: float) -> bool:
        # Poll, because a blocking flock has no timeout, and in a thread ignores Ctrl-C.
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_POLL_INTERVAL_S)
            else:
                return True

    def transfer(self) -> int:
        """Return the descriptor, for a child that inherits the lock and then owns it."""
        self._transferred = True
        return self._fd

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._transferred:
            # Closing is not enough: a child that was forked meanwhile would keep the lock.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)
