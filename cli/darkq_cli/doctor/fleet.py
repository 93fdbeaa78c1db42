"""Checks of what all processes share: partitions, workers, queues, failures, upstreams."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from redis.asyncio import Redis

from darkq import Settings
from darkq.operate.fleet import Fleet
from darkq.protocol.keys import MAX_PARTITIONS, PRIORITIES, PartitionKeys
from darkq_cli.doctor.findings import Answer, Checks, ok, problem, skipped, warning, worst_of
from darkq_cli.terminal import messages, program
from darkq_cli.terminal.durations import span

_AT_ONCE = 512
_LONG_WAIT_S = 60
_FILLING_PART = 0.8
_LATELY_S = 3600


class Whole(NamedTuple):
    """What these checks look at."""

    settings: Settings
    redis: Redis
    fleet: Fleet


FLEET: Checks[Whole] = Checks()


@FLEET.check("partitions", by_hand="ZCARD darkq:{p}:interactive for p from DARKQ_PARTITIONS on")
async def partitions(whole: Whole) -> Answer:
    ours = whole.settings.partitions
    names = [
        (partition, PartitionKeys(partition).queue(priority))
        for partition in range(ours, MAX_PARTITIONS)
        for priority in PRIORITIES
    ]
    waiting: dict[int, int] = {}
    for start in range(0, len(names), _AT_ONCE):
        page = names[start : start + _AT_ONCE]
        pipe = whole.redis.pipeline(transaction=False)
        for _, name in page:
            pipe.zcard(name)
        for (partition, _), jobs in zip(page, await pipe.execute(), strict=True):
            if jobs:
                waiting[partition] = waiting.get(partition, 0) + jobs
    if not waiting:
        return ok(f"DARKQ_PARTITIONS={ours}, and there are jobs in no other")
    return problem(
        f"{sum(waiting.values()):,} jobs are in partitions {_ranges(waiting)}, and with "
        f"DARKQ_PARTITIONS={ours} nobody looks there",
        f"DARKQ_PARTITIONS={max(waiting) + 1} at least, the same in every process",
    )


def _ranges(numbers: dict[int, int]) -> str:
    """Write numbers for people: 1-3, 7."""

    def ranges() -> Iterator[str]:
        for _, group in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
            run = [number for _, number in group]
            yield f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0])

    return ", ".join(ranges())


@FLEET.check("workers")
async def workers(whole: Whole) -> Answer:
    fleet = whole.fleet
    left = sum(each.waiting + each.deferred for each in fleet.queues)
    start = f"Start one: {program.command()} worker"
    if not fleet.workers:
        if left:
            return problem(f"{left:,} jobs wait, and no worker is alive", start)
        return warning("none is alive", start)
    running = sum(each.running for each in fleet.workers)
    return ok(f"{len(fleet.workers):,} alive, which run {running:,} jobs")


@FLEET.check("queues")
async def queues(whole: Whole) -> Answer:
    most = whole.settings.queue_max_jobs * whole.settings.partitions
    answers = []
    for each in whole.fleet.queues:
        jobs = each.waiting + each.deferred + each.running
        found = f"{each.priority} holds {jobs:,} of {most:,} jobs"
        do = "More workers, or a higher DARKQ_QUEUE_MAX_JOBS if Redis has the memory"
        if jobs >= most:
            answers.append(problem(f"{found}: further ones are refused", do))
        elif jobs > _FILLING_PART * most:
            answers.append(warning(found, do))
    urgent = whole.fleet.queues[0]
    if urgent.oldest_wait_s > _LONG_WAIT_S and whole.fleet.workers:
        answers.append(
            warning(
                f"the oldest interactive job has been due for {span(urgent.oldest_wait_s)}",
                "More workers, or more slots in each: DARKQ_WORKER_JOBS, "
                "DARKQ_WORKER_RESERVED_INTERACTIVE",
            )
        )
    waiting = sum(each.waiting for each in whole.fleet.queues)
    return worst_of(answers, otherwise=f"{waiting:,} jobs are due, of {most:,} that have room")


@FLEET.check("failed jobs", by_hand="darkq failed")
async def failed_jobs(whole: Whole) -> Answer:
    since_ms = whole.fleet.at_ms - _LATELY_S * 1000
    pipe = whole.redis.pipeline(transaction=False)
    for partition in range(whole.settings.partitions):
        pipe.zcount(PartitionKeys(partition).failed, "-inf", "+inf")
        pipe.zcount(PartitionKeys(partition).failed, since_ms, "+inf")
    counts = await pipe.execute()
    known, late = sum(counts[0::2]), sum(counts[1::2])
    found = f"{known:,} are known, {late:,} of the last hour"
    if not late:
        return ok(found if known else "none")
    darkq = program.command()
    return warning(found, f"Why: {darkq} failed. To run them again: {darkq} retry --all")


@FLEET.check("breakers")
async def breakers(whole: Whole) -> Answer:
    upstreams = whole.fleet.upstreams
    if not upstreams:
        return skipped("no worker serves an upstream")
    answers = []
    for each in upstreams:
        if each.breaker == "closed":
            continue
        left_s = max(0, (each.reopens_at_ms or 0) - whole.fleet.at_ms) / 1000
        again = f" for {span(left_s)} more" if each.reopens_at_ms else ""
        answers.append(
            warning(
                f"{messages.harmless(each.name)} is {each.breaker}{again}, "
                f"{each.waiting:,} jobs wait for it",
                f"See whether the service answers: {program.command()} upstreams. "
                "It closes by itself",
            )
        )
    return worst_of(answers, otherwise=f"{len(upstreams)} closed")
