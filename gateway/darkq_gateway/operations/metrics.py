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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from aiohttp import hdrs, web
from prometheus_client import exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from darkq import QueueStatus, RedisUnavailable, Stats, UpstreamStatus
from darkq.telemetry.metrics import MEASURES, Measure, Tally
from darkq_gateway.http.auth import AUTH, public
from darkq_gateway.http.context import CLIENT, SETTINGS
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.sse_response import STREAMS
from darkq_gateway.http.telemetry import OWN, TALLY

SCRAPE_TIMEOUT_S = 5.0
"""The deadline for Redis. Prometheus by default waits twice as long."""

MAX_UPSTREAMS = 100
MAX_WINDOWS = 10
_BREAKERS = ("closed", "open", "half-open", "blocked")
_OPEN_METRICS = "application/openmetrics-text"
routes = web.RouteTableDef()


@routes.get("/metrics")
@public
async def get_metrics(request: web.Request) -> web.Response:
    """Return metrics in Prometheus' text format, or in OpenMetrics if `Accept` names it."""
    await _check_token(request)
    app = request.app
    system = await _read_system(app)
    process = Process(
        tally=app[TALLY],
        readers=len(app[STREAMS]),
        max_readers=app[SETTINGS].gateway_max_readers,
        overflows=app[CLIENT].overflows,
        has_redis=system is not None,
    )
    families = [*make_process_families(process), *(make_system_families(system) if system else ())]
    registry = _Families(families)
    if _OPEN_METRICS in request.headers.get(hdrs.ACCEPT, ""):
        body = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        kind = f"{_OPEN_METRICS}; version=1.0.0; charset=utf-8"
    else:
        body = exposition.generate_latest(registry)
        kind = "text/plain; version=0.0.4; charset=utf-8"
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: kind})


class _Families(Collector):
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


class Process(NamedTuple):
    """The state of this process."""

    tally: Tally
    readers: int
    max_readers: int
    overflows: int
    has_redis: bool


class System(NamedTuple):
    """The state of the system, which is the same from every gateway."""

    stats: Stats
    queues: Sequence[QueueStatus]
    upstreams: Sequence[UpstreamStatus]


def make_process_families(process: Process) -> Iterator[Metric]:
    """Yield the families of one gateway."""
    yield from make_measure_families(OWN, process.tally.numbers)
    has_redis = int(process.has_redis)
    yield gauge("darkq_gateway_redis_up", "Whether Redis has answered this scrape.", has_redis)
    yield gauge("darkq_gateway_readers", "Open event streams.", process.readers)
    most = process.max_readers
    yield gauge("darkq_gateway_readers_max", "The limit of open event streams.", most)
    yield CounterMetricFamily(
        "darkq_gateway_reader_overflows",
        "Times that a reader was too slow for live events and continued from the event log.",
        value=process.overflows,
    )


def make_system_families(system: System) -> Iterator[Metric]:
    """Yield the families that are the same from every gateway."""
    yield from make_measure_families(MEASURES, system.stats.numbers)
    yield from _make_queue_families(system.queues)
    yield from _make_upstream_families(system.upstreams[:MAX_UPSTREAMS])
    stats = system.stats
    yield gauge("darkq_workers", "Workers that are alive.", stats.workers)
    yield gauge(
        "darkq_worker_buffer_chars",
        "Characters of text that wait in all workers to be written to Redis.",
        stats.buffer_chars,
    )
    yield gauge(
        "darkq_worker_buffer_fullest_ratio",
        "Fill level of the fullest buffer of a worker; at 1 it stops reading its upstreams.",
        stats.fullest_buffer,
    )


def make_measure_families(
    measures: Iterable[Measure], numbers: Mapping[tuple[str, tuple[str, ...], int], int]
) -> Iterator[Metric]:
    """Yield the families of measures. One without labels is 0 if nothing was counted."""
    for measure in measures:
        if measure.is_histogram:
            yield _histogram(measure, numbers)
            continue
        family = CounterMetricFamily(measure.name, measure.text, labels=measure.labels)
        counts = measure.counts(numbers) or ({} if measure.labels else {(): 0})
        for labels, count in counts.items():
            family.add_metric(labels, count)
        yield family


def gauge(
    name: str, text: str, value: float | None = None, *, labels: Sequence[str] | None = None
) -> GaugeMetricFamily:
    """Return a gauge, or the family of one with labels."""
    unit = "seconds" if name.endswith("_seconds") else ""
    return GaugeMetricFamily(name, text, value=value, labels=labels, unit=unit)


def _histogram(measure: Measure, numbers: Mapping[Any, int]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(
        measure.name, measure.text, labels=measure.labels, unit="seconds"
    )
    ends = [*map(floatToGoString, measure.bounds_s), "+Inf"]
    for labels, times in measure.times(numbers).items():
        rising = accumulate(times.buckets)
        family.add_metric(labels, list(zip(ends, rising, strict=True)), times.sum_s)
    return family


def _make_queue_families(queues: Iterable[QueueStatus]) -> Iterator[Metric]:
    jobs = gauge("darkq_jobs", "Jobs that have not ended.", labels=["state", "priority"])
    oldest = gauge(
        "darkq_oldest_waiting_job_seconds",
        "Time since the oldest waiting job was due; 0 if none waits.",
        labels=["priority"],
    )
    held = gauge(
        "darkq_queue_held",
        "1 while the queue is paused (starts no jobs) or closed (accepts none).",
        labels=["state", "priority"],
    )
    for queue in queues:
        held.add_metric(["paused", queue.priority], int(queue.paused is not None))
        held.add_metric(["closed", queue.priority], int(queue.closed is not None))
        jobs.add_metric(["waiting", queue.priority], queue.waiting)
        jobs.add_metric(["deferred", queue.priority], queue.deferred)
        jobs.add_metric(["running", queue.priority], queue.running)
        oldest.add_metric([queue.priority], queue.oldest_wait_s)
    yield from (jobs, oldest, held)


def _make_upstream_families(upstreams: Iterable[UpstreamStatus]) -> Iterator[Metric]:
    by_name = ["upstream"]
    workers = gauge("darkq_upstream_workers", "Workers that serve an upstream.", labels=by_name)
    breaker = gauge(
        "darkq_upstream_breaker",
        "1 for the state of the circuit breaker, 0 for the other states.",
        labels=["upstream", "state"],
    )
    calls = gauge(
        "darkq_upstream_calls_in_progress",
        "Calls in progress, if concurrency is limited.",
        labels=by_name,
    )
    waiting = gauge(
        "darkq_upstream_jobs_waiting", "Jobs deferred until their turn.", labels=by_name
    )
    window = ["upstream", "window_seconds"]
    used = gauge(
        "darkq_upstream_window_calls", "Calls that count in a limit window.", labels=window
    )
    most = gauge(
        "darkq_upstream_window_calls_max", "The limit of calls in a limit window.", labels=window
    )
    for upstream in upstreams:
        name = upstream.name
        workers.add_metric([name], upstream.workers)
        calls.add_metric([name], upstream.in_progress)
        waiting.add_metric([name], upstream.waiting)
        for state in _BREAKERS:
            breaker.add_metric([name, state], int(state == upstream.breaker))
        windows = {f"{window.length_s:g}": window for window in upstream.windows[:MAX_WINDOWS]}
        for length, use in windows.items():
            used.add_metric([name, length], use.used)
            most.add_metric([name, length], use.calls)
    yield from (workers, breaker, calls, waiting, used, most)
