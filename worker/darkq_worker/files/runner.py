"""Runs a worker's share of the batches over files: each is run by one worker at a time.

The list of open batches is read every few seconds. The worker that gets the lease of a batch runs
it. If that worker dies, the lease expires and another worker continues.

A worker runs a few batches at once, and tenants share these slots. The next batch is the oldest one
of the tenant with the fewest running batches here. If all slots are in use, a waiting tenant takes
one from a tenant that has at least two more. A tenant without any also takes the only slot of
another tenant, after `TURN_S`. A paused batch resumes later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import NamedTuple

from darkq import Client, DarkqError, Settings
from darkq.errors import BatchNotFound, BatchTaken, RedisUnavailable
from darkq.redis.backoff import backoff_s
from darkq.redis.pool import brief
from darkq.serving.file_batches import FileBatch
from darkq.serving.files import Files
from darkq.telemetry.logging import LogEvent
from darkq_worker.files.run import FileBatchRun, delete_leftovers
from darkq_worker.outage_log import OutageLog

logger = logging.getLogger("darkq.worker.files")

LOOK_S = 2.0
AT_ONCE = 4
TURN_S = 60.0
MAX_BACKOFF_S = 60.0
GIVE_UP_SHARE = 1 / 24
"""A batch fails if it cannot end within its window and this share of it."""


class _Open(NamedTuple):
    batch_id: str
    tenant: str | None


class _Running:
    def __init__(self, tenant: str | None) -> None:
        self.tenant = tenant
        self.since_s = time.monotonic()
        self.run: FileBatchRun | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def may_pause(self) -> bool:
        return self.run is not None and self.run.may_pause


class FileBatchRunners:
    """Runs open batches over files. `run()` is its one task; it owns the tasks of the batches."""

    def __init__(self, client: Client, files: Files, settings: Settings) -> None:
        self._client = client
        self._files = files
        self._settings = settings
        self._running: dict[str, _Running] = {}
        self._tenants: dict[str, str | None] = {}
        self._unreadable: set[str] = set()
        self._served: dict[str | None, float] = {}
        """When a batch of each tenant was last started."""
        self._backoffs: dict[str, tuple[int, float]] = {}
        """How often in a row a batch could not be run, and until when to leave it alone."""

    async def run(self) -> None:
        """Look for batches and run them until cancelled; unfinished ones continue elsewhere."""
        outage = OutageLog("batch listing failed", "batch listing recovered")
        try:
            while True:
                try:
                    await self._look()
                    await self._delete_leftovers()
                    outage.record_success()
                except Exception as error:  # no error ends this task
                    outage.record_failure(error)
                await asyncio.sleep(LOOK_S)
        finally:
            tasks = [each.task for each in self._running.values() if each.task is not None]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _look(self) -> None:
        opened = await self._open()
        now_s = time.monotonic()
        ready = [
            each
            for each in opened
            if each.batch_id not in self._running
            and now_s >= self._backoffs.get(each.batch_id, (0, 0.0))[1]
        ]
        while ready:
            chosen = min(ready, key=self._rank)  # among equals the first, which is the oldest
            if len(self._running) < AT_ONCE:
                self._start(chosen)
            elif (victim := self._victim(chosen.tenant)) is None:
                return
            elif await self._is_free(chosen.batch_id):
                await self._replace(victim, chosen)
                return
            ready.remove(chosen)

    def _rank(self, batch: _Open) -> tuple[int, float]:
        """Sort by how many batches of the tenant run here, then by when one was last started."""
        return self._counts()[batch.tenant], self._served.get(batch.tenant, 0.0)

    def _counts(self) -> Counter[str | None]:
        return Counter(each.tenant for each in self._running.values())

    def _victim(self, tenant: str | None) -> _Running | None:
        """Return the batch to pause for a tenant: the newest one of the tenant with the most."""
        counts, now_s = self._counts(), time.monotonic()
        found = [each for each in self._running.values() if each.may_pause]
        victim = max(found, key=lambda each: (counts[each.tenant], each.since_s), default=None)
        if victim is None:
            return None
        more = counts[victim.tenant] - counts[tenant]
        had_its_turn = not counts[tenant] and now_s - victim.since_s >= TURN_S
        return victim if more > 1 or (more == 1 and had_its_turn) else None

    async def _is_free(self, batch_id: str) -> bool:
        """Return True if no other worker runs a batch; otherwise back off."""
        try:
            is_free = (await self._client.batch(batch_id).status()).runner is None
        except BatchNotFound:
            return True  # running the batch ends it
        if not is_free:
            self._back_off(batch_id)
        return is_free

    async def _replace(self, victim: _Running, batch: _Open) -> None:
        logger.info(LogEvent("batch paused", for_batch=batch.batch_id))
        if victim.task is not None:
            victim.task.cancel()
            await asyncio.wait([victim.task])
        self._start(batch)

    def _start(self, batch: _Open) -> None:
        running = self._running[batch.batch_id] = _Running(batch.tenant)
        self._served[batch.tenant] = running.since_s
        running.task = asyncio.create_task(
            self._run(batch.batch_id, running), name="darkq-file-batch"
        )

    async def _open(self) -> list[_Open]:
        ids = await self._client.file_batches.open()
        self._backoffs = {key: each for key, each in self._backoffs.items() if key in set(ids)}
        self._tenants = {key: each for key, each in self._tenants.items() if key in set(ids)}
        found = [
            _Open(batch_id, self._tenants[batch_id])
            for batch_id in ids
            if batch_id in self._tenants or await self._learn_tenant(batch_id)
        ]
        tenants = set(self._tenants.values())
        self._served = {key: each for key, each in self._served.items() if key in tenants}
        self._unreadable &= set(ids)
        return found

    async def _learn_tenant(self, batch_id: str) -> bool:
        """Read the tenant of a batch; False if it is none, which must not stop the others."""
        try:
            self._tenants[batch_id] = (await self._client.file_batches.get(batch_id)).tenant
        except BatchNotFound:  # its record has expired
            await self._client.file_batches.drop(batch_id)
        except RedisUnavailable:
            raise
        except Exception as error:
            if batch_id not in self._unreadable:
                self._unreadable.add(batch_id)
                fields = {"batch": batch_id, "error": brief(error)}
                logger.warning(LogEvent("batch record unreadable", **fields))
        return batch_id in self._tenants

    async def _run(self, batch_id: str, running: _Running) -> None:
        try:
            async with self._client.batch(batch_id) as batch:
                record = await self._client.file_batches.get(batch_id)
                run = FileBatchRun(self._client, self._files, self._settings, batch, record)
                running.run = run
                try:
                    await run.run()
                except (BatchTaken, BatchNotFound):
                    raise
                except Exception as error:
                    if not _is_overdue(record) or not await run.give_up(brief(error)):
                        raise
        except BatchTaken:  # another worker runs it
            self._back_off(batch_id)
        except BatchNotFound:
            await self._end_lost(batch_id)
        except Exception as error:
            self._log_failure(batch_id, error)
            self._back_off(batch_id)
        else:
            logger.info(LogEvent("batch ended", batch=batch_id))
        finally:
            del self._running[batch_id]

    async def _end_lost(self, batch_id: str) -> None:
        """End a batch of which Redis has only the record."""
        try:
            await self._client.file_batches.fail_lost(batch_id)
        except DarkqError as error:
            self._log_failure(batch_id, error)
            self._back_off(batch_id)

    def _log_failure(self, batch_id: str, error: Exception) -> None:
        logger.warning(LogEvent("batch run failed", batch=batch_id, error=brief(error)))

    def _back_off(self, batch_id: str) -> None:
        failures = self._backoffs.get(batch_id, (0, 0.0))[0] + 1
        pause_s = backoff_s(failures, first_s=LOOK_S, most_s=MAX_BACKOFF_S)
        self._backoffs[batch_id] = failures, time.monotonic() + pause_s

    async def _delete_leftovers(self) -> None:
        """Delete what ended batches have left; failures are retried later."""
        for batch_id in await self._client.file_batches.ended():
            try:
                await delete_leftovers(self._client, self._files, batch_id)
            except BatchNotFound:
                await self._client.file_batches.drop(batch_id)
            except RedisUnavailable:
                raise
            except Exception as error:
                logger.warning(LogEvent("batch cleanup failed", batch=batch_id, error=brief(error)))
                await self._client.file_batches.close(batch_id)


def _is_overdue(record: FileBatch) -> bool:
    window_s = record.expires_at - record.created_at
    return time.time() >= record.expires_at + window_s * GIVE_UP_SHARE
