"""How one embedded server runs: its files, its options, its start, its first words, its end.

Private throughout: directories that only their owner may enter, a unix socket and no port. Its
log holds no data. The data are an append-only file synced every second: jobs survive a restart,
and a crash but for what was written in the last second or so.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from redis import Redis

from darkq.errors import DarkqError
from darkq.settings import embedded_socket as local_socket
from darkq.settings.private_files import make_ours_alone

if TYPE_CHECKING:
    from darkq_local.file_lock import FileLock
    from darkq_local.server_binary import ServerBinary

_ANSWER_TIMEOUT_S = 1.0
_EXIT_TIMEOUT_S = 5.0
_LOG_TAIL_LINES = 10
_LOG_TAIL_BYTES = 4096

# Servers started by this process, by data directory: kept to be reaped, whoever stops them.
_children: dict[Path, subprocess.Popen[bytes]] = {}


class ServerFailed(DarkqError):
    """The server does not start, answer or stop. `log_tail` is the end of the file `log`."""

    def __init__(self, reason: str, log: Path) -> None:
        self.reason = reason
        self.log = log
        self.log_tail = _tail(log)
        super().__init__(f"the embedded Redis {reason}; {log} ends with:\n{self.log_tail}")


@dataclass(frozen=True)
class EmbeddedRedis:
    """A running server; `url` is for `redis.asyncio.Redis.from_url`."""

    url: str
    version: str
    binary: Path
    pid: int


class ServerFiles:
    """Where a state directory's server keeps its things; makes the directories.

    Raises `ConfigurationError` when one cannot be made or is not ours alone.
    """

    def __init__(self, state_dir: Path) -> None:
        home = Path(os.path.realpath(state_dir))
        self.socket = local_socket.socket_path(state_dir)
        self.data = home / "redis"
        self.pid = self.data / "redis.pid"
        self.log = home / "redis.log"
        for directory in (home, self.data, self.socket.parent):
            make_ours_alone(directory)


def start(files: ServerFiles, binary: ServerBinary, lock: FileLock) -> None:
    """Start the server and give it `lock`, which the caller holds alone.

    Raises `ServerFailed` when the data are of a newer server.
    """
    if binary.version < (7, 0, 0) and (files.data / "appendonlydir").exists():
        # It would not look there, and begin with nothing.
        reason = f"of version {binary.dotted} is older than the one that wrote {files.data}"
        raise ServerFailed(reason, files.log)
    reap(files)
    files.pid.unlink(missing_ok=True)
    # Truncated, so that it neither grows for ever nor tells of an earlier failure.
    log = os.open(files.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    try:
        _children[files.data] = subprocess.Popen(  # noqa: S603
            [binary.path, *_arguments(files)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock.give_away()],
            start_new_session=True,  # Ctrl-C is for the workers; they need Redis to the end
            umask=0o077,
            # A Redis from 7.0 on ends at once when it does not know the locale's name.
            env={**os.environ, "LC_ALL": "C"},
        )
    finally:
        os.close(log)


def _arguments(files: ServerFiles) -> list[str]:
    options = {
        "daemonize": "no",
        "port": "0",
        "protected-mode": "yes",
        "unixsocket": str(files.socket),
        "unixsocketperm": "700",
        "dir": str(files.data),
        "pidfile": str(files.pid),
        "logfile": "",  # standard output, where errors in the options go too
        "loglevel": "warning",
        "crash-log-enabled": "no",  # it would hold the arguments of commands: prompts
        "appendonly": "yes",
        "appendfsync": "everysec",
        # Plain commands: Redis and Valkey do not read each other's binary preamble.
        "aof-use-rdb-preamble": "no",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def ask(files: ServerFiles) -> EmbeddedRedis:
    """Return what the server says of itself.

    Raises `redis.BusyLoadingError` while it reads its data, `redis.RedisError` when it does not
    answer within a second.
    """
    with Redis(
        unix_socket_path=str(files.socket),
        socket_timeout=_ANSWER_TIMEOUT_S,
        socket_connect_timeout=_ANSWER_TIMEOUT_S,
    ) as client:
        client.ping()
        # Unparsed: redis-py takes a path with a comma or an equals sign to be a list.
        client.set_response_callback("INFO", os.fsdecode)
        lines = client.execute_command("INFO", "server").splitlines()
    info = dict(line.split(":", 1) for line in lines if ":" in line)
    return EmbeddedRedis(
        url=local_socket.url(files.socket),
        version=info.get("valkey_version") or info["redis_version"],
        binary=Path(info["executable"]),
        pid=int(info["process_id"]),
    )


def reap(files: ServerFiles) -> int | None:
    """Collect the exit status of a server that has ended, if it was a child of this process."""
    child = _children.pop(files.data, None)
    return None if child is None else child.wait(_EXIT_TIMEOUT_S)


def _tail(log: Path) -> str:
    try:
        text = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
    except OSError as error:
        return f"({error.strerror})"
    return "\n".join(text.splitlines()[-_LOG_TAIL_LINES:]) or "(nothing)"
