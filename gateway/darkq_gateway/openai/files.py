"""`/v1/files`: what batches read and write."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from darkq import FileInfo, Files
from darkq_gateway.context import CLIENT, SETTINGS, caller_of
from darkq_gateway.errors import ApiError
from darkq_gateway.jobs import as_json
from darkq_gateway.openai.pages import page_of

FILES = web.AppKey("files", Files)

MAX_FIELD_BYTES = 4096
_UNSAFE = re.compile(r"[^\w.\- ]")


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/files", create),
        web.get("/v1/files", listed),
        web.get("/v1/files/{file_id}", retrieve),
        web.get("/v1/files/{file_id}/content", content),
        web.delete("/v1/files/{file_id}", delete),
    ]


async def create(request: web.Request) -> web.Response:
    """Store a file for a batch. Fields must come before it, as the SDK sends them, or after."""
    if request.content_type != "multipart/form-data":
        raise ApiError(415, "not_multipart", "must be multipart/form-data", "Content-Type")
    files, tenant = request.app[FILES], caller_of(request).tenant
    info: FileInfo | None = None
    purpose = ""
    try:
        async for part in await request.multipart():
            if not isinstance(part, aiohttp.BodyPartReader) or part.name is None:
                raise ApiError(400, "invalid_body", "a part has no name")
            if part.name == "file" and info is None:
                info = await files.create(
                    tenant,
                    _pieces(request, part),
                    filename=_filename(part),
                    purpose="batch",
                    max_bytes=caller_of(request).body_limit(request.app[SETTINGS].files_max_bytes),
                )
            elif part.name == "purpose":
                purpose = await _field(part)
            else:
                name = part.name if part.name.isidentifier() else None  # may be no text at all
                raise ApiError(400, "unsupported_parameter", "cannot be honoured here", name)
        if purpose != "batch":
            raise ApiError(400, "invalid_value", "must be 'batch'", "purpose")
        if info is None:
            raise ApiError(400, "missing_parameter", "there is no file", "file")
    except (ValueError, web.RequestPayloadError, HttpProcessingError):
        await _forget(files, tenant, info)
        raise ApiError(400, "invalid_body", "the multipart body is broken") from None
    except BaseException:
        await _forget(files, tenant, info)
        raise
    return as_json(file_object(info))


async def listed(request: web.Request) -> web.Response:
    """The caller's files, the newest first."""
    files = await request.app[FILES].listed(caller_of(request).tenant)
    purpose = request.query.get("purpose")
    found = [file_object(info) for info in files if purpose in (None, info.purpose)]
    return as_json(page_of(request, found, most=10_000))


async def retrieve(request: web.Request) -> web.Response:
    """What is known of a file."""
    return as_json(file_object(await _info(request)))


async def content(request: web.Request) -> web.StreamResponse:
    """A file's bytes."""
    info = await _info(request)
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.content_length = info.bytes
    response.headers[hdrs.CONTENT_DISPOSITION] = "attachment"
    timeout_s = request.app[SETTINGS].gateway_write_timeout_s
    async with aclosing(request.app[FILES].read(caller_of(request).tenant, info.id)) as pieces:
        await response.prepare(request)
        async for piece in pieces:
            async with asyncio.timeout(timeout_s):
                await response.write(piece)
    await response.write_eof()
    return response


async def delete(request: web.Request) -> web.Response:
    """Delete a file; not one that an open batch reads."""
    file_id, tenant = request.match_info["file_id"], caller_of(request).tenant
    if (batch_id := await request.app[CLIENT].file_batches.reads(tenant, file_id)) is not None:
        message = f"is the input of {batch_id}, which has not ended; cancel that first"
        raise ApiError(409, "file_in_use", message, "file_id")
    await request.app[FILES].delete(tenant, file_id)
    return as_json({"id": file_id, "object": "file", "deleted": True})


def file_object(info: FileInfo) -> dict[str, Any]:
    """Return a file in the API's words."""
    return {
        "id": info.id,
        "object": "file",
        "bytes": info.bytes,
        "created_at": info.created_at,
        "filename": info.filename,
        "purpose": info.purpose,
        "status": "processed",
    }


async def _info(request: web.Request) -> FileInfo:
    return await request.app[FILES].info(caller_of(request).tenant, request.match_info["file_id"])


async def _pieces(request: web.Request, part: aiohttp.BodyPartReader) -> AsyncIterator[bytes]:
    timeout_s = request.app[SETTINGS].gateway_read_timeout_s
    while True:
        try:
            async with asyncio.timeout(timeout_s):
                piece = await part.read_chunk(1 << 16)
        except TimeoutError:
            raise ApiError(408, "too_slow", "the file did not arrive in time", "file") from None
        if not piece:
            return
        yield piece


async def _field(part: aiohttp.BodyPartReader) -> str:
    text = b""
    while piece := await part.read_chunk(MAX_FIELD_BYTES):
        text += piece
        if len(text) > MAX_FIELD_BYTES:
            raise ApiError(413, "field_too_large", "is too long", part.name)
    return text.decode(errors="replace").strip()


def _filename(part: aiohttp.BodyPartReader) -> str:
    """The name as the client says it, for people alone: without folders and odd characters."""
    name = (part.filename or "").replace("\\", "/").rpartition("/")[2]
    return _UNSAFE.sub("_", name) or "file"


async def _forget(files: Files, tenant: str | None, info: FileInfo | None) -> None:
    if info is not None:
        await files.delete(tenant, info.id)
