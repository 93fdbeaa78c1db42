"""Health checks: is the process alive, and can it serve requests?"""

from __future__ import annotations

import asyncio

from aiohttp import web

from darkq import RedisUnavailable
from darkq_gateway.http.auth import public
from darkq_gateway.http.context import CLIENT
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.sse_response import STREAMS

READY_TIMEOUT_S = 2.0
routes = web.RouteTableDef()


@routes.get("/health")  # of other OpenAI-compatible servers, whose clients call it
@routes.get("/healthz")
@public
async def healthz(_: web.Request) -> web.Response:
    """The process is alive."""
    return web.json_response({"status": "ok"})


@routes.get("/readyz")
@public
async def readyz(request: web.Request) -> web.Response:
    """Redis responds, and the process is not shutting down."""
    if request.app[STREAMS].draining:
        raise ApiError(503, "draining", "the gateway is shutting down")
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await request.app[CLIENT].ping()
    except (TimeoutError, RedisUnavailable) as error:
        # No address: anyone may ask.
        reason = error.reason if isinstance(error, RedisUnavailable) else "no reply in time"
        message = f"the queue cannot be reached: {reason}"
        raise ApiError(503, "unavailable", message, retry_after_s=2) from None
    return web.json_response({"status": "ready"})
