"""One queue in a program's hand: all partitions of a priority together.

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

from darkq.errors import CannotMove, QueueFull
from darkq.operate import move as queue_shift
from darkq.operate import queue_state as queue_control
from darkq.operate.move import standing
from darkq.operate.purge import Purge, Purged
from darkq.operate.queue_state import QueueStatus, read_queue
from darkq.operate.transfer import Transfer
from darkq.protocol.job import Priority
from darkq.protocol.keys import PartitionKeys
from darkq.redis.pool import speaking_darkq
from darkq.settings.settings import Settings

LOOK_EVERY_S = 1.0


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """What was done with a queue's jobs so far, or would be.

    `moved` and `keys`, their idempotency keys; and what stays: `running`, where a worker has a job
    or may have it, `lines` of batches, what has `expired`.
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

    Every method may be repeated, and raises `RedisUnavailable`. Interrupted, what it does may
    stand in some partitions and not in others: `status()` tells, and to repeat it completes it.
    """

    def __init__(self, priority: Priority, redis: Redis, settings: Settings) -> None:
        self.priority: Priority = priority
        self._redis = redis
        self._settings = settings

    async def status(self) -> QueueStatus:
        """Return how the queue stands."""
        async with speaking_darkq():
            return await read_queue(self._redis, self.priority, self._settings.partitions)

    async def pause(self, *, why: str = "", by: str | None = None) -> QueueStatus:
        """Let no worker begin a job of this queue any more, from its next claim on.

        What runs goes on, and may be enqueued, cancelled and read as ever. It lasts until
        `resume`, whatever is restarted. `why` and `by` (who runs this process) are for those who
        wonder. Raises `InvalidJob` for one of more than a line of 200 characters.
        """
        return await self._say("paused", why, by)

    async def resume(self) -> QueueStatus:
        """Let workers begin its jobs again; they are woken at once."""
        return await self._take_back("paused")

    async def close(self, *, why: str = "", by: str | None = None) -> QueueStatus:
        """Refuse new jobs with `QueueClosed`, and let the backlog run out.

        Lines of batches wait until the queue is opened. An idempotency key that is known still
        finds its job, and a failed job may be run again. Else as `pause`.
        """
        return await self._say("closed", why, by)

    async def open(self) -> QueueStatus:
        """Take new jobs again."""
        return await self._take_back("closed")

    async def draining(self) -> AsyncGenerator[QueueStatus, None]:
        """Yield how the queue stands, every second, until nothing of it waits or runs."""
        while True:
            status = await self.status()
            yield status
            if not (status.waiting or status.deferred or status.running):
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def move_to(
        self, target: QueueHandle, *, limit: int | None = None
    ) -> AsyncGenerator[Backlog, None]:
        """Move waiting jobs to the other queue, or to one of another Redis; yield how far it is.

        To the other queue of the same client: under load, lines of batches too, each job in its
        place by time. To the queue of a client of another Redis: this one must be paused and
        closed; jobs keep their ids, and bring prompt, options, metadata, log, attempts and tries,
        and idempotency keys. Lines of batches stay, and what runs. Both must have the same
        `DARKQ_PARTITIONS`.

        No job is lost, and none is run twice, wherever this is interrupted: call it again. A job
        that is on its way then is in neither queue. Raises `CannotMove`, `QueueFull` of the target.
        """
        counts = Counter[str]()
        async with speaking_darkq(), aclosing(self._moving(target, limit)) as pages:
            async for page in pages:
                counts += page
                yield Backlog.of(counts)
                if limit is not None and counts["moved"] >= limit:
                    return

    async def give_back(self) -> int:
        """Put jobs that a move has left on its way back into this queue; return how many.

        For when the target is gone for good: a job that had arrived there runs here too.
        """
        async with speaking_darkq():
            partitions = self._settings.partitions
            return await queue_shift.give_back(self._redis, self.priority, partitions)

    def purge(self, *, dry_run: bool = False) -> AsyncGenerator[Purged, None]:
        """Cancel the jobs that wait or are deferred, and yield how far that is.

        Each ends as `cancelled`, with a result and an event. What runs goes on; lines of batches
        end too. With `dry_run` they are only counted.
        """
        return Purge(self._redis, self._settings).waiting(self.priority, dry_run=dry_run)

    async def backlog(self) -> AsyncGenerator[Backlog, None]:
        """Count what `move_to` another Redis would move, and what would stay."""
        names = [PartitionKeys(p).queue(self.priority) for p in range(self._settings.partitions)]
        counts = Counter[str]()
        async with speaking_darkq(), aclosing(standing(self._redis, names)) as pages:
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
            raise CannotMove(self.priority, "it is there already")
        return self._shifting(target.priority, limit)

    async def _shifting(
        self, priority: Priority, limit: int | None
    ) -> AsyncGenerator[Counter[str], None]:
        shifting = queue_shift.shifting(self._redis, self.priority, priority, self._settings, limit)
        async with aclosing(shifting) as pages:
            async for page in pages:
                yield page
                if page["full"]:
                    raise QueueFull(priority, self._settings.queue_max_jobs)

    async def _say(self, word: queue_control.Word, why: str, by: str | None) -> QueueStatus:
        async with speaking_darkq():
            await queue_control.say(
                self._redis, word, self.priority, self._settings.partitions, why=why, by=by
            )
        return await self.status()

    async def _take_back(self, word: queue_control.Word) -> QueueStatus:
        async with speaking_darkq():
            await queue_control.take_back(
                self._redis, word, self.priority, self._settings.partitions
            )
        return await self.status()

    def __repr__(self) -> str:
        return f"QueueHandle({self.priority!r})"
