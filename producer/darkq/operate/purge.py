"""Purging under load: waiting jobs are cancelled, ended jobs are deleted, page by page.

A job that is purged from its queue ends as `cancelled`, with a result and an event, so that its
readers do not wait for it. Running jobs are not touched. Each job takes a script call of its own,
several of them concurrently, so Redis is never blocked. After an interruption, the jobs purged so
far stay purged.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple, TypeAlias

import msgspec
from redis.asyncio import Redis

from darkq.errors import CorruptRecord, JobNotFound
from darkq.jobs import cancel as cancellation
from darkq.operate.move import pages
from darkq.protocol.job import Priority
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import ResultRecord, read_job, read_result
from darkq.redis import scripts
from darkq.redis.pool import speaking_darkq
from darkq.redis.servers import read_clock_ms, scan_pages
from darkq.settings.settings import Settings

AT_ONCE = 20  # results, of megabytes at most


class Purged(msgspec.Struct, frozen=True, kw_only=True):
    """The number of jobs examined so far, purged (or to be purged), and left.

    Running and unreadable jobs are left.
    """

    looked_at: int = 0
    purged: int = 0
    left: int = 0


class _Options(NamedTuple):
    """Of one purge. `before_ms` is the latest time of an end, by the clock of Redis."""

    dry_run: bool
    before_ms: float


_PurgeJob: TypeAlias = Callable[[JobKeys, _Options], Awaitable[bool | None]]
"""Purges one job: True for purged, False for left, None if there was nothing to do."""


class Purge:
    """Purges a Redis. Every method yields its progress.

    With `dry_run` nothing is changed, and `purged` counts what would be purged. Every method
    raises `RedisUnavailable`, and can be interrupted and repeated.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings

    def waiting(self, priority: Priority, *, dry_run: bool = False) -> AsyncGenerator[Purged, None]:
        """Cancel the jobs of a queue that wait or are deferred, lines of batches included."""
        lists = [pages(self._redis, keys.queue(priority)) for keys in self._partitions]
        return self._run([(jobs, self._cancel) for jobs in lists], dry_run=dry_run)

    def failed(
        self, *, older_than_s: float = 0, dry_run: bool = False
    ) -> AsyncGenerator[Purged, None]:
        """Delete failed jobs: result, event log, and the prompt that is kept for a retry."""
        forget = self._forget_if(lambda record: record.d.outcome == "failed")
        lists = [pages(self._redis, keys.failed) for keys in self._partitions]
        work = [(jobs, forget) for jobs in lists]
        return self._run(work, older_than_s=older_than_s, dry_run=dry_run)

    def results(
        self, *, older_than_s: float, dry_run: bool = False
    ) -> AsyncGenerator[Purged, None]:
        """Delete the results and event logs of completed and cancelled jobs, not of failed ones.

        A completed line of a batch whose result was not taken yet runs again with the batch's next
        runner. A cancelled line stays cancelled.
        """
        forget = self._forget_if(lambda record: record.d.outcome != "failed")
        work = [(self._scan("arq:result:*"), forget)]
        return self._run(work, older_than_s=older_than_s, dry_run=dry_run)

    async def tenant(self, tenant: str, *, dry_run: bool = False) -> AsyncGenerator[Purged, None]:
        """Cancel a tenant's waiting jobs, and delete its ended ones, failed or not.

        Running jobs continue: repeat this if `left` is not 0. Files in a store and API keys stay;
        hashes of idempotency keys expire by themselves.
        """

        async def cancel(keys: JobKeys, options: _Options) -> bool | None:
            data = await self._redis.get(keys.job)
            if data is None or read_job(data, keys).job.tenant != tenant:
                return None
            return await self._cancel(keys, options)

        forget = self._forget_if(lambda record: record.d.tenant == tenant)
        work = [(self._scan("arq:job:*"), cancel), (self._scan("arq:result:*"), forget)]
        purged = Purged()
        async with speaking_darkq(), aclosing(self._run(work, dry_run=dry_run)) as progress:
            async for purged in progress:
                yield purged
            if not dry_run and not purged.left:
                for keys in self._partitions:
                    await self._redis.delete(keys.tenant_jobs(tenant))

    @property
    def _partitions(self) -> list[PartitionKeys]:
        return [PartitionKeys(partition) for partition in range(self._settings.partitions)]

    async def _run(
        self,
        work: Sequence[tuple[AsyncGenerator[list[JobKeys], None], _PurgeJob]],
        *,
        dry_run: bool,
        older_than_s: float | None = None,
    ) -> AsyncGenerator[Purged, None]:
        """Purge pages of jobs, each source with its function."""
        counts = Counter[bool | None]()
        async with speaking_darkq():
            before_ms = math.inf  # a tenant's jobs end meanwhile: this purge has cancelled them
            if older_than_s is not None:
                before_ms = await read_clock_ms(self._redis) - older_than_s * 1000
            options = _Options(dry_run, before_ms)
            for found, purge in work:
                async with aclosing(found):
                    async for page in found:
                        counts.update(await _purge_page(page, purge, options))
                        yield Purged(
                            looked_at=counts.total(), purged=counts[True], left=counts[False]
                        )

    async def _cancel(self, keys: JobKeys, options: _Options) -> bool | None:
        """Cancel a job only if it waits."""
        if options.dry_run:
            held = await self._redis.execute_command("HEXISTS", keys.state, "held")
            return not held
        ttl_s = self._settings.result_ttl_s
        try:
            return await cancellation.cancel(
                self._redis, keys, result_ttl_s=ttl_s, only_waiting=True
            )
        except JobNotFound:  # it has ended and was deleted meanwhile
            return None

    def _forget_if(self, is_chosen: Callable[[ResultRecord], bool]) -> _PurgeJob:
        async def forget(keys: JobKeys, options: _Options) -> bool | None:
            data = await self._redis.get(keys.result)
            if data is None:
                return None
            record = read_result(data, keys)
            if record.ft > options.before_ms or not is_chosen(record):
                return None
            if not options.dry_run:
                await scripts.forget(self._redis, keys)
            return True

        return forget

    async def _scan(self, pattern: str) -> AsyncGenerator[list[JobKeys], None]:
        """Yield the jobs with keys that match a pattern, in no order, some of them twice."""
        async with aclosing(scan_pages(self._redis, pattern)) as found:
            async for names in found:
                jobs = [JobKeys.from_member(name.rpartition(b":")[2]) for name in names]
                yield [keys for keys in jobs if keys is not None]  # without other programs' keys


async def _purge_page(
    jobs: Sequence[JobKeys], purge: _PurgeJob, options: _Options
) -> list[bool | None]:
    async def one(keys: JobKeys) -> bool | None:
        try:
            return await purge(keys, options)
        except CorruptRecord:
            return False

    verdicts: list[bool | None] = []
    for start in range(0, len(jobs), AT_ONCE):
        verdicts += await asyncio.gather(*map(one, jobs[start : start + AT_ONCE]))
    return verdicts
