"""The latest jobs of a tenant, in any state.

`enqueue` adds each job to the list of its tenant, which has the latest `MAX_LISTED` of a partition.
A list has only ids; the states are read when it is listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest

from redis.asyncio import Redis

from darkq.errors import CorruptRecord
from darkq.jobs.status import Status, read_statuses
from darkq.protocol.keys import JobKeys, PartitionKeys

MAX_LISTED = 1000
_PAGE_JOBS = 20  # limits the record heads that are in memory at the same time


async def list_latest(
    redis: Redis, partitions: int, *, tenant: str | None, limit: int
) -> list[Status]:
    """Return the status of a tenant's latest jobs, the newest first, without expired ones."""
    jobs = await list_ids(redis, partitions, tenant=tenant, limit=limit)
    found: list[Status] = []
    for start in range(0, len(jobs), _PAGE_JOBS):
        found += await read_valid(redis, jobs[start : start + _PAGE_JOBS])
    return [status for status in found if status.tenant == tenant]


async def list_ids(
    redis: Redis, partitions: int, *, tenant: str | None, limit: int
) -> list[JobKeys]:
    """Return the ids of a tenant's latest jobs, the newest first, of expired ones too."""
    async with redis.pipeline(transaction=False) as pipe:
        for partition in range(partitions):
            name = PartitionKeys(partition).tenant_jobs(tenant)
            pipe.zrevrange(name, 0, min(limit, MAX_LISTED) - 1, withscores=True)
        lists = await pipe.execute()
    newest = nlargest(limit, (job for jobs in lists for job in jobs), key=lambda job: job[1])
    return [keys for member, _ in newest if (keys := JobKeys.from_member(member)) is not None]


async def read_valid(redis: Redis, jobs: Sequence[JobKeys]) -> list[Status]:
    """Return the status of jobs, without those whose records are corrupt."""
    try:
        return await read_statuses(redis, jobs)
    except CorruptRecord:
        if len(jobs) == 1:
            return []
        return [status for job in jobs for status in await read_valid(redis, [job])]
