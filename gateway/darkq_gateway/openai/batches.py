"""`/v1/batches`: a file of requests, answered by the workers into another file.

The gateway only takes the order and tells how it stands; a worker runs it, and another one goes on
when that one dies.
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
from darkq_gateway.http.bodies import read_undecoded
from darkq_gateway.http.context import CLIENT, caller_of
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.repetitions import seed_of
from darkq_gateway.native.jobs import as_json
from darkq_gateway.openai.files import FILES, MAX_TTL_S, MIN_TTL_S
from darkq_gateway.openai.pages import as_page, page_asked, unknown_after
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


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/batches", create),
        web.get("/v1/batches", listed),
        web.get("/v1/batches/{batch_id}", retrieve),
        web.post("/v1/batches/{batch_id}/cancel", cancel),
    ]


async def create(request: web.Request) -> web.Response:
    """Order a batch."""
    body = await read_undecoded(request)
    fields = decode(body)
    if fields.get("endpoint") in ("/chat/completions", "/responses"):  # Azure's names
        fields["endpoint"] = f"/v1{fields['endpoint']}"
    asked = take(fields, _Body)
    for name in fields:
        raise ApiError(400, "invalid_parameter", UNKNOWN, show_name(name))
    metadata = _checked(asked.metadata)
    client, caller = request.app[CLIENT], caller_of(request)
    await request.app[FILES].info(caller.tenant, asked.input_file_id)  # is there, and is theirs
    seed = await seed_of(request, body)
    batch = client.batch(seed=seed, name="files", metadata={"tenant": caller.tenant or ""})
    with suppress(BatchNotFound):  # no repetition, or the first try made no record
        known = await client.file_batches.get(batch.id)
        if known.ended_at is None:
            await client.file_batches.create(known)  # the first try may have been broken off
        return as_json(await _described(request, known))
    with suppress(BatchTaken):  # a repetition that overtakes the first try
        async with batch:  # to make it; the worker that runs it takes the lease
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
    return as_json(await _described(request, await client.file_batches.get(batch.id)))


def _checked(metadata: dict[str, str]) -> dict[str, str]:
    """Return what may be noted beside a batch, as OpenAI bounds it. Raises `ApiError`."""
    try:
        checked = check_metadata(metadata)
    except InvalidJob as error:
        raise ApiError(400, "invalid_parameter", error.reason, error.field) from None
    fits = all(len(k) <= MAX_KEY_CHARS and len(v) <= MAX_VALUE_CHARS for k, v in checked.items())
    if not fits or len(checked) > MAX_METADATA_PAIRS:
        reason = (
            f"takes {MAX_METADATA_PAIRS} entries, "
            f"of {MAX_KEY_CHARS} and {MAX_VALUE_CHARS} characters at most"
        )
        raise ApiError(400, "invalid_parameter", reason, "metadata")
    return checked


async def listed(request: web.Request) -> web.Response:
    """The caller's batches, the newest first."""
    asked = page_asked(request, most=100)
    try:
        records, has_more = await request.app[CLIENT].file_batches.page(
            caller_of(request).tenant,
            limit=asked.limit,
            after=asked.after,
            oldest_first=asked.order == "asc",
        )
    except BatchNotFound:
        raise unknown_after() from None
    return as_json(
        as_page([await _described(request, each) for each in records], has_more=has_more)
    )


async def retrieve(request: web.Request) -> web.Response:
    """How a batch stands."""
    return as_json(await _described(request, await _owned(request)))


async def cancel(request: web.Request) -> web.Response:
    """Cancel a batch; what has been answered is put into its output file."""
    record = await _owned(request)
    if record.ended_at is not None:
        raise ApiError(409, "already_ended", f"cannot cancel a batch that is {record.state}")
    return as_json(batch_object(record, await request.app[CLIENT].batch(record.id).cancel()))


async def _described(request: web.Request, record: FileBatch) -> dict[str, Any]:
    try:
        status = await request.app[CLIENT].batch(record.id).status()
    except BatchNotFound:  # it has expired; its record outlives it
        status = None
    return batch_object(record, status)


async def _owned(request: web.Request) -> FileBatch:
    batch_id, tenant = request.match_info["batch_id"], caller_of(request).tenant
    try:
        record = await request.app[CLIENT].file_batches.get(batch_id)
    except CorruptRecord as error:
        if error.tenant != tenant:
            raise BatchNotFound(batch_id) from None
        raise
    if record.tenant != tenant:
        raise BatchNotFound(batch_id)
    return record


def batch_object(record: FileBatch, status: BatchStatus | None) -> dict[str, Any]:
    """Return a batch in the API's words."""
    state: str = record.state
    completed, failed, cancelling_at = record.completed, record.failed, record.cancelling_at
    if record.ended_at is None and status is not None:
        completed = status.completed
        failed = record.refused + status.failed + status.cancelled
        if status.state in ("cancelling", "cancelled"):
            state = "cancelling"
            cancelling_at = status.cancelled_ms and status.cancelled_ms // 1000
    errors = [
        {"code": e.code, "message": e.message, "line": e.line, "param": e.param}
        for e in record.errors
    ]
    ended: dict[str, int | None] = {f"{name}_at": None for name in _ENDS}
    if record.ended_at is not None:
        ended[f"{record.state}_at"] = record.ended_at
    return {
        "id": record.id,
        "object": "batch",
        "endpoint": record.endpoint,
        "errors": {"object": "list", "data": errors} if errors else None,
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
        "request_counts": {
            "total": record.total,
            "completed": completed,
            "failed": failed,
        },
        "metadata": record.metadata or None,
    }
