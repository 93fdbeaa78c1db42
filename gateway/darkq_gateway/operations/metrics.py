"""`GET /metrics`: how it goes, for Prometheus.

What all workers count together, and how the queues and upstreams stand, is the same from every
gateway. What the process counts of itself has names that begin with `darkq_gateway_`. Without
Redis only the latter is told.

It tells of all tenants together. So it needs `DARKQ_GATEWAY_METRICS_TOKEN`, or without one, like
everything else, nothing until there is an API key; no key opens it.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics

from darkq import RedisUnavailable
from darkq_gateway.http.auth import AUTH, public
from darkq_gateway.http.context import CLIENT, SETTINGS, STREAMS
from darkq_gateway.http.counting import TALLY
from darkq_gateway.http.errors import ApiError
from darkq_gateway.operations.families import Process, System, of_process, of_system

SCRAPE_TIMEOUT_S = 5.0
"""Redis has so long to answer; Prometheus by default waits for twice that."""

_OPEN_METRICS = "application/openmetrics-text"


def routes() -> list[web.RouteDef]:
    return [web.get("/metrics", metrics)]


@public
async def metrics(request: web.Request) -> web.Response:
    """Answer in Prometheus' text, or in OpenMetrics where that is asked for."""
    await _check(request)
    system = await _system(request.app)
    app = request.app
    process = Process(
        tally=app[TALLY],
        readers=len(app[STREAMS]),
        max_readers=app[SETTINGS].gateway_max_readers,
        overflows=app[CLIENT].overflows,
        has_redis=system is not None,
    )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*of_process(process), *(of_system(system) if system else ())]))
    if _OPEN_METRICS in request.headers.get(hdrs.ACCEPT, ""):
        body = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        kind = f"{_OPEN_METRICS}; version=1.0.0; charset=utf-8"
    else:
        body = exposition.generate_latest(registry)
        kind = "text/plain; version=0.0.4; charset=utf-8"
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: kind})


class _Families:
    """A collector of what has been collected."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def _check(request: web.Request) -> None:
    token = request.app[SETTINGS].gateway_metrics_token
    challenge = {"WWW-Authenticate": "Bearer"}
    if token is None:
        if not await request.app[AUTH].lets_anybody_in():
            message = "there are API keys, and DARKQ_GATEWAY_METRICS_TOKEN is not set"
            raise ApiError(401, "no_metrics_token", message, headers=challenge)
        return
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    good = token.get_secret_value().encode()
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), good)
    if scheme.lower() != "bearer" or not same:
        message = "the token of DARKQ_GATEWAY_METRICS_TOKEN is needed"
        raise ApiError(401, "invalid_metrics_token", message, headers=challenge)


async def _system(app: web.Application) -> System | None:
    """Ask Redis; None when it does not answer in time."""
    client = app[CLIENT]
    try:
        async with asyncio.timeout(SCRAPE_TIMEOUT_S):
            return System(
                stats=await client.stats(),
                queues=await client.queues(),
                upstreams=await client.upstreams(),
            )
    except (TimeoutError, RedisUnavailable):
        return None
