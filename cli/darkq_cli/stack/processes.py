"""The processes that `up` and `demo` consist of: started, listened to, stopped."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

from darkq_cli.terminal.problems import Problem

LINES_KEPT = 20
MAX_LINE_BYTES = 64 << 10
END_TIMEOUT_S = 5.0

OnLine: TypeAlias = Callable[[str, str], None]
"""Takes a process's name and a line of its output. Must not raise."""


class Child:
    """A running `darkq` command. Make it with `start`, and `stop` it in the end."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, on_line: OnLine) -> None:
        self.name = name
        self.last_lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._process = process
        self._on_line = on_line
        self._listener = asyncio.create_task(self._listen(), name=f"darkq-cli-{name}")

    @classmethod
    async def start(
        cls,
        name: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        lifeline: int,
        holds: Sequence[int] = (),
        on_line: OnLine,
    ) -> Child:
        """Start `darkq` with these arguments.

        `lifeline` becomes its standard input; the descriptors `holds` it keeps open. Raises
        `OSError`. Cancelled, no process is left.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a file in this directory must not pass for one of our modules
            *("-m", "darkq_cli.stack.child", *arguments),
            stdin=lifeline,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",  # no .env here
            env=environment,
            pass_fds=holds,
            process_group=0,  # Ctrl-C is for us; we stop them in the right order
            limit=MAX_LINE_BYTES,
        )
        return cls(name, process, on_line)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def end(self) -> int:
        """Wait until the process has ended and its output is read; return the exit code."""
        code = await self._process.wait()
        await asyncio.wait([self._listener], timeout=END_TIMEOUT_S)
        return code

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, patience_s: float) -> None:
        """Ask it to stop, wait, and kill it when that takes too long."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience_s):
                await self.end()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.end()

    async def _listen(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101  it was asked for
        while line := await _read_line(stdout):
            text = line.decode(errors="replace").rstrip()
            self.last_lines.append(text)
            self._on_line(self.name, text)


async def _read_line(stdout: asyncio.StreamReader) -> bytes:
    while True:
        with suppress(ValueError):  # past the bound; that much was thrown away
            return await stdout.readline()


async def first_death(children: Sequence[Child]) -> Problem:
    """Wait until one of the processes ends by itself, and return what to say of that."""
    ends = {asyncio.create_task(child.end()): child for child in children}
    try:
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ends:
            task.cancel()
        await asyncio.wait(ends)
    task = done.pop()
    child = ends[task]
    return Problem(f"the {child.name} {_how(task.result())}", "\n".join(child.last_lines))


def _how(code: int) -> str:
    if code >= 0:
        return f"ended unexpectedly, with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
