"""`/v1/files`: the input and output files of batches, the quota of a tenant, and expired files.

A tenant may store `DARKQ_FILES_MAX_COUNT` files and `DARKQ_FILES_MAX_TOTAL_BYTES`.

An expired file is not found any more. Its bytes are deleted by the next check, which runs every
`CHECK_INTERVAL_S`, unless an open batch still reads it. Several gateways may check at the same
time.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from aiohttp import hdrs, web

from darkq import BatchNotFound, Client, DarkqError, Settings
from darkq.errors import FileNotFound, FileTooLarge
from darkq.protocol.validation import UNKNOWN
from darkq.serving.files import Content as FileContent
from darkq.serving.files import FileInfo, Files
from darkq.telemetry.logging import LogEvent
from darkq_gateway.http.background import run_beside
from darkq_gateway.http.bodies import get_media_type, respond_json
from darkq_gateway.http.context import CLIENT, SETTINGS, get_caller
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.multipart import MAX_OVERHEAD_BYTES, Field, Form, Upload, is_plain
from darkq_gateway.http.queries import parse_integer
from darkq_gateway.openai.lists import make_page, read_page_query, unknown_cursor

logger = logging.getLogger("darkq.gateway.files")

CHECK_INTERVAL_S = 3600.0

MAX_LISTED = 10_000
MIN_TTL_S = 3600
MAX_TTL_S = 30 * 86400
"""OpenAI's bounds of `expires_after.seconds`: one hour and thirty days."""

_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FIELDS = ("purpose", _ANCHOR, _SECONDS)
_UNSAFE = re.compile(r"[^\w.\- ]")
routes = web.RouteTableDef()


@routes.post("/v1/files")
async def create(request: web.Request) -> web.Response:
    """Upload the input file of a batch."""
    if get_media_type(request) != "multipart/form-data":
        raise ApiError(415, "not_multipart", "the body must be multipart/form-data", "Content-Type")
    caller = get_caller(request)
    max_bytes = caller.body_limit(request.app[SETTINGS].files_max_bytes)
    sent_bytes = request.content_length
    if sent_bytes is not None and sent_bytes > max_bytes + MAX_OVERHEAD_BYTES:
        raise FileTooLarge(max_bytes)
    size_bytes = max_bytes if sent_bytes is None else min(max_bytes, sent_bytes)
    async with request.app[QUOTA].reserve(caller.tenant, size_bytes):
        return respond_json(make_file_object(await _store(request, max_bytes)))


async def _store(request: web.Request, max_bytes: int) -> FileInfo:
    """Store the file of a form. It is published only if the whole form is complete and valid."""
    files, tenant = request.app[FILES], get_caller(request).tenant
    form = Form(request, file_field="file")
    content: FileContent | None = None
    filename, fields = "", dict[str, str]()
    try:
        async with aclosing(form.parts()) as parts:
            async for part in parts:
                if isinstance(part, Field):
                    _add_field(fields, part)
                elif content is not None:
                    raise _given_twice("file")
                else:
                    filename = _sanitize_filename(part)
                    content = await files.receive(tenant, form.pieces(), max_bytes=max_bytes)
        ttl_s = _read_ttl_s(fields)
        if content is None:
            raise ApiError(400, "missing_parameter", "the form has no file", "file")
        return await files.publish(tenant, content, filename=filename, purpose="batch", ttl_s=ttl_s)
    except BaseException:
        if content is not None:
            await files.discard(tenant, content)
        raise


@routes.get("/v1/files")
async def list_files(request: web.Request) -> web.Response:
    """List the caller's files, newest first."""
    asked = read_page_query(request, most=MAX_LISTED)
    try:
        page = await request.app[FILES].page(
            get_caller(request).tenant,
            limit=asked.limit,
            after=asked.after,
            oldest_first=asked.order == "asc",
            purpose=request.query.get("purpose"),
        )
    except FileNotFound:
        raise unknown_cursor() from None
    return respond_json(make_page([make_file_object(info) for info in page.files], page.has_more))


@routes.get("/v1/files/{file_id}")
async def retrieve(request: web.Request) -> web.Response:
    """Get the metadata of a file."""
    return respond_json(make_file_object(await _get_info(request)))


@routes.get("/v1/files/{file_id}/content", allow_head=False)
async def download(request: web.Request) -> web.StreamResponse:
    """Download the content of a file."""
    info = await _get_info(request)
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.content_length = info.bytes
    response.headers[hdrs.CONTENT_DISPOSITION] = "attachment"
    async with aclosing(request.app[FILES].read(get_caller(request).tenant, info.id)) as pieces:
        piece = await anext(pieces, None)  # opens the file: an error still gets a response
        await response.prepare(request)
        while piece is not None:
            await response.write(piece)
            piece = await anext(pieces, None)
    await response.write_eof()
    return response


@routes.delete("/v1/files/{file_id}")
async def delete(request: web.Request) -> web.Response:
    """Delete a file, unless it is the input of an open batch."""
    file_id, tenant = request.match_info["file_id"], get_caller(request).tenant
    if (batch_id := await request.app[CLIENT].file_batches.reads(tenant, file_id)) is not None:
        message = f"is the input of {batch_id}, which has not ended: cancel that batch first"
        raise ApiError(409, "file_in_use", message, "file_id")
    await request.app[FILES].delete(tenant, file_id)
    return respond_json({"id": file_id, "object": "file", "deleted": True})


def make_file_object(info: FileInfo) -> dict[str, Any]:
    """Return a file in OpenAI's format."""
    return {
        "id": info.id,
        "object": "file",
        "bytes": info.bytes,
        "created_at": info.created_at,
        "expires_at": info.expires_at,
        "filename": info.filename,
        "purpose": info.purpose,
        "status": "processed",
    }


async def _get_info(request: web.Request) -> FileInfo:
    return await request.app[FILES].info(get_caller(request).tenant, request.match_info["file_id"])


def _add_field(fields: dict[str, str], field: Field) -> None:
    """Add a field of the form. Raises `ApiError`, which names it."""
    name = field.name
    if name not in _FIELDS:
        shown = name if is_plain(name) else None
        message = f"{shown or 'a field of the form'} {UNKNOWN}"
        raise ApiError(400, "unsupported_parameter", message, shown)
    if name in fields:
        raise _given_twice(name)
    if name == "purpose" and field.value != "batch":
        raise ApiError(400, "invalid_value", "purpose must be 'batch'", "purpose")
    fields[name] = field.value


def _read_ttl_s(fields: dict[str, str]) -> int | None:
    """Return for how long to keep the file. Raises `ApiError`, which names the field."""
    if "purpose" not in fields:
        raise ApiError(400, "missing_parameter", "purpose must be 'batch'", "purpose")
    anchor, seconds = fields.get(_ANCHOR), fields.get(_SECONDS)
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise ApiError(400, "invalid_value", f"{_ANCHOR} must be 'created_at'", _ANCHOR)
    ttl_s = parse_integer(seconds or "", least=MIN_TTL_S, most=MAX_TTL_S)
    if ttl_s is None:
        message = f"{_SECONDS} must be a whole number from {MIN_TTL_S:,} to {MAX_TTL_S:,}"
        raise ApiError(400, "invalid_value", message, _SECONDS)
    return ttl_s


def _given_twice(name: str) -> ApiError:
    return ApiError(400, "invalid_value", f"{name} must be given once", name)


def _sanitize_filename(upload: Upload) -> str:
    """Return the client's name of the file, without folders and special characters."""
    name = upload.filename.replace("\\", "/").rpartition("/")[2]
    return _UNSAFE.sub("_", name) or "file"


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


FILES = web.AppKey("files", Files)
QUOTA = web.AppKey("file_quota", FileQuota)
