"""The handle of a queue: all partitions of a priority together.

queue = client.queue("bulk")
await queue.pause(why="the upstream is being moved")
...
await queue.resume()
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Self

import msgspec
from redis.asyncio import Redis

from darkq.errors import CannotMove
from darkq.operate.move import count_jobs, give_back, shift
from darkq.operate.purge import Purge, Purged
from darkq.operate.queue_state import Mark, QueueStatus, clear_mark, read_queue, set_mark
from darkq.operate.transfer import Transfer
from darkq.protocol.job import Priority
from darkq.protocol.keys import PartitionKeys
from darkq.redis.pool import speaking_darkq
from darkq.settings.settings import Settings

LOOK_EVERY_S = 1.0


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs of a queue by what a move has done with them so far, or would do.

    `moved` jobs and their idempotency `keys`; and those that stay: `running` (a worker has the job,
    or may have it), `lines` of batches, `expired`.
    """

    moved: int = 0
    keys: int = 0
    running: int = 0
    lines: int = 0
    expired: int = 0

    @classmethod
    def of(cls, counts: Counter[str]) -> Self:
        return cls(
            moved=counts["moved"],
            keys=counts["keys"],
            running=counts["running"],
            lines=counts["line"],
            expired=counts["expired"] + counts["gone"],
        )


class QueueHandle:
    """The queue of a priority. Get one from `Client.queue`.

    Every method is idempotent, and raises `RedisUnavailable`. After an interruption, a change may
    be in effect in some partitions only, as `status()` shows. Repeat the call to complete it.
    """

    def __init__(self, priority: Priority, redis: Redis, settings: Settings) -> None:
        self.priority: Priority = priority
        self._redis = redis
        self._settings = settings

    async def status(self) -> QueueStatus:
        """Return the counts and the state of the queue."""
        async with speaking_darkq():
            return await read_queue(self._redis, self.priority, self._settings.partitions)

    async def pause(self, *, why: str = "", by: str | None = None) -> QueueStatus:
        """Stop workers from claiming jobs of this queue, from their next claim on.

        Running jobs continue; enqueueing, cancelling and reading work as before. The pause lasts
        until `resume`, through all restarts. `why` and `by` (by default the user of this process)
        are shown to other operators. Raises `InvalidJob` for a text of more than one line or of
        more than 200 characters.
        """
        return await self._set("paused", why, by)

    async def resume(self) -> QueueStatus:
        """Let workers claim its jobs again; idle ones are woken at once."""
        return await self._clear("paused")

    async def close(self, *, why: str = "", by: str | None = None) -> QueueStatus:
        """Refuse new jobs with `QueueClosed`, while the backlog is worked off.

        Lines of batches wait until the queue is opened. A known idempotency key still finds its
        job, and a failed job can be retried. For `why` and `by` see `pause`.
        """
        return await self._set("closed", why, by)

    async def open(self) -> QueueStatus:
        """Accept new jobs again."""
        return await self._clear("closed")

    async def draining(self) -> AsyncGenerator[QueueStatus, None]:
        """Yield the queue's status, every second, until no job of it waits or runs."""
        while True:
            status = await self.status()
            yield status
            if not (status.waiting or status.deferred or status.running):
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def move_to(
        self, target: QueueHandle, *, limit: int | None = None
    ) -> AsyncGenerator[Backlog, None]:
        """Move waiting jobs to the other queue, or to another Redis; yield the progress.

        To the other queue of the same client: works under load, includes lines of batches, and
        keeps the time by which jobs are sorted. To the queue of a client of another Redis: this
        queue must be paused and closed. Jobs keep their ids, prompt, options, metadata, event log,
        attempts, tries and idempotency keys. Lines of batches and running jobs stay. Both clients
        must have the same `DARKQ_PARTITIONS`.

        After an interruption no job is lost and none runs twice: call this again. Until then a job
        in transit is in neither queue. Raises `CannotMove`, `QueueFull` of the target.
        """
        counts = Counter[str]()
        async with speaking_darkq(), aclosing(self._moving(target, limit)) as pages:
            async for page in pages:
                counts += page
                yield Backlog.of(counts)
                if limit is not None and counts["moved"] >= limit:
                    return

    async def give_back(self) -> int:
        """Return the jobs of an interrupted move to this queue, and return their number.

        Use it if the target is permanently lost: a job that had arrived there runs here too.
        """
        async with speaking_darkq():
            return await give_back(self._redis, self.priority, self._settings.partitions)

    def purge(self, *, dry_run: bool = False) -> AsyncGenerator[Purged, None]:
        """Cancel the jobs that wait or are deferred, and yield the progress.

        Each ends as `cancelled`, with a result and an event, lines of batches too. Running jobs
        continue. With `dry_run` jobs are only counted.
        """
        return Purge(self._redis, self._settings).waiting(self.priority, dry_run=dry_run)

    async def backlog(self) -> AsyncGenerator[Backlog, None]:
        """Count the jobs that `move_to` another Redis would move, and those that would stay."""
        names = [PartitionKeys(p).queue(self.priority) for p in range(self._settings.partitions)]
        counts = Counter[str]()
        async with speaking_darkq(), aclosing(count_jobs(self._redis, names)) as pages:
            async for page in pages:
                counts += page
                yield Backlog.of(counts + Counter(moved=counts["waiting"]))

    def _moving(self, target: QueueHandle, limit: int | None) -> AsyncGenerator[Counter[str], None]:
        if target._redis is not self._redis:
            if target.priority != self.priority:
                raise CannotMove(self.priority, "a job keeps its priority in another Redis")
            transfer = Transfer(self._redis, target._redis, self.priority, self._settings)
            return transfer.run(limit)
        if target.priority == self.priority:
            raise CannotMove(self.priority, "it is the same queue")
        return shift(self._redis, self.priority, target.priority, self._settings, limit)

    async def _set(self, mark: Mark, why: str, by: str | None) -> QueueStatus:
        partitions = self._settings.partitions
        async with speaking_darkq():
            await set_mark(self._redis, mark, self.priority, partitions, why=why, by=by)
        return await self.status()

    async def _clear(self, mark: Mark) -> QueueStatus:
        async with speaking_darkq():
            await clear_mark(self._redis, mark, self.priority, self._settings.partitions)
        return await self.status()

    def __repr__(self) -> str:
        return f"QueueHandle({self.priority!r})"
