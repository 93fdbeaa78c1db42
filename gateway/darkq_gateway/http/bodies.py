"""Bodies of requests: JSON of a known shape and bounded size, that arrives in time.

A body is read as it was sent. A compressed one is refused before anything of it is read, and the
server runs with `auto_decompress=False`: a few kilobytes could unpack to gigabytes, in the event
loop. What a client has not sent yet when it is answered early stays unread: see `serve.LINGER_S`.
A client that sends `Expect: 100-continue` is asked for its body by the handler that reads it, so
one whose request is refused need not send a body at all.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler

from darkq.protocol.validation import explain_error
from darkq_gateway.http.context import SETTINGS, caller_of
from darkq_gateway.http.errors import ApiError, respond_error

T = TypeVar("T")

MAX_JSON_VALUES = 250_000
"""Most values and names in a body: many of them take long to decode, long ones do not."""

_CONTINUE = "100-continue"


@web.middleware
async def refuse_encoded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 415 to a request with a `Content-Encoding`, whether it has a body or not."""
    names = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, [])).lower().split(",")
    if any(name.strip() not in ("", "identity") for name in names):
        message = "a compressed body is not read: send it without Content-Encoding"
        accepted = {"Accept-Encoding": "identity"}  # RFC 9110, section 15.5.16
        raise ApiError(415, "unsupported_encoding", message, "Content-Encoding", headers=accepted)
    return await handler(request)


async def on_expect(request: web.Request) -> web.StreamResponse | None:
    """Leave the `100 Continue` to `ask_for_body`. For `expect_handler` of a route.

    aiohttp calls this before the middlewares, and so before anybody knows who calls.
    """
    if request.headers[hdrs.EXPECT].lower() == _CONTINUE:
        return None
    message = f"only '{_CONTINUE}' can be expected"
    return respond_error(request, ApiError(417, "expectation_failed", message, "Expect"))


async def ask_for_body(request: web.Request) -> None:
    """Send `100 Continue` to a client that waits for it before it sends its body."""
    if request.version == HttpVersion11 and hdrs.EXPECT in request.headers:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # no byte of the answer has been sent yet


def media_type(request: web.Request) -> str:
    """Return what a request says its body is, without parameters; "" if it does not say.

    `request.content_type` reads the parameters too, in seconds for 7 KB of semicolons.
    """
    return request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()


async def read_json(request: web.Request, shape: type[T]) -> T:
    """Return the body as what it should be.

    Only `application/json` is taken: a stranger's page cannot send that without being asked
    first. Raises `ApiError`.
    """
    _check_type(request)
    body = await read_body(request)
    check_structure(body)
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:  # names fields and types, not values
        wrong = explain_error(error)
        raise ApiError(422, "invalid_body", wrong.sentence, wrong.path or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(400, "invalid_json", "the body is no JSON") from None


def check_structure(body: bytes) -> None:
    """Refuse JSON that would keep the event loop for long. Raises `ApiError`.

    Texts may hold any characters. So these are only left out where all of them are too many.
    """
    if _structural(body) <= MAX_JSON_VALUES:
        return
    pieces = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    too_many = pieces.count(b'"') > 4 * MAX_JSON_VALUES
    if too_many or _structural(b"".join(pieces.split(b'"')[::2])) > MAX_JSON_VALUES:
        message = f"the body has more than {MAX_JSON_VALUES:,} values and names"
        raise ApiError(413, "body_too_complex", message)


def _structural(text: bytes) -> int:
    return sum(map(text.count, (b"[", b"{", b":", b",")))


async def read_undecoded(request: web.Request) -> bytes:
    """Return a body of `application/json` as it was sent. Raises `ApiError`."""
    body = await read_body(request)
    _check_type(request)
    return body


async def read_body(request: web.Request) -> bytes:
    """Return the body. Raises `ApiError` for one that is too large, too slow or cut off."""
    limit = caller_of(request).body_limit(request.app[SETTINGS].gateway_max_body_bytes)
    too_large = ApiError(413, "body_too_large", f"the body has more than {limit:,} bytes")
    if (request.content_length or 0) > limit:
        raise too_large
    await ask_for_body(request)
    try:
        async with asyncio.timeout(request.app[SETTINGS].gateway_read_timeout_s):
            return await request.clone(client_max_size=limit).read()
    except TimeoutError:
        raise ApiError(408, "too_slow", "the body did not arrive in time") from None
    except web.HTTPRequestEntityTooLarge:
        raise too_large from None
    except (web.RequestPayloadError, ConnectionError):
        raise ApiError(400, "invalid_body", "the body was cut off") from None


def _check_type(request: web.Request) -> None:
    if media_type(request) != "application/json":
        raise ApiError(415, "not_json", "the body must be application/json", "Content-Type")
