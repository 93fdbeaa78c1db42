"""A job's events as Server-Sent Events: the past first, then live, from any point.

    id: 1-42
    data: {"type":"chunk","id":"1-42","text":"…"}

No event has a name, so all of them come to an EventSource's `onmessage`. The id is the event's
cursor: who comes again with it as `Last-Event-ID` goes on with the next event.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

import msgspec
from aiohttp import hdrs, web

from darkq import AnyEvent, Cursor
from darkq_gateway.http.context import STREAMS, owned_job
from darkq_gateway.http.errors import ApiError


def routes() -> list[web.RouteDef]:
    return [web.get("/jobs/{job_id}/events", events, allow_head=False)]


async def events(request: web.Request) -> web.StreamResponse:
    """Send a job's events, to the terminal one."""
    after = cursor_of(request)
    job = await owned_job(request)
    async with (
        request.app[STREAMS].open(request) as stream,
        aclosing(job.handle.event_batches(after)) as batches,
    ):
        async for batch in batches:
            await stream.send(frames(batch), batch.came_s)
    return stream.response


def cursor_of(request: web.Request) -> str | None:
    """Return after which event to go on: `Last-Event-ID`, or `after` in the query at first."""
    # An EventSource repeats the query when it comes again: its header is the newer one.
    header = request.headers.get(hdrs.LAST_EVENT_ID)
    text, field = (header, hdrs.LAST_EVENT_ID) if header else (request.query.get("after"), "after")
    if not text:
        return None
    try:
        return str(Cursor.parse(text))
    except (ValueError, UnicodeError):
        reason = "must be the id of an event, <attempt>-<seq>"
        raise ApiError(422, "invalid_cursor", reason, str(field)) from None


def frames(events: Sequence[AnyEvent]) -> bytes:
    """Return events as they are sent; JSON has no line end that could cut one short."""
    return b"".join(
        b"id: %b\ndata: %b\n\n" % (event.id.encode(), msgspec.json.encode(event))
        for event in events
    )
