"""The ids that an operator can shorten: those of failed jobs, of the latest jobs, and of batches.

Nothing searches the key space. So a beginning of an id is looked up in the lists that Redis has
anyway, in one round trip: per partition the latest 10,000 failed jobs, the latest jobs without a
tenant, and the latest 10,000 batches.
"""

from __future__ import annotations

from collections.abc import Iterable

from redis.asyncio import Redis

from darkq.protocol.keys import BatchKeys, JobKeys, PartitionKeys

MOST_LISTED = 10_000


async def list_job_ids(redis: Redis, partitions: Iterable[int]) -> list[str]:
    """Return the ids of the known jobs. Raises what redis-py raises."""
    async with redis.pipeline(transaction=False) as pipe:
        for partition in partitions:
            for name in (
                PartitionKeys(partition).failed,
                PartitionKeys(partition).tenant_jobs(None),
            ):
                pipe.zrevrange(name, 0, MOST_LISTED - 1)
        lists = await pipe.execute()
    members = dict.fromkeys(member for members in lists for member in members)
    return [job.public_id for each in members if (job := JobKeys.from_member(each)) is not None]


async def list_batch_ids(redis: Redis, partitions: Iterable[int]) -> list[str]:
    """Return the ids of the known batches. Raises what redis-py raises."""
    async with redis.pipeline(transaction=False) as pipe:
        for partition in partitions:
            pipe.zrevrange(PartitionKeys(partition).batches, 0, MOST_LISTED - 1)
        lists = await pipe.execute()
    members = [member for members in lists for member in members]
    return [keys.public_id for each in members if (keys := BatchKeys.from_member(each)) is not None]
