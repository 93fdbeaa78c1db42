"""How many workers a load takes, and what they send to Redis. No I/O.

How much goes together decides what a chunk costs. A worker has one flush under way per server, and
what comes meanwhile waits for the next. With `n` events a second and a flush that takes `t`, a new
flush begins every

    cycle = t + linger + e^(−n·t) / n

seconds: when the last one is over, or, if nothing waits then, when the next event comes. The fuller
a flush, the longer it takes, and the fuller the next. A flush makes a call for each partition that
it has events of.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from benchmarks.unit_costs import MEASURED, UnitCosts

MAX_STREAMS_PER_WORKER = 10_000
POLL_S = 0.5


class Load(NamedTuple):
    """What is asked for, and how full things may be."""

    streams: float
    chunks_per_s: float = 20.0
    answer_chunks: float = 400.0
    readers_per_job: float = 1.0
    jobs_per_s: float | None = None
    """None: as many as end, so that there are so many streams at all times."""
    waiting_jobs: float = 0.0
    result_ttl_s: float = 3600.0
    linger_s: float = 0.0
    partitions: int | None = None
    """None: one with one master, else the power of two that makes 16 for each at least."""
    workers_per_partition: int = 4
    """As many at most take jobs of a partition: `DARKQ_WORKER_PARTITIONS`."""
    use: float = 0.6
    """How much of its core a process may take."""
    redis_gb: float = 24.0
    """A master's memory for data."""

    @property
    def jobs(self) -> float:
        """Jobs a second."""
        if self.jobs_per_s is not None:
            return self.jobs_per_s
        return self.streams * self.chunks_per_s / self.answer_chunks

    @property
    def readers(self) -> float:
        return self.streams * self.readers_per_job


class Flow(NamedTuple):
    """Events a second, the calls that they go in, and the flushes that these go in."""

    events: float
    calls: float
    flushes: float


def cycle_s(events_per_s: float, taken_s: float, linger_s: float = 0.0) -> float:
    """Return how long it is from one flush, which takes `taken_s`, to the next."""
    return taken_s + linger_s + math.exp(-events_per_s * taken_s) / events_per_s


def flush_s(streams: float, load: Load, costs: UnitCosts = MEASURED) -> float:
    """Return how long a flush takes that has the events of so many streams.

    What it takes at least, and for each event what that takes; of a stream it has one at most.
    """
    least = costs.flush_us / 1e6
    each = costs.flush_event_us / 1e6
    low, high = least, least + each * streams
    for _ in range(50):
        middle = (low + high) / 2
        events = streams * -math.expm1(-load.chunks_per_s * (middle + load.linger_s))
        low, high = (middle, high) if middle < least + each * events else (low, middle)
    return low


def flow_of(
    streams: float, load: Load, partitions: int, servers: int, costs: UnitCosts = MEASURED
) -> Flow:
    """Return what a worker sends: its streams, in partitions that are spread over servers."""
    here, of_these = streams / servers, partitions / servers
    if not here * load.chunks_per_s:
        return Flow(0.0, 0.0, 0.0)
    taken_s = flush_s(here, load, costs)
    cycle = cycle_s(here * load.chunks_per_s, taken_s, load.linger_s)
    # Of a stream one at most of those that wait, and the one that came when nothing did.
    events = here * -math.expm1(-load.chunks_per_s * (taken_s + load.linger_s))
    events = min(here, events + math.exp(-here * load.chunks_per_s * taken_s))
    calls = min(events, 1.0)
    if of_these > 1:  # how many of them have an event, if events fall at random
        calls = of_these * -math.expm1(events * math.log1p(-1 / of_these))
    return Flow(*(servers * each / cycle for each in (events, calls, 1.0)))


class Crew(NamedTuple):
    """The workers; `sharing` of them take jobs of a partition. What one sends, and its core."""

    workers: int
    sharing: float
    partitions: int
    sent: Flow
    share: float

    @property
    def all_sent(self) -> Flow:
        return Flow(*(self.workers * each for each in self.sent))


def crew_of(
    workers: int, load: Load, partitions: int, masters: int, costs: UnitCosts = MEASURED
) -> Crew:
    """Return what so many workers do, whether they carry the load or not."""
    groups = min(partitions, math.ceil(workers / load.workers_per_partition))
    mine = partitions // groups
    streams, jobs = load.streams / workers, load.jobs / workers
    sent = flow_of(streams, load, mine, min(mine, masters), costs)
    used_us = (
        sent.events * costs.worker_event_us
        + sent.calls * costs.worker_call_us
        + sent.flushes * costs.worker_flush_us
        + streams * costs.worker_stream_us_per_s
        + jobs * costs.worker_job_us
        + max(0.0, load.jobs / groups - jobs) * costs.worker_wake_us
        + mine / POLL_S * costs.worker_claim_us
    )
    return Crew(workers, workers / groups, mine, sent, used_us / 1e6)


def fewest_workers(load: Load, partitions: int, masters: int, costs: UnitCosts) -> Crew:
    """Return the smallest crew that carries a load; more than a worker per stream is no help."""

    def carries(workers: int) -> bool:
        if load.streams / workers > MAX_STREAMS_PER_WORKER:
            return False
        crew = crew_of(workers, load, partitions, masters, costs)
        return workers >= load.streams or crew.share <= load.use

    enough = 1
    while not carries(enough):
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        enough, too_few = (middle, too_few) if carries(middle) else (enough, middle)
    return crew_of(enough, load, partitions, masters, costs)
