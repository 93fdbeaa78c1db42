"""The batches of `Client.batch` over HTTP: their status, the ends of their lines, and cancel.

A batch belongs to the tenant that its metadata names as `tenant`; without one, to callers without
an API key. Batches over files are in `openai.batches`.
"""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import NamedTuple

import msgspec
from aiohttp import hdrs, web

from darkq import Batch, BatchNotFound, BatchStatus, CorruptRecord
from darkq.sse import frame
from darkq_gateway.http.auth import accepts_ticket
from darkq_gateway.http.bodies import respond_json
from darkq_gateway.http.context import CLIENT, get_caller
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.sse_response import STREAMS

_CURSOR = re.compile(r"[0-9]{1,15}(@[0-9]{1,17})?", re.ASCII)


class OwnBatch(NamedTuple):
    """A batch of the caller's tenant, and its status when it was checked."""

    batch: Batch
    status: BatchStatus


routes = web.RouteTableDef()


async def get_own_batch(request: web.Request) -> OwnBatch:
    """Return the batch in the path.

    Raises `BatchNotFound`, and an equal error if the batch belongs to another tenant, is not that
    of the caller's ticket, or cannot be read: then its tenant is unknown.
    """
    caller, batch_id = get_caller(request), request.match_info["batch_id"]
    if not caller.may_ask_for(batch_id):
        raise BatchNotFound(batch_id)
    batch = request.app[CLIENT].batch(batch_id)
    try:
        status = await batch.status()
    except CorruptRecord:
        raise BatchNotFound(batch_id) from None
    if not caller.may_see(status.metadata.get("tenant") or None):
        raise BatchNotFound(batch_id)
    return OwnBatch(batch, status)


@routes.get("/batches/{batch_id}")
@accepts_ticket()
async def get_status(request: web.Request) -> web.Response:
    """Return the status of a batch."""
    return _respond_status((await get_own_batch(request)).status)


@routes.post("/batches/{batch_id}/cancel")
@accepts_ticket(to_cancel=True)
async def cancel(request: web.Request) -> web.Response:
    """Cancel a batch and each of its jobs that has not ended."""
    return _respond_status(await (await get_own_batch(request)).batch.cancel())


@routes.get("/batches/{batch_id}/events", allow_head=False)
@accepts_ticket()
async def stream_ends(request: web.Request) -> web.StreamResponse:
    """Stream the end of each line, until the batch ends."""
    after = _read_cursor(request)
    own = await get_own_batch(request)
    async with (
        request.app[STREAMS].open(request) as stream,
        aclosing(own.batch.events(after)) as ends,
    ):
        async for end in ends:
            await stream.send(frame(msgspec.json.encode(end), id=end.cursor))
    return stream.response


def _respond_status(status: BatchStatus) -> web.Response:
    """Respond with a status. It does not name the runner, whose token has the name of a host."""
    return respond_json(msgspec.structs.replace(status, runner=None))


def _read_cursor(request: web.Request) -> str | None:
    header = request.headers.get(hdrs.LAST_EVENT_ID)
    text, field = (header, "Last-Event-ID") if header else (request.query.get("after"), "after")
    if not text:
        return None
    if _CURSOR.fullmatch(text) is None:
        reason = "must be the id of an event of this batch"
        raise ApiError(422, "invalid_cursor", reason, field)
    return text
