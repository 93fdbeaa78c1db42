"""Bodies of requests: JSON of a known shape and bounded size, that arrives in time."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from aiohttp import web

from darkq_gateway.context import SETTINGS, caller_of
from darkq_gateway.errors import ApiError

T = TypeVar("T")


async def read_json(request: web.Request, shape: type[T]) -> T:
    """Return the body as what it should be.

    Only `application/json` is taken: a stranger's page cannot send that without being asked
    first. Raises `ApiError`.
    """
    _check_type(request)
    body = await read_body(request)
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:  # names fields and types, not values
        reason, field = _reason(error)
        raise ApiError(422, "invalid_body", reason, field) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(400, "invalid_json", "the body is no JSON") from None


async def read_undecoded(request: web.Request) -> bytes:
    """Return a body of `application/json` as it was sent. Raises `ApiError`."""
    body = await read_body(request)
    _check_type(request)
    return body


async def read_body(request: web.Request) -> bytes:
    """Return the body. Raises `ApiError` for one that is too large, too slow or cut off."""
    limit = caller_of(request).body_limit(request.app[SETTINGS].gateway_max_body_bytes)
    try:
        async with asyncio.timeout(request.app[SETTINGS].gateway_read_timeout_s):
            return await request.clone(client_max_size=limit).read()
    except TimeoutError:
        raise ApiError(408, "too_slow", "the body did not arrive in time") from None
    except web.HTTPRequestEntityTooLarge:
        message = f"the body has more than {limit:,} bytes"
        raise ApiError(413, "body_too_large", message) from None
    except (web.RequestPayloadError, ConnectionError):
        raise ApiError(400, "invalid_body", "the body was cut off") from None


def _check_type(request: web.Request) -> None:
    if request.content_type != "application/json":
        raise ApiError(415, "not_json", "the body must be application/json", "Content-Type")


def _reason(error: msgspec.ValidationError) -> tuple[str, str | None]:
    text, _, where = str(error).partition(" - at `")
    reason = "is none of the allowed values" if "enum" in text else text  # it would quote the value
    return reason, where.removeprefix("key in ").removeprefix("$").strip(".`") or None
