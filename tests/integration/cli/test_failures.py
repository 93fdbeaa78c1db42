"""`darkq failed` and `darkq retry`."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis

from darkq import Client
from darkq.event import Cursor
from support.by_hand import Hand
from support.command import Darkq, Done

UNKNOWN = "0-" + "0" * 32


async def call(darkq: Darkq, *arguments: str, **options: Any) -> Done:
    return await asyncio.to_thread(darkq, *arguments, **options)


async def failed(redis: Redis, count: int, *, kept: bool = True) -> list[str]:
    """Jobs that have failed, the latest first."""
    hand, ids = Hand(redis), []
    for _ in range(count):
        claim = await hand.take()
        if not kept:
            await redis.delete(claim.keys.job)
        await hand.fail(claim, Cursor(1, 0))
        ids.append(claim.keys.public_id)
    return ids[::-1]


async def test_failed_lists_the_latest_first(darkq: Darkq, redis: Redis) -> None:
    ids = await failed(redis, 3)
    table, told = await asyncio.gather(call(darkq, "failed"), call(darkq, "failed", "--json"))
    assert (table.code, table.err) == (0, "")
    lines = table.out.decode().splitlines()
    assert [line.split()[0] for line in lines if line.startswith("0-")] == ids
    assert all(word in table.out.decode() for word in ("rejected", "yes", "retry"))
    assert [entry["job_id"] for entry in told.objects] == ids
    assert all(entry["kept"] and entry["code"] == "rejected" for entry in told.objects)


async def test_failed_says_when_there_are_more_or_none(darkq: Darkq, redis: Redis) -> None:
    none = await call(darkq, "failed")
    assert (none.code, none.out) == (0, b"")
    assert "no failed jobs are stored" in none.err
    ids = await failed(redis, 3)
    some = await call(darkq, "failed", "--limit", "2", "--json")
    assert [entry["job_id"] for entry in some.objects] == ids[:2]
    assert "To list more" in some.err


async def test_retry_of_some(darkq: Darkq, redis: Redis, client: Client) -> None:
    first, second, third = await failed(redis, 3)
    done = await call(darkq, "retry", first, second, first)
    assert (done.code, done.out.decode().split()) == (0, [first, second])
    assert "2 jobs queued again" in done.err
    assert (await client.job(first).status()).state == "queued"
    assert (await client.job(third).status()).state == "failed"


async def test_retry_says_what_it_could_not_do(darkq: Darkq, redis: Redis) -> None:
    (good,) = await failed(redis, 1)
    (gone,) = await failed(redis, 1, kept=False)
    done = await call(darkq, "retry", good, gone, UNKNOWN)
    assert (done.code, done.line) == (1, good)
    assert "prompt is no longer kept" in done.err
    assert f"no job {UNKNOWN}" in done.err
    assert "2 jobs cannot be retried" in done.err
    again = await call(darkq, "retry", good, "--json")
    assert again.code == 1
    (told,) = again.objects
    assert (told["id"], told["retried"]) == (good, False)
    assert "it is queued" in told["reason"]


async def test_retry_of_all(darkq: Darkq, redis: Redis) -> None:
    ids = await failed(redis, 20)
    await failed(redis, 1, kept=False)
    done = await call(darkq, "retry", "--all")
    assert (done.code, done.out.decode().split()) == (0, ids)
    assert "20 jobs queued again" in done.err
    assert "left out: 1 job whose prompt has expired" in done.err
    again = await call(darkq, "retry", "--all", "--json")
    assert (again.code, again.out) == (0, b"")


async def test_retry_of_all_stops_at_a_full_queue(darkq: Darkq, redis: Redis) -> None:
    await failed(redis, 40)
    done = await call(darkq, "retry", "--all", environment={"DARKQ_QUEUE_MAX_JOBS": "5"})
    assert done.code == 1
    assert len(done.out.split()) == 5
    assert "DARKQ_QUEUE_MAX_JOBS" in done.err
    assert len((await call(darkq, "failed", "--json")).objects) == 35


async def test_retry_wants_jobs_or_all_and_not_both(darkq: Darkq) -> None:
    for arguments in ([], [UNKNOWN, "--all"]):
        done = await call(darkq, "retry", *arguments)
        assert (done.code, done.out) == (2, b"")
        assert "--all" in done.err
