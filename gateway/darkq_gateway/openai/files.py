"""`/v1/files`: what batches read and write."""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import Any, NamedTuple

from aiohttp import hdrs, web

from darkq.errors import FileNotFound, FileTooLarge
from darkq.serving.files import Content as FileContent
from darkq.serving.files import FileInfo, Files
from darkq.serving.files import Purpose as FilePurpose
from darkq_gateway.http.bodies import media_type
from darkq_gateway.http.context import CLIENT, SETTINGS, caller_of
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.multipart import MAX_OVERHEAD_BYTES, Field, Form, Upload, is_plain
from darkq_gateway.http.queries import whole_number
from darkq_gateway.native.jobs import as_json
from darkq_gateway.openai.file_limits import QUOTA
from darkq_gateway.openai.pages import as_page, page_asked, unknown_after

FILES = web.AppKey("files", Files)

MAX_LISTED = 10_000
MIN_TTL_S = 3600
MAX_TTL_S = 30 * 86400
"""As OpenAI's: `expires_after.seconds` is from an hour to thirty days."""

_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FIELDS = ("purpose", _ANCHOR, _SECONDS)
_UNSAFE = re.compile(r"[^\w.\- ]")


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/files", create),
        web.get("/v1/files", listed),
        web.get("/v1/files/{file_id}", retrieve),
        web.get("/v1/files/{file_id}/content", content, allow_head=False),
        web.delete("/v1/files/{file_id}", delete),
    ]


async def create(request: web.Request) -> web.Response:
    """Store a file for a batch. Fields may come before it, as the SDK sends them, or after."""
    if media_type(request) != "multipart/form-data":
        raise ApiError(415, "not_multipart", "must be multipart/form-data", "Content-Type")
    caller = caller_of(request)
    max_bytes = caller.body_limit(request.app[SETTINGS].files_max_bytes)
    sent_bytes = request.content_length
    if sent_bytes is not None and sent_bytes > max_bytes + MAX_OVERHEAD_BYTES:
        raise FileTooLarge(max_bytes)
    size_bytes = max_bytes if sent_bytes is None else min(max_bytes, sent_bytes)
    async with request.app[QUOTA].room_for(caller.tenant, size_bytes):
        return as_json(file_object(await _store(request, max_bytes)))


async def _store(request: web.Request, max_bytes: int) -> FileInfo:
    """Store the file of a form. It is there once the whole form has come and is right."""
    files, tenant = request.app[FILES], caller_of(request).tenant
    form = Form(request, file_field="file")
    content: FileContent | None = None
    filename, fields = "", dict[str, str]()
    try:
        async with aclosing(form.parts()) as parts:
            async for part in parts:
                if isinstance(part, Field):
                    _take(fields, part)
                elif content is not None:
                    raise _twice("file")
                else:
                    filename = _filename(part)
                    content = await files.receive(tenant, form.pieces(), max_bytes=max_bytes)
        asked = _asked(fields)
        if content is None:
            raise ApiError(400, "missing_parameter", "there is no file", "file")
        return await files.publish(
            tenant, content, filename=filename, purpose=asked.purpose, ttl_s=asked.ttl_s
        )
    except BaseException:
        if content is not None:
            await files.discard(tenant, content)
        raise


async def listed(request: web.Request) -> web.Response:
    """The caller's files, the newest first."""
    asked = page_asked(request, most=MAX_LISTED)
    try:
        page = await request.app[FILES].page(
            caller_of(request).tenant,
            limit=asked.limit,
            after=asked.after,
            oldest_first=asked.order == "asc",
            purpose=request.query.get("purpose"),
        )
    except FileNotFound:
        raise unknown_after() from None
    return as_json(as_page([file_object(info) for info in page.files], page.has_more))


async def retrieve(request: web.Request) -> web.Response:
    """What is known of a file."""
    return as_json(file_object(await _info(request)))


async def content(request: web.Request) -> web.StreamResponse:
    """A file's bytes."""
    info = await _info(request)
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.content_length = info.bytes
    response.headers[hdrs.CONTENT_DISPOSITION] = "attachment"
    async with aclosing(request.app[FILES].read(caller_of(request).tenant, info.id)) as pieces:
        piece = await anext(pieces, None)  # opens the file: not found is still an answer
        await response.prepare(request)
        while piece is not None:
            await response.write(piece)
            piece = await anext(pieces, None)
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
        "expires_at": info.expires_at,
        "filename": info.filename,
        "purpose": info.purpose,
        "status": "processed",
    }


async def _info(request: web.Request) -> FileInfo:
    return await request.app[FILES].info(caller_of(request).tenant, request.match_info["file_id"])


def _take(fields: dict[str, str], field: Field) -> None:
    """Take a field of a form. Raises `ApiError`, which names it."""
    name = field.name
    if name not in _FIELDS:
        shown = name if is_plain(name) else None
        message = f"{shown or 'a field of the form'} cannot be honoured: leave it out"
        raise ApiError(400, "unsupported_parameter", message, shown)
    if name in fields:
        raise _twice(name)
    if name == "purpose" and field.value != "batch":
        raise ApiError(400, "invalid_value", "purpose must be 'batch'", "purpose")
    fields[name] = field.value


class _Asked(NamedTuple):
    purpose: FilePurpose
    ttl_s: int | None


def _asked(fields: dict[str, str]) -> _Asked:
    """Return what a form asks for. Raises `ApiError`, which names the field."""
    if "purpose" not in fields:
        raise ApiError(400, "missing_parameter", "purpose must be 'batch'", "purpose")
    anchor, seconds = fields.get(_ANCHOR), fields.get(_SECONDS)
    if anchor is None and seconds is None:
        return _Asked("batch", None)
    if anchor != "created_at":
        raise ApiError(400, "invalid_value", f"{_ANCHOR} must be 'created_at'", _ANCHOR)
    ttl_s = whole_number(seconds or "", least=MIN_TTL_S, most=MAX_TTL_S)
    if ttl_s is None:
        message = f"{_SECONDS} must be a whole number from {MIN_TTL_S:,} to {MAX_TTL_S:,}"
        raise ApiError(400, "invalid_value", message, _SECONDS)
    return _Asked("batch", ttl_s)


def _twice(name: str) -> ApiError:
    return ApiError(400, "invalid_value", f"{name} must be given once", name)


def _filename(upload: Upload) -> str:
    """The name as the client says it, for people alone: without folders and odd characters."""
    name = upload.filename.replace("\\", "/").rpartition("/")[2]
    return _UNSAFE.sub("_", name) or "file"
