"""The presence of a worker: its health record, and the drain requests of operators.

The health record is renewed regularly, whatever happens to the servers of the worker's jobs. Drain
requests are read after a message of their channel, and with each health check, in case a message
was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from redis.asyncio import Redis

from darkq.operate.workers import Drain, read_drain
from darkq.telemetry.logging import LogEvent
from darkq_worker.outage_log import OutageLog

logger = logging.getLogger("darkq.worker")

_INTERVAL_S = 1.0


async def repeat_health_check(
    check: Callable[[], Awaitable[None]], draining: Draining, redis: Redis
) -> None:
    """Call arq's health check every second, which writes every ten, until cancelled."""
    outage = OutageLog("health check failed", "health check recovered")
    while True:
        try:
            await check()
            if draining.may_have_changed.is_set():
                await draining.read(redis)
            outage.record_success()
        except Exception as error:
            outage.record_failure(error)
            await asyncio.sleep(_INTERVAL_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(_INTERVAL_S):
                await draining.may_have_changed.wait()


class Draining:
    """The drain request of one worker; the sink of the channel that announces changes.

    `leave` starts the shutdown; its argument says whether running jobs may take as long as they
    need. `wake_up` wakes the worker's loop.
    """

    def __init__(
        self, worker_id: str, *, leave: Callable[[bool], None], wake_up: asyncio.Event
    ) -> None:
        self._worker_id = worker_id
        self._leave = leave
        self._wake_up = wake_up
        self._request: Drain | None = None
        self._leaves = False
        self._messages = self._messages_read = 0
        self.may_have_changed = asyncio.Event()

    def deliver(self, message: bytes) -> None:
        """Note that a drain request is pending: stop claiming until it has been read."""
        self._messages += 1
        self.may_have_changed.set()

    def gap(self) -> None:
        """Note that a message may have been lost."""
        self.may_have_changed.set()

    @property
    def is_idle(self) -> bool:
        """True if the worker must not claim now."""
        return self._messages_read < self._messages or self._request is not None

    async def read(self, redis: Redis) -> None:
        """Read the drain request, and obey it. Raises what redis-py raises."""
        self.may_have_changed.clear()
        messages = self._messages  # one that arrives during the read is not covered by it
        try:
            request = await read_drain(redis, self._worker_id)
        except BaseException:
            self.may_have_changed.set()
            raise
        self._messages_read = messages
        self._wake_up.set()
        if request == self._request or self._leaves:
            return
        self._request = request
        if request is None:
            logger.info(LogEvent("drain withdrawn"))
            return
        exits = not request.stay
        logger.info(LogEvent("drain requested", by=request.by or "?", exits=exits))
        if exits:
            self._leaves = True
            self._leave(request.patient)
