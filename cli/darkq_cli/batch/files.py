"""Output files that only grow, and can be cut back to a length that was committed."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from darkq_cli.terminal.problems import USAGE_EXIT_CODE, Problem


class Growing:
    """One output file; it appears with its first line."""

    def __init__(self, path: Path, committed: int) -> None:
        """Take up a file at its committed length. Raises `Problem` when it is shorter."""
        self.path = path
        self._fd: int | None = None
        self._length = committed
        if committed or path.exists():
            self._cut()

    def append(self, data: bytes) -> int:
        """Write at the end; return the new length once the disk has it.

        Raises `Problem` when the disk is full or fails: nothing has changed then.
        """
        if data:
            try:
                fd = self._open()
                _write(fd, data)
                os.fsync(fd)
            except OSError as error:
                with suppress(OSError, Problem):
                    self._cut()
                raise Problem(f"cannot write {self.path}: {error.strerror}") from None
            self._length += len(data)
        return self._length

    def close(self) -> None:
        """Close it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _cut(self) -> None:
        """Cut off what was written and not committed: it comes again."""
        size = self._size()
        if size < self._length:
            raise Problem(
                f"{self.path} has {size:,} bytes, and {self._length:,} were written: somebody else "
                "has changed it",
                "Put it back, or delete it with its .darkq file and begin anew.",
            )
        if size > self._length:
            fd = self._open()
            os.ftruncate(fd, self._length)
            os.fsync(fd)

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def _open(self) -> int:
        if self._fd is None:
            # Appending, so that nothing is overwritten whoever else writes.
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                self.close()
                raise Problem(f"{self.path} is no ordinary file", exit_code=USAGE_EXIT_CODE)
            sync_directory(self.path)
        return self._fd


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


_NO_SUCH_SYNC = frozenset(
    (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EIO)
)
"""What SMB, FUSE and shared folders say to an fsync of a directory: there is no such thing."""


def sync_directory(path: Path) -> None:
    """Have a file's name on the disk, too, where the file system can do that."""
    with suppress(PermissionError):  # one may write into a directory that one may not read
        fd = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in _NO_SUCH_SYNC:
                raise
        finally:
            os.close(fd)
