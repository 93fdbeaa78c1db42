"""What came in place of an answer."""

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


async def find_refusal(http: HttpStream) -> Refusal | None:
    """Return how the call was refused, or None for a 200 that is sent as it is.

    Of a 200 the Content-Type says nothing: relays and servers of their own making send event
    streams under any. Its reader judges it by what it holds. Raises `ProtocolViolation`.
    """
    is_packed = (http.header("content-encoding") or "identity").lower() != "identity"
    if http.status != HTTPStatus.OK:
        is_html = content_type(http) == "text/html"
        body = b"" if is_html or is_packed else await http.read_error_body()
        return Refusal(http.status, is_html, body)
    if is_packed:  # unasked: a bomb, perhaps
        raise ProtocolViolation("the answer is compressed", status=http.status)
    return None


def content_type(http: HttpStream) -> str:
    """Return what the answer says that it is, in lower case, without parameters."""
    return (http.header("content-type") or "").partition(";")[0].strip().lower()
