"""Errors as HTTP responses. All error responses are made here.

    {"error": {"code": "job_not_found", "message": "…", "field": null}}

Paths below `/v1` use OpenAI's format. Messages quote nothing of a request except field names.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

import darkq
from darkq.errors import FileNotFound, FileStoreUnavailable, FileTooLarge, NewerRecord
from darkq.openai.errors import WireError
from darkq.telemetry.logging import LogEvent, describe_error

logger = logging.getLogger("darkq.gateway")


@dataclass(eq=False)
class ApiError(Exception):
    """An error response. `code` is for programs, `message` for people.

    `field` is the wrong field of the request; `retry_after_s` becomes the `Retry-After` header.
    """

    status: int
    code: str
    message: str
    field: str | None = None
    _: KW_ONLY
    retry_after_s: float | None = None
    headers: Mapping[str, str] | None = None


def internal_error() -> ApiError:
    """Return the response to an unexpected error."""
    return ApiError(500, "internal_error", "internal error; the log of the gateway has more")


def bad_request() -> ApiError:
    """Return the response to a request that is not valid HTTP."""
    return ApiError(400, "bad_request", "the request is not valid HTTP")


def unsupported_version() -> ApiError:
    """Return the response to a request of an HTTP version after 1.1."""
    return ApiError(505, "http_version_not_supported", "only HTTP/1.0 and HTTP/1.1 are supported")


_FIXED: Mapping[type[BaseException], tuple[int, str, str]] = {
    darkq.JobNotFound: (404, "job_not_found", "no such job: unknown, or its result has expired"),
    darkq.BatchNotFound: (404, "batch_not_found", "no such batch"),
    FileNotFound: (404, "file_not_found", "no such file"),
    darkq.JobUnfinished: (409, "job_unfinished", "the job has not ended; cancel it first"),
    darkq.CorruptRecord: (409, "corrupt_record", "the stored record cannot be read"),
    darkq.IdempotencyConflict: (
        409,
        "idempotency_conflict",
        "this idempotency key belongs to a request with another body",
    ),
    darkq.NotReplicated: (503, "not_replicated", "stored, but on fewer replicas than required"),
}
"""Errors with a fixed response: status, code, message."""

_RETRYABLE: Mapping[type[BaseException], tuple[str, str, float]] = {
    darkq.QueueFull: ("queue_full", "the queue is full", 10),
    darkq.QueueClosed: ("queue_closed", "the queue is closed and accepts no new jobs", 30),
    darkq.RedisUnavailable: ("unavailable", "the queue cannot be reached", 2),
    darkq.RedisFull: ("unavailable", "the queue cannot be reached", 2),
    FileStoreUnavailable: ("unavailable", "the file store does not respond", 2),
    # During an upgrade another gateway may already be able to read it.
    NewerRecord: ("newer_record", "the record was written by a newer version of darkq", 10),
}
"""Errors with a 503: code, message, seconds for `Retry-After`."""


def convert_error(error: BaseException) -> ApiError | None:
    """Return the response to a known error; None for any other."""
    if (fixed := _FIXED.get(type(error))) is not None:
        return ApiError(*fixed)
    if (retryable := _RETRYABLE.get(type(error))) is not None:
        code, message, retry_after_s = retryable
        return ApiError(503, code, message, retry_after_s=retry_after_s)
    match error:
        case ApiError():
            # The frames of its traceback refer to it. This cycle would keep the body of the request
            # in memory until the next full garbage collection.
            return error.with_traceback(None)
        case darkq.InvalidJob():
            return ApiError(422, "invalid_job", error.reason, error.field)
        case darkq.CannotRetry():
            return ApiError(409, "cannot_retry", error.reason)
        case darkq.CursorGone():
            message = "the events after this cursor have been deleted; read the result instead"
            return ApiError(410, "cursor_gone", message, "after")
        case FileTooLarge():
            message = f"a file may have {error.limit_bytes:,} bytes at most"
            return ApiError(413, "file_too_large", message, "file")
        case web.HTTPException():
            phrase = HTTPStatus(error.status).phrase
            code = phrase.lower().replace(" ", "_").replace("-", "_")
            allow = error.headers.get(hdrs.ALLOW)
            headers = {"Allow": allow} if allow else None
            return ApiError(error.status, code, phrase, headers=headers)
    return None


def make_openai_body(error: ApiError) -> dict[str, Any]:
    """Return the body of an error in OpenAI's format."""
    return WireError(error.status, error.code, error.message, error.field).body()


_NO_SUCH_ENDPOINT = (
    "no such endpoint; supported are /v1/chat/completions, /v1/responses, /v1/models, "
    "/v1/files and /v1/batches"
)


def is_openai(path: str) -> bool:
    """Return whether a path is in OpenAI's API, so that its errors have OpenAI's format."""
    return path == "/v1" or path.startswith("/v1/")


def make_body(path: str, error: ApiError) -> dict[str, Any]:
    """Return the body of an error in the format of a path."""
    if is_openai(path):
        return make_openai_body(error)
    return {"error": {"code": error.code, "message": error.message, "field": error.field}}


def has_begun(request: web.BaseRequest) -> bool:
    """Return whether a byte of a response has been sent, so that no other one is possible."""
    return request.writer.output_size > 0


def respond_error(request: web.BaseRequest, error: ApiError) -> web.Response:
    """Return an error as the response to a request, in the format of its path."""
    headers = dict(error.headers or {})
    if error.status == HTTPStatus.CONFLICT:  # OpenAI's SDK would retry a 409
        headers.setdefault("X-Should-Retry", "false")
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["Retry-After-Ms"] = str(max(1, math.ceil(error.retry_after_s * 1000)))
    return web.Response(
        status=error.status,
        body=msgspec.json.encode(make_body(request.path, error)),
        content_type="application/json",
        headers=headers,
    )


@web.middleware
async def handle_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn each error of a handler into a response.

    After the response has begun, only the end of the connection can signal an error. Then this
    raises `ConnectionResetError`, and `Connection` aborts the connection.
    """
    try:
        return await handler(request)
    except Exception as error:
        has_left = request.transport is None or request.transport.is_closing()
        if has_left and isinstance(error, ConnectionError):
            raise
        if isinstance(error, web.HTTPNotFound) and is_openai(request.path):
            known = ApiError(404, "not_found", _NO_SUCH_ENDPOINT)
        else:
            known = handle_error(error)
        if has_begun(request):
            route = get_route_pattern(request)
            logger.warning(LogEvent("response aborted", route=route, code=known.code))
            raise ConnectionResetError from None
        return respond_error(request, known)


def get_route_pattern(request: web.Request) -> str:
    """Return the pattern of a request's path, such as `/jobs/{job_id}`; "?" if it has no route."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "?"


def handle_error(error: BaseException) -> ApiError:
    """Return the response to any error; an unexpected one is logged."""
    known = convert_error(error)
    if known is None:
        log_bug(error)
        known = internal_error()
    return known


def log_bug(error: BaseException) -> None:
    """Log the type and place of an unexpected error; its text may contain a prompt."""
    logger.error(LogEvent("request failed", exception=describe_error(error)))
