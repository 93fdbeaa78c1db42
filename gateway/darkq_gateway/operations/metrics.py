"""`GET /metrics`: metrics for Prometheus.

The counters of all workers, the queues and the upstreams are the same from every gateway. Metrics
of this process have names that begin with `darkq_gateway_`; without Redis only these are returned.

The metrics cover all tenants. So they require `DARKQ_GATEWAY_METRICS_TOKEN`, and API keys are not
accepted. If the token is not set, they need no authentication until the first API key exists, and
are refused from then on.
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
from darkq_gateway.http.context import CLIENT, SETTINGS
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.sse_response import STREAMS
from darkq_gateway.http.telemetry import TALLY
from darkq_gateway.operations.families import (
    Process,
    System,
    make_process_families,
    make_system_families,
)

SCRAPE_TIMEOUT_S = 5.0
"""The deadline for Redis. Prometheus by default waits twice as long."""

_OPEN_METRICS = "application/openmetrics-text"
routes = web.RouteTableDef()


@routes.get("/metrics")
@public
async def get_metrics(request: web.Request) -> web.Response:
    """Return metrics in Prometheus' text format, or in OpenMetrics if `Accept` names it."""
    await _check_token(request)
    system = await _read_system(request.app)
    app = request.app
    process = Process(
        tally=app[TALLY],
        readers=len(app[STREAMS]),
        max_readers=app[SETTINGS].gateway_max_readers,
        overflows=app[CLIENT].overflows,
        has_redis=system is not None,
    )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        _Families(
            [*make_process_families(process), *(make_system_families(system) if system else ())]
        )
    )
    if _OPEN_METRICS in request.headers.get(hdrs.ACCEPT, ""):
        body = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        kind = f"{_OPEN_METRICS}; version=1.0.0; charset=utf-8"
    else:
        body = exposition.generate_latest(registry)
        kind = "text/plain; version=0.0.4; charset=utf-8"
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: kind})


class _Families:
    """A collector of families that have been read already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def _check_token(request: web.Request) -> None:
    token = request.app[SETTINGS].gateway_metrics_token
    challenge = {"WWW-Authenticate": "Bearer"}
    if token is None:
        if not await request.app[AUTH].allows_anonymous():
            message = "API keys exist, but DARKQ_GATEWAY_METRICS_TOKEN is not set"
            raise ApiError(401, "no_metrics_token", message, headers=challenge)
        return
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    good = token.get_secret_value().encode()
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), good)
    if scheme.lower() != "bearer" or not same:
        message = "the token of DARKQ_GATEWAY_METRICS_TOKEN is required"
        raise ApiError(401, "invalid_metrics_token", message, headers=challenge)


async def _read_system(app: web.Application) -> System | None:
    """Read the metrics of the system; None if Redis does not respond in time."""
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
