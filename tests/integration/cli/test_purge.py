"""`darkq queues purge` and `darkq purge`."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis

from darkq import Client, Job
from darkq.event import Cursor
from support.by_hand import Hand
from support.command import Darkq, Done


async def call(darkq: Darkq, *arguments: str, **options: Any) -> Done:
    return await asyncio.to_thread(darkq, *arguments, **options)


async def test_a_queue_is_counted_confirmed_and_purged(darkq: Darkq, client: Client) -> None:
    jobs = await client.enqueue_many(Job.create("x", priority="bulk") for _ in range(3))
    (told,) = (await call(darkq, "queues", "purge", "bulk", "--dry-run", "--json")).objects
    assert told == {"looked_at": 3, "purged": 3, "left": 0, "dry_run": True}
    unasked = await call(darkq, "queues", "purge", "bulk")
    assert (unasked.code, unasked.out) == (2, b"")
    assert "--yes" in unasked.err
    assert (await client.queue("bulk").status()).waiting == 3
    done = await call(darkq, "queues", "purge", "bulk", "--yes")
    assert done.code == 0
    assert "waiting jobs of bulk cancelled  3" in done.out.decode()
    assert (await jobs[0].status()).state == "cancelled"


async def test_what_has_ended_is_forgotten(darkq: Darkq, client: Client, redis: Redis) -> None:
    hand = Hand(redis)
    await hand.fail(await hand.take(), Cursor(1, 0))
    await hand.complete(await hand.take(), "text", Cursor(1, 0))
    wrong = await call(darkq, "purge", "results", "--older-than", "soon", "--yes")
    assert (wrong.code, "is not a duration" in wrong.err) == (2, True)
    for command in (["failed"], ["results", "--older-than", "1h"]):
        (told,) = (await call(darkq, "purge", *command, "--yes", "--json")).objects
        assert told["purged"] == 1
    assert not await redis.keys("arq:result:*")


async def test_of_a_tenant_what_runs_is_left_and_said(
    darkq: Darkq, client: Client, redis: Redis
) -> None:
    await client.enqueue("runs", tenant="alice")
    await Hand(redis).claim()
    await client.enqueue("waits", tenant="alice")
    done = await call(darkq, "purge", "tenant", "alice", "--yes")
    assert done.code == 1
    assert "1 jobs are running" in done.err
    assert len(await client.jobs(tenant="alice")) == 1
