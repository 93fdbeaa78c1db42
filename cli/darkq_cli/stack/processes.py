"""Starts, reads and stops the child processes of `darkq up` and `darkq demo`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeAlias

from darkq_cli.terminal.problems import Problem

LINES_KEPT = 20
MAX_LINE_BYTES = 64 << 10
END_TIMEOUT_S = 5.0

OnLine: TypeAlias = Callable[[str, str], None]
"""Called with the name of a process and a line of its output. Must not raise."""


class Lifeline(NamedTuple):
    """A pipe that ties children to processes: its read end reports when all writers have died.

    A child inherits neither end unless it is given to it.
    """

    read_end: int
    write_end: int

    def close(self) -> None:
        """Close both ends."""
        os.close(self.read_end)
        os.close(self.write_end)


class Child:
    """A running `darkq` command. Create it with `start`, and end it with `stop`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, on_line: OnLine) -> None:
        self.name = name
        self.last_lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._process = process
        self._on_line = on_line
        self._reader = asyncio.create_task(self._read_output(), name=f"darkq-cli-{name}")

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

        `lifeline` becomes its standard input. It inherits the descriptors in `holds`. Raises
        `OSError`. When cancelled, it leaves no process behind.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # do not import modules from the working directory
            *("-m", "darkq_cli.child", *arguments),
            stdin=lifeline,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",  # contains no .env file
            env=environment,
            pass_fds=holds,
            process_group=0,  # Ctrl-C reaches only this process, which stops the children in order
            limit=MAX_LINE_BYTES,
        )
        return cls(name, process, on_line)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def end(self) -> int:
        """Wait until the process has ended and its output is read. Return the exit code."""
        code = await self._process.wait()
        await asyncio.wait([self._reader], timeout=END_TIMEOUT_S)
        return code

    def send(self, number: signal.Signals) -> None:
        """Send a signal if the process is still running."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, timeout_s: float) -> None:
        """Send SIGTERM and wait; after `timeout_s` send SIGKILL."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await self.end()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.end()

    async def _read_output(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101  stdout is a pipe
        while line := await _read_line(stdout):
            text = line.decode(errors="replace").rstrip()
            self.last_lines.append(text)
            self._on_line(self.name, text)


async def _read_line(stdout: asyncio.StreamReader) -> bytes:
    while True:
        with suppress(ValueError):  # the line was too long; StreamReader has dropped it
            return await stdout.readline()


async def wait_for_death(children: Sequence[Child]) -> Problem:
    """Wait until one of the processes ends, and return that as a problem."""
    ends = {asyncio.create_task(child.end()): child for child in children}
    try:
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ends:
            task.cancel()
        await asyncio.wait(ends)
    task = done.pop()
    child, code = ends[task], task.result()
    how = f"ended unexpectedly, with exit code {code}"
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        how = f"was ended by {names.get(-code, f'signal {-code}')}"
    return Problem(f"the {child.name} {how}", "\n".join(child.last_lines))
