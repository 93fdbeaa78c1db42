"""`run`, `tail`, `result --wait` and `status` say why a job waits or has failed."""

from __future__ import annotations

import asyncio
import json

from redis.asyncio import Redis

from darkq import Client
from darkq import event as ev
from support.by_hand import Hand, started
from support.command import Darkq
from support.waiting import wait_until


async def refuse(redis: Redis, *, delay_ms: int = 60_000) -> None:
    """Let the first attempt of the only job fail, and defer its next try."""
    hand = Hand(redis)
    claim = await hand.claim_one()
    await hand.append(claim, started(1))
    refused = ev.Retrying(
        id="1-1",
        attempt=1,
        reason="upstream_unreachable",
        message="connection refused",
        retry_in_s=delay_ms / 1000,
        at_ms=1,
    )
    await hand.release(claim, refused, delay_ms=delay_ms, burns=True)


async def test_tail_of_a_job_in_a_paused_queue_says_who_paused_it(
    darkq: Darkq, client: Client
) -> None:
    """Red when only a missing worker is reported."""
    job = await client.enqueue("hi", priority="bulk")
    await client.queue("bulk").pause(by="alice@host", why="a move")
    tail = darkq.start("tail", job.id)
    words = "the job waits: the bulk queue is paused by alice@host since "
    await wait_until("the reason", lambda: tail.says(words))
    await client.queue("bulk").resume()
    # Then no worker is the reason.
    await wait_until("the next reason", lambda: tail.says("no worker is running"))
    await job.cancel()
    done = await asyncio.to_thread(tail.done)
    assert ": a move\nTo see the queues: " in done.err
    assert "darkq:{" not in done.err


async def test_result_wait_for_a_deferred_job_says_what_it_waits_for(
    darkq: Darkq, client: Client, redis: Redis
) -> None:
    job = await client.enqueue("hi")
    await refuse(redis)
    waiting = darkq.start("result", job.id, "--wait", "--json")
    await wait_until("the reason", lambda: waiting.says('"reason":"no_worker"'))
    await job.cancel()
    done = await asyncio.to_thread(waiting.done)
    assert "attempt 1 on u ended: upstream_unreachable: connection refused" in done.err


async def test_status_says_why_a_job_waits(darkq: Darkq, client: Client, redis: Redis) -> None:
    job = await client.enqueue("hi")
    await refuse(redis)
    shown = await asyncio.to_thread(darkq, "status", job.id)
    assert "why           no worker is running; attempt 1 on u ended: " in shown.out.decode()
    as_json = await asyncio.to_thread(darkq, "status", job.id, "--json")
    why = json.loads(as_json.out)["why"]
    assert (why["reason"], why["code"]) == ("no_worker", "upstream_unreachable")


async def test_status_of_a_failed_job_has_its_code_and_message(
    darkq: Darkq, client: Client, redis: Redis
) -> None:
    job = await client.enqueue("hi")
    hand = Hand(redis)
    await hand.fail(await hand.claim_one(), ev.Cursor(1, 1))
    shown = await asyncio.to_thread(darkq, "status", job.id)
    assert "why      rejected: no" in shown.out.decode()


async def test_result_of_a_job_that_waits_says_why(darkq: Darkq, client: Client) -> None:
    job = await client.enqueue("hi")
    done = await asyncio.to_thread(darkq, "result", job.id)
    assert done.code == 1
    assert "is queued and has no result yet: no worker is running" in done.err
