"""What a person sees of a tenant's jobs: their ids, their states, and the beginning of prompts.

Heads of records are read, never megabytes of texts: of a job that is open, a megabyte at most.
Callers compare the tenant of each status with their own before they show its prompt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from redis.asyncio import Redis

from darkq.errors import CorruptRecord
from darkq.jobs.status import Status, Why
from darkq.jobs.tenant_jobs import MAX_LISTED, list_ids, read_valid
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

_PAGE_JOBS = 20  # limits the heads that are in memory at the same time
_MOST_PROMPT_BYTES = 1 << 20


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
        self._settings = settings

    async def ids(self, tenant: str | None) -> list[str]:
        """Return the ids of a tenant's latest jobs, the newest first, of expired ones too."""
        async with speaking_darkq():
            partitions = self._settings.partitions
            jobs = await list_ids(self._redis, partitions, tenant=tenant, limit=MAX_LISTED)
        return [keys.public_id for keys in jobs]

    async def held(self) -> list[str]:
        """Return the ids of jobs with a lease, of all tenants: a thousand per queue at most.

        A job without a lease may be among them, if it is deferred.
        """
        found: list[str] = []
        async with speaking_darkq():
            now_ms = await read_clock_ms(self._redis)
            pipe = self._redis.pipeline(transaction=False)
            for partition in range(self._settings.partitions):
                for queue in PartitionKeys(partition).queues:
                    pipe.zrangebyscore(queue, f"({now_ms:.3f}", "+inf", start=0, num=MAX_LISTED)
            for page in await pipe.execute():
                jobs = [JobKeys.from_member(member) for member in page]
                found += [keys.public_id for keys in jobs if keys is not None]
        return found

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
            return [
                status for page in _pages(job_ids) for status in await read_valid(self._redis, page)
            ]

    async def beginnings(self, job_ids: Sequence[str]) -> dict[str, Beginning]:
        """Return the beginnings of prompts and answers by the ids of their jobs."""
        found: dict[str, Beginning] = {}
        async with speaking_darkq():
            for page in _pages(job_ids):
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
            for partition in range(self._settings.partitions):
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


def _pages(job_ids: Sequence[str]) -> list[list[JobKeys]]:
    jobs = [JobKeys.parse(job_id) for job_id in job_ids]
    return [jobs[start : start + _PAGE_JOBS] for start in range(0, len(jobs), _PAGE_JOBS)]


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
