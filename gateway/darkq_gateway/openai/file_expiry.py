"""Deletes files that have expired, every `LOOK_S`, as long as the gateway runs.

An expired file is unknown at once. Its bytes go at the next look after that, or when no batch that
began before reads it any more. Several gateways may do this at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from aiohttp import web

from darkq import BatchNotFound, Client, DarkqError, Files, LogLine

logger = logging.getLogger("darkq.gateway.files")

LOOK_S = 3600.0


def file_expiry(client: Client, files: Files) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return a generator for `cleanup_ctx`."""

    async def run(_: web.Application) -> AsyncIterator[None]:
        looking = asyncio.create_task(_look_again_and_again(client, files), name="darkq-files")
        yield
        looking.cancel()
        await asyncio.wait([looking])

    return run


async def delete_expired(client: Client, files: Files) -> int:
    """Delete what has expired and is not the input of an open batch; return how many files.

    Raises `RedisUnavailable` and `FileStoreUnavailable`.
    """
    inputs = set[str]()
    for batch_id in await client.file_batches.open():
        with suppress(BatchNotFound):
            inputs.add((await client.file_batches.get(batch_id)).input_file_id)
    return await files.drop_expired(inputs)


async def _look_again_and_again(client: Client, files: Files) -> None:
    while True:
        await asyncio.sleep(LOOK_S * random.uniform(0.9, 1.1))  # gateways that start together
        try:
            dropped = await delete_expired(client, files)
        except DarkqError as error:
            logger.warning(LogLine("files not looked at", error=type(error).__name__))
        else:
            if dropped:
                logger.info(LogLine("expired files deleted", count=dropped))
