"""Errors as HTTP responses. All error responses are made here.

    {"error": {"code": "job_not_found", "message": "…", "field": null}}

Paths below `/v1` use OpenAI's format. Messages quote nothing of a request except field names.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

import darkq
from darkq.errors import FileNotFound, FileStoreUnavailable, FileTooLarge, NewerRecord
from darkq.openai.errors import WireError
from darkq.telemetry.logging import LogEvent, describe_error

logger = logging.getLogger("darkq.gateway")


class ApiError(Exception):
    """An error response. `code` is for programs, `message` for people.

    `field` is the wrong field of the request; `retry_after_s` becomes the `Retry-After` header.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        field: str | None = None,
        *,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})


def internal_error() -> ApiError:
    """Return the response to an unexpected error."""
    return ApiError(500, "internal_error", "internal error; the log of the gateway has more")


def bad_request() -> ApiError:
    """Return the response to a request that is not valid HTTP."""
    return ApiError(400, "bad_request", "the request is not valid HTTP")


def unsupported_version() -> ApiError:
    """Return the response to a request of an HTTP version after 1.1."""
    return ApiError(505, "http_version_not_supported", "only HTTP/1.0 and HTTP/1.1 are supported")


def job_not_found() -> ApiError:
    """Return the one response for a job that is unknown, expired, or another tenant's."""
    return ApiError(404, "job_not_found", "no such job: unknown, or its result has expired")


_FIXED: Mapping[type[BaseException], tuple[int, str, str, float | None]] = {
    darkq.QueueFull: (503, "queue_full", "the queue is full", 10),
    darkq.QueueClosed: (503, "queue_closed", "the queue is closed and accepts no new jobs", 30),
    darkq.RedisUnavailable: (503, "unavailable", "the queue cannot be reached", 2),
    darkq.RedisFull: (503, "unavailable", "the queue cannot be reached", 2),
    darkq.NotReplicated: (
        503,
        "not_replicated",
        "stored, but on fewer replicas than required",
        None,
    ),
    FileStoreUnavailable: (503, "unavailable", "the file store does not respond", 2),
    darkq.JobUnfinished: (409, "job_unfinished", "the job has not ended; cancel it first", None),
    darkq.CorruptRecord: (409, "corrupt_record", "the stored record cannot be read", None),
    # 503, since during an upgrade another gateway may already be able to read it.
    NewerRecord: (503, "newer_record", "the record was written by a newer version of darkq", 10),
    darkq.BatchNotFound: (404, "batch_not_found", "no such batch", None),
    FileNotFound: (404, "file_not_found", "no such file", None),
}
"""Errors with a fixed response: status, code, message, seconds for `Retry-After`."""


def convert_error(error: BaseException) -> ApiError | None:
    """Return the response to a known error; None for any other."""
    if (fixed := _FIXED.get(type(error))) is not None:
        status, code, message, retry_after_s = fixed
        return ApiError(status, code, message, retry_after_s=retry_after_s)
    match error:
        case ApiError():
            # The frames of its traceback refer to it. This cycle would keep the body of the request
            # in memory until the next full garbage collection.
            return error.with_traceback(None)
        case darkq.InvalidJob():
            return ApiError(422, "invalid_job", error.reason, error.field)
        case darkq.JobNotFound():
            return job_not_found()
        case darkq.IdempotencyConflict():
            message = "this idempotency key belongs to a request with another body"
            return ApiError(409, "idempotency_conflict", message)
        case darkq.CannotRetry():
            return ApiError(409, "cannot_retry", error.reason)
        case darkq.CursorGone():
            message = "the events after this cursor have been deleted; read the result instead"
            return ApiError(410, "cursor_gone", message, "after")
        case FileTooLarge():
            message = f"a file may have {error.limit_bytes:,} bytes at most"
            return ApiError(413, "file_too_large", message, "file")
        case web.HTTPException():
            return _convert_http(error)
    return None


def _convert_http(error: web.HTTPException) -> ApiError:
    status = HTTPStatus(error.status)
    headers = {name: value for name in ("Allow",) if (value := error.headers.get(name))}
    code = status.phrase.lower().replace(" ", "_").replace("-", "_")
    return ApiError(error.status, code, status.phrase, headers=headers)


def make_native_body(error: ApiError) -> dict[str, Any]:
    """Return the body of an error of the native API."""
    return {"error": {"code": error.code, "message": error.message, "field": error.field}}


def make_openai_body(error: ApiError) -> dict[str, Any]:
    """Return the body of an error in OpenAI's format."""
    return WireError(error.status, error.code, error.message, error.field).body()


_NO_SUCH_ENDPOINT = (
    "no such endpoint; supported are /v1/chat/completions, /v1/responses, /v1/models, "
    "/v1/files and /v1/batches"
)

BODY_MAKERS: dict[str, Callable[[ApiError], dict[str, Any]]] = {"/v1": make_openai_body}
"""The formats of errors below a path; other paths have the native one."""


def get_body_maker(path: str) -> Callable[[ApiError], dict[str, Any]]:
    """Return the function that makes the body of an error at a path."""
    for prefix, make_body in BODY_MAKERS.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return make_body
    return make_native_body


def has_begun(request: web.BaseRequest) -> bool:
    """Return whether a byte of a response has been sent, so that no other one is possible."""
    return request.writer.output_size > 0


def respond_error(request: web.BaseRequest, error: ApiError) -> web.Response:
    """Return an error as the response to a request, in the format of its path."""
    headers = dict(error.headers)
    if error.status == HTTPStatus.CONFLICT:  # OpenAI's SDK would retry a 409
        headers.setdefault("X-Should-Retry", "false")
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["Retry-After-Ms"] = str(max(1, math.ceil(error.retry_after_s * 1000)))
    return web.Response(
        status=error.status,
        body=msgspec.json.encode(get_body_maker(request.path)(error)),
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
        if isinstance(error, ConnectionError) and _has_left(request):
            raise
        if isinstance(error, web.HTTPNotFound) and get_body_maker(request.path) is make_openai_body:
            known = ApiError(404, "not_found", _NO_SUCH_ENDPOINT)
        else:
            known = handle_error(error)
        if has_begun(request):
            route = request.match_info.route.resource
            where = route.canonical if route is not None else "?"
            logger.warning(LogEvent("response aborted", route=where, code=known.code))
            raise ConnectionResetError from None
        return respond_error(request, known)


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


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
