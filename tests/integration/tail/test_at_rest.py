"""A job without a log that ends while a reader asks what is left of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq.event import START, Cursor
from darkq.jobs import tail as log_pages
from support.by_hand import Hand


class InBetween(Redis):
    """Does something after the reply to a command."""

    after: str = ""
    then: Callable[[], Awaitable[object]] | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        reply = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        if args[0] == self.after and self.then is not None:
            then, self.then = self.then, None
            await then()
        return reply


@pytest.mark.parametrize("command", ["XREVRANGE", "GET", "EXISTS", "ZSCORE"])
async def test_a_job_that_ends_between_two_questions_is_not_unknown(
    redis: Redis, command: str
) -> None:
    """Red when result, record and queues are asked one after the other."""
    hand = Hand(redis)
    claim = await hand.take()
    await redis.delete(claim.keys.events)
    reader = InBetween(connection_pool=redis.connection_pool)
    reader.after = command
    reader.then = lambda: hand.complete(claim, "text", Cursor(1, 1))
    pages = await log_pages.read_remaining(reader, claim.keys, START, started=None, is_new=True)
    assert pages is None or [event.id for page in pages for event in page] == ["1-1", "1-2"]
