"""`claim.lua`: what somebody put into a queue that can be no job's id."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from darkq.keys import queue
from support.by_hand import Hand

QUEUE = queue(0, "interactive")


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"\xff\xfe",
        b"{0}",
        b"{0}" + b"A" * 32,
        b"{0}" + b"a" * 31,
        b"{0}" + b"a" * 33,
        b"{0}" + b"a" * 32 + b"\n",
        b"{1}" + b"a" * 32,
        b"{00}" + b"a" * 32,
        b"}0{" + b"a" * 32,
        b"{0}" + b"a" * 32 + b"\x00",
        b"x" * 100_000,
    ],
    ids=lambda member: repr(member[:8]) + str(len(member)),
)
async def test_it_is_thrown_out_and_holds_nothing_up(
    redis: Redis, hand: Hand, member: bytes
) -> None:
    """Red without the question in `claim.lua`: the worker would die of it, again and again."""
    await redis.zadd(QUEUE, {member: 1})
    keys = await hand.enqueue()
    assert [claim.keys for claim in await hand.claim()] == [keys]
    assert await redis.zrange(QUEUE, 0, -1) == [keys.arq_id.encode()]
    assert all(b"arq:retry" not in key or keys.arq_id.encode() in key for key in await redis.keys())
