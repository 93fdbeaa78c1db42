"""Scripts of those who enqueue, cancel and read jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, cast

from redis.asyncio import Redis

from darkq.protocol.job import Priority
from darkq.protocol.keys import BatchKeys, JobKeys, PartitionKeys
from darkq.redis.scripts.script import Argument, Script, milliseconds

_enqueue = Script("enqueue", includes=["headroom", "wake", "batches"], durable=True)
_cancel = Script("cancel", includes=["end_line"], durable=True)
_revive = Script("revive", includes=["wake"], durable=True)
_forget = Script("forget")
_waiter_keep = Script("waiter_keep")
_waiter_leave = Script("waiter_leave")
_publish = Script("publish")

EnqueueOutcome: TypeAlias = Literal[
    "new", "duplicate", "conflict", "full", "closed", "memory", "acknowledged", "wait", "cancelled",
    "gone",
]  # fmt: skip
CancelOutcome: TypeAlias = Literal["finished", "running", "cancelled", "unknown", "again"]
ReviveOutcome: TypeAlias = Literal["queued", "gone", "full", "again"]


class NewJob(NamedTuple):
    """A job to store. `digest` is that of its content, if it has an idempotency key."""

    keys: JobKeys
    priority: Priority
    tenant: str | None
    record: bytes
    idempotency_key: str | None = None
    digest: str = ""


class Receipt(NamedTuple):
    """The outcome of a new job. `keys` are another job's if its idempotency key was used before."""

    outcome: EnqueueOutcome
    keys: JobKeys


class BatchLines(NamedTuple):
    """The batch of new jobs, and the number of the line of each."""

    keys: BatchKeys
    numbers: Sequence[int]


async def enqueue(
    redis: Redis,
    jobs: Sequence[NewJob],
    *,
    event: bytes,
    job_ttl_s: float,
    queue_max_jobs: int,
    max_listed: int,
    lines: BatchLines | None = None,
) -> list[Receipt]:
    """Store jobs of one partition, with `event` as the first of their logs. See `enqueue.lua`."""
    shared = PartitionKeys(jobs[0].keys.partition)
    kinds: dict[tuple[Priority, str | None], int] = {}
    remembered: list[str] = []
    fields: list[Argument] = []
    for job in jobs:
        kind = kinds.setdefault((job.priority, job.tenant), len(kinds))
        if job.idempotency_key is not None:
            remembered.append(shared.idempotency(job.idempotency_key, job.tenant))
        fields += (job.keys.arq_id, job.record, kind, job.digest)
    names: list[str] = []
    for priority, tenant in kinds:
        names += [shared.queue(priority), shared.tenant_jobs(tenant)]
    args: list[Argument] = [shared.wake, milliseconds(job_ttl_s), queue_max_jobs, max_listed]
    args += [event, len(kinds), len(jobs), *fields]
    if lines is not None:
        args += [lines.keys.arq_id, *lines.numbers]
    replies = await _enqueue(redis, [*names, *remembered, shared.control], args)
    receipts = [Receipt("new", job.keys) for job in jobs]
    for number, outcome, arq_id in zip(*[iter(replies)] * 3, strict=True):
        receipts[number] = Receipt(outcome.decode(), JobKeys.from_arq_id(arq_id.decode()))
    return receipts


async def cancel(
    redis: Redis,
    keys: JobKeys,
    *,
    attempt: int,
    result: bytes,
    result_ttl_s: float,
    event_id: str,
    event: bytes,
    only_waiting: bool = False,
) -> CancelOutcome:
    """Cancel a job whose latest attempt is `attempt`. See `cancel.lua`."""
    shared = PartitionKeys(keys.partition)
    names = [keys.in_progress, keys.job, keys.retry, keys.state, keys.result, keys.events]
    args: list[Argument] = [keys.arq_id, keys.live, shared.wake, attempt, result]
    args += [milliseconds(result_ttl_s), event_id, event]
    if only_waiting:
        args.append("waiting")
    outcome: bytes = await _cancel(redis, [*names, *shared.queues], args)
    return cast(CancelOutcome, outcome.decode())


async def revive(
    redis: Redis,
    keys: JobKeys,
    queue_name: str,
    *,
    known: bytes,
    attempt: int,
    job_ttl_s: float,
    queue_max_jobs: int,
    event_id: str,
    event: bytes,
) -> ReviveOutcome:
    """Queue a failed job again, if its result still is `known`. See `revive.lua`."""
    shared = PartitionKeys(keys.partition)
    names = [queue_name, keys.job, keys.retry, keys.state, keys.result, keys.events]
    names += [keys.failed, shared.failed]
    args: list[Argument] = [keys.arq_id, keys.live, shared.wake, known, attempt]
    args += [milliseconds(job_ttl_s), queue_max_jobs, event_id, event]
    outcome: bytes = await _revive(redis, names, args)
    return cast(ReviveOutcome, outcome.decode())


async def forget(redis: Redis, keys: JobKeys) -> bool:
    """Delete a job that has ended; return False if it has not. See `forget.lua`."""
    names = [keys.result, keys.events, keys.failed, PartitionKeys(keys.partition).failed]
    return bool(await _forget(redis, names, [keys.arq_id]))


async def waiter_keep(
    redis: Redis, keys: JobKeys, caller: str, *, lease_s: float, ttl_s: float
) -> bool:
    """Note that a caller waits. Return False if the job is to be cancelled instead.

    See `waiter_keep.lua`.
    """
    args: list[Argument] = [caller, milliseconds(lease_s), milliseconds(ttl_s)]
    return bool(await _waiter_keep(redis, [keys.waiters], args))


async def waiter_leave(redis: Redis, keys: JobKeys, caller: str, *, ttl_s: float) -> bool:
    """Remove a caller; return True if no other one waits for the job. See `waiter_leave.lua`."""
    return bool(await _waiter_leave(redis, [keys.waiters], [caller, milliseconds(ttl_s)]))


async def publish(redis: Redis, channel: str, message: str, *, key: str | None = None) -> None:
    """Publish a message. `key` shares the channel's slot; without it the channel's name does."""
    await _publish(redis, [key or channel], [channel, message])
