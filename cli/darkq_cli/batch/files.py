"""Output files that only grow, and can be truncated to a committed length."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from darkq_cli.terminal.problems import Problem, wrong_usage


class OutputFile:
    """One output file. It is created with its first line."""

    def __init__(self, path: Path, committed: int) -> None:
        """Open a file at its committed length. Raises `Problem` when it is shorter."""
        self.path = path
        self._fd: int | None = None
        self._length = committed
        if committed or path.exists():
            self._truncate()

    def append(self, data: bytes) -> int:
        """Append, and return the new length when the data is on disk.

        Raises `Problem` when the disk is full or fails; the file is then unchanged.
        """
        if data:
            try:
                fd = self._open()
                _write(fd, data)
                os.fsync(fd)
            except OSError as error:
                with suppress(OSError, Problem):
                    self._truncate()
                raise Problem(f"cannot write {self.path}: {error.strerror}") from None
            self._length += len(data)
        return self._length

    def close(self) -> None:
        """Close it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _truncate(self) -> None:
        """Cut off what was written and not committed: Redis delivers it again."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self._length:
            raise Problem(
                f"{self.path} has {size:,} bytes, but {self._length:,} were written: another "
                "program has changed it",
                "Restore it, or delete it and its .darkq file and start again.",
            )
        if size > self._length:
            fd = self._open()
            os.ftruncate(fd, self._length)
            os.fsync(fd)

    def _open(self) -> int:
        if self._fd is None:
            # O_APPEND, so that a second writer cannot make us overwrite its data.
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                self.close()
                raise wrong_usage(f"{self.path} is not a regular file")
            sync_directory(self.path)
        return self._fd


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


_SYNC_UNSUPPORTED = frozenset(
    (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EIO)
)
"""The errors of fsync on a directory where SMB, FUSE or a shared folder does not support it."""


def sync_directory(path: Path) -> None:
    """Write the directory entry of a file to disk, if the file system supports that."""
    with suppress(PermissionError):  # a directory can be writable but not readable
        fd = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in _SYNC_UNSUPPORTED:
                raise
        finally:
            os.close(fd)
