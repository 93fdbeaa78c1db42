"""Purging under load: waiting jobs are cancelled, ended jobs are deleted, page by page.

A job that is purged from its queue ends as `cancelled`, with a result and an event, so that its
readers do not wait for it. Running jobs are not touched. Each job takes a script call of its own,
several of them concurrently, so Redis is never blocked. After an interruption, the jobs purged so
far stay purged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

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
from darkq.redis.servers import read_clock_ms, scan
from darkq.settings.settings import Settings

AT_ONCE = 20  # results, of megabytes at most
_SCAN_KEYS = 500


class Purged(msgspec.Struct, frozen=True, kw_only=True):
    """The number of jobs examined so far, purged (or to be purged), and left.

    Running and unreadable jobs are left.
    """

    looked_at: int = 0
    purged: int = 0
    left: int = 0


class _Tally:
    def __init__(self) -> None:
        self.looked_at = self.purged = self.left = 0

    def add(self, verdicts: Sequence[bool | None]) -> Purged:
        """Count verdicts: True for purged, False for left, None if there was nothing to do."""
        self.looked_at += len(verdicts)
        self.purged += sum(verdict is True for verdict in verdicts)
        self.left += sum(verdict is False for verdict in verdicts)
        return Purged(looked_at=self.looked_at, purged=self.purged, left=self.left)


class Purge:
    """Purges a Redis. Every method yields its progress.

    With `dry_run` nothing is changed, and `purged` counts what would be purged. Every method
    raises `RedisUnavailable`, and can be interrupted and repeated.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings

    async def waiting(
        self, priority: Priority, *, dry_run: bool = False
    ) -> AsyncGenerator[Purged, None]:
        """Cancel the jobs of a queue that wait or are deferred, lines of batches included."""
        tally = _Tally()
        async with speaking_darkq():
            for partition in range(self._settings.partitions):
                async with aclosing(
                    pages(self._redis, PartitionKeys(partition).queue(priority))
                ) as found:
                    async for page in found:
                        yield tally.add(await self._each(page, self._cancel, dry_run=dry_run))

    async def failed(
        self, *, older_than_s: float = 0, dry_run: bool = False
    ) -> AsyncGenerator[Purged, None]:
        """Delete failed jobs: result, event log, and the prompt that is kept for a retry."""
        tally = _Tally()
        async with speaking_darkq():
            before_ms = await self._before_ms(older_than_s)
            for partition in range(self._settings.partitions):
                async with aclosing(pages(self._redis, PartitionKeys(partition).failed)) as found:
                    async for page in found:
                        forget = self._forgetting(
                            lambda record: record.d.outcome == "failed" and record.ft <= before_ms
                        )
                        yield tally.add(await self._each(page, forget, dry_run=dry_run))

    async def results(
        self, *, older_than_s: float, dry_run: bool = False
    ) -> AsyncGenerator[Purged, None]:
        """Delete the results and event logs of completed and cancelled jobs, not of failed ones.

        A completed line of a batch whose result was not taken yet runs again with the batch's next
        runner. A cancelled line stays cancelled.
        """
        tally = _Tally()
        async with speaking_darkq():
            before_ms = await self._before_ms(older_than_s)
            forget = self._forgetting(
                lambda record: record.d.outcome != "failed" and record.ft <= before_ms
            )
            async with aclosing(self._scan("arq:result:*")) as found:
                async for page in found:
                    yield tally.add(await self._each(page, forget, dry_run=dry_run))

    async def tenant(self, tenant: str, *, dry_run: bool = False) -> AsyncGenerator[Purged, None]:
        """Cancel a tenant's waiting jobs, and delete its ended ones, failed or not.

        Running jobs continue: repeat this if `left` is not 0. Files in a store and API keys stay;
        hashes of idempotency keys expire by themselves.
        """
        tally = _Tally()

        async def cancel(keys: JobKeys, *, dry_run: bool) -> bool | None:
            data = await self._redis.get(keys.job)
            if data is None or read_job(data, keys).job.tenant != tenant:
                return None
            return await self._cancel(keys, dry_run=dry_run)

        async with speaking_darkq():
            async with aclosing(self._scan("arq:job:*")) as found:
                async for page in found:
                    yield tally.add(await self._each(page, cancel, dry_run=dry_run))
            forget = self._forgetting(lambda record: record.d.tenant == tenant)
            async with aclosing(self._scan("arq:result:*")) as found:
                async for page in found:
                    yield tally.add(await self._each(page, forget, dry_run=dry_run))
            if not dry_run and not tally.left:
                for partition in range(self._settings.partitions):
                    await self._redis.delete(PartitionKeys(partition).tenant_jobs(tenant))

    async def _each(
        self,
        jobs: Sequence[JobKeys],
        purge: Callable[..., Awaitable[bool | None]],
        *,
        dry_run: bool,
    ) -> list[bool | None]:
        async def one(keys: JobKeys) -> bool | None:
            try:
                return await purge(keys, dry_run=dry_run)
            except CorruptRecord:
                return False

        verdicts: list[bool | None] = []
        for start in range(0, len(jobs), AT_ONCE):
            verdicts += await asyncio.gather(*map(one, jobs[start : start + AT_ONCE]))
        return verdicts

    async def _cancel(self, keys: JobKeys, *, dry_run: bool) -> bool | None:
        """Cancel a job only if it waits."""
        if dry_run:
            held = await self._redis.execute_command("HEXISTS", keys.state, "held")
            return not held
        ttl_s = self._settings.result_ttl_s
        try:
            return await cancellation.cancel(
                self._redis, keys, result_ttl_s=ttl_s, only_waiting=True
            )
        except JobNotFound:  # it has ended and was deleted meanwhile
            return None

    def _forgetting(
        self, chosen: Callable[[ResultRecord], bool]
    ) -> Callable[..., Awaitable[bool | None]]:
        async def forget(keys: JobKeys, *, dry_run: bool) -> bool | None:
            data = await self._redis.get(keys.result)
            if data is None or not chosen(read_result(data, keys)):
                return None
            if not dry_run:
                await scripts.forget(self._redis, keys)
            return True

        return forget

    async def _before_ms(self, older_than_s: float) -> float:
        return await read_clock_ms(self._redis) - older_than_s * 1000

    async def _scan(self, pattern: str) -> AsyncGenerator[list[JobKeys], None]:
        """Yield the jobs with keys that match a pattern, in no order, some of them twice."""
        page: list[JobKeys] = []
        async for name in scan(self._redis, pattern, count=_SCAN_KEYS):
            try:
                page.append(JobKeys.from_arq_id(name.decode().rpartition(":")[2]))
            except ValueError:  # another program's
                continue
            if len(page) == _SCAN_KEYS:
                yield page
                page = []
        if page:
            yield page
