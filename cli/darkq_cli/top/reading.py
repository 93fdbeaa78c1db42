"""One reading of the system, and rates per second.

Workers report their counts with their heartbeats, some seconds apart. So a rate is a difference
over a longer time than that: the last fifteen seconds, and at least two readings.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from darkq import Client, QueueStatus, Stats, UpstreamStatus, WorkerLeases
from darkq.telemetry.metrics import CHUNKS, JOB_FAILURES, JOBS_ENDED, OUTCOMES, RETRIES, Measure

RATE_OVER_S = 15.0
"""The default length of a lease, in which a worker reports four times."""

Numbers: TypeAlias = Mapping[str, int]


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of all workers: jobs by outcome, failed ones by code."""

    jobs: Numbers
    failures: Numbers
    retries: int
    chunks: int


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """The rates per second, over the last `over_s` seconds."""

    over_s: float
    jobs: Mapping[str, float]
    failures: Mapping[str, float]
    retries: float
    chunks: float


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The state at `at_ms`, epoch ms by the clock of Redis. The first reading has no rates."""

    at_ms: int
    queues: tuple[QueueStatus, ...]
    workers: tuple[WorkerLeases, ...]
    upstreams: tuple[UpstreamStatus, ...]
    counted: Counted
    rates: Rates | None = None


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """Redis does not answer. Times are epoch ms by the clock of this machine."""

    at_ms: int
    away_since_ms: int
    reason: str


async def read(client: Client) -> Reading:
    """Read from Redis. Raises `RedisUnavailable`."""
    fleet, stats = await client.fleet(), await client.stats()
    counted = Counted(
        jobs=dict.fromkeys(OUTCOMES, 0) | _sum_by_first_label(JOBS_ENDED, stats),
        failures=_sum_by_first_label(JOB_FAILURES, stats),
        retries=sum(RETRIES.counts(stats.numbers).values()),
        chunks=sum(CHUNKS.counts(stats.numbers).values()),
    )
    return Reading(
        at_ms=fleet.at_ms,
        queues=fleet.queues,
        workers=fleet.workers,
        upstreams=fleet.upstreams,
        counted=counted,
    )


def _sum_by_first_label(measure: Measure, stats: Stats) -> dict[str, int]:
    numbers: Counter[str] = Counter()
    for labels, number in measure.counts(stats.numbers).items():
        numbers[labels[0]] += number
    return dict(numbers)


class Trend:
    """The latest counts, and the rates that they give."""

    def __init__(self) -> None:
        self._readings: deque[Reading] = deque()

    def add(self, reading: Reading) -> Reading:
        """Add a reading, and return it with its rates."""
        readings = self._readings
        if readings and not _has_grown(readings[-1], reading):
            readings.clear()  # Redis was replaced or flushed
        readings.append(reading)
        # Keep one reading at least as old as the interval, so that a rate spans all of it.
        while len(readings) > 2 and reading.at_ms - readings[1].at_ms >= RATE_OVER_S * 1000:
            readings.popleft()
        if len(readings) == 1:
            return reading
        return msgspec.structs.replace(reading, rates=_build_rates(readings[0], reading))

    def reset(self) -> None:
        """Forget the counts: a rate must not span an outage."""
        self._readings.clear()


def _has_grown(before: Reading, now: Reading) -> bool:
    numbers = zip(_list_totals(before.counted), _list_totals(now.counted), strict=True)
    return now.at_ms > before.at_ms and all(old <= new for old, new in numbers)


def _list_totals(counted: Counted) -> tuple[int, ...]:
    return sum(counted.jobs.values()), counted.retries, counted.chunks


def _build_rates(first: Reading, last: Reading) -> Rates:
    over_s = (last.at_ms - first.at_ms) / 1000

    def per_s(before: int, now: int) -> float:
        return round((now - before) / over_s, 3)

    def each(before: Numbers, now: Numbers) -> dict[str, float]:
        return {name: per_s(before.get(name, 0), number) for name, number in now.items()}

    before, now = first.counted, last.counted
    return Rates(
        over_s=round(over_s, 3),
        jobs=each(before.jobs, now.jobs),
        failures=each(before.failures, now.failures),
        retries=per_s(before.retries, now.retries),
        chunks=per_s(before.chunks, now.chunks),
    )
