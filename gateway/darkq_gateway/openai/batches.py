"""`/v1/batches`: a file of requests, whose answers the workers write into another file.

The gateway only stores the batch and reports its status. A worker runs it, and another worker
continues if the first one dies.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from darkq import BatchNotFound, BatchStatus, BatchTaken, CorruptRecord, InvalidJob
from darkq.protocol.job import check_metadata
from darkq.protocol.validation import UNKNOWN, show_name
from darkq.serving.file_batches import FileBatch
from darkq_gateway.http.bodies import read_json_bytes, respond_json
from darkq_gateway.http.context import CLIENT, get_caller
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.idempotency import get_request_seed
from darkq_gateway.openai.files import FILES, MAX_TTL_S, MIN_TTL_S
from darkq_gateway.openai.lists import make_page, read_page_query, unknown_cursor
from darkq_gateway.openai.request import decode, take

WINDOW_S = 24 * 3600
MAX_METADATA_PAIRS, MAX_KEY_CHARS, MAX_VALUE_CHARS = 16, 64, 512
_ENDS = ("completed", "failed", "expired", "cancelled")


class _ExpiresAfter(msgspec.Struct, forbid_unknown_fields=True):
    anchor: Literal["created_at"]
    seconds: Annotated[int, msgspec.Meta(ge=MIN_TTL_S, le=MAX_TTL_S)]


class _Body(msgspec.Struct):
    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/responses"]
    completion_window: Literal["24h"]
    metadata: dict[str, str] = {}
    output_expires_after: _ExpiresAfter | None = None


routes = web.RouteTableDef()


@routes.post("/v1/batches")
async def create(request: web.Request) -> web.Response:
    """Create a batch."""
    body = await read_json_bytes(request)
    fields = decode(body)
    if fields.get("endpoint") in ("/chat/completions", "/responses"):  # Azure's names
        fields["endpoint"] = f"/v1{fields['endpoint']}"
    asked = take(fields, _Body)
    for name in fields:
        raise ApiError(400, "invalid_parameter", UNKNOWN, show_name(name))
    metadata = _check_metadata(asked.metadata)
    client, caller = request.app[CLIENT], get_caller(request)
    # Raises if the file is not the caller's.
    await request.app[FILES].info(caller.tenant, asked.input_file_id)
    seed = await get_request_seed(request, body)
    batch = client.batch(seed=seed, name="files", metadata={"tenant": caller.tenant or ""})
    with suppress(BatchNotFound):  # a new request, or its first try stored no record
        known = await client.file_batches.get(batch.id)
        if known.ended_at is None:
            await client.file_batches.create(known)  # the first try may have been interrupted
        return respond_json(await _describe(request, known))
    with suppress(BatchTaken):  # the first try is still running
        async with batch:  # creates it; the worker that runs it will take the lease
            pass
    now = int(time.time())
    record = FileBatch(
        id=batch.id,
        tenant=caller.tenant,
        input_file_id=asked.input_file_id,
        endpoint=asked.endpoint,
        metadata=metadata,
        models=caller.key.models if caller.key else (),
        max_prompt_bytes=caller.key.max_prompt_bytes if caller.key else None,
        created_at=now,
        expires_at=now + WINDOW_S,
        output_ttl_s=asked.output_expires_after.seconds if asked.output_expires_after else None,
    )
    await client.file_batches.create(record)
    return respond_json(await _describe(request, await client.file_batches.get(batch.id)))


def _check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Return the metadata of a batch within OpenAI's limits. Raises `ApiError`."""
    try:
        checked = check_metadata(metadata)
    except InvalidJob as error:
        raise ApiError(400, "invalid_parameter", error.reason, error.field) from None
    fits = all(len(k) <= MAX_KEY_CHARS and len(v) <= MAX_VALUE_CHARS for k, v in checked.items())
    if not fits or len(checked) > MAX_METADATA_PAIRS:
        reason = (
            f"may have at most {MAX_METADATA_PAIRS} entries, with keys of at most {MAX_KEY_CHARS} "
            f"characters and values of at most {MAX_VALUE_CHARS}"
        )
        raise ApiError(400, "invalid_parameter", reason, "metadata")
    return checked


@routes.get("/v1/batches")
async def list_batches(request: web.Request) -> web.Response:
    """List the caller's batches, newest first."""
    asked = read_page_query(request, most=100)
    try:
        records, has_more = await request.app[CLIENT].file_batches.page(
            get_caller(request).tenant,
            limit=asked.limit,
            after=asked.after,
            oldest_first=asked.order == "asc",
        )
    except BatchNotFound:
        raise unknown_cursor() from None
    return respond_json(
        make_page([await _describe(request, each) for each in records], has_more=has_more)
    )


@routes.get("/v1/batches/{batch_id}")
async def retrieve(request: web.Request) -> web.Response:
    """Get the status of a batch."""
    return respond_json(await _describe(request, await _get_own(request)))


@routes.post("/v1/batches/{batch_id}/cancel")
async def cancel(request: web.Request) -> web.Response:
    """Cancel a batch; its output file gets the answers so far."""
    record = await _get_own(request)
    if record.ended_at is not None:
        raise ApiError(409, "already_ended", f"cannot cancel a batch that is {record.state}")
    status = await request.app[CLIENT].batch(record.id).cancel()
    return respond_json(make_batch_object(record, status))


async def _describe(request: web.Request, record: FileBatch) -> dict[str, Any]:
    try:
        status = await request.app[CLIENT].batch(record.id).status()
    except BatchNotFound:  # it has expired before its record
        status = None
    return make_batch_object(record, status)


async def _get_own(request: web.Request) -> FileBatch:
    batch_id, tenant = request.match_info["batch_id"], get_caller(request).tenant
    try:
        record = await request.app[CLIENT].file_batches.get(batch_id)
    except CorruptRecord as error:
        if error.tenant != tenant:
            raise BatchNotFound(batch_id) from None
        raise
    if record.tenant != tenant:
        raise BatchNotFound(batch_id)
    return record


def make_batch_object(record: FileBatch, status: BatchStatus | None) -> dict[str, Any]:
    """Return a batch in OpenAI's format."""
    state: str = record.state
    completed, failed, cancelling_at = record.completed, record.failed, record.cancelling_at
    if record.ended_at is None and status is not None:
        completed = status.completed
        failed = record.refused + status.failed + status.cancelled
        if status.state in ("cancelling", "cancelled"):
            state = "cancelling"
            cancelling_at = status.cancelled_ms and status.cancelled_ms // 1000
    ended = {f"{end}_at": record.ended_at if end == record.state else None for end in _ENDS}
    return {
        "id": record.id,
        "object": "batch",
        "endpoint": record.endpoint,
        "errors": {"object": "list", "data": record.errors} if record.errors else None,
        "input_file_id": record.input_file_id,
        "completion_window": "24h",
        "status": state,
        "output_file_id": record.output_file_id,
        "error_file_id": record.error_file_id,
        "created_at": record.created_at,
        "in_progress_at": record.in_progress_at,
        "expires_at": record.expires_at,
        "finalizing_at": record.finalizing_at,
        **ended,
        "cancelling_at": cancelling_at,
        "request_counts": {"total": record.total, "completed": completed, "failed": failed},
        "metadata": record.metadata or None,
    }
