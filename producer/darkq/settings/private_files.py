"""Folders and files that only this user can open, with any umask; the embedded Redis's socket.

A folder is created with mode 0700 and a file with 0600. If the mode was changed afterwards, other
users could open the file in between.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from darkq.errors import ConfigurationError

WRITE_BYTES = 1 << 20
MAX_TRIES = 20
MAX_SOCKET_PATH_BYTES = 100

_PLACE = re.compile(r"/file-[0-9a-f]{32}(/parts)?$")
_DRAFT = re.compile(r"#[0-9]+$")
_HAS_MODES = hasattr(os, "geteuid")  # Windows has none


def socket_path(state_dir: Path) -> Path:
    """Return the absolute path of the socket of the embedded Redis of a state directory.

    The kernel limits the path of a unix socket to 104 or 108 bytes. For a longer state directory
    the socket is in a short directory under /tmp. Does not check whether a server listens there.
    """
    home = os.path.realpath(state_dir)  # so that two paths of a directory give one server
    direct = Path(home, "redis.sock")
    if len(os.fsencode(direct)) <= MAX_SOCKET_PATH_BYTES:
        return direct
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    # Not $TMPDIR: it may differ between two terminals, and may be long too.
    return Path("/tmp", f"darkq-{os.geteuid()}-{digest}", "redis.sock")  # noqa: S108


def socket_url(socket: Path) -> str:
    """Return the `unix://` URL that `redis.asyncio.Redis.from_url` understands."""
    return "unix://" + quote(str(socket))


def is_ours_alone(directory: Path) -> bool:
    """Return whether it is a real directory of this user, and no other user can write to it.

    Call it before connecting: all users can write to /tmp, and names there can be guessed.
    Raises `FileNotFoundError`.
    """
    found = directory.lstat()
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.geteuid()
        and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def make_ours_alone(directory: Path, setting: str = "DARKQ_STATE_DIR") -> None:
    """Create a folder of mode 0700; an existing one must be writable to this user only.

    Raises `ConfigurationError`, which names the setting.
    """
    try:
        make_folders(directory)
        ours = not _HAS_MODES or is_ours_alone(directory)
    except OSError as error:
        raise ConfigurationError(setting, f"{directory}: {error.strerror}") from error
    if not ours or not os.access(directory, os.W_OK | os.X_OK):
        reason = f"{directory} must be a directory (not a link) of yours that only you can write to"
        raise ConfigurationError(setting, reason)


def close_to_others(directory: Path) -> bool:
    """Remove the access of other users to a folder; return whether they had any."""
    if not is_open_to_others(directory):
        return False
    directory.chmod(0o700)
    return True


def is_open_to_others(path: Path) -> bool:
    """Return whether the mode gives any user except the owner access to a file or folder."""
    return _HAS_MODES and bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def remove_drafts(root: Path, written_before: float) -> None:
    """Remove the drafts of killed processes that are older than a time, epoch seconds."""
    for folder, _, names in os.walk(root):  # skips folders that are deleted meanwhile
        if _PLACE.search(folder):
            for path in (Path(folder, name) for name in names if _DRAFT.search(name)):
                with suppress(OSError):
                    if path.stat().st_mtime < written_before:
                        _remove(path)


async def write_private(path: Path, pieces: AsyncIterable[bytes]) -> None:
    """Write a file of mode 0600 atomically, and create its folders with mode 0700.

    After an error or a cancellation nothing is left. Raises `OSError`, and the errors of `pieces`.
    """
    # `obstore` does not list names that end in # and digits, which it uses for its own drafts.
    draft = path.with_name(f"{path.name}#{secrets.randbelow(10**15)}")
    # Not in a thread, which would continue after a cancellation and leave the draft.
    file = open_new(draft)
    try:
        with file:  # closing waits for a write that still runs in a thread
            async for some in _join(pieces):
                await asyncio.to_thread(file.write, some)
        draft.replace(path)
    except BaseException:
        _remove(draft)
        raise


async def _join(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Join pieces to ones of at least `WRITE_BYTES`, to save system calls."""
    some = bytearray()
    async for piece in pieces:
        some += piece
        if len(some) >= WRITE_BYTES:
            yield bytes(some)
            some.clear()
    if some:
        yield bytes(some)


def open_new(path: Path) -> BinaryIO:
    """Create a file of mode 0600 and its folders, and open it for writing."""
    for _ in range(MAX_TRIES):
        with suppress(FileNotFoundError):  # a deletion has removed an empty folder meanwhile
            make_folders(path.parent)
            return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _remove(path: Path) -> None:
    """Remove a file, and the two folders above it if they are empty then."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        for folder in path.parents[:2]:
            folder.rmdir()


def make_folders(directory: Path) -> None:
    """Create a folder and its missing parents, each with mode 0700."""
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for each in reversed(missing):
        with suppress(FileExistsError):
            each.mkdir(mode=0o700)
