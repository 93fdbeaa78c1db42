"""A Redis process on a port of loopback, which a test may kill, stop and start again."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from support.waiting import wait_until

START_TIMEOUT_S = 60.0


# Each port is given once: its daemon may not listen there yet. The processes of pytest-xdist begin
# far from each other, for the same reason.
_first = os.getpid() * 101 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) * 3_500
_candidates = (20_000 + (_first + n) % 35_000 for n in itertools.count())


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

    async def is_in_step(self, master: Daemon) -> bool:
        """Tell whether it follows a master, and has all that the master has written until now.

        The replica is asked. A master lists one as soon as the snapshot is sent; the replica loads
        that up to a second later, and has nothing of it if it is promoted before.
        """
        with suppress(RedisError, OSError):
            written = (await master.ask("INFO", "replication"))["master_repl_offset"]
            facts = await self.ask("INFO", "replication")
            return bool(
                facts["role"] == "slave"
                and facts["master_port"] == master.port
                and facts["master_link_status"] == "up"
                and facts["slave_repl_offset"] >= written
            )
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


async def mend(daemons: Iterable[Daemon]) -> None:
    """Let each of them run, be it dead or stopped by a signal."""
    async with asyncio.TaskGroup() as tasks:
        for daemon in daemons:
            if daemon.process is None:
                tasks.create_task(daemon.start())
            else:
                daemon.signal(signal.SIGCONT)


def free_ports(count: int) -> list[int]:
    """Find ports that are free, and whose cluster bus's, 10,000 above, are too."""
    found = (port for port in _candidates if _is_free(port) and _is_free(port + 10_000))
    return list(itertools.islice(found, count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
