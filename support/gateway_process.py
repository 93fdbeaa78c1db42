"""The command as a process, and where a gateway in it listens."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from support import forked
from support.forked import COMMAND, Call


class DarkqProcess:
    """A command that runs, in the words of `asyncio.subprocess.Process`."""

    def __init__(
        self, process: forked.Process, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader
    ) -> None:
        self.pid = process.pid
        self.stdout = stdout
        self.stderr = stderr
        self.send_signal = process.send_signal
        self.kill = process.kill
        self._process = process

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""
        return await asyncio.to_thread(self._process.wait)

    async def communicate(self) -> tuple[bytes, bytes]:
        """Read all output, to its end."""
        out, err = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return out, err


@asynccontextmanager
async def darkq(redis_url: str, *arguments: str, **settings: str) -> AsyncIterator[DarkqProcess]:
    """Run a command; what still runs at the end is killed."""
    environment = {**os.environ, "DARKQ_REDIS_URL": redis_url, **settings}
    call = Call(COMMAND, arguments, environment, str(Path.cwd()))
    async with AsyncExitStack() as stack:
        stdout, to_stdout = await _open_pipe(stack)
        stderr, to_stderr = await _open_pipe(stack)
        with open(os.devnull) as nothing:
            started = forked.start(call, nothing.fileno(), to_stdout, to_stderr)
        os.close(to_stdout)
        os.close(to_stderr)
        process = DarkqProcess(started, stdout, stderr)
        try:
            yield process
        finally:
            process.kill()
            await process.wait()


async def _open_pipe(stack: AsyncExitStack) -> tuple[asyncio.StreamReader, int]:
    """Open a pipe: its reader, and the descriptor to write to."""
    out_of, into = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(out_of, "rb")
    )
    stack.callback(transport.close)
    return reader, into


async def listening(process: DarkqProcess) -> str:
    while line := (await asyncio.wait_for(process.stderr.readline(), 60)).decode():
        if match := re.search(r"listening on (http://\S+)", line):
            return match[1]
    raise AssertionError("it has ended")


@asynccontextmanager
async def gateway_process(redis_url: str, **settings: str) -> AsyncIterator[str]:
    """Run a gateway, in the event loop that it has in production; yields its URL."""
    async with darkq(redis_url, "gateway", DARKQ_GATEWAY_PORT="0", **settings) as process:
        url = await listening(process)
        draining = asyncio.create_task(_drain(process.stderr))  # a full pipe would hold it up
        try:
            yield url
            assert process.returncode is None, "it has ended"
        finally:
            draining.cancel()
            await asyncio.wait([draining])


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(1 << 16):
        pass
