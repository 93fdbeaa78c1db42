"""A job's events as Server-Sent Events: first the stored ones, then live, after any cursor.

    data: {"type":"chunk","id":"1-42","text":"…"}
    id: 1-42

Events have no name, so an EventSource passes all of them to `onmessage`. The id is the cursor of
the event: a request with it as `Last-Event-ID` continues with the next event.

With `?compact=1`, past pieces are merged: one event for up to 256 of a kind. With `?after=now` the
stream begins with the next event, after an empty one that has the cursor for a reconnection.

The log of a finished job is not streamed but sent as one response, which a browser may cache. A log
of more than `MAX_WHOLE_BYTES` is streamed, since each response is held in memory. A stream is never
cached: at a shutdown it ends between two events, as if it were complete.
"""

from __future__ import annotations

from contextlib import aclosing

from aiohttp import ETag, hdrs, web

from darkq import Cancelled, Completed, Cursor, Failed, JobHandle
from darkq.jobs.fanout import Fanouts, encode_event
from darkq_gateway.http.auth import accepts_ticket
from darkq_gateway.http.context import get_own_job
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.queries import read_integer
from darkq_gateway.http.sse_response import STREAMS
from darkq_gateway.native.caching import (
    allow_caching,
    is_finished,
    make_etag,
    respond_unmodified,
)

MAX_WHOLE_BYTES = 1 << 20
RETRY = b"retry: 1000\n"
NOW = "now"

FANOUTS = web.AppKey("fanouts", Fanouts)


def routes() -> list[web.RouteDef]:
    return [web.get("/jobs/{job_id}/events", stream_events)]


@accepts_ticket()
async def stream_events(request: web.Request) -> web.StreamResponse:
    """Stream a job's events up to the terminal one; send those of a finished job at once."""
    after = read_cursor(request)
    compact = read_integer(request, "compact", default=0, least=0, most=1) == 1
    job = await get_own_job(request)
    if is_finished(job.status):
        if after == NOW:
            return web.Response(status=204)
        etag = make_etag(job.status, after)
        response = respond_unmodified(request, etag) or await _respond_whole(
            job.handle, after, etag, compact=compact
        )
        if response is not None:
            return response
    if request.method == hdrs.METH_HEAD:
        raise web.HTTPMethodNotAllowed(hdrs.METH_HEAD, [hdrs.METH_GET])
    job_id, head = job.handle.id, b""
    if after == NOW:
        after = await job.handle.latest_event()
        head = b"id: %b\n\n" % after.encode()
    del job
    async with request.app[STREAMS].open(request) as stream:
        stream.hold(head)
        await request.app[FANOUTS].follow(job_id, after, stream, compact=compact)
    return stream.response


async def _respond_whole(
    job: JobHandle, after: str | None, etag: ETag, *, compact: bool
) -> web.Response | None:
    """Return the rest of a finished log; None if it is too long, or the job was retried."""
    body, last = b"", None
    async with aclosing(job.history(after, compact=compact)) as pages:
        async for page in pages:
            body += b"".join(map(encode_event, page))
            last = page[-1]
            if len(body) > MAX_WHOLE_BYTES:
                return None
    if last is None:
        return web.Response(status=204)  # an EventSource does not reconnect
    if not isinstance(last, Completed | Failed | Cancelled):
        return None
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    return allow_caching(web.Response(body=RETRY + body, headers=headers), etag)


def read_cursor(request: web.Request) -> str | None:
    """Return the cursor of a request: `Last-Event-ID`, else `after` of the query, or `NOW`."""
    # An EventSource reconnects with the query of its first request, so the header is newer.
    header = request.headers.get(hdrs.LAST_EVENT_ID)
    text, field = (header, hdrs.LAST_EVENT_ID) if header else (request.query.get("after"), "after")
    if not text:
        return None
    if text == NOW and not header:
        return NOW
    try:
        return str(Cursor.parse(text))
    except (ValueError, UnicodeError):
        reason = "must be an event id, <attempt>-<seq>, or now"
        raise ApiError(422, "invalid_cursor", reason, str(field)) from None
