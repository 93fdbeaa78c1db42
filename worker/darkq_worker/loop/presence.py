"""That a worker lives: said now and then, whatever becomes of the servers its jobs are on.

With each sign it reads its orders, should the word that there are some have been lost.

What an operator has told this worker: to take no more jobs, and to exit or to stay.

It reads its orders when their channel says so, and with each sign of life.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from redis.asyncio import Redis

from darkq.operate.workers import Drain, read_drain
from darkq.telemetry.logging import LogEvent
from darkq_worker.outage_log import Trouble

_INTERVAL_S = 1.0


class SignsOfLife:
    """Asks arq every second, which gives a sign every ten. `run()` is its one task."""

    def __init__(
        self, give: Callable[[], Awaitable[None]], draining: Draining, redis: Redis
    ) -> None:
        self._give = give
        self._draining = draining
        self._redis = redis

    async def run(self) -> None:
        """Give signs until cancelled."""
        trouble = Trouble("no sign of life, will keep trying", "signs of life again")
        while True:
            try:
                await self._give()
                if self._draining.news.is_set():
                    await self._draining.read(self._redis)
                trouble.over()
            except Exception as error:
                trouble.met(error)
                await asyncio.sleep(_INTERVAL_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL_S):
                    await self._draining.news.wait()


logger = logging.getLogger("darkq.worker")


class Draining:
    """The orders of one worker; the sink of the channel that says that there are some.

    `leave` begins its end, and says whether to be patient; `wake` lets it look for jobs again.
    """

    def __init__(
        self, worker_id: str, *, leave: Callable[[bool], None], wake: Callable[[], None]
    ) -> None:
        self._worker_id = worker_id
        self._leave = leave
        self._wake = wake
        self._told: Drain | None = None
        self._leaves = False
        self._heard = self._read = 0  # how many words there were, how many of them were read
        self.news = asyncio.Event()
        """There may be orders that were not read."""

    def deliver(self, message: bytes) -> None:
        """There are orders: nothing is taken before they are read."""
        self._heard += 1
        self.news.set()

    def gap(self) -> None:
        """There may be."""
        self.news.set()

    @property
    def is_idle(self) -> bool:
        """Tell whether the worker takes nothing for now."""
        return self._read < self._heard or self._told is not None

    async def read(self, redis: Redis) -> None:
        """Read the orders, and follow them. Raises what redis-py raises."""
        self.news.clear()
        heard = self._heard
        try:
            told = await read_drain(redis, self._worker_id)
        except BaseException:
            self.news.set()
            raise
        self._read = heard
        self._wake()
        if told == self._told or self._leaves:
            return
        self._told = told
        if told is None:
            logger.info(LogEvent("claims again"))
            return
        ends = "stays" if told.stay else "exits when it is done"
        logger.info(LogEvent("drained: takes no more jobs", by=told.by or "?", then=ends))
        if not told.stay:
            self._leaves = True
            self._leave(told.patient)
