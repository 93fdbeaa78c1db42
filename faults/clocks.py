"""Hosts whose clocks are minutes apart, and a Redis whose clock is set while jobs run."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from random import Random

from faults.check import Tally, Watch, judge_all, require_one_attempt
from faults.stage import LEASE_S, Setup, Stage, is_ready
from faults.suite import Fault
from support.openai_frames import DONE, delta, finish
from support.scripted_http import ScriptedServer, head
from support.servers import clock_library

SKEW_S = 300
STEP_S = 3600
JOBS = 8
TURN_LIMIT_S = 5.0
LISTED_WITHIN_S = 12

_SKEWED = Setup(chunks=50)  # a stage of its own: no other fault may get such workers
_STEPPED = Setup(chunks=120, sets_clock=True, worker={"worker_poll_s": 0.1})
_PRODUCER = (
    "import sys; from darkq.sync import Client; client = Client(sys.argv[1]);"
    "print(*(client.enqueue(prompt, tries=2).id for prompt in sys.argv[2:]))"
)


def _prelude(skew_s: int) -> str:
    return f"import time; _now = time.time; time.time = lambda: _now() + {skew_s}"


async def _skewed_crew(stage: Stage, rng: Random) -> None:
    await stage.crew(0)
    skews = [SKEW_S, -SKEW_S]
    rng.shuffle(skews)
    for skew_s in skews:
        stage.start_worker(_prelude(skew_s))
    for worker in stage.workers:
        await is_ready(worker)


async def workers(stage: Stage, rng: Random) -> Tally:
    """Two workers whose clocks are 5 minutes fast and slow; one is killed: no difference.

    Red when a claim compares scores with the worker's clock, as stock arq's does.
    """
    await _skewed_crew(stage, rng)
    watches = await stage.submit_many(JOBS, tries=2)
    await watches[0].until("some words", lambda watch: len(watch.events) > rng.randrange(2, 10))
    stage.workers[0].send(signal.SIGKILL)
    killed_s = time.monotonic()
    tally = await judge_all(watches, stage.model.is_whole)
    for watch in watches:
        recovery_s = watch.restarted(killed_s)
        if recovery_s is not None:
            tally.recovered(recovery_s, LEASE_S + 1)
        tally.require(watch.attempts <= 2, "only a death makes an attempt begin anew")
    return tally


async def not_listed_yet(stage: Stage, rng: Random) -> Tally:
    """Workers whose clocks are off put jobs off whose upstream is not known yet: for seconds.

    Red when `generate` says by the worker's clock when to come back: the slow one claims and
    releases thousands of times a second, the fast one leaves the jobs for minutes.
    """
    listed = head(content_type="application/json"), b'{"data": [{"id": "late"}]}'
    answer = [head(), delta("ready") + finish() + DONE]
    busy = [head("503 Busy")]
    async with ScriptedServer(answer, models=[busy, busy, busy, listed]) as server:
        name = f"late{rng.randrange(1 << 32)}"
        stage.extra = {"upstreams": {name: {"url": server.url.replace("/chat", "/v1")}}}
        try:
            await _skewed_crew(stage, rng)
        finally:
            stage.extra = {}
        watches = await stage.submit_many(JOBS, tries=1, model="late", upstream=name)
        tally = await judge_all(watches, lambda _, text: text == "ready")
    for watch in watches:
        began_s, last = watch.restarted(watch.enqueued_s), watch.events[-1].cursor.attempt
        tally.require(last <= LISTED_WITHIN_S, f"put off some times, not {last}")
        prompt = began_s is None or began_s < LISTED_WITHIN_S
        tally.require(prompt, f"runs when its upstream is known, not after {began_s} s")
    await stage.crew(0)
    return tally


async def producers(stage: Stage, rng: Random) -> Tally:
    """Producers whose clocks are 5 minutes fast and slow: their jobs run at once, in turn.

    Red when enqueue.lua makes the producer's time the score: jobs of the fast one are not due.
    """
    await _skewed_crew(stage, rng)
    made = await asyncio.gather(*(_produce(stage, skew_s) for skew_s in (SKEW_S, -SKEW_S)))
    watches = [watch for group in made for watch in group]
    for watch in watches:
        await watch.until("its turn", lambda w: w.attempts > 0)
    tally = await judge_all(watches, stage.model.is_whole)
    for watch in watches:
        began_s = watch.restarted(watch.enqueued_s)
        prompt = began_s is None or began_s < TURN_LIMIT_S
        tally.require(prompt, f"{watch.prompt} runs when it is its turn, not after {began_s} s")
        tally.require(watch.attempts == 1, "no attempt is interrupted")
    return tally


async def _produce(stage: Stage, skew_s: int) -> list[Watch]:
    prompts = [stage.prompt() for _ in range(JOBS // 2)]
    made = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", f"{_prelude(skew_s)}\n{_PRODUCER}", stage.url, *prompts],
        check=True,
        timeout=30,
        capture_output=True,
        text=True,
    )
    ids = made.stdout.split()
    return [Watch(stage.client.job(i), prompt) for i, prompt in zip(ids, prompts, strict=True)]


async def _has_words(watch: Watch, count: int) -> None:
    await watch.until("some words", lambda w: len(w.events) > count)


async def _begins(watch: Watch, attempts: int) -> None:
    await watch.until("its turn", lambda w: w.attempts == attempts)


async def redis_forward(stage: Stage, rng: Random) -> Tally:
    """Redis' clock is put forward by an hour: every lease runs out, and no attempt begins anew.

    Red when a claim that is refused is asked again without a respite (`Leases.claim`).
    """
    await stage.crew(2)
    watches = await stage.submit_many(JOBS)
    for watch in watches:
        await _has_words(watch, rng.randrange(2, 10))
    stage.clock.put(STEP_S)
    tally = await judge_all(watches, stage.model.is_whole)
    require_one_attempt(stage, watches, tally)
    return tally


async def redis_back(stage: Stage, rng: Random) -> Tally:
    """Redis' clock is set back by an hour, and a worker is killed: what waits goes on.

    Jobs of the killed worker begin anew within the lease and a second, those that waited in a
    queue within a few claims, and what runs elsewhere is not disturbed. Recovery is from the step
    of the clock. Red without queue_set_back.lua: jobs wait for that hour. Red when it leaves the
    keys of leases alone: the jobs of the killed worker wait.
    """
    await stage.crew(2)
    bulk = stage.client.queue("bulk")
    await bulk.pause()
    waiting = await stage.submit_many(JOBS, priority="bulk")
    running = await stage.submit_many(JOBS)
    for watch in running:
        await _has_words(watch, rng.randrange(2, 10))
    victim = await stage.holder(rng.choice(running).job)
    assert victim is not None
    victim.send(signal.SIGKILL)
    await victim.wait()
    stage.clock.put(-STEP_S)
    stepped_s = time.monotonic()
    orphans = [watch for watch in running if await stage.holder(watch.job) is victim]
    await bulk.resume()
    for watch in [*waiting, *orphans]:
        await _begins(watch, 1 + (watch in orphans))
    tally = await judge_all([*waiting, *running], stage.model.is_whole)
    for watch in [*waiting, *orphans]:
        tally.recovered(watch.restarted(stepped_s) or 0.0, LEASE_S + 1)
    for watch in running:
        wanted = 1 + (watch in orphans)
        tally.require(watch.attempts == wanted, f"{wanted} attempts, not {watch.attempts}")
    return tally


FAULTS = [
    Fault("clocks: workers 10 min apart, one killed", workers, 3, _SKEWED),
    Fault("clocks: producers 10 min apart", producers, 3, _SKEWED),
    Fault("clocks: workers 10 min apart, models unknown", not_listed_yet, 2, _SKEWED),
]
if clock_library() is not None:
    FAULTS += [
        Fault("clocks: Redis put forward by 1 h", redis_forward, 5, _STEPPED),
        Fault("clocks: Redis set back by 1 h", redis_back, 5, _STEPPED),
    ]
