"""One Redis server for all darkq commands that share a state directory.

Whoever comes first starts it, the last one out stops it. Three locks carry all of that. The
kernel drops the locks of a process that dies, so a crash leaves nothing to repair:

    start.lock    exclusive, while somebody looks for the server, starts it or stops it
    users.lock    shared, by everyone while using it: who gets it exclusively was the last one
    server.lock   exclusive, by the server itself, which inherits it when it is started

server.lock is held exactly as long as the server lives. So there are never two servers on one
data directory, a stale socket or pid file is never mistaken for a server, and the pid in the pid
file is the server's whenever it is read. A server whose users were all killed goes on, and the
next user finds it.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from redis import BusyLoadingError, RedisError

from darkq_local.file_lock import FileLock
from darkq_local.server_binary import NoServer, find_server
from darkq_local.server_process import (
    EmbeddedRedis,
    ServerFailed,
    ServerFiles,
    ask,
    reap,
    start,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["EmbeddedRedis", "NoServer", "ServerFailed", "embedded_redis"]

START_TIMEOUT_S = 10.0
LOAD_TIMEOUT_S = 300.0  # from the first "-LOADING": a large file is being read
STOP_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 5.0

_POLL_S = 0.005


@contextmanager
def embedded_redis(state_dir: Path) -> Iterator[EmbeddedRedis]:
    """Use the server of `state_dir`: start it if nobody has, stop it if nobody else uses it.

    It encloses the event loop (`with embedded_redis(…): asyncio.run(…)`), because workers still
    hand their jobs back while the loop ends; hence it is synchronous. No thread owns it: within a
    loop, enter and leave it through `asyncio.to_thread`. Any number of threads and processes may
    be inside, one of them more than once.

    Raises `NoServer`, `ServerFailed`, and `ConfigurationError` for an unusable directory.
    """
    files = ServerFiles(state_dir)
    with FileLock(files.data / "users.lock") as users:
        if not users.share(STOP_TIMEOUT_S + KILL_TIMEOUT_S):
            raise ServerFailed("is being stopped by another command, which hangs", files.log)
        try:
            yield _enter(files)
        finally:
            _leave(files, users)


def _enter(files: ServerFiles) -> EmbeddedRedis:
    with _start_lock(files) as alone:
        if not alone.exclude(LOAD_TIMEOUT_S + STOP_TIMEOUT_S):
            raise ServerFailed("is being started by another command, which hangs", files.log)
        return _find_or_start(files)


def _leave(files: ServerFiles, users: FileLock) -> None:
    with _start_lock(files) as alone:
        # Whoever holds the start lock for so long is about to use the server: it is theirs now.
        if alone.exclude(STOP_TIMEOUT_S) and users.exclude(0):
            _stop(files)


def _start_lock(files: ServerFiles) -> FileLock:
    return FileLock(files.data / "start.lock")


def _server_lock(files: ServerFiles) -> FileLock:
    return FileLock(files.data / "server.lock")


def _find_or_start(files: ServerFiles) -> EmbeddedRedis:
    """Return the server as soon as it answers, started here unless one is alive."""
    deadline = time.monotonic() + START_TIMEOUT_S
    started = loading = False
    while True:
        with _server_lock(files) as lock:
            if lock.exclude(0):
                if started:
                    raise ServerFailed(f"ended at its start with {reap(files)}", files.log)
                start(files, find_server(), lock)
                started = True
        try:
            return ask(files)
        except BusyLoadingError:
            if not loading:
                loading, deadline = True, time.monotonic() + LOAD_TIMEOUT_S
        except RedisError:
            pass  # not listening yet, or too busy to answer
        if time.monotonic() > deadline:
            raise ServerFailed("is alive, but does not answer", files.log)
        time.sleep(_POLL_S)


def _stop(files: ServerFiles) -> None:
    """Stop the server if it lives; the caller holds both other locks alone."""
    with _server_lock(files) as lock:
        for kind, timeout_s in (
            (signal.SIGTERM, STOP_TIMEOUT_S),
            (signal.SIGKILL, KILL_TIMEOUT_S),
        ):
            if lock.exclude(0):
                break
            with suppress(ProcessLookupError):
                os.kill(_pid(files), kind)
            if lock.exclude(timeout_s):
                break
        else:
            raise ServerFailed("does not stop", files.log)
        reap(files)


def _pid(files: ServerFiles) -> int:
    """Return the server's pid, true while server.lock is held; a new one writes it in a moment."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while True:
        with suppress(FileNotFoundError, ValueError):
            return int(files.pid.read_text())
        if time.monotonic() > deadline:
            raise ServerFailed("has written no pid file", files.log)
        time.sleep(_POLL_S)
