"""That a worker lives: said now and then, whatever becomes of the servers its jobs are on.

With each sign it reads its orders, should the word that there are some have been lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from redis.asyncio import Redis

from darkq_worker.draining import Draining
from darkq_worker.trouble import Trouble

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
