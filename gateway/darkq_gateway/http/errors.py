"""What goes wrong, as an HTTP answer. Every error of a request passes here, and only here.

    {"error": {"code": "job_not_found", "message": "…", "field": null}}

Below `/v1` the shape is OpenAI's. Nothing of a request is quoted, but for names of fields.
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
    """An answer that is an error. `code` is for programs, `message` for people.

    `field` names what is wrong in the request; `retry_after_s` says when to come again.
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
    """Return the answer to an error that was not foreseen."""
    return ApiError(500, "internal_error", "something went wrong here")


def unreadable() -> ApiError:
    """Return the answer to what is no HTTP."""
    return ApiError(400, "bad_request", "the request is not valid HTTP")


def unsupported_version() -> ApiError:
    """Return the answer to a version of HTTP after 1.1."""
    return ApiError(505, "http_version_not_supported", "this version of HTTP is not spoken here")


def not_found() -> ApiError:
    """Return the one answer for a job that is unknown, gone, or another tenant's."""
    return ApiError(404, "job_not_found", "no such job: unknown, or its result has expired")


_ALIKE: Mapping[type[BaseException], tuple[int, str, str, float | None]] = {
    darkq.QueueFull: (503, "queue_full", "the queue is full", 10),
    darkq.QueueClosed: (503, "queue_closed", "the queue takes no new jobs for now", 30),
    darkq.RedisUnavailable: (503, "unavailable", "the queue cannot be reached", 2),
    darkq.RedisFull: (503, "unavailable", "the queue cannot be reached", 2),
    darkq.NotReplicated: (503, "not_replicated", "stored, but on too few servers so far", None),
    FileStoreUnavailable: (503, "unavailable", "the store of files does not answer", 2),
    darkq.JobUnfinished: (409, "job_unfinished", "the job has not ended; cancel it first", None),
    darkq.CorruptRecord: (409, "corrupt_record", "what is stored of this cannot be read", None),
    # Another gateway may be as new as the record: so 503, and it is worth while to come again.
    NewerRecord: (503, "newer_record", "a newer version of darkq has written this", 10),
    darkq.BatchNotFound: (404, "batch_not_found", "no such batch", None),
    FileNotFound: (404, "file_not_found", "no such file", None),
}
"""Errors whose answer is always the same: status, code, message, when to come again."""


def error_of(error: BaseException) -> ApiError | None:
    """Return the answer to an error that was foreseen; None for any other."""
    if (alike := _ALIKE.get(type(error))) is not None:
        status, code, message, retry_after_s = alike
        return ApiError(status, code, message, retry_after_s=retry_after_s)
    match error:
        case ApiError():
            # Its frames refer to it, and would keep the body of the request until the next full
            # collection of garbage.
            return error.with_traceback(None)
        case darkq.InvalidJob():
            return ApiError(422, "invalid_job", error.reason, error.field)
        case darkq.JobNotFound():
            return not_found()
        case darkq.IdempotencyConflict():
            message = "this idempotency key already belongs to a job with another content"
            return ApiError(409, "idempotency_conflict", message)
        case darkq.CannotRetry():
            return ApiError(409, "cannot_retry", error.reason)
        case darkq.CursorGone():
            message = "the events after this cursor are gone; read the result instead"
            return ApiError(410, "cursor_gone", message, "after")
        case FileTooLarge():
            message = f"a file may have {error.limit_bytes:,} bytes at most"
            return ApiError(413, "file_too_large", message, "file")
        case web.HTTPException():
            return _of_http(error)
    return None


def _of_http(error: web.HTTPException) -> ApiError:
    status = HTTPStatus(error.status)
    headers = {name: value for name in ("Allow",) if (value := error.headers.get(name))}
    code = status.phrase.lower().replace(" ", "_").replace("-", "_")
    return ApiError(error.status, code, status.phrase, headers=headers)


def native_shape(error: ApiError) -> dict[str, Any]:
    """The body of an error of the native API."""
    return {"error": {"code": error.code, "message": error.message, "field": error.field}}


def openai_shape(error: ApiError) -> dict[str, Any]:
    """The body of an error as OpenAI's clients read it."""
    return WireError(error.status, error.code, error.message, error.field).body()


_NO_SUCH_ENDPOINT = (
    "there is no such endpoint here; there are /v1/chat/completions, /v1/responses, /v1/models, "
    "/v1/files and /v1/batches"
)

SHAPES: dict[str, Callable[[ApiError], dict[str, Any]]] = {"/v1": openai_shape}
"""The shapes of errors below a path, where it is not the native one."""


def shape_of(path: str) -> Callable[[ApiError], dict[str, Any]]:
    """Return how errors look at a path."""
    for prefix, shape in SHAPES.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return shape
    return native_shape


def has_begun(request: web.BaseRequest) -> bool:
    """Tell whether a byte of a response has been sent, so that there can be no other one."""
    return request.writer.output_size > 0


def respond_error(request: web.BaseRequest, error: ApiError) -> web.Response:
    """Return an error as the response to a request, in the shape of its path."""
    headers = dict(error.headers)
    if error.status == HTTPStatus.CONFLICT:  # OpenAI's SDK would ask again
        headers.setdefault("X-Should-Retry", "false")
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["Retry-After-Ms"] = str(max(1, math.ceil(error.retry_after_s * 1000)))
    return web.Response(
        status=error.status,
        body=msgspec.json.encode(shape_of(request.path)(error)),
        content_type="application/json",
        headers=headers,
    )


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error of a handler.

    After a response has begun only the end of the connection can tell of one: then this raises
    `ConnectionResetError`, and `Connection` aborts.
    """
    try:
        return await handler(request)
    except Exception as error:
        if isinstance(error, ConnectionError) and _has_left(request):
            raise
        known = error_of(error)
        if isinstance(error, web.HTTPNotFound) and shape_of(request.path) is openai_shape:
            known = ApiError(404, "not_found", _NO_SUCH_ENDPOINT)
        if known is None:
            log_bug(error)
            known = internal_error()
        if has_begun(request):
            route = request.match_info.route.resource
            where = route.canonical if route is not None else "?"
            logger.warning(LogEvent("response cut off", route=where, code=known.code))
            raise ConnectionResetError from None
        return respond_error(request, known)


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def log_bug(error: BaseException) -> None:
    """Log an error that nobody foresaw: where, and its type, since its text may hold a prompt."""
    logger.error(LogEvent("a request failed", exception=describe_error(error)))
