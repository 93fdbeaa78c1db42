"""Derives unit costs from runs that differ in one property: of an event, a call, a flush, a reader.

No I/O: `costs` makes the runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.fleet import Used


class Found(NamedTuple):
    """A unit cost: its name, its unit, its value."""

    what: str
    unit: str
    value: float


def of_chunks(paced_runs: Sequence[Sequence[Used]]) -> list[Found]:
    """Derive unit costs from runs, grouped by kind in the order of `costs.RUNS`.

    The cheapest run of each kind counts, since other processes have disturbed it least.
    """
    alone, packed, spread, read = (
        min(runs, key=lambda used: (used.workers_cpu_s + used.redis_cpu_s) / used.events)
        for runs in paced_runs
    )
    redis = _chunks("Redis'", "redis_cpu_s", alone, packed, spread)
    return [
        *_chunks("worker's", "workers_cpu_s", alone, packed, spread),
        *redis,
        *_delivery(read, alone, *(each.value for each in redis)),
        *_flushing(alone, packed),
        *_bytes(alone, packed),
    ]


def _chunks(who: str, field: str, alone: Used, packed: Used, spread: Used) -> list[Found]:
    """Return the cost of an event, of a call with the events of a partition, and of a flush.

    With one partition a flush is one call: the runs `alone` and `packed` give the cost of both
    together, and of an event. The run `spread` has many calls in a flush, which separates them.
    """
    few, many, other = (getattr(used, field) / used.events for used in (packed, alone, spread))
    calls = [used.appends / used.events for used in (packed, alone, spread)]
    both = (many - few) / (calls[1] - calls[0])
    event = few - both * calls[0]
    flushes = spread.flushes / spread.events
    call = (other - event - both * flushes) / (calls[2] - flushes)
    return [
        Found(f"{who} CPU per event", "µs", event * 1e6),
        Found(f"{who} CPU per call", "µs", call * 1e6),
        Found(f"{who} CPU per flush", "µs", (both - call) * 1e6),
    ]


def _delivery(
    read: Used, unread: Used, event_us: float, call_us: float, flush_us: float
) -> list[Found]:
    """Return what readers of all events cost Redis in addition to the writes."""
    writing_us = (
        event_us * read.events + call_us * read.appends + flush_us * read.appends
    ) / read.events
    sent = read.bytes_out / read.events - unread.bytes_out / unread.events
    return [
        Found("Redis' CPU per delivery", "µs", read.redis_cpu_s / read.events * 1e6 - writing_us),
        Found("bytes of a delivery", "B", sent),
        Found("Python reader's CPU per chunk", "µs", read.reader_cpu_s / read.events * 1e6),
    ]


def _flushing(alone: Used, packed: Used) -> list[Found]:
    """Return the duration of a flush at an idle server: its minimum, and the part per event."""
    few, many = (used.events / used.appends for used in (alone, packed))
    each_us = (_flush_us(packed) - _flush_us(alone)) / (many - few)
    return [
        Found("events per flush, the fewest streams", "", few),
        Found("time of a flush without events", "µs", _flush_us(alone) - few * each_us),
        Found("time of a flush, per event", "µs", each_us),
    ]


def _flush_us(used: Used) -> float:
    """Solve `n·t + e^(−n·t)` = events of a flush."""
    together = used.events / used.appends
    low, high = 0.0, together
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if middle + math.exp(-middle) < together else (low, middle)
    return low / used.events * 1e6


def _bytes(alone: Used, packed: Used) -> list[Found]:
    few, many = (used.bytes_in / used.events for used in (packed, alone))
    calls_few, calls_many = (used.appends / used.events for used in (packed, alone))
    per_call = (many - few) / (calls_many - calls_few)
    return [
        Found("bytes to Redis per call", "B", per_call),
        Found("bytes to Redis per event", "B", few - per_call * calls_few),
    ]
