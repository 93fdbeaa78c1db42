"""That a worker lives: said now and then, whatever becomes of the servers its jobs are on.

With each sign it reads its orders, should the word that there are some have been lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.connection import brief
from darkq.logs import LogLine
from darkq_worker.draining import Draining

logger = logging.getLogger("darkq.worker")

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
        failed = False
        while True:
            try:
                await self._give()
                if self._draining.news.is_set():
                    await self._draining.read(self._redis)
                failed = False
            except (RedisError, OSError) as error:
                if not failed:
                    logger.warning(LogLine("no sign of life, will keep trying", error=brief(error)))
                failed = True
                await asyncio.sleep(_INTERVAL_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL_S):
                    await self._draining.news.wait()
