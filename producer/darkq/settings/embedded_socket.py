"""The socket of the embedded Redis of a state directory.

The command that starts the server and the commands that look for it both use this module. The
kernel limits the path of a unix socket to 104 or 108 bytes; for a longer state directory the socket
is in a short directory under /tmp.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from urllib.parse import quote

MAX_SOCKET_PATH_BYTES = 100


def socket_path(state_dir: Path) -> Path:
    """Return the absolute path of the socket. Does not check whether a server listens there."""
    home = os.path.realpath(state_dir)  # so that two paths of a directory give one server
    direct = Path(home, "redis.sock")
    if len(os.fsencode(direct)) <= MAX_SOCKET_PATH_BYTES:
        return direct
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    # Not $TMPDIR: it may differ between two terminals, and may be long too.
    return Path("/tmp", f"darkq-{os.geteuid()}-{digest}", "redis.sock")  # noqa: S108


def url(socket: Path) -> str:
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
