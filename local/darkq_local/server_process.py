"""One embedded server: its files, its options, its start and its end.

It is private: only the owner can enter its directories, and it has a unix socket but no port. Its
log contains no data. The data is an append-only file that is synced every second. So jobs survive
a restart, and a crash loses about the last second of writes.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from redis import Redis

from darkq.errors import DarkqError
from darkq.settings.private_files import make_ours_alone, socket_path, socket_url

if TYPE_CHECKING:
    from darkq_local.file_lock import FileLock
    from darkq_local.server_binary import ServerBinary

_ANSWER_TIMEOUT_S = 1.0
_EXIT_TIMEOUT_S = 5.0
_LOG_TAIL_LINES = 10
_LOG_TAIL_BYTES = 4096

# The servers that this process has started, by data directory, to collect their exit status.
_children: dict[Path, subprocess.Popen[bytes]] = {}


class ServerFailed(DarkqError):
    """The server does not start, answer or stop. `log_tail` is the end of the file `log`.

    `remedy` says what to do, if that is known.
    """

    def __init__(self, reason: str, log: Path) -> None:
        self.reason = reason
        self.log = log
        self.log_tail = _read_tail(log)
        self.remedy = _find_remedy(self.log_tail, log)
        text = f"the embedded Redis {reason}; {log} ends with:\n{self.log_tail}"
        super().__init__(f"{text}\n{self.remedy}" if self.remedy else text)


def _find_remedy(log_tail: str, log: Path) -> str:
    """Return what to do about the reason in a log; "" if it is not one of these."""
    data = log.parent / "redis"
    if "append only file" in log_tail:
        folder = data / "appendonlydir"
        damaged = folder if folder.exists() else data / "appendonly.aof"  # before Redis 7
        return f"Its data is damaged. To start without it, and keep it: mv {damaged} {damaged}.old"
    if "No space left on device" in log_tail:
        return f"The disk of {data} is full: free space on it, or set DARKQ_STATE_DIR"
    return ""


@dataclass(frozen=True)
class EmbeddedRedis:
    """A running server; `url` is for `redis.asyncio.Redis.from_url`."""

    url: str
    version: str
    binary: Path
    pid: int


class ServerFiles:
    """The files of a server in a state directory. Creates the directories.

    Raises `ConfigurationError` when one cannot be created, or others can open it.
    """

    def __init__(self, state_dir: Path) -> None:
        home = Path(os.path.realpath(state_dir))
        self.socket = socket_path(state_dir)
        self.data = home / "redis"
        self.pid = self.data / "redis.pid"
        self.log = home / "redis.log"
        for directory in (home, self.data, self.socket.parent):
            make_ours_alone(directory)


def start(files: ServerFiles, binary: ServerBinary, lock: FileLock) -> None:
    """Start the server and pass `lock` to it, which the caller holds exclusively.

    Raises `ServerFailed` when the data was written by a newer server.
    """
    if binary.version < (7, 0, 0) and (files.data / "appendonlydir").exists():
        # Before 7.0, Redis ignores this directory and would start without data.
        reason = f"of version {binary.dotted} is older than the one that wrote {files.data}"
        raise ServerFailed(reason, files.log)
    reap(files)
    files.pid.unlink(missing_ok=True)
    # Truncated, so that it does not grow without limit, or show an earlier failure.
    log = os.open(files.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    try:
        _children[files.data] = subprocess.Popen(  # noqa: S603
            [binary.path, *_build_arguments(files)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock.transfer()],
            start_new_session=True,  # no Ctrl-C for Redis: the workers need it while they stop
            umask=0o077,
            # From 7.0 on, Redis exits at once if it does not know the locale.
            env={**os.environ, "LC_ALL": "C"},
        )
    finally:
        os.close(log)


def _build_arguments(files: ServerFiles) -> list[str]:
    options = {
        "daemonize": "no",
        "port": "0",
        "protected-mode": "yes",
        "unixsocket": str(files.socket),
        "unixsocketperm": "700",
        "dir": str(files.data),
        "pidfile": str(files.pid),
        "logfile": "",  # standard output, where Redis also reports invalid options
        "loglevel": "warning",
        "crash-log-enabled": "no",  # it would contain arguments of commands, such as prompts
        "appendonly": "yes",
        "appendfsync": "everysec",
        # Commands as text, because Redis and Valkey cannot read each other's binary preamble.
        "aof-use-rdb-preamble": "no",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def read_info(files: ServerFiles) -> EmbeddedRedis:
    """Read the version and the pid from the server.

    Raises `redis.BusyLoadingError` while it reads its data, `redis.RedisError` when it does not
    answer within a second.
    """
    with Redis(
        unix_socket_path=str(files.socket),
        socket_timeout=_ANSWER_TIMEOUT_S,
        socket_connect_timeout=_ANSWER_TIMEOUT_S,
    ) as client:
        client.ping()
        # Raw text, because redis-py parses a path with a comma or an equals sign as a list.
        client.set_response_callback("INFO", os.fsdecode)
        lines = client.execute_command("INFO", "server").splitlines()
    info = dict(line.split(":", 1) for line in lines if ":" in line)
    return EmbeddedRedis(
        url=socket_url(files.socket),
        version=info.get("valkey_version") or info["redis_version"],
        binary=Path(info["executable"]),
        pid=int(info["process_id"]),
    )


def reap(files: ServerFiles) -> int | None:
    """Collect the exit status of a server that has ended, if this process has started it."""
    child = _children.pop(files.data, None)
    return None if child is None else child.wait(_EXIT_TIMEOUT_S)


def _read_tail(log: Path) -> str:
    try:
        text = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
    except OSError as error:
        return f"({error.strerror})"
    # This warning is at every start, and is never the reason.
    lines = [line for line in text.splitlines() if "overcommit" not in line]
    return "\n".join(lines[-_LOG_TAIL_LINES:]) or "(nothing)"
