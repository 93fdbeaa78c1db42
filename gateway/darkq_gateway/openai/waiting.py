"""An answer in one piece that may take minutes: the connection is never silent meanwhile.

Proxies give a silent server up after a minute or so; the job would be cancelled then, and its
tokens paid for nothing. So after `DARKQ_GATEWAY_HEARTBEAT_S` the response begins, and a blank is
sent as often: readers of JSON skip white space before it.

The status is 200 from then on, so it cannot tell of what goes wrong later:

- A client that repeats calls by itself, as OpenAI's SDKs do, and says so (`RETRY_COUNT`), has its
  connection cut. Its repetition finds the same job, and gets the true status at once.
- Any other client gets the error's body, `{"error": …}`, with the status 200.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
from aiohttp import web

from darkq_gateway.http.context import SETTINGS
from darkq_gateway.http.errors import ApiError, error_of, log_bug, shape_of
from darkq_gateway.http.repetitions import RETRY_COUNT
from darkq_gateway.native.jobs import as_json

_BLANK = b" "


async def send_when_done(
    request: web.Request, work: Coroutine[Any, Any, dict[str, Any]]
) -> web.StreamResponse:
    """Return the response that holds what `work` returns.

    Raises what `work` raises, as long as the response has not begun, and `ConnectionResetError`
    when the client has gone or is to call again. Cancelled, it cancels `work`.
    """
    task = asyncio.create_task(work, name="darkq-gateway-answer")
    try:
        await asyncio.wait([task], timeout=request.app[SETTINGS].gateway_heartbeat_s)
        if task.done():
            return as_json(task.result())
        return await _patiently(request, task)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _patiently(
    request: web.Request, task: asyncio.Task[dict[str, Any]]
) -> web.StreamResponse:
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    while not task.done():
        await response.write(_BLANK)
        await asyncio.wait([task], timeout=request.app[SETTINGS].gateway_heartbeat_s)
    try:
        body = task.result()
    except Exception as error:
        body = _late(request, error)
    await response.write(msgspec.json.encode(body))
    await response.write_eof()
    return response


def _late(request: web.Request, error: Exception) -> dict[str, Any]:
    """Return an error as a body, or cut the connection of a client that will call again."""
    known = error_of(error)
    if known is None:
        log_bug(error)
        known = ApiError(500, "internal_error", "something went wrong here")
    if RETRY_COUNT in request.headers:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client is to call again") from None
    return shape_of(request.path)(known)
