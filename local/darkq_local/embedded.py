"""One Redis server for all darkq commands that share a state directory.

The first user starts it, and the last one stops it. Three file locks coordinate that. The kernel
releases the locks of a process that dies, so there is nothing to repair after a crash:

    start.lock    exclusive, while a process finds, starts or stops the server
    users.lock    shared by all users; the one that gets it exclusively was the last
    server.lock   exclusive, held by the server itself, which inherits it at its start

server.lock is held exactly as long as the server lives. So a data directory never has two servers,
and a stale socket or pid file is never taken for a server. While the lock is held, the pid in the
pid file is the server's. If all users are killed, the server stays, and the next user finds it.
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
    read_info,
    reap,
    start,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["EmbeddedRedis", "NoServer", "ServerFailed", "embedded_redis"]

START_TIMEOUT_S = 10.0
LOAD_TIMEOUT_S = 300.0  # from the first "-LOADING": Redis is reading a large file
STOP_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 5.0

_POLL_INTERVAL_S = 0.005
_START_LOCK, _SERVER_LOCK = "start.lock", "server.lock"


@contextmanager
def embedded_redis(state_dir: Path) -> Iterator[EmbeddedRedis]:
    """Use the server of `state_dir`: start it if none runs, stop it after its last user.

    It is synchronous, because it encloses the event loop: `with embedded_redis(…): asyncio.run(…)`.
    Workers return their jobs while the loop ends, and need Redis until then. Inside a loop, enter
    and exit it through `asyncio.to_thread`; no thread owns it. Any number of threads and processes
    can use it, and a process can enter it more than once.

    Raises `NoServer`, `ServerFailed`, and `ConfigurationError` for an unusable directory.
    """
    files = ServerFiles(state_dir)
    with FileLock(files.data / "users.lock") as users:
        if not users.share(STOP_TIMEOUT_S + KILL_TIMEOUT_S):
            raise ServerFailed(
                "is being stopped by another command, which does not finish", files.log
            )
        try:
            with FileLock(files.data / _START_LOCK) as start_lock:
                if not start_lock.exclude(LOAD_TIMEOUT_S + STOP_TIMEOUT_S):
                    raise ServerFailed(
                        "is being started by another command, which does not finish", files.log
                    )
                server = _find_or_start(files)
            yield server
        finally:
            with FileLock(files.data / _START_LOCK) as start_lock:
                # A process that holds it for so long is about to use the server, and stops it.
                if start_lock.exclude(STOP_TIMEOUT_S) and users.exclude(0):
                    _stop(files)


def _find_or_start(files: ServerFiles) -> EmbeddedRedis:
    """Start the server unless one is alive, and return it when it answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    started = loading = False
    while True:
        with FileLock(files.data / _SERVER_LOCK) as lock:
            if lock.exclude(0):
                if started:
                    raise ServerFailed(f"exited at its start with code {reap(files)}", files.log)
                start(files, find_server(), lock)
                started = True
        try:
            return read_info(files)
        except BusyLoadingError:
            if not loading:
                loading, deadline = True, time.monotonic() + LOAD_TIMEOUT_S
        except RedisError:
            pass  # not listening yet, or too busy to answer
        if time.monotonic() > deadline:
            raise ServerFailed("is alive, but does not answer", files.log)
        time.sleep(_POLL_INTERVAL_S)


def _stop(files: ServerFiles) -> None:
    """Stop the server if it is alive. The caller holds both other locks exclusively."""
    with FileLock(files.data / _SERVER_LOCK) as lock:
        timeouts_s = {signal.SIGTERM: STOP_TIMEOUT_S, signal.SIGKILL: KILL_TIMEOUT_S}
        for kind, timeout_s in timeouts_s.items():
            if lock.exclude(0):
                break
            with suppress(ProcessLookupError):
                os.kill(_read_pid(files), kind)
            if lock.exclude(timeout_s):
                break
        else:
            raise ServerFailed("does not stop", files.log)
        reap(files)


def _read_pid(files: ServerFiles) -> int:
    """Return the pid of the server while server.lock is held. A new server writes it soon."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while True:
        with suppress(FileNotFoundError, ValueError):
            return int(files.pid.read_text())
        if time.monotonic() > deadline:
            raise ServerFailed("has written no pid file", files.log)
        time.sleep(_POLL_INTERVAL_S)
