"""Lists of jobs: a tenant's latest ones, and what a person sees of them.

`enqueue` adds each job to the list of its tenant, which has the latest `MAX_LISTED` of a partition.
A list has only ids; the states are read when it is listed. Nothing searches the key space, so an
operator can shorten only the ids that these lists, and those of failed jobs and batches, have.

Heads of records are read, never megabytes of texts: of a job that is open, a megabyte at most.
Callers compare the tenant of each status with their own before they show its prompt.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from heapq import nlargest
from typing import NamedTuple

from redis.asyncio import Redis

from darkq.errors import CorruptRecord
from darkq.jobs.status import Status, Why, read_statuses
from darkq.protocol.keys import BatchKeys, JobKeys, PartitionKeys
from darkq.protocol.prompt import Message
from darkq.protocol.record import (
    HEADS_BYTES,
    CutShort,
    read_answer_head,
    read_job,
    read_prompt_head,
    read_result_head,
)
from darkq.redis.pool import speaking_darkq
from darkq.redis.servers import read_clock_ms
from darkq.settings.settings import Settings

__all__ = ["MAX_LISTED", "Beginning", "JobLists", "KeptPrompt", "LinesPage", "Why"]

MAX_LISTED = 1000
_MOST_IDS = 10_000
_PAGE_JOBS = 20  # limits the record heads that are in memory at the same time
_MOST_PROMPT_BYTES = 1 << 20


async def list_latest(
    redis: Redis, partitions: int, *, tenant: str | None, limit: int
) -> list[Status]:
    """Return the status of a tenant's latest jobs, the newest first, without expired ones."""
    jobs = await _list_tenant(redis, partitions, tenant=tenant, limit=limit)
    return [status for status in await _read_pages(redis, jobs) if status.tenant == tenant]


async def list_job_ids(redis: Redis, partitions: int) -> list[str]:
    """Return the ids of failed jobs, and of the latest jobs without a tenant.

    At most 10,000 of each partition and kind. Raises what redis-py raises.
    """
    keys = [PartitionKeys(partition) for partition in range(partitions)]
    lists = [name for each in keys for name in (each.failed, each.tenant_jobs(None))]
    members = dict.fromkeys(await _read_members(redis, lists))
    return [job.public_id for each in members if (job := JobKeys.from_member(each)) is not None]


async def list_batch_ids(redis: Redis, partitions: int) -> list[str]:
    """Return the ids of the latest 10,000 batches of each partition.

    Raises what redis-py raises.
    """
    lists = [PartitionKeys(partition).batches for partition in range(partitions)]
    members = await _read_members(redis, lists)
    return [keys.public_id for each in members if (keys := BatchKeys.from_member(each)) is not None]


async def _read_members(redis: Redis, lists: Sequence[str]) -> list[bytes]:
    async with redis.pipeline(transaction=False) as pipe:
        for name in lists:
            pipe.zrevrange(name, 0, _MOST_IDS - 1)
        return [member for members in await pipe.execute() for member in members]


async def _list_tenant(
    redis: Redis, partitions: int, *, tenant: str | None, limit: int
) -> list[JobKeys]:
    """Return a tenant's latest jobs, the newest first, expired ones too."""
    async with redis.pipeline(transaction=False) as pipe:
        for partition in range(partitions):
            name = PartitionKeys(partition).tenant_jobs(tenant)
            pipe.zrevrange(name, 0, min(limit, MAX_LISTED) - 1, withscores=True)
        lists = await pipe.execute()
    newest = nlargest(limit, (job for jobs in lists for job in jobs), key=lambda job: job[1])
    return [keys for member, _ in newest if (keys := JobKeys.from_member(member)) is not None]


async def _read_pages(redis: Redis, jobs: Sequence[JobKeys]) -> list[Status]:
    return [status for page in _pages(jobs) for status in await _read_valid(redis, page)]


async def _read_valid(redis: Redis, jobs: Sequence[JobKeys]) -> list[Status]:
    """Return the status of jobs, without those whose records are corrupt."""
    try:
        return await read_statuses(redis, jobs)
    except CorruptRecord:
        if len(jobs) == 1:
            return []
        return [status for job in jobs for status in await _read_valid(redis, [job])]


class Beginning(NamedTuple):
    """The beginning of a prompt, and of the answer if the job is completed; "" if not stored."""

    prompt: str = ""
    answer: str = ""


class KeptPrompt(NamedTuple):
    """What is stored of a prompt; `is_whole` is False if it is only its beginning."""

    messages: tuple[Message, ...]
    is_whole: bool


class LinesPage(NamedTuple):
    """Some lines of a batch with the ids of their jobs, and how many there are."""

    lines: list[tuple[int, str]]
    total: int


class JobLists:
    """The lists of jobs in a Redis. Every method raises `RedisUnavailable`."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._partitions = settings.partitions

    async def ids(self, tenant: str | None) -> list[str]:
        """Return the ids of a tenant's latest jobs, the newest first, of expired ones too."""
        async with speaking_darkq():
            jobs = await _list_tenant(
                self._redis, self._partitions, tenant=tenant, limit=MAX_LISTED
            )
        return [keys.public_id for keys in jobs]

    async def held(self) -> list[str]:
        """Return the ids of jobs with a lease, of all tenants: a thousand per queue at most.

        A job without a lease may be among them, if it is deferred.
        """
        async with speaking_darkq():
            now_ms = await read_clock_ms(self._redis)
            pipe = self._redis.pipeline(transaction=False)
            for partition in range(self._partitions):
                for queue in PartitionKeys(partition).queues:
                    pipe.zrangebyscore(queue, f"({now_ms:.3f}", "+inf", start=0, num=MAX_LISTED)
            jobs = [JobKeys.from_member(each) for page in await pipe.execute() for each in page]
        return [keys.public_id for keys in jobs if keys is not None]

    async def lines_among(self, job_ids: Sequence[str]) -> set[str]:
        """Return which of these jobs are lines of batches."""
        async with speaking_darkq(), self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hget(JobKeys.parse(job_id).state, "batch")
            batches = await pipe.execute() if job_ids else []
        return {job_id for job_id, batch in zip(job_ids, batches, strict=True) if batch}

    async def statuses(self, job_ids: Sequence[str]) -> list[Status]:
        """Return the status of jobs, without expired and unreadable ones."""
        async with speaking_darkq():
            return await _read_pages(self._redis, list(map(JobKeys.parse, job_ids)))

    async def beginnings(self, job_ids: Sequence[str]) -> dict[str, Beginning]:
        """Return the beginnings of prompts and answers by the ids of their jobs."""
        found: dict[str, Beginning] = {}
        async with speaking_darkq():
            for page in _pages(list(map(JobKeys.parse, job_ids))):
                async with self._redis.pipeline(transaction=False) as pipe:
                    for keys in page:
                        for name in (keys.result, keys.job, keys.failed):
                            pipe.getrange(name, 0, HEADS_BYTES[0] - 1)
                    replies = await pipe.execute(raise_on_error=False)
                heads = [reply if isinstance(reply, bytes) else b"" for reply in replies]
                for number, keys in enumerate(page):
                    result, job, failed = heads[number * 3 : number * 3 + 3]
                    found[keys.public_id] = _read_beginning(keys, result, job or failed)
        return found

    async def prompt(self, job_id: str) -> KeptPrompt | None:
        """Return what is stored of a job's prompt, from the first megabyte of its record.

        Raises `JobNotFound` for what is no id.
        """
        keys = JobKeys.parse(job_id)
        async with speaking_darkq(), self._redis.pipeline(transaction=False) as pipe:
            for name in (keys.job, keys.failed, keys.result):
                pipe.getrange(name, 0, _MOST_PROMPT_BYTES - 1)
            job, failed, result = await pipe.execute()
        try:
            return _read_kept(keys, job or failed, result)
        except (CutShort, CorruptRecord):
            return None

    async def count_failed(self, within_s: float) -> int:
        """Return how many jobs of all tenants failed within a time, without lines of batches."""
        since_ms = (time.time() - within_s) * 1000
        async with speaking_darkq(), self._redis.pipeline(transaction=False) as pipe:
            for partition in range(self._partitions):
                pipe.zcount(PartitionKeys(partition).failed, f"{since_ms:.3f}", "+inf")
            return sum(await pipe.execute())

    async def lines(self, batch_id: str, start: int, limit: int) -> LinesPage:
        """Return lines of a batch that are not acknowledged: ended ones first, then the others.

        The jobs of acknowledged lines are deleted. Raises `BatchNotFound` for what is no id.
        """
        keys = BatchKeys.parse(batch_id)
        async with speaking_darkq(), self._redis.pipeline(transaction=False) as pipe:
            pipe.zrevrange(keys.lines, start, start + limit - 1)
            pipe.zcard(keys.lines)
            members, total = await pipe.execute()
        numbers = [int(member) for member in members]
        return LinesPage([(number, keys.job(number).public_id) for number in numbers], total)


def _pages(jobs: Sequence[JobKeys]) -> Iterator[Sequence[JobKeys]]:
    return (jobs[start : start + _PAGE_JOBS] for start in range(0, len(jobs), _PAGE_JOBS))


def _read_beginning(keys: JobKeys, result: bytes, job: bytes) -> Beginning:
    if not result:
        return Beginning(read_prompt_head(job))
    try:
        prompt = read_result_head(result, keys, HEADS_BYTES[0]).d.prompt
    except (CutShort, CorruptRecord):
        prompt = ""
    return Beginning(prompt or read_prompt_head(job), read_answer_head(result))


def _read_kept(keys: JobKeys, job: bytes, result: bytes) -> KeptPrompt | None:
    if job and len(job) < _MOST_PROMPT_BYTES:
        return KeptPrompt(_to_messages(read_job(job, keys).job.prompt), is_whole=True)
    beginning = read_prompt_head(job)
    if not job and result:
        record = read_result_head(result, keys, _MOST_PROMPT_BYTES)
        if record.p:
            return KeptPrompt(_to_messages(record.p.prompt), is_whole=True)
        beginning = record.d.prompt
    return KeptPrompt((Message("user", beginning),), is_whole=False) if beginning else None


def _to_messages(prompt: str | tuple[Message, ...]) -> tuple[Message, ...]:
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt
