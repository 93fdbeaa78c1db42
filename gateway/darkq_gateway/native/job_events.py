"""A job's events as Server-Sent Events: first the stored ones, then live, after any cursor.

    id: 1-42
    data: {"type":"chunk","id":"1-42","text":"…"}

Events have no name, so an EventSource passes all of them to `onmessage`. The id is the cursor of
the event: a request with it as `Last-Event-ID` continues with the next event.
"""

from __future__ import annotations

from aiohttp import hdrs, web

from darkq import Cursor
from darkq.jobs.fanout import Fanouts
from darkq_gateway.http.context import get_own_job
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.sse_response import STREAMS

FANOUTS = web.AppKey("fanouts", Fanouts)


def routes() -> list[web.RouteDef]:
    return [web.get("/jobs/{job_id}/events", stream_events, allow_head=False)]


async def stream_events(request: web.Request) -> web.StreamResponse:
    """Stream a job's events up to the terminal one."""
    after = read_cursor(request)
    job_id = (await get_own_job(request)).handle.id
    async with request.app[STREAMS].open(request) as stream:
        await request.app[FANOUTS].follow(job_id, after, stream)
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
