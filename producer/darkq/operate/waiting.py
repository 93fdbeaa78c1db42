"""The state of queues, workers and upstreams at one time; and why a job waits, or has failed.

The command, the gateway and the board all use `explain`, which returns data for programs and one
sentence for people. It reads the job's own last event, and the
conditions that apply to all jobs: paused queues, workers, and the limits of upstreams. The first of
these that applies is the reason, in this order:

    the queue is paused → no worker takes jobs → the upstream admits no call → the next try is not
    due yet → all workers are busy

A message names no other job, and counts none: a tenant may read it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import msgspec
from redis.asyncio import Redis

from darkq import event as ev
from darkq.errors import CorruptRecord
from darkq.jobs.status import Status, Why
from darkq.operate.queue_state import Notice, QueueStatus, read_notice, read_queues
from darkq.operate.upstreams import UpstreamStatus, list_upstreams
from darkq.operate.workers import WorkerLeases, live_workers, read_drains, read_leases
from darkq.protocol.job import Priority
from darkq.protocol.keys import PRIORITIES, JobKeys, LimitKeys, PartitionKeys
from darkq.protocol.record import Failure, read_result
from darkq.redis.servers import read_clock_ms

EXPLAINED = ("queued", "deferred", "failed")
"""The states of jobs that have a reason to be explained."""


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """The state at `at_ms`, epoch milliseconds by the clock of Redis, as all times here.

    Queues are sorted by urgency, live workers and the upstreams that they serve by name.
    """

    at_ms: int
    queues: tuple[QueueStatus, ...]
    workers: tuple[WorkerLeases, ...]
    upstreams: tuple[UpstreamStatus, ...]


async def read_fleet(redis: Redis, partitions: int) -> Fleet:
    """Return the current state. Raises what redis-py raises."""
    at_ms = int(await read_clock_ms(redis))
    workers = await live_workers(redis)
    return Fleet(
        at_ms=at_ms,
        queues=tuple(await read_queues(redis, partitions)),
        workers=tuple(await read_leases(redis, workers, partitions)),
        upstreams=tuple(await list_upstreams(redis)),
    )


class Conditions(NamedTuple):
    """What makes jobs wait: paused queues, workers, upstreams. `at_ms` is the clock of Redis.

    `workers` are alive; the `draining` ones of them claim no jobs.
    """

    at_ms: int
    paused: Mapping[Priority, Notice]
    workers: int
    draining: int
    upstreams: Sequence[UpstreamStatus]

    @classmethod
    def of_fleet(cls, fleet: Fleet) -> Self:
        """Return the conditions of a snapshot that was read for other reasons too."""
        return cls(
            fleet.at_ms,
            {queue.priority: queue.paused for queue in fleet.queues if queue.paused},
            len(fleet.workers),
            sum(worker.drained is not None for worker in fleet.workers),
            fleet.upstreams,
        )


async def read_conditions(redis: Redis, partitions: int) -> Conditions:
    """Read what makes jobs wait now. Raises what redis-py raises."""
    async with redis.pipeline(transaction=False) as pipe:
        for partition in range(partitions):
            names = [f"paused:{priority}" for priority in PRIORITIES]
            pipe.hmget(PartitionKeys(partition).control, names)
        marks = await pipe.execute()
    paused: dict[Priority, Notice] = {
        priority: notice
        for priority, values in zip(PRIORITIES, zip(*marks, strict=True), strict=True)
        if (notice := read_notice(values)) is not None
    }
    workers = await live_workers(redis)
    return Conditions(
        int(await read_clock_ms(redis)),
        paused,
        len(workers),
        sum(drain is not None for drain in await read_drains(redis, workers)),
        await list_upstreams(redis),
    )


async def explain(redis: Redis, statuses: Sequence[Status], conditions: Conditions) -> list[Status]:
    """Return the statuses with `why`, for jobs that wait or have failed.

    Raises what redis-py raises.
    """
    asked = [status for status in statuses if status.state in EXPLAINED]
    facts = await _read_facts(redis, asked, conditions.upstreams)
    reasons = {
        status.job_id: _explain_failure(status, fact)
        if status.state == "failed"
        else _explain_wait(status, fact, conditions)
        for status, fact in zip(asked, facts, strict=True)
    }
    return [msgspec.structs.replace(each, why=reasons.get(each.job_id)) for each in statuses]


class _Facts(NamedTuple):
    """What Redis has of one job: its failure, its last attempt, the upstream that it waits for."""

    failure: Failure | None = None
    retrying: ev.Retrying | None = None
    started: ev.Started | None = None
    held_by: UpstreamStatus | None = None


async def _read_facts(
    redis: Redis, statuses: Sequence[Status], upstreams: Sequence[UpstreamStatus]
) -> list[_Facts]:
    if not statuses:
        return []
    jobs = [JobKeys.parse(status.job_id) for status in statuses]
    async with redis.pipeline(transaction=False) as pipe:
        for keys, status in zip(jobs, statuses, strict=True):
            if status.state == "failed":  # its result has a message and no text, so it is short
                pipe.get(keys.result)
                continue
            first = f"{status.attempt}-0"
            pipe.xrevrange(keys.events, count=1)
            pipe.xrange(keys.events, first, first)
            for upstream in upstreams:
                pipe.zscore(LimitKeys.of_upstream(upstream.name).waiting, keys.arq_id)
        replies = iter(await pipe.execute())
    found = []
    for keys, status in zip(jobs, statuses, strict=True):
        if status.state == "failed":
            found.append(_Facts(failure=_read_failure(next(replies), keys)))
            continue
        last, first_event = _decode(next(replies)), _decode(next(replies))
        places = [(upstream, next(replies)) for upstream in upstreams]
        found.append(
            _Facts(
                retrying=last if isinstance(last, ev.Retrying) else None,
                started=first_event if isinstance(first_event, ev.Started) else None,
                held_by=next((each for each, place in places if place is not None), None),
            )
        )
    return found


def _decode(entries: list[tuple[bytes, dict[bytes, bytes]]]) -> ev.AnyEvent | None:
    return ev.decode(entries[0][1][b"e"]) if entries else None


def _read_failure(data: bytes | None, keys: JobKeys) -> Failure | None:
    try:
        record = read_result(data, keys) if data is not None else None
    except CorruptRecord:
        return None
    return record.r if record is not None and isinstance(record.r, Failure) else None


def _explain_failure(status: Status, facts: _Facts) -> Why | None:
    if facts.failure is None:
        return None
    return Why(
        reason="failed",
        message=_join(facts.failure.code, facts.failure.message),
        code=facts.failure.code,
        attempt=status.attempt,
        upstream=status.upstream or "",
    )


def _explain_wait(status: Status, facts: _Facts, conditions: Conditions) -> Why:
    why = _find_reason(status, facts, conditions)
    if facts.retrying is None:
        return why
    upstream = facts.started.upstream if facts.started else ""
    last = describe_attempt(facts.retrying, upstream)
    is_next_try = why.reason == "next_try"
    return msgspec.structs.replace(
        why,
        message=f"{last}; {why.message}" if is_next_try else f"{why.message}; {last}",
        code=facts.retrying.reason,
        attempt=facts.retrying.attempt,
        upstream=why.upstream or upstream,
    )


def _find_reason(status: Status, facts: _Facts, conditions: Conditions) -> Why:
    """Return the first condition that keeps the job waiting."""
    due_ms = conditions.at_ms + status.due_in_ms
    if status.priority is not None and (notice := conditions.paused.get(status.priority)):
        message = describe_pause(status.priority, notice)
        return Why(reason="queue_paused", message=message, by=notice.by)
    if not conditions.workers:
        return Why(reason="no_worker", message="no worker is running")
    if conditions.draining == conditions.workers:
        return Why(reason="workers_draining", message="all workers are draining, and claim no jobs")
    if facts.held_by is not None:
        return _explain_limit(facts.held_by, due_ms, conditions.at_ms)
    if status.due_in_ms:
        message = f"the next try starts {_in(status.due_in_ms)}"
        return Why(reason="next_try", message=message, until_ms=due_ms)
    served = [upstream.name for upstream in conditions.upstreams]
    if status.upstream is not None and served and status.upstream not in served:
        message = f"no worker serves the upstream {status.upstream}"
        return Why(reason="upstream_not_served", message=message, upstream=status.upstream)
    return Why(reason="worker_busy", message="no worker has a free slot for it yet")


def _explain_limit(upstream: UpstreamStatus, due_ms: int, now_ms: int) -> Why:
    """Return why an upstream admits no call of the job now."""
    until_ms = upstream.reopens_at_ms or 0
    left = _in(until_ms - now_ms)
    name = upstream.name
    if upstream.breaker == "open":
        message = f"the circuit breaker of {name} is open, and tries a call {left}"
        return Why(reason="breaker_open", message=message, until_ms=until_ms, upstream=name)
    if upstream.breaker == "blocked":
        message = f"{name} has asked for a pause, which ends {left}"
        return Why(reason="upstream_paused", message=message, until_ms=until_ms, upstream=name)
    if upstream.breaker == "half-open":
        message = f"the circuit breaker of {name} is half-open: one trial call decides"
        return Why(reason="breaker_open", message=message, upstream=name)
    limits = [
        f"{window.calls:,} call{'s' * (window.calls != 1)} in {window.length_s:g} s"
        for window in upstream.windows
        if window.used >= window.calls
    ]
    if not limits and upstream.concurrency:
        limits = [f"concurrent calls: {upstream.concurrency:,}"]
    reached = f" ({', '.join(limits)})" if limits else ""
    message = (
        f"the limit of {name} is reached{reached}; the turn of this job is {_in(due_ms - now_ms)}"
    )
    return Why(reason="limit_reached", message=message, until_ms=due_ms, upstream=name)


def describe_pause(priority: Priority, notice: Notice) -> str:
    """Describe a paused queue: by whom, since when, and why."""
    since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(notice.since_ms / 1000))
    by = f" by {notice.by}" if notice.by else ""
    reason = f": {notice.why}" if notice.why else ""
    return f"the {priority} queue is paused{by} since {since}{reason}"


def describe_attempt(event: ev.Retrying, upstream: str = "") -> str:
    """Describe how an attempt ended: which upstream refused, with what."""
    on = f" on {upstream}" if upstream else ""
    return f"attempt {event.attempt}{on} ended: {_join(event.reason, event.message)}"


def _join(code: str, message: str) -> str:
    text = " ".join(message.split()).rstrip(".")
    return f"{code}: {text}" if text else code


def _in(left_ms: float) -> str:
    """Write the rest of a wait: `in 1.3 s`, `in 223 s`; `now` when it is over."""
    left_s = left_ms / 1000
    if left_s <= 0:
        return "now"
    return f"in {left_s:.1f} s" if left_s < 10 else f"in {left_s:,.0f} s"
