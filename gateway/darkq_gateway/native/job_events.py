"""A job's events as Server-Sent Events: first the stored ones, then live, after any cursor.

    id: 1-42
    data: {"type":"chunk","id":"1-42","text":"…"}

Events have no name, so an EventSource passes all of them to `onmessage`. The id is the cursor of
the event: a request with it as `Last-Event-ID` continues with the next event.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

import msgspec
from aiohttp import hdrs, web

from darkq import AnyEvent, Cursor
from darkq.sse import frame
from darkq_gateway.http.auth import accepts_ticket
from darkq_gateway.http.context import get_own_job
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.sse_response import STREAMS


def routes() -> list[web.RouteDef]:
    return [web.get("/jobs/{job_id}/events", stream_events, allow_head=False)]


@accepts_ticket()
async def stream_events(request: web.Request) -> web.StreamResponse:
    """Stream a job's events up to the terminal one."""
    after = read_cursor(request)
    job = await get_own_job(request)
    async with (
        request.app[STREAMS].open(request) as stream,
        aclosing(job.handle.event_batches(after)) as batches,
    ):
        async for batch in batches:
            await stream.send(encode_events(batch), batch.came_s)
    return stream.response


def read_cursor(request: web.Request) -> str | None:
    """Return the cursor of a request: `Last-Event-ID`, else `after` of the query."""
    # An EventSource reconnects with the query of its first request, so the header is newer.
    header = request.headers.get(hdrs.LAST_EVENT_ID)
    text, field = (header, hdrs.LAST_EVENT_ID) if header else (request.query.get("after"), "after")
    if not text:
        return None
    try:
        return str(Cursor.parse(text))
    except (ValueError, UnicodeError):
        reason = "must be an event id: <attempt>-<seq>"
        raise ApiError(422, "invalid_cursor", reason, str(field)) from None


def encode_events(events: Sequence[AnyEvent]) -> bytes:
    """Return events as Server-Sent Events."""
    return b"".join(frame(msgspec.json.encode(event), id=event.id) for event in events)
