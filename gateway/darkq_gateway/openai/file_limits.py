"""How much one tenant may keep: `DARKQ_FILES_MAX_COUNT` files, `DARKQ_FILES_MAX_TOTAL_BYTES`.

Deletes files that have expired, every `LOOK_S`, as long as the gateway runs.

An expired file is unknown at once. Its bytes go at the next look after that, or when no batch that
began before reads it any more. Several gateways may do this at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from darkq import BatchNotFound, Client, DarkqError, Settings
from darkq.serving.files import Files
from darkq.telemetry.logging import LogEvent
from darkq_gateway.http.errors import ApiError


class FileQuota:
    """Knows the uploads that are on their way through this process; asks the store for the rest.

    What other gateways take in at the same moment is not counted.
    """

    def __init__(self, files: Files, settings: Settings) -> None:
        self._files = files
        self._max_count = settings.files_max_count
        self._max_bytes = settings.files_max_total_bytes
        self._arriving: dict[str | None, list[int]] = {}

    @asynccontextmanager
    async def room_for(self, tenant: str | None, size_bytes: int) -> AsyncIterator[None]:
        """Hold room for a file of at most so many bytes while the block stores it.

        Raises `ApiError`, which names the setting, and `FileStoreUnavailable`.
        """
        arriving = self._arriving.setdefault(tenant, [])
        count, total_bytes = len(arriving) + 1, sum(arriving) + size_bytes
        arriving.append(size_bytes)
        try:
            used = await self._files.usage(tenant)
            if used.files + count > self._max_count:
                raise _full(f"{self._max_count:,} files", "DARKQ_FILES_MAX_COUNT")
            if used.bytes + total_bytes > self._max_bytes:
                raise _full(f"{self._max_bytes:,} bytes of files", "DARKQ_FILES_MAX_TOTAL_BYTES")
            yield
        finally:
            arriving.remove(size_bytes)
            if not arriving:
                self._arriving.pop(tenant, None)


QUOTA = web.AppKey("file_quota", FileQuota)


def _full(most: str, setting: str) -> ApiError:
    message = f"one may have {most} ({setting}): delete some, or let them expire"
    return ApiError(403, "file_quota_exceeded", message, "file")


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
            logger.warning(LogEvent("files not looked at", error=type(error).__name__))
        else:
            if dropped:
                logger.info(LogEvent("expired files deleted", count=dropped))
