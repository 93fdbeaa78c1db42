"""`darkq queues`."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis

from darkq import Client, Job
from support.by_hand import Hand
from support.command import Darkq, Done
from support.waiting import wait_until


async def call(darkq: Darkq, *arguments: str, **options: Any) -> Done:
    return await asyncio.to_thread(darkq, *arguments, **options)


async def test_queues_alone_lists_them(darkq: Darkq, redis: Redis) -> None:
    await Hand(redis).enqueue(priority="bulk")
    table, told = await asyncio.gather(
        call(darkq, "queues"), call(darkq, "queues", "list", "--json")
    )
    assert (table.code, table.err) == (0, "")
    assert [line.split()[0] for line in table.out.decode().splitlines() if " open" in line] == [
        "interactive",
        "bulk",
    ]
    assert [(queue["priority"], queue["waiting"]) for queue in told.objects] == [
        ("interactive", 0),
        ("bulk", 1),
    ]


async def test_pause_and_resume(darkq: Darkq, redis: Redis, client: Client) -> None:
    done = await call(darkq, "queues", "pause", "bulk", "--why", "moving", "--by", "ann")
    assert done.code == 0
    assert "by ann: moving" in done.out.decode()
    standing = await client.queue("bulk").status()
    assert standing.paused is not None
    again = await call(darkq, "queues", "--json", environment={"DARKQ_PARTITIONS": "2"})
    assert again.objects[1]["paused"]["partitions"] == 1
    half = await call(darkq, "queues", environment={"DARKQ_PARTITIONS": "2"})
    assert "in 1 of 2 partitions: repeat the command" in half.out.decode()
    resumed = await call(darkq, "queues", "resume", "bulk", "--json")
    (told,) = resumed.objects
    assert (resumed.code, told["paused"]) == (0, None)


async def test_drain_waits_for_the_last_job(darkq: Darkq, redis: Redis, client: Client) -> None:
    hand = Hand(redis)
    await client.enqueue_many(Job.create("x", priority="bulk") for _ in range(2))
    late = await call(darkq, "queues", "drain", "bulk", "--wait", "--timeout-s", "0.2")
    assert late.code == 1
    assert "2 jobs are left" in late.err
    running = darkq.start("queues", "drain", "bulk", "--wait", "--why", "bye")
    await wait_until("the word", lambda: _is_closed(client, "bye"))
    refused = await call(darkq, "enqueue", "x", "--priority", "bulk")
    assert refused.code == 1
    assert "accepts no new jobs" in refused.err
    for claim in await hand.claim():
        await hand.finish(claim)
    done = await asyncio.to_thread(running.done)
    assert (done.code, "queues open bulk" in done.err) == (0, True)
    assert "closed since" in done.out.decode()
    opened = await call(darkq, "queues", "open", "bulk")
    assert (opened.code, " open" in opened.out.decode()) == (0, True)


async def _is_closed(client: Client, why: str) -> bool:
    closed = (await client.queue("bulk").status()).closed
    return closed is not None and closed.why == why


async def test_a_queue_is_one_of_two_and_a_note_one_line(darkq: Darkq, redis: Redis) -> None:
    for arguments in (["pause", "none"], ["pause", "bulk", "--why", "x" * 201]):
        done = await call(darkq, "queues", *arguments)
        assert (done.code, done.out) == (2, b"")
