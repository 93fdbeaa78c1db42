"""Checks of what all processes share: partitions, workers, queues, failed jobs, breakers."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from redis.asyncio import Redis

from darkq import Settings
from darkq.operate.waiting import Fleet, describe_pause
from darkq.protocol.keys import MAX_PARTITIONS, PRIORITIES, PartitionKeys
from darkq_cli.doctor.checks import CheckResult, Checks, Findings, ok, problem, skipped, warning
from darkq_cli.terminal import messages, program
from darkq_cli.terminal.units import format_duration

_PAGE_SIZE = 512
_LONG_WAIT_S = 60
_HIGH_FRACTION = 0.8
_RECENT_S = 3600


class FleetSubject(NamedTuple):
    """What these checks examine."""

    settings: Settings
    redis: Redis
    fleet: Fleet


FLEET: Checks[FleetSubject] = Checks()


@FLEET.check("partitions", by_hand="ZCARD darkq:{p}:interactive for p from DARKQ_PARTITIONS on")
async def partitions(subject: FleetSubject) -> CheckResult:
    ours = subject.settings.partitions
    names = [
        (partition, PartitionKeys(partition).queue(priority))
        for partition in range(ours, MAX_PARTITIONS)
        for priority in PRIORITIES
    ]
    waiting: dict[int, int] = {}
    for start in range(0, len(names), _PAGE_SIZE):
        page = names[start : start + _PAGE_SIZE]
        pipe = subject.redis.pipeline(transaction=False)
        for _, name in page:
            pipe.zcard(name)
        for (partition, _), jobs in zip(page, await pipe.execute(), strict=True):
            if jobs:
                waiting[partition] = waiting.get(partition, 0) + jobs
    if not waiting:
        return ok(f"DARKQ_PARTITIONS={ours}, and there are no jobs in higher partitions")
    return problem(
        f"{sum(waiting.values()):,} jobs are in partitions {_format_ranges(waiting)}, and with "
        f"DARKQ_PARTITIONS={ours} no worker claims them",
        f"Set DARKQ_PARTITIONS={max(waiting) + 1} at least, the same in every process",
    )


def _format_ranges(numbers: Iterable[int]) -> str:
    """Write numbers as ranges: 1-3, 7."""
    # Consecutive numbers are equally far from their places in the order.
    groups = groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in group] for _, group in groups]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


@FLEET.check("workers")
async def workers(subject: FleetSubject) -> CheckResult:
    fleet = subject.fleet
    left = sum(each.waiting + each.deferred for each in fleet.queues)
    start = f"To start one: {program.command()} worker"
    if not fleet.workers:
        if left:
            return problem(f"{left:,} jobs wait, and no worker is alive", start)
        return warning("no worker is alive", start)
    running = sum(each.running for each in fleet.workers)
    return ok(f"{len(fleet.workers):,} alive, running {running:,} jobs")


@FLEET.check("queues")
async def queues(subject: FleetSubject) -> CheckResult:
    most = subject.settings.queue_max_jobs * subject.settings.partitions
    findings = Findings()
    for each in subject.fleet.queues:
        jobs = each.waiting + each.deferred + each.running
        found = f"{each.priority} holds {jobs:,} of {most:,} jobs"
        do = "More workers, or a higher DARKQ_QUEUE_MAX_JOBS if Redis has the memory"
        if jobs >= most:
            findings.problem(f"{found}: new jobs are refused", do)
        elif jobs > _HIGH_FRACTION * most:
            findings.warning(found, do)
        if each.paused:
            do = f"To resume it: {program.command()} queues resume {each.priority}"
            findings.warning(describe_pause(each.priority, each.paused), do)
        if each.closed:
            found = f"the {each.priority} queue is closed: new jobs are refused"
            do = f"To open it: {program.command()} queues open {each.priority}"
            findings.warning(found, do)
    urgent = subject.fleet.queues[0]
    if urgent.oldest_wait_s > _LONG_WAIT_S and subject.fleet.workers:
        findings.warning(
            f"an interactive job has waited for {format_duration(urgent.oldest_wait_s)}",
            "More workers, or more slots in each: DARKQ_WORKER_JOBS, "
            "DARKQ_WORKER_RESERVED_INTERACTIVE",
        )
    waiting = sum(each.waiting for each in subject.fleet.queues)
    return findings.combine(otherwise=f"{waiting:,} jobs wait; there is room for {most:,}")


@FLEET.check("failed jobs", by_hand="darkq failed")
async def failed_jobs(subject: FleetSubject) -> CheckResult:
    since_ms = subject.fleet.at_ms - _RECENT_S * 1000
    pipe = subject.redis.pipeline(transaction=False)
    for partition in range(subject.settings.partitions):
        pipe.zcount(PartitionKeys(partition).failed, "-inf", "+inf")
        pipe.zcount(PartitionKeys(partition).failed, since_ms, "+inf")
    counts = await pipe.execute()
    stored, recent = sum(counts[0::2]), sum(counts[1::2])
    found = f"{stored:,} are stored, {recent:,} of them from the last hour"
    if not recent:
        return ok(found if stored else "none")
    darkq = program.command()
    return warning(found, f"To see why: {darkq} failed. To queue them again: {darkq} retry --all")


@FLEET.check("breakers")
async def breakers(subject: FleetSubject) -> CheckResult:
    upstreams = subject.fleet.upstreams
    if not upstreams:
        return skipped("no worker serves an upstream")
    findings = Findings()
    for each in upstreams:
        if each.breaker == "closed":
            continue
        left_s = max(0, (each.reopens_at_ms or 0) - subject.fleet.at_ms) / 1000
        again = f" for {format_duration(left_s)} more" if each.reopens_at_ms else ""
        findings.warning(
            f"{messages.replace_controls(each.name)} is {each.breaker}{again}, "
            f"and {each.waiting:,} jobs wait for it",
            f"Check whether the service answers: {program.command()} upstreams. "
            "The breaker closes by itself",
        )
    return findings.combine(otherwise="all are closed")
