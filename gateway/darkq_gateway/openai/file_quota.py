"""How much one tenant may keep: `DARKQ_FILES_MAX_COUNT` files, `DARKQ_FILES_MAX_TOTAL_BYTES`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from darkq import Files, Settings
from darkq_gateway.errors import ApiError


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
