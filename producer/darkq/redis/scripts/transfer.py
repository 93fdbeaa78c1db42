"""Scripts that move waiting jobs: to the other queue, or to another Redis and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, cast

from redis.asyncio import Redis

from darkq.protocol.job import Priority
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis.scripts.script import Argument, Script, milliseconds

_change_priority = Script("change_priority", includes=["wake"], durable=True)
_transfer_depart = Script("transfer_depart", durable=True)
_transfer_arrive = Script("transfer_arrive", includes=["wake"], durable=True)
_transfer_forget = Script("transfer_forget", durable=True)
_transfer_give_back = Script("transfer_give_back", includes=["wake"], durable=True)

ChangeOutcome: TypeAlias = Literal["moved", "running", "gone", "full"]
DepartOutcome: TypeAlias = Literal["departed", "running", "line", "expired", "gone"]
ArriveOutcome: TypeAlias = Literal["arrived", "known", "full"]
ForgetOutcome: TypeAlias = Literal["gone", "cancel"]


class ChangedRecord(NamedTuple):
    """A job whose record says another priority; `known` is the record as it was read."""

    keys: JobKeys
    known: bytes
    changed: bytes


class MovingJob(NamedTuple):
    """A job as it arrives at another Redis. `events` are event ids and events of its log."""

    keys: JobKeys
    tenant: str | None
    record: bytes
    ttl_ms: int
    attempt: bytes | None
    state: Mapping[str, bytes]
    queued_at_ms: float
    events: Sequence[tuple[bytes, bytes]]


async def change_priority(
    redis: Redis,
    source: Priority,
    target: Priority,
    partition: int,
    jobs: Sequence[ChangedRecord],
    *,
    queue_max_jobs: int,
) -> list[ChangeOutcome]:
    """Move jobs of a partition from one queue to the other. See `change_priority.lua`."""
    shared = PartitionKeys(partition)
    args: list[Argument] = [shared.wake, queue_max_jobs]
    for job in jobs:
        args += [job.keys.arq_id, job.known, job.changed]
    names = [shared.queue(source), shared.queue(target)]
    return cast(list[ChangeOutcome], _words(await _change_priority(redis, names, args)))


async def transfer_depart(
    redis: Redis, priority: Priority, jobs: Sequence[JobKeys]
) -> list[DepartOutcome]:
    """Take jobs of a partition out of their queue; return nothing if it is not paused and closed.

    See `transfer_depart.lua`.
    """
    shared = PartitionKeys(jobs[0].partition)
    names = [shared.queue(priority), shared.moving(priority), shared.control]
    outcomes = await _transfer_depart(redis, names, [priority, *(keys.arq_id for keys in jobs)])
    return cast(list[DepartOutcome], _words(outcomes))


async def transfer_arrive(
    redis: Redis,
    priority: Priority,
    job: MovingJob,
    *,
    note_ttl_s: float,
    queue_max_jobs: int,
    max_listed: int,
) -> ArriveOutcome:
    """Store a job that comes from another Redis. See `transfer_arrive.lua`."""
    keys, shared = job.keys, PartitionKeys(job.keys.partition)
    names = [shared.queue(priority), keys.job, keys.result, keys.retry, keys.state]
    names += [keys.events, keys.moved, shared.tenant_jobs(job.tenant)]
    args: list[Argument] = [keys.arq_id, f"{job.queued_at_ms:.3f}", shared.wake, job.record]
    args += [job.ttl_ms, job.attempt or "", milliseconds(note_ttl_s), queue_max_jobs, max_listed]
    args.append(len(job.state))
    for field, value in job.state.items():
        args += [field, value]
    for entry in job.events:
        args += entry
    outcome: bytes = await _transfer_arrive(redis, names, args)
    return cast(ArriveOutcome, outcome.decode())


async def transfer_forget(
    redis: Redis, priority: Priority, jobs: Sequence[JobKeys], *, cancels_passed_on: bool
) -> list[ForgetOutcome]:
    """Delete jobs of a partition that have arrived elsewhere. See `transfer_forget.lua`."""
    args: list[Argument] = [int(cancels_passed_on), *(keys.arq_id for keys in jobs)]
    names = [PartitionKeys(jobs[0].partition).moving(priority)]
    return cast(list[ForgetOutcome], _words(await _transfer_forget(redis, names, args)))


async def transfer_give_back(redis: Redis, priority: Priority, jobs: Sequence[JobKeys]) -> int:
    """Put moving jobs of a partition back into their queue; return how many.

    See `transfer_give_back.lua`.
    """
    shared = PartitionKeys(jobs[0].partition)
    args = [shared.wake, *(keys.arq_id for keys in jobs)]
    names = [shared.queue(priority), shared.moving(priority)]
    return int(await _transfer_give_back(redis, names, args))


def _words(replies: Sequence[bytes]) -> list[str]:
    return [reply.decode() for reply in replies]
