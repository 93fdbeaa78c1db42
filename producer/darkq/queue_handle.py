"""One queue in a program's hand: all partitions of a priority together.

queue = client.queue("bulk")
await queue.pause(why="the upstream is being moved")
...
await queue.resume()
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from redis.asyncio import Redis

from darkq import queue_control
from darkq.connection import speaking_darkq
from darkq.job import Priority
from darkq.queues import QueueStatus, read_queue
from darkq.settings import Settings

LOOK_EVERY_S = 1.0


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
