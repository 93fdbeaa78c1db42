"""A `finish` whose reply was lost is sent again."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq import event as ev
from support.by_hand import Hand

END = ev.Completed(id="1-0", at_ms=1)


async def test_the_second_one_is_told_what_the_first_was(redis: Redis, hand: Hand) -> None:
    """Red without the comparison of the results: a job that was done would count as lost."""
    claim = await hand.take()
    assert await hand.finish(claim, END) == 1
    log = await redis.xrange(claim.keys.events)
    assert await hand.finish(claim, END) == 1
    assert await redis.xrange(claim.keys.events) == log


async def test_somebody_elses_result_is_not_taken_for_ones_own(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    assert await hand.finish(claim, END, result=b"mine") == 1
    assert await hand.finish(claim, END, result=b"another's") == 0
    assert await redis.get(claim.keys.result) == b"mine"
