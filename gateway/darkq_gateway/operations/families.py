"""Prometheus' families of what is known: names, types, units and labels. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from darkq import QueueStatus, Stats, UpstreamStatus
from darkq.telemetry.metrics import MEASURES, Measure, Tally
from darkq_gateway.http.counting import OWN

MAX_UPSTREAMS = 100
MAX_WINDOWS = 10

_BREAKERS = ("closed", "open", "half-open", "blocked")


class Process(NamedTuple):
    """What this process knows of itself."""

    tally: Tally
    readers: int
    max_readers: int
    overflows: int
    has_redis: bool


class System(NamedTuple):
    """What is the same from every gateway."""

    stats: Stats
    queues: Sequence[QueueStatus]
    upstreams: Sequence[UpstreamStatus]


def of_process(process: Process) -> Iterator[Metric]:
    """Return the families of one gateway."""
    yield from map_measures(OWN, process.tally.numbers)
    yield gauge(
        "darkq_gateway_redis_up", "Whether Redis has answered this scrape.", int(process.has_redis)
    )
    yield gauge("darkq_gateway_readers", "Event streams that are open.", process.readers)
    yield gauge("darkq_gateway_readers_max", "How many may be.", process.max_readers)
    yield CounterMetricFamily(
        "darkq_gateway_reader_overflows",
        "Times that a reader was too slow for live events, and went on from the event log.",
        value=process.overflows,
    )


def of_system(system: System) -> Iterator[Metric]:
    """Return the families that are the same from every gateway."""
    yield from map_measures(MEASURES, system.stats.numbers)
    yield from _of_queues(system.queues)
    yield from _of_upstreams(system.upstreams[:MAX_UPSTREAMS])
    stats = system.stats
    yield gauge("darkq_workers", "Workers that are alive.", stats.workers)
    yield gauge(
        "darkq_worker_buffer_chars",
        "Text that waits in all workers for Redis to take it.",
        stats.buffer_chars,
    )
    yield gauge(
        "darkq_worker_buffer_fullest_ratio",
        "How full the fullest worker's buffer is; at 1 its upstreams are not read.",
        stats.fullest_buffer,
    )


def map_measures(
    measures: Iterable[Measure], numbers: Mapping[tuple[str, tuple[str, ...], int], int]
) -> Iterator[Metric]:
    """Return the families of measures. One without labels stands at 0 when nothing was counted."""
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


def _of_queues(queues: Iterable[QueueStatus]) -> Iterator[Metric]:
    jobs = gauge("darkq_jobs", "Jobs that have not ended.", labels=["state", "priority"])
    oldest = gauge(
        "darkq_oldest_waiting_job_seconds",
        "For how long the first of those that wait has been due; 0 when none waits.",
        labels=["priority"],
    )
    held = gauge(
        "darkq_queue_held",
        "1 while no worker may begin its jobs, or nobody may add one.",
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


def _of_upstreams(upstreams: Iterable[UpstreamStatus]) -> Iterator[Metric]:
    by_name = ["upstream"]
    workers = gauge("darkq_upstream_workers", "Workers that serve an upstream.", labels=by_name)
    breaker = gauge(
        "darkq_upstream_breaker",
        "1 for how the breaker stands, 0 for the others.",
        labels=["upstream", "state"],
    )
    calls = gauge(
        "darkq_upstream_calls_in_progress",
        "Calls in progress, where concurrency is bounded.",
        labels=by_name,
    )
    waiting = gauge(
        "darkq_upstream_jobs_waiting", "Jobs put off until it is their turn.", labels=by_name
    )
    window = ["upstream", "window_seconds"]
    used = gauge("darkq_upstream_window_calls", "Calls that count in a window.", labels=window)
    most = gauge("darkq_upstream_window_calls_max", "How many may.", labels=window)
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
