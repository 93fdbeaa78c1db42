"""Producers whose connection breaks around the reply, and producers that say the same twice."""

from __future__ import annotations

import asyncio
from random import Random

from darkq import Client, RedisUnavailable
from darkq.protocol.keys import JobKeys, PartitionKeys
from faults.check import Tally, Watch, judge_all
from faults.proxy import Direction, FaultProxy
from faults.stage import Stage
from faults.suite import Fault

MAX_REPLY_BYTES = 400
MAX_REQUEST_BYTES = 2000
PRODUCERS = 8
SIDE_BY_SIDE = 20


async def cut_retried(stage: Stage, rng: Random) -> Tally:
    """The connection is cut in the midst of `enqueue`, which asks again: one job, run once.

    Red when enqueue.lua does not look whether the job exists: it stores it again while it runs.
    """
    await stage.crew(1)
    cuts = [_enqueue_cut(stage, _any_cut(rng)) for _ in range(SIDE_BY_SIDE)]
    watches = list(await asyncio.gather(*cuts))
    tally = await judge_all(watches, stage.model.is_whole)
    for watch in watches:
        calls = stage.model.calls[watch.prompt]
        tally.duplicated += calls > 1
        tally.require(calls > 0, "what was acknowledged is run")
    return tally


async def _enqueue_cut(stage: Stage, cut: tuple[int, Direction]) -> Watch:
    prompt = stage.prompt()
    async with (
        FaultProxy(stage.server.socket) as proxy,
        Client(settings=stage.settings(redis_url=proxy.url)) as client,
    ):
        proxy.cut_after(*cut)
        job = await client.enqueue(prompt)
    return Watch(stage.client.job(job.id), prompt)


async def cut_and_reported(stage: Stage, rng: Random) -> Tally:
    """The same, but the call fails, and the producer repeats it with its idempotency key: one job.

    Red when enqueue.lua does not remember the key.
    """
    await stage.crew(0)
    prompt, key = stage.prompt(), f"key-{rng.random()}"
    async with FaultProxy(stage.server.socket) as proxy:
        settings = stage.settings(redis_url=proxy.url, redis_patience_s=0.001)
        async with Client(settings=settings) as client:
            proxy.cut_after(*_any_cut(rng))
            ids = [await _insist(client, prompt, key) for _ in range(2)]
    tally = Tally(jobs=1)
    tally.duplicated += ids[0] != ids[1]
    await _one_waits(stage, ids[0], tally)
    return tally


def _any_cut(rng: Random) -> tuple[int, Direction]:
    direction: Direction = rng.choice(["reply", "request"])
    limit = MAX_REPLY_BYTES if direction == "reply" else MAX_REQUEST_BYTES
    return rng.randrange(1, limit), direction


async def _insist(client: Client, prompt: str, key: str) -> str:
    while True:
        try:
            return (await client.enqueue(prompt, idempotency_key=key)).id
        except RedisUnavailable:
            pass


async def at_once(stage: Stage, rng: Random) -> Tally:
    """Producers use one idempotency key at the same moment: one job.

    Red if enqueue.lua does not look up the key in the same call that stores the job.
    """
    await stage.crew(0)
    prompt, key = stage.prompt(), f"key-{rng.random()}"
    clients = [Client(settings=stage.settings()) for _ in range(PRODUCERS)]
    jobs = await asyncio.gather(*(c.enqueue(prompt, idempotency_key=key) for c in clients))
    await asyncio.gather(*(client.aclose() for client in clients))
    tally = Tally(jobs=1)
    tally.duplicated += len({job.id for job in jobs}) - 1
    tally.require(sum(not job.duplicate for job in jobs) == 1, "exactly one made the job")
    await _one_waits(stage, jobs[0].id, tally)
    return tally


async def _one_waits(stage: Stage, job_id: str, tally: Tally) -> None:
    waiting = await stage.redis.zrange(PartitionKeys(0).queue("interactive"), 0, -1)
    tally.lost += JobKeys.parse(job_id).arq_id.encode() not in waiting
    tally.duplicated += max(0, len(waiting) - 1)
    await stage.client.job(job_id).cancel()


FAULTS = [
    Fault("enqueue: cut around the reply, retried", cut_retried, 12),
    Fault("enqueue: cut around the reply, told, again", cut_and_reported, 200),
    Fault("enqueue: one idempotency key, 8 producers", at_once, 40),
]
