"""Workers that are killed, frozen and stopped; a job that kills its workers."""

from __future__ import annotations

import asyncio
import signal
import time
from random import Random

from darkq import Client
from darkq.event import Completed, Failed
from darkq.protocol.keys import JobKeys
from faults.check import Tally, Watch, judge, judge_all
from faults.stage import LEASE_S, Setup, Stage, is_ready
from faults.suite import Fault
from support.processes import WorkerProcess
from support.waiting import wait_until

JOBS = 8
MAX_LOST_LEASES = 2

_STEADY = Setup(worker={"worker_max_lost_leases": MAX_LOST_LEASES})
_CLAIMING = Setup(through_proxy=True, worker={"worker_poll_s": 0.2, "worker_lease_s": 5})


async def _aim(stage: Stage, rng: Random) -> tuple[list[Watch], WorkerProcess]:
    """Start jobs on two workers; when one job is at a random byte, name its worker."""
    await stage.crew(2)
    watches = await stage.submit_many(JOBS)
    aimed = rng.choice(watches)
    at_chars = rng.randrange(len(stage.model.whole(aimed.prompt)))
    await aimed.until("the byte to strike at", lambda watch: len(watch.text) >= at_chars)
    return watches, await stage.holder(aimed.job) or rng.choice(stage.workers)


async def _held_by(stage: Stage, worker: WorkerProcess, watches: list[Watch]) -> list[Watch]:
    return [watch for watch in watches if await stage.holder(watch.job) is worker]


async def killed(stage: Stage, rng: Random) -> Tally:
    """SIGKILL at a random byte: the jobs run elsewhere within the lease and a second.

    Red if claim.lua does not make the lease's end the score: then no worker claims the jobs.
    """
    watches, victim = await _aim(stage, rng)
    victim.send(signal.SIGKILL)
    killed_s = time.monotonic()
    await victim.wait()
    orphans = await _held_by(stage, victim, watches)
    tally = await judge_all(watches, stage.model.is_whole)
    for watch in watches:
        recovery_s = watch.restarted(killed_s)
        if recovery_s is not None:
            tally.recovered(recovery_s, LEASE_S + 1)
        tally.require(
            watch.attempts == (2 if watch in orphans else 1), "only orphans begin anew, and once"
        )
    return tally


async def frozen(stage: Stage, rng: Random) -> Tally:
    """SIGSTOP past the lease, another worker finishes, SIGCONT: the zombie changes nothing.

    Red without the ownership check in finish.lua.
    """
    watches, victim = await _aim(stage, rng)
    victim.send(signal.SIGSTOP)
    frozen_s = time.monotonic()
    orphans = await _held_by(stage, victim, watches)
    tally = await judge_all(watches, stage.model.is_whole)
    before = [await _stored(stage, watch) for watch in watches]
    victim.send(signal.SIGCONT)
    for watch in orphans:
        await _says(victim, f"job={watch.job.id} attempt=1 outcome=lost")
        tally.recovered(watch.restarted(frozen_s) or 0.0, LEASE_S + 1)
    after = [await _stored(stage, watch) for watch in watches]
    tally.require(before == after, "a zombie changes neither log nor result")
    return tally


async def _says(worker: WorkerProcess, words: str) -> None:
    await wait_until(f"a worker to say {words}", lambda: words in worker.log.read_text())


async def _stored(stage: Stage, watch: Watch) -> object:
    keys = JobKeys.parse(watch.job.id)
    return await stage.redis.get(keys.result), await stage.redis.xrange(keys.events)


async def stopped(stage: Stage, rng: Random) -> Tally:
    """SIGTERM under load: what runs is finished within the grace, by the same attempt.

    Red when a signal cancels the jobs at once, as stock arq does.
    """
    watches, victim = await _aim(stage, rng)
    victim.send(signal.SIGTERM)
    late = await stage.submit_many(2)
    tally = Tally()
    tally.require(await victim.wait() == 0, "a stopped worker exits with 0")
    tally.add(await judge_all([*watches, *late], stage.model.is_whole))
    _undisturbed(stage, [*watches, *late], tally)
    return tally


async def stopped_claiming(stage: Stage, rng: Random) -> Tally:
    """SIGTERM while the reply to a claim is on its way: what was taken runs, and loses no lease.

    Red when a stopping worker does not wait for its claim (`_sleep_until_tasks_complete`).
    """
    (victim,) = await stage.crew(1)
    stage.proxy.throttle(rng.uniform(200, 600), "reply")
    before = await _claims(stage)  # the reply to one of them still passes at once
    await wait_until("a slow claim", lambda: _some_more(stage, before))
    async with Client(settings=stage.settings(redis_url=stage.server.url)) as client:
        prompt = stage.prompt()
        watch = Watch(await client.enqueue(prompt, tries=1), prompt)
        in_progress = JobKeys.parse(watch.job.id).in_progress
        await wait_until("the claim", lambda: stage.redis.exists(in_progress))
        victim.send(signal.SIGTERM)
        await _says(victim, "SIGTERM")
        stage.proxy.mend()
        tally = Tally()
        tally.require(await victim.wait() == 0, "a stopped worker exits with 0")
        await stage.crew(1)
        tally.add(await judge_all([watch], stage.model.is_whole))
    _undisturbed(stage, [watch], tally)
    tally.require(watch.attempts == 1 and watch.events[-1].cursor.attempt == 1, "no lease is lost")
    return tally


async def _claims(stage: Stage) -> int:
    calls = (await stage.redis.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})
    return int(calls["calls"])


async def _some_more(stage: Stage, before: int) -> bool:
    return await _claims(stage) > before + 2


async def rolled(stage: Stage, rng: Random) -> Tally:
    """A rolling restart of three workers under load: no job is interrupted.

    Red if a stopping worker continues to claim, or hands back what it could finish.
    """
    old = await stage.crew(3 if stage.full else 2)
    feeding = asyncio.create_task(_feed(stage, rng))
    tally = Tally()
    for worker in old:
        successor = stage.start_worker()
        await is_ready(successor)
        worker.send(signal.SIGTERM)
        tally.require(await worker.wait() == 0, "a stopped worker exits with 0")
    feeding.cancel()
    watches = await feeding
    tally.add(await judge_all(watches, stage.model.is_whole))
    _undisturbed(stage, watches, tally)
    return tally


async def _feed(stage: Stage, rng: Random) -> list[Watch]:
    """Submit jobs until cancelled, and return them."""
    watches: list[Watch] = []
    try:
        while True:
            watches.append(await stage.submit())
            await asyncio.sleep(rng.uniform(0, 0.1))
    except asyncio.CancelledError:
        return watches


def _undisturbed(stage: Stage, watches: list[Watch], tally: Tally) -> None:
    for watch in watches:
        tally.require(stage.model.calls[watch.prompt] == 1, "no extra call of the upstream")
        tally.require(not watch.retries, "no attempt is interrupted")


async def handed_back(stage: Stage, rng: Random) -> Tally:
    """SIGTERM twice: jobs are handed on at once, and burn no try (each has one only).

    Red when release.lua counts a shutdown as a try.
    """
    watches, victim = await _aim(stage, rng)
    held = await _held_by(stage, victim, watches)
    victim.send(signal.SIGTERM)
    await _says(victim, "SIGTERM")
    victim.send(signal.SIGTERM)
    stopped_s = time.monotonic()
    tally = Tally()
    code = await victim.wait()  # without jobs it may have gone before the second signal came
    tally.require(code in (0, -signal.SIGTERM), f"a stopped worker exits, not with {code}")
    for watch in held:
        await watch.until("the next attempt", lambda watch: watch.attempts == 2)
        tally.require((await watch.job.status()).tries == 0, "a shutdown burns no try")
    tally.add(await judge_all(watches, stage.model.is_whole))
    for watch in held:
        reasons = {retry.reason for retry in watch.retries}
        tally.require(reasons <= {"worker_shutdown"}, "a handed-back job names its reason")
        recovery_s = watch.restarted(stopped_s)
        if recovery_s is not None:
            tally.recovered(recovery_s, 1.0)
    return tally


async def poisoned(stage: Stage, rng: Random) -> Tally:
    """A job that kills its worker in every attempt fails after k+1 attempts; the queue continues.

    Other jobs in the same process lose their leases with it, and still complete. Red without the
    count of lost leases in claim.lua: the job would kill workers without an end. Red if claim.lua
    claims several suspects at once: then other jobs fail with it.
    """
    await stage.crew(MAX_LOST_LEASES + 2)
    poison_prompt = f"poison{stage.prompt()}"
    killers: list[asyncio.Task[None]] = []

    def kill_the_caller(prompt: str) -> None:
        if prompt == poison_prompt:
            killers.append(asyncio.create_task(_kill_holder(stage, poison_prompt)))

    stage.model.on_call = kill_the_caller
    poison = await stage.submit(poison_prompt)
    neighbours = await stage.submit_many(4, priority="bulk")
    tally = Tally()
    everybody = [poison, *neighbours]
    await asyncio.gather(*(watch.to_the_end() for watch in everybody))
    for watch in everybody:
        tally.add(await judge(watch, stage.model.is_whole))
    await asyncio.gather(*killers)
    stage.model.on_call = lambda _: None
    tally.require(
        _is_given_up(poison), f"a poison job fails with worker_lost: {poison.events[-1:]}"
    )
    for watch in neighbours:
        ended = isinstance(watch.events[-1], Completed)
        tally.require(ended, f"a neighbour completes: {watch.events[-1:]}")
    calls = stage.model.calls[poison_prompt]
    tally.require(calls == MAX_LOST_LEASES + 1, f"k+1 attempts, not {calls}")
    tally.add(await judge_all(await stage.submit_many(4), stage.model.is_whole))
    return tally


def _is_given_up(watch: Watch) -> bool:
    last = watch.events[-1]
    return isinstance(last, Failed) and last.code == "worker_lost"


async def _kill_holder(stage: Stage, prompt: str) -> None:
    job = await stage.client.enqueue(prompt, idempotency_key=prompt, tries=1)
    worker = await stage.holder(job)
    if worker is not None:
        worker.send(signal.SIGKILL)


FAULTS = [
    Fault("worker: SIGKILL at a random byte", killed, 24, _STEADY),
    Fault("worker: SIGSTOP past the lease, SIGCONT", frozen, 8, _STEADY),
    Fault("worker: SIGTERM under load", stopped, 8, _STEADY),
    Fault("worker: SIGTERM twice", handed_back, 8, _STEADY),
    Fault("worker: rolling restart of three", rolled, 2, _STEADY),
    Fault("worker: a job that kills its worker", poisoned, 2, _STEADY),
    Fault("worker: SIGTERM while it claims", stopped_claiming, 8, _CLAIMING),
]
