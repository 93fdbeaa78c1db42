"""`claim.lua`: what somebody put into a queue that can be no job's id."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from darkq.event import Completed
from darkq.protocol.keys import PartitionKeys
from support.by_hand import Hand, started

QUEUE = PartitionKeys(0).queue("interactive")


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


@pytest.mark.parametrize("kind", ["retry", "state", "job", "events"])
async def test_a_job_with_a_foreign_type_in_its_place_is_thrown_out_alone(
    redis: Redis, hand: Hand, kind: str
) -> None:
    """Red when `claim.lua` lets one job's error end the call: no job of the queue would run."""
    spoilt, good = await hand.enqueue(), await hand.enqueue()
    place: str = getattr(spoilt, kind)
    await redis.delete(place)
    await redis.execute_command("LPUSH", place, "x")
    await redis.pexpire(place, 60_000)
    assert [claim.keys for claim in await hand.claim()] == [good]
    assert await redis.zrange(QUEUE, 0, -1) == [good.arq_id.encode()]
    assert not await redis.exists(spoilt.in_progress)


@pytest.mark.parametrize("number", ["nine", "9223372036854775807"])
async def test_so_is_one_whose_attempts_are_no_number(
    redis: Redis, hand: Hand, number: str
) -> None:
    spoilt, good = await hand.enqueue(), await hand.enqueue()
    await redis.set(spoilt.retry, number, px=60_000)
    assert [claim.keys for claim in await hand.claim()] == [good]
    assert await redis.zrange(QUEUE, 0, -1) == [good.arq_id.encode()]


@pytest.mark.parametrize("entry", ["18446744073709551615-1", "1000000000000-0", "0-1000000000000"])
async def test_so_is_one_whose_log_has_no_room_for_another_event(
    redis: Redis, hand: Hand, entry: str
) -> None:
    """Red without the question in `claim.lua`: such a number ends the worker's writer."""
    spoilt, good = await hand.enqueue(), await hand.enqueue()
    await redis.execute_command("XADD", spoilt.events, entry, "e", "x")
    assert [claim.keys for claim in await hand.claim()] == [good]
    assert await redis.zrange(QUEUE, 0, -1) == [good.arq_id.encode()]


async def test_an_attempt_comes_after_all_that_stands_in_its_log(redis: Redis, hand: Hand) -> None:
    keys = await hand.enqueue()
    await redis.execute_command("XADD", keys.events, "7-3", "e", "x")
    claim = await hand.claim_one()
    assert claim.attempt == 8
    assert await hand.append(claim, started(8)) == []
    assert await hand.finish(claim, Completed(id="8-1", at_ms=1)) == 1


async def test_tries_that_are_no_number_are_none(redis: Redis, hand: Hand) -> None:
    claim = await hand.take()
    await redis.execute_command("HSET", claim.keys.state, "tries", "nine")
    assert await hand.release(claim, delay_ms=0, burns=True) == 1
    assert (await hand.claim_one()).tries_burnt == 1
