"""What came in place of an event stream."""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

from darkq_worker.upstreams.base import ProtocolViolation
from darkq_worker.upstreams.http_stream import HttpStream


class Refusal(NamedTuple):
    """An answer that is not 200. Of an HTML page, and of what is compressed, there is no body."""

    status: int
    is_html: bool
    body: bytes


async def find_refusal(http: HttpStream, *, wanted: str = "text/event-stream") -> Refusal | None:
    """Return how the call was refused, or None when what is wanted comes, sent as it is.

    Raises `ProtocolViolation` for a 200 with anything else.
    """
    content_type = (http.header("content-type") or "").partition(";")[0].strip().lower()
    is_packed = (http.header("content-encoding") or "identity").lower() != "identity"
    is_html = content_type == "text/html"
    if http.status != HTTPStatus.OK:
        body = b"" if is_html or is_packed else await http.read_error_body()
        return Refusal(http.status, is_html, body)
    if is_packed:  # unasked: a bomb, perhaps
        raise ProtocolViolation("the answer is compressed", status=http.status)
    if content_type not in ("", wanted):
        what = "an HTML page" if is_html else "something else"
        asked = "events" if wanted == "text/event-stream" else wanted
        raise ProtocolViolation(f"HTTP 200, but {what} instead of {asked}", status=http.status)
    return None
