"""Caching of what does not change any more: the events and the result of a finished job.

Only the browser of the caller may keep a copy (`private`), and it asks before each use
(`no-cache`): the job may have been deleted, have expired or be retried, and the key be revoked. An
unchanged one is a 304, for which neither the log nor the answer is read.

The tag names one end of the job: a failed job that is retried gets another. It is weak, since the
same text may later be stored in fewer events. It contains the cursor, because `Last-Event-ID`
selects another part under the same URL.
"""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import ETag, hdrs, web

from darkq import Status

_FORMAT = 1
"""Part of each tag: raised when the same log would be sent in another form."""


def is_finished(status: Status) -> bool:
    """Return whether a job has ended."""
    return status.state in ("completed", "failed", "cancelled")


def make_etag(status: Status, after: str | None = None) -> ETag:
    """Return the tag of a finished job, from a cursor on."""
    value = f"{_FORMAT}.{status.attempt}.{status.finished_ms}.{after or ''}"
    return ETag(value, is_weak=True)


def respond_unmodified(request: web.Request, etag: ETag) -> web.Response | None:
    """Return a 304 if the client has this version, else None."""
    known = request.if_none_match or ()
    if all(each.value not in (etag.value, "*") for each in known):
        return None
    return allow_caching(web.Response(status=304), etag)


def allow_caching(response: web.Response, etag: ETag) -> web.Response:
    """Let the browser of the caller keep a response, unless the job has been retried meanwhile."""
    if response.status == HTTPStatus.ACCEPTED:
        return response
    response.etag = etag
    response.headers[hdrs.CACHE_CONTROL] = "private, no-cache"
    response.headers[hdrs.VARY] = f"{hdrs.AUTHORIZATION}, {hdrs.LAST_EVENT_ID}"
    return response
