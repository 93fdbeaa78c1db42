"""Limits of stored files: the quota of a tenant, and the deletion of expired files.

A tenant may store `DARKQ_FILES_MAX_COUNT` files and `DARKQ_FILES_MAX_TOTAL_BYTES`.

An expired file is not found any more. Its bytes are deleted by the next check, which runs every
`CHECK_INTERVAL_S`, unless an open batch still reads it. Several gateways may check at the same
time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from darkq import BatchNotFound, Client, DarkqError, Settings
from darkq.serving.files import Files
from darkq.telemetry.logging import LogEvent
from darkq_gateway.http.background import run_beside
from darkq_gateway.http.errors import ApiError

logger = logging.getLogger("darkq.gateway.files")

CHECK_INTERVAL_S = 3600.0


class FileQuota:
    """Counts the stored files of a tenant and its uploads in progress in this process.

    Uploads in progress at other gateways are not counted.
    """

    def __init__(self, files: Files, settings: Settings) -> None:
        self._files = files
        self._max_count = settings.files_max_count
        self._max_bytes = settings.files_max_total_bytes
        self._uploads: dict[str | None, list[int]] = {}

    @asynccontextmanager
    async def reserve(self, tenant: str | None, size_bytes: int) -> AsyncIterator[None]:
        """Reserve space for a file of at most `size_bytes` while the block stores it.

        Raises `ApiError`, which names the setting, and `FileStoreUnavailable`.
        """
        uploads = self._uploads.setdefault(tenant, [])
        count, total_bytes = len(uploads) + 1, sum(uploads) + size_bytes
        uploads.append(size_bytes)
        try:
            used = await self._files.usage(tenant)
            if used.files + count > self._max_count:
                raise _quota_exceeded(f"{self._max_count:,} files", "DARKQ_FILES_MAX_COUNT")
            if used.bytes + total_bytes > self._max_bytes:
                raise _quota_exceeded(
                    f"{self._max_bytes:,} bytes of files", "DARKQ_FILES_MAX_TOTAL_BYTES"
                )
            yield
        finally:
            uploads.remove(size_bytes)
            if not uploads:
                self._uploads.pop(tenant, None)


QUOTA = web.AppKey("file_quota", FileQuota)


def _quota_exceeded(limit: str, setting: str) -> ApiError:
    message = f"the limit is {limit} ({setting}): delete files, or wait until some expire"
    return ApiError(403, "file_quota_exceeded", message, "file")


class FileExpiry:
    """Deletes expired files while the gateway runs."""

    def __init__(self, client: Client, files: Files) -> None:
        self._client = client
        self._files = files

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Check while the application runs. For `cleanup_ctx`."""
        async with run_beside(self._check_repeatedly(), name="darkq-gateway-files"):
            yield

    async def _check_repeatedly(self) -> None:
        while True:
            # Random, so that gateways that started together do not check together.
            await asyncio.sleep(CHECK_INTERVAL_S * random.uniform(0.9, 1.1))
            try:
                deleted = await self.delete_expired()
            except DarkqError as error:
                logger.warning(LogEvent("expired file check failed", error=type(error).__name__))
            else:
                if deleted:
                    logger.info(LogEvent("expired files deleted", count=deleted))

    async def delete_expired(self) -> int:
        """Delete expired files that are not the input of an open batch; return their number.

        Raises `RedisUnavailable` and `FileStoreUnavailable`.
        """
        inputs = set[str]()
        for batch_id in await self._client.file_batches.open():
            with suppress(BatchNotFound):
                inputs.add((await self._client.file_batches.get(batch_id)).input_file_id)
        return await self._files.drop_expired(inputs)
