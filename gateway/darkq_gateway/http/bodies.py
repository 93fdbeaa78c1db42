"""JSON bodies: requests with a known schema, a bounded size and a deadline; and responses.

Compressed bodies are refused before they are read, and the server runs with
`auto_decompress=False`: a few kilobytes could decompress to gigabytes, in the event loop. If a
request is answered before its body has arrived, the rest is discarded (`serve.LINGER_S`). For
`Expect: 100-continue`, the handler that reads the body sends `100 Continue`; a client whose request
is refused need not send its body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler

from darkq.protocol.validation import explain_error
from darkq_gateway.http.context import SETTINGS, get_caller
from darkq_gateway.http.errors import ApiError, respond_error

T = TypeVar("T")

MAX_JSON_VALUES = 250_000
"""Most values and names in a body: the time to decode grows with their number, not their size."""

_CONTINUE = "100-continue"


@web.middleware
def refuse_encoded(request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
    """Respond 415 to a request with a `Content-Encoding`, with or without a body.

    No coroutine, which would take memory for as long as a reader reads.
    """
    names = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, [])).lower().split(",")
    if any(name.strip() not in ("", "identity") for name in names):
        message = "compressed bodies are not supported: send the body without Content-Encoding"
        accepted = {"Accept-Encoding": "identity"}  # RFC 9110, section 15.5.16
        raise ApiError(415, "unsupported_encoding", message, "Content-Encoding", headers=accepted)
    return handler(request)


async def handle_expect(request: web.Request) -> web.StreamResponse | None:
    """Leave the `100 Continue` to `send_continue`. For `expect_handler` of a route.

    aiohttp calls this before the middlewares, so before the caller is authenticated.
    """
    if request.headers[hdrs.EXPECT].lower() == _CONTINUE:
        return None
    message = f"the only supported value is '{_CONTINUE}'"
    return respond_error(request, ApiError(417, "expectation_failed", message, "Expect"))


async def send_continue(request: web.Request) -> None:
    """Send `100 Continue` if the client waits for it before it sends the body."""
    if request.version == HttpVersion11 and hdrs.EXPECT in request.headers:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # for `has_begun`: this is not the response


def get_media_type(request: web.Request) -> str:
    """Return the media type of a request's body without parameters; "" if it names none.

    Unlike `request.content_type` it does not parse the parameters: 7 KB of semicolons take seconds.
    """
    return request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()


async def read_json(request: web.Request, shape: type[T]) -> T:
    """Return the body, decoded and validated as `shape`. Raises `ApiError`.

    Only `application/json` is accepted: browsers send that type for a foreign page only after a
    CORS preflight.
    """
    _check_type(request)
    body = await read_body(request)
    check_structure(body)
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:  # its text has fields and types, but no values
        wrong = explain_error(error)
        raise ApiError(422, "invalid_body", wrong.sentence, wrong.path or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(400, "invalid_json", "the body is not valid JSON") from None


def check_structure(body: bytes) -> None:
    """Refuse JSON that would block the event loop for long. Raises `ApiError`.

    Strings may contain brackets and commas, too. Removing the strings is slow, so that is done only
    if the body with its strings exceeds the limit.
    """
    if _count_structural(body) <= MAX_JSON_VALUES:
        return
    pieces = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    too_many = pieces.count(b'"') > 4 * MAX_JSON_VALUES
    if too_many or _count_structural(b"".join(pieces.split(b'"')[::2])) > MAX_JSON_VALUES:
        message = f"the body has more than {MAX_JSON_VALUES:,} values and names"
        raise ApiError(413, "body_too_complex", message)


def _count_structural(text: bytes) -> int:
    return sum(map(text.count, (b"[", b"{", b":", b",")))


async def read_json_bytes(request: web.Request) -> bytes:
    """Return the bytes of an `application/json` body. Raises `ApiError`."""
    body = await read_body(request)
    _check_type(request)
    return body


async def read_body(request: web.Request) -> bytes:
    """Return the body. Raises `ApiError` if it is too large, too slow or incomplete."""
    limit = get_caller(request).body_limit(request.app[SETTINGS].gateway_max_body_bytes)
    too_large = ApiError(413, "body_too_large", f"the body has more than {limit:,} bytes")
    if (request.content_length or 0) > limit:
        raise too_large
    await send_continue(request)
    try:
        async with asyncio.timeout(request.app[SETTINGS].gateway_read_timeout_s):
            return await request.clone(client_max_size=limit).read()
    except TimeoutError:
        raise ApiError(408, "too_slow", "the body did not arrive in time") from None
    except web.HTTPRequestEntityTooLarge:
        raise too_large from None
    except (web.RequestPayloadError, ConnectionError):
        raise ApiError(400, "invalid_body", "the body ended too early") from None


def _check_type(request: web.Request) -> None:
    if get_media_type(request) != "application/json":
        raise ApiError(415, "not_json", "the body must be application/json", "Content-Type")


def respond_json(
    value: Any, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Return a response with a value as JSON."""
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers=headers,
    )
