"""Responses without streaming that may take minutes: keeps the connection active until then.

Proxies close a silent connection after about a minute. The job would be cancelled, and its tokens
wasted. So after `DARKQ_GATEWAY_HEARTBEAT_S` the response begins, and a blank is sent at that
interval: JSON parsers skip white space before the document.

From then on the status is 200. For a later error there are two cases:

- A client that sends `RETRY_COUNT`, as OpenAI's SDKs do, retries by itself: its connection is
  aborted. The retry finds the same job and gets the status of the error.
- Any other client gets the body of the error, `{"error": …}`, with status 200.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
from aiohttp import web

from darkq_gateway.http.background import run_beside
from darkq_gateway.http.bodies import respond_json
from darkq_gateway.http.context import SETTINGS
from darkq_gateway.http.errors import handle_error, make_body
from darkq_gateway.http.idempotency import RETRY_COUNT


async def send_when_done(
    request: web.Request, work: Coroutine[Any, Any, dict[str, Any]]
) -> web.StreamResponse:
    """Return a response with the result of `work` as JSON.

    Raises what `work` raises if the response has not begun, and `ConnectionResetError` if the
    client has disconnected or must retry. Cancellation cancels `work`, too.
    """
    async with run_beside(work, name="darkq-gateway-response") as task:
        await asyncio.wait([task], timeout=request.app[SETTINGS].gateway_heartbeat_s)
        if task.done():
            return respond_json(task.result())
        return await _send_blanks_until_done(request, task)


async def _send_blanks_until_done(
    request: web.Request, task: asyncio.Task[dict[str, Any]]
) -> web.StreamResponse:
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    while not task.done():
        await response.write(b" ")
        await asyncio.wait([task], timeout=request.app[SETTINGS].gateway_heartbeat_s)
    try:
        body = task.result()
    except Exception as error:
        body = make_body(request.path, handle_error(error))
        if RETRY_COUNT in request.headers:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the client must retry") from None
    await response.write(msgspec.json.encode(body))
    await response.write_eof()
    return response
