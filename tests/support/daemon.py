"""A Redis process on a port of loopback, which a test may kill, stop and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from support.waiting import wait_until

START_TIMEOUT_S = 20.0


class Daemon:
    """A server or a Sentinel. Asked over a connection of its own each time, from any event loop."""

    def __init__(self, directory: Path, port: int, command: list[str]) -> None:
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self._log = directory / f"{port}.log"
        self._command = command

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                self._command, stdout=log, stderr=log
            )
        await wait_until("a daemon to answer", self.answers, timeout_s=START_TIMEOUT_S)

    async def ask(self, *command: Any) -> Any:
        """Send a command. Raises what redis-py raises."""
        async with Redis(host="127.0.0.1", port=self.port, socket_timeout=5) as redis:
            return await redis.execute_command(*command)

    async def answers(self) -> bool:
        with suppress(RedisError, OSError):
            return bool(await self.ask("PING"))
        return False

    async def role(self) -> bytes:
        """Return `master` or `slave`; nothing when it does not answer."""
        if self.process is not None:
            with suppress(RedisError, OSError):
                return bytes((await self.ask("ROLE"))[0])
        return b""

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process = None

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> None:
        """End it, if it runs, be it stopped by a signal."""
        if self.process is not None:
            self.kill()


def free_ports(count: int) -> list[int]:
    """Find ports that are free, and whose cluster bus's, 10,000 above, are too."""
    ports: list[int] = []
    candidate = 20_000 + os.getpid() % 20_000
    while len(ports) < count:
        candidate = candidate + 1 if candidate < 55_000 else 20_000
        if _is_free(candidate) and _is_free(candidate + 10_000):
            ports.append(candidate)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
