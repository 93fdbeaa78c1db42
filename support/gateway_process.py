"""The command as a process, and where a gateway in it listens."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def darkq(
    redis_url: str, *arguments: str, **settings: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "darkq_cli", *arguments),
        env={**os.environ, "DARKQ_REDIS_URL": redis_url, **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def listening(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    while line := (await asyncio.wait_for(process.stderr.readline(), 60)).decode():
        if match := re.search(r"listening on (http://\S+)", line):
            return match[1]
    raise AssertionError("it has ended")


@asynccontextmanager
async def gateway_process(redis_url: str, **settings: str) -> AsyncIterator[str]:
    """Run a gateway, in the event loop that it has in production; yields its URL."""
    async with darkq(redis_url, "gateway", DARKQ_GATEWAY_PORT="0", **settings) as process:
        url = await listening(process)
        assert process.stderr is not None
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
