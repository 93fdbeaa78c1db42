"""Why a job waits or has failed: one sentence, for each cause, and which of them comes first."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from darkq import Client, JobHandle, Settings
from darkq import event as ev
from darkq.jobs.status import Why
from darkq.operate.upstreams import Served, announcement
from darkq.operate.waiting import Conditions, explain
from darkq.operate.workers import sign_in
from darkq.protocol.keys import JobKeys, LimitKeys, WorkerKeys
from darkq.settings.parsing import Window
from support.by_hand import Hand, started
from support.servers import Server

WORKER = "host:1:x"
LIMITS = LimitKeys.of_upstream("u")


async def add_worker(redis: Redis, *, windows: tuple[Window, ...] = ()) -> None:
    served = Served(name="u", kind="openai", default_model="m", models=("m",), windows=windows)
    await redis.set(WorkerKeys(WORKER).health, "j_complete=0", ex=60)
    await sign_in(redis, WORKER, announcement([served]))


async def ask(client: Client, job: JobHandle) -> Why | None:
    (explained,) = await client.explain([await job.status()])
    return explained.why


async def defer(redis: Redis, job: JobHandle, *, breaker: dict[str, float] | None = None) -> None:
    """Put the only job off to its turn at the upstream, as a worker does."""
    hand = Hand(redis)
    keys = JobKeys.parse(job.id)
    await hand.release(await hand.claim_one(), delay_ms=60_000)
    await redis.zadd(LIMITS.waiting, {keys.arq_id: 1})
    await redis.pexpire(LIMITS.waiting, 60_000)
    if breaker:
        await redis.hset(LIMITS.breaker, mapping=breaker)  # type: ignore[misc]
        await redis.pexpire(LIMITS.breaker, 60_000)


async def test_without_a_worker(client: Client) -> None:
    why = await ask(client, await client.enqueue("hi"))
    assert why == Why(reason="no_worker", message="no worker is running")


async def test_a_paused_queue_names_who_paused_it_and_why(client: Client, redis: Redis) -> None:
    await add_worker(redis)
    await client.queue("bulk").pause(why="the upstream is being moved", by="alice@host")
    bulk = await client.enqueue("hi", priority="bulk")
    why = await ask(client, bulk)
    await client.queue("bulk").resume()
    assert why is not None
    assert (why.reason, why.by) == ("queue_paused", "alice@host")
    assert why.message.startswith("the bulk queue is paused by alice@host since 20")
    assert why.message.endswith(" UTC: the upstream is being moved")
    assert "darkq:" not in why.message


async def test_the_other_queue_is_not_paused(client: Client, redis: Redis) -> None:
    """Red when the mark of one queue explains jobs of the other."""
    await add_worker(redis)
    await client.queue("bulk").pause()
    why = await ask(client, await client.enqueue("hi"))
    await client.queue("bulk").resume()
    assert why is not None
    assert why.reason == "worker_busy"


async def test_draining_workers(client: Client, redis: Redis) -> None:
    await add_worker(redis)
    await client.worker(WORKER).drain()
    why = await ask(client, await client.enqueue("hi"))
    assert why is not None
    assert why.reason == "workers_draining"


async def test_an_upstream_that_no_worker_serves(client: Client, redis: Redis) -> None:
    await add_worker(redis)
    why = await ask(client, await client.enqueue("hi", upstream="other"))
    assert why is not None
    assert why.message == "no worker serves the upstream other"


@pytest.mark.parametrize(
    ("field", "reason", "words"),
    [
        ("open_until", "breaker_open", "the circuit breaker of u is open, and tries a call in "),
        ("blocked_until", "upstream_paused", "u has asked for a pause, which ends in "),
    ],
)
async def test_a_breaker_that_is_open_says_for_how_long(
    client: Client, redis: Redis, field: str, reason: str, words: str
) -> None:
    await add_worker(redis)
    until_ms = time.time() * 1000 + 223_000
    job = await client.enqueue("hi")
    await defer(redis, job, breaker={field: until_ms})
    why = await ask(client, job)
    assert why is not None
    assert (why.reason, why.upstream, why.until_ms) == (reason, "u", int(until_ms))
    assert why.message.startswith(words)
    assert why.message.endswith((" 223 s", " 222 s", " 221 s"))


async def test_a_limit_that_is_reached_says_which_and_the_turn(
    client: Client, redis: Redis
) -> None:
    await add_worker(redis, windows=(Window(1, 60.0),))
    await redis.zadd(LIMITS.grants, {"call": time.time() * 1000 + 1000})
    await redis.pexpire(LIMITS.grants, 60_000)
    job = await client.enqueue("hi")
    await defer(redis, job)
    why = await ask(client, job)
    assert why is not None
    assert why.reason == "limit_reached"
    assert why.message.startswith(
        "the limit of u is reached (1 call in 60 s); the turn of this job is in "
    )
    assert 50_000 < why.until_ms - time.time() * 1000 <= 61_000


async def test_a_failed_try_says_which_upstream_with_what_and_the_next(
    client: Client, redis: Redis
) -> None:
    await add_worker(redis)
    job = await client.enqueue("hi")
    hand = Hand(redis)
    claim = await hand.claim_one()
    await hand.append(claim, started(1))
    refused = ev.Retrying(
        id="1-1",
        attempt=1,
        reason="upstream_unreachable",
        message="connection refused.",
        retry_in_s=5,
        at_ms=1,
    )
    await hand.release(claim, refused, delay_ms=5_000, burns=True)
    why = await ask(client, job)
    assert why is not None
    assert (why.reason, why.code, why.attempt, why.upstream) == (
        "next_try",
        "upstream_unreachable",
        1,
        "u",
    )
    assert why.message.startswith(
        "attempt 1 on u ended: upstream_unreachable: connection refused; the next try starts in "
    )


async def test_a_failure_has_its_code_and_message(client: Client, redis: Redis) -> None:
    job = await client.enqueue("hi")
    hand = Hand(redis)
    await hand.fail(await hand.claim_one(), ev.Cursor(1, 1))
    why = await ask(client, job)
    assert why == Why(reason="failed", message="rejected: no", code="rejected", attempt=1)


async def test_a_running_job_has_no_reason(client: Client, redis: Redis) -> None:
    job = await client.enqueue("hi")
    await Hand(redis).claim_one()
    assert await ask(client, job) is None


async def test_a_snapshot_of_the_fleet_gives_the_same_reason(client: Client, redis: Redis) -> None:
    """The board reads a fleet anyway, and explains its jobs with that."""
    await add_worker(redis)
    await client.queue("interactive").pause(by="alice@host")
    job = await client.enqueue("hi")
    fleet = await client.fleet()
    (explained,) = await explain(redis, [await job.status()], Conditions.of_fleet(fleet))
    assert explained.why == await ask(client, job)
    await client.queue("interactive").resume()


async def test_a_job_of_many_partitions_is_explained(
    make_settings: Callable[..., Settings],
) -> None:
    async with Client(settings=make_settings(partitions=3)) as client:
        jobs = await client.enqueue_many(["a", "b", "c"])
        statuses = await client.explain([await job.status() for job in jobs])
    assert [status.why and status.why.reason for status in statuses] == ["no_worker"] * 3


async def test_a_user_who_may_not_read_the_causes_gets_the_status(
    client: Client, redis: Redis, redis_server: Server
) -> None:
    """Red when a gateway with an older list of permissions cannot show a status any more."""
    job = await client.enqueue("hi")
    rules = "on >p resetkeys ~arq:* ~darkq:state:* ~darkq:{0}:interactive ~darkq:{0}:bulk +@all"
    await redis.execute_command("ACL", "SETUSER", "narrow", *rules.split())
    try:
        async with Client(f"unix://narrow:p@{redis_server.socket}") as narrow:
            status = await narrow.job(job.id).status()
            assert await narrow.explain([status]) == [status]
    finally:
        await redis.execute_command("ACL", "DELUSER", "narrow")
