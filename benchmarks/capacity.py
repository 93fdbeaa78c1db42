"""Calculates what a load needs: workers, Redis masters, gateways, memory, network. No I/O.

    load × unit costs ── size of flushes ──► cores of a part ── target utilisation ──► how many

`crew` calculates the workers, `shares` the partitions of masters; `unit_costs` has measurements.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from benchmarks.crew import POLL_S, Crew, Flow, Load, fewest_workers
from benchmarks.shares import shares
from benchmarks.unit_costs import MEASURED, UnitCosts
from darkq.protocol.keys import MAX_PARTITIONS

MAX_READERS_PER_GATEWAY = 5_000
PARTITIONS_PER_MASTER = 16
MAX_MASTERS = 1_000


class Part(NamedTuple):
    """Processes of a kind: the utilisation of the busiest core, the cores and GB of all."""

    many: int
    share: float
    cores: float
    gb: float


class Plan(NamedTuple):
    """The resources that a load needs."""

    load: Load
    partitions: int
    partitions_per_worker: int
    workers: Part
    masters: Part
    gateways: Part
    busiest_gb: float
    flow: Flow
    to_redis_mb_per_s: float
    from_redis_mb_per_s: float
    to_readers_mb_per_s: float

    @property
    def fits(self) -> bool:
        """Return whether the masters suffice."""
        return self.masters.share <= self.load.use and self.busiest_gb <= self.load.redis_gb

    @property
    def needs(self) -> list[tuple[str, float]]:
        """Return the number of each part for an even distribution, largest first."""
        needs = {
            "worker CPU": self.workers.cores / self.load.use,
            "Redis CPU": self.masters.cores / self.load.use,
            "Redis memory": self.masters.gb / self.load.redis_gb,
            "gateway CPU": self.gateways.cores / self.load.use,
        }
        return sorted(needs.items(), key=lambda need: -need[1])


def plan(load: Load, costs: UnitCosts = MEASURED) -> Plan:
    """Return the resources for a load with about the fewest masters; with the most if none suffice.

    A binary search, which is approximate: partitions are uneven, so one more master can be worse.
    """
    enough = 1
    while not (found := plan_with(enough, load, costs)).fits:
        if enough == MAX_MASTERS:
            return found
        enough = min(2 * enough, MAX_MASTERS)
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if plan_with(middle, load, costs).fits:
            enough = middle
        else:
            too_few = middle
    return plan_with(enough, load, costs)


def plan_with(masters: int, load: Load, costs: UnitCosts = MEASURED) -> Plan:
    """Return the resources for a load with a number of masters, even if they do not suffice."""
    partitions = load.partitions or _partitions(masters)
    crew = fewest_workers(load, partitions, masters, costs)
    busiest = max(shares(partitions, masters)) / partitions
    cores, gb = redis_cores(load, crew, costs), _redis_gb(load, crew, costs)
    events, calls, _ = crew.all_sent
    deliveries = events * load.readers_per_job
    to_redis = events * costs.event_in_bytes + calls * costs.call_in_bytes
    return Plan(
        load=load,
        partitions=partitions,
        partitions_per_worker=crew.partitions,
        workers=Part(
            crew.workers,
            crew.share,
            crew.workers * crew.share,
            (crew.workers * costs.worker_base_mb + load.streams * costs.worker_stream_kb / 1e3)
            / 1e3,
        ),
        masters=Part(masters, cores * busiest, cores, gb),
        gateways=_gateways(load, deliveries, costs),
        busiest_gb=gb * busiest,
        flow=crew.all_sent,
        to_redis_mb_per_s=(to_redis + load.jobs * costs.job_in_bytes) / 1e6,
        from_redis_mb_per_s=deliveries * costs.delivery_out_bytes / 1e6,
        to_readers_mb_per_s=deliveries * costs.sse_bytes / 1e6,
    )


def _partitions(masters: int) -> int:
    if masters == 1:
        return 1
    return min(MAX_PARTITIONS, 1 << (masters * PARTITIONS_PER_MASTER - 1).bit_length())


def redis_cores(load: Load, crew: Crew, costs: UnitCosts = MEASURED) -> float:
    """Return the cores that all masters together need."""
    events, calls, flushes = crew.all_sent
    used_us = (
        events * (costs.redis_event_us + load.readers_per_job * costs.redis_delivery_us)
        + calls * costs.redis_call_us
        + flushes * costs.redis_flush_us
        + load.jobs * (costs.redis_job_us + (crew.sharing - 1) * costs.redis_wake_us)
        + load.streams * costs.redis_stream_us_per_s
        + crew.workers * crew.partitions / POLL_S * costs.redis_claim_us
    )
    return used_us / 1e6


def _redis_gb(load: Load, crew: Crew, costs: UnitCosts) -> float:
    chunks_per_s = load.streams * load.chunks_per_s
    events_per_chunk = crew.all_sent.events / chunks_per_s if chunks_per_s else 1.0
    running, ended = (
        job_bytes + load.answer_chunks * (events_per_chunk * event_bytes + costs.redis_text_bytes)
        for job_bytes, event_bytes in (
            (costs.redis_waiting_job_bytes, costs.redis_event_bytes),
            (costs.redis_finished_job_bytes, costs.redis_kept_event_bytes),
        )
    )
    return (
        load.waiting_jobs * costs.redis_waiting_job_bytes
        + load.streams * running
        + load.jobs * load.result_ttl_s * ended
    ) / 1e9


def _gateways(load: Load, deliveries: float, costs: UnitCosts) -> Part:
    openings = load.jobs * load.readers_per_job
    cores = (deliveries * costs.gateway_delivery_us + openings * costs.gateway_opening_us) / 1e6
    count = math.ceil(max(load.readers / MAX_READERS_PER_GATEWAY, cores / load.use))
    gb = (count * costs.gateway_base_mb + load.readers * costs.gateway_reader_kb / 1e3) / 1e3
    return Part(count, cores / count if count else 0.0, cores, gb)
