"""Is the process alive, and can it serve?"""

from __future__ import annotations

import asyncio

from aiohttp import web

from darkq import RedisUnavailable
from darkq_gateway.http.auth import public
from darkq_gateway.http.context import CLIENT, STREAMS
from darkq_gateway.http.errors import ApiError

READY_TIMEOUT_S = 2.0


def routes() -> list[web.RouteDef]:
    # Other servers on OpenAI's wire have `/health`, and their clients ask for it.
    paths = {"/healthz": healthz, "/health": healthz, "/readyz": readyz}
    return [web.get(path, handler) for path, handler in paths.items()]


@public
async def healthz(_: web.Request) -> web.Response:
    """The process answers."""
    return web.json_response({"status": "ok"})


@public
async def readyz(request: web.Request) -> web.Response:
    """Redis answers, and the process is not about to stop."""
    if request.app[STREAMS].draining:
        raise ApiError(503, "draining", "this process is about to stop")
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await request.app[CLIENT].ping()
    except (TimeoutError, RedisUnavailable):
        raise ApiError(503, "unavailable", "the queue cannot be reached", retry_after_s=2) from None
    return web.json_response({"status": "ready"})
