"""Where the embedded Redis of a state directory listens.

The one place that knows, so that a command which starts the server and a command which looks
for a running one agree. The kernel limits the path of a unix socket to 104 or 108 bytes; a state
directory too deep for that gets a short directory of its own under /tmp.
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
    home = os.path.realpath(state_dir)  # two spellings of a directory must not mean two servers
    direct = Path(home, "redis.sock")
    if len(os.fsencode(direct)) <= MAX_SOCKET_PATH_BYTES:
        return direct
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    # Not $TMPDIR: it may differ between two terminals, and may itself be long.
    return Path("/tmp", f"darkq-{os.geteuid()}-{digest}", "redis.sock")  # noqa: S108


def url(socket: Path) -> str:
    """Return the `unix://` URL that `redis.asyncio.Redis.from_url` understands."""
    return "unix://" + quote(str(socket))


def is_ours_alone(directory: Path) -> bool:
    """Return whether only this user can create a socket in it: a real directory of ours.

    Call it before connecting: every user can write to /tmp, and names there can be guessed.
    Raises `FileNotFoundError`.
    """
    found = directory.lstat()
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.geteuid()
        and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
