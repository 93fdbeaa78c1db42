"""`--processes N`: this process supervises N child processes that run the same command.

    SIGTERM, SIGINT ──▶ supervisor ── the same signal ──▶ each child ── all ended ──▶ exit
    a child ends ────▶ supervisor ── a pause, which doubles up to MAX_PAUSE_S ──▶ another child

A child reports that it is ready by a byte in a pipe. If one ends before, on the first start, the
command cannot run here: the others are stopped, and the exit code is that of the child. Later
failures are restarted without a limit, since the other children still work.

Each child is in a process group of its own, so Ctrl-C in a terminal does not reach it twice. It
ends with the supervisor, even if that is killed (`darkq_cli.child`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from darkq import ConfigurationError
from darkq.redis.backoff import backoff_s
from darkq.telemetry.logging import LogEvent
from darkq_cli.stack.processes import Lifeline

logger = logging.getLogger("darkq.supervisor")

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
STEADY_S = 60.0
"""A child that ran for so long has not failed at its start: the pauses begin anew."""

_FORWARDED = (signal.SIGTERM, signal.SIGINT)


def supervise(
    arguments: Sequence[str], processes: int, *, environment: Mapping[str, str] | None = None
) -> int:
    """Run `darkq` with these arguments in several processes, and return the exit code.

    The code is 0 if all children ended after a signal as they should. Otherwise it is that of a
    child.
    """
    return asyncio.run(_Supervisor(arguments, environment or {}).run(processes))


class _Supervisor:
    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._environment = {**os.environ, **environment}
        self._running: set[asyncio.subprocess.Process] = set()
        self._stopping = asyncio.Event()
        self._signal = signal.SIGTERM
        self._failed_code = 0

    async def run(self, processes: int) -> int:
        loop, lifeline = asyncio.get_running_loop(), Lifeline(*os.pipe())
        for number in _FORWARDED:
            loop.add_signal_handler(number, self._stop, number)
        try:
            async with asyncio.TaskGroup() as group:
                slots = [group.create_task(self._keep_running(lifeline)) for _ in range(processes)]
        finally:
            lifeline.close()
        return self._failed_code or next((code for slot in slots if (code := slot.result())), 0)

    def _stop(self, number: signal.Signals) -> None:
        """Send a signal to all children, and start no others."""
        self._stopping.set()
        self._signal = number
        for process in self._running:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep_running(self, lifeline: Lifeline) -> int:
        """Run a child, and another one whenever it ends, until a signal. Return the last code."""
        loop = asyncio.get_running_loop()
        code, failures, has_been_ready = 0, 0, False
        while not self._stopping.is_set():
            began_s = loop.time()
            pid, code, was_ready = await self._run_child(lifeline)
            has_been_ready = has_been_ready or was_ready
            if self._stopping.is_set():
                break
            if not has_been_ready:
                self._failed_code = code or 1
                self._stop(signal.SIGTERM)
                break
            failures = 0 if loop.time() - began_s >= STEADY_S else failures + 1
            pause_s = backoff_s(failures, first_s=FIRST_PAUSE_S, most_s=MAX_PAUSE_S)
            line = LogEvent("process ended, another starts", pid=pid, code=code, pause_s=pause_s)
            logger.warning(line)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
                    return 0
        # A signal may reach a child that is starting or already ending: then it has no handler.
        return 0 if code == 128 + self._signal else code

    async def _run_child(self, lifeline: Lifeline) -> tuple[int, int, bool]:
        """Return a child's process id, exit code, and whether it was ready, after its end."""
        ready, ready_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "darkq_cli.child", *self._arguments),
                *("--ready-fd", str(ready_end)),
                stdin=lifeline.read_end,
                env=self._environment,
                pass_fds=[ready_end],
                process_group=0,
            )
            os.close(ready_end)
            ready_end = -1
            self._running.add(process)
            if self._stopping.is_set():  # the signal came during the start
                process.send_signal(self._signal)
            code = await process.wait()
            self._running.discard(process)
            return process.pid, code if code >= 0 else 128 - code, bool(os.read(ready, 1))
        finally:
            os.close(ready)
            if ready_end >= 0:
                os.close(ready_end)


def report_ready(ready_fd: int) -> None:
    """Report to the supervisor, if there is one, that this process is ready."""
    if ready_fd >= 0:
        os.write(ready_fd, b"1")
        os.close(ready_fd)


@contextmanager
def reserve_port(host: str, port: int) -> Iterator[int]:
    """Reserve a port on which several processes may listen (SO_REUSEPORT); yields its number.

    Port 0 is a free one. Raises `ConfigurationError` if the port is in use or cannot be shared.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigurationError("--processes", "this system cannot share a port (SO_REUSEPORT)")
    sockets: list[socket.socket] = []
    try:
        # Without SO_REUSEPORT at first: it fails if any process listens on the port.
        for shares_port in (False, True):
            for each in sockets:
                each.close()
            sockets.clear()
            for family, kind, protocol, _, address in socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                bound = socket.socket(family, kind, protocol)
                sockets.append(bound)
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if shares_port:
                    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                bound.bind((address[0], port, *address[2:]))
                port = port or bound.getsockname()[1]
        yield port
    except OSError as error:
        reason = f"cannot listen on {host}, port {port}: {error.strerror}"
        raise ConfigurationError("DARKQ_GATEWAY_PORT", reason) from None
    finally:
        for each in sockets:
            each.close()
