"""The local DarkAI of a running `darkq up`, which other commands on this machine find.

`darkq up` writes its URL into a file of the state directory, as it does with the socket of the
embedded Redis. A file counts while the process that has written it holds a lock on it, which the
kernel releases when the process dies, and only for the same Redis.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from darkq import Settings

_PATTERN = "darkai-*.json"


class RunningDarkAI(msgspec.Struct, frozen=True, kw_only=True):
    """Where a local DarkAI listens, its model, and when it has started, epoch seconds."""

    since_s: float
    url: str
    model: str
    redis: str
    """A digest of the URL of its Redis: a URL may have a password."""


@contextmanager
def announce_darkai(settings: Settings, url: str, model: str) -> Iterator[None]:
    """Let other commands find a local DarkAI during the block."""
    folder = settings.state_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / f"darkai-{os.getpid()}.json"
    note = RunningDarkAI(since_s=time.time(), url=url, model=model, redis=_name_redis(settings))
    with file.open("wb") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        opened.write(msgspec.json.encode(note))
        opened.flush()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def find_darkai(settings: Settings) -> RunningDarkAI | None:
    """Return the local DarkAI that runs for the Redis of the settings; None if there is none.

    Also None if DARKQ_DARKAI_URL names another one.
    """
    if "darkai_url" in settings.model_fields_set:
        return None
    found = [note for file in settings.state_dir.glob(_PATTERN) if (note := _read(file))]
    ours = [note for note in found if note.redis == _name_redis(settings)]
    return max(ours, key=lambda note: note.since_s, default=None)


def use_running_darkai(settings: Settings) -> Settings:
    """Return the settings with the URL of the local DarkAI that runs here, if there is one."""
    if (darkai := find_darkai(settings)) is None:
        return settings
    return settings.model_copy(update={"darkai_url": darkai.url, "darkai_proxy": None})


def _read(file: Path) -> RunningDarkAI | None:
    """Read a file; None if its process has ended, so that a killed one has left it."""
    with suppress(OSError, msgspec.MsgspecError), file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return msgspec.json.decode(opened.read(), type=RunningDarkAI)
    return None


def _name_redis(settings: Settings) -> str:
    url = settings.redis_url.get_secret_value() if settings.redis_url is not None else ""
    return hashlib.sha256(url.encode()).hexdigest()[:16]
