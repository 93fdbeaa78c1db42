"""A backlog that no worker has touched for more than a day.

To simulate the time, a job's scores and times to live are set to what they would be after a day and
an hour.
"""

from __future__ import annotations

from random import Random

from darkq import Client
from darkq.event import Failed
from darkq.protocol.keys import PRIORITIES, JobKeys, PartitionKeys
from faults.check import Tally, Watch, judge, judge_all
from faults.stage import Stage
from faults.suite import Fault

JOBS = 8
DAY_S = 24 * 3600
AGE_S = 25 * 3600


async def aged(stage: Stage, rng: Random) -> Tally:
    """Jobs wait for 25 hours and then run; those whose own time to live is a day fail as expired.

    Red if DARKQ_JOB_TTL_S is a day by default, as stock arq's is. Red if enqueue.lua lets the event
    log expire with the record: then no reader gets the terminal event.
    """
    await stage.crew(0)
    patient = await stage.submit_many(JOBS)
    async with Client(settings=stage.settings(job_ttl_s=DAY_S)) as client:
        prompts = [stage.prompt() for _ in range(JOBS)]
        late = [Watch(await client.enqueue(prompt), prompt) for prompt in prompts]
        await _pass_time(stage)
        await stage.crew(2)
        tally = await judge_all(patient, stage.model.is_whole)
        for watch in late:
            await watch.to_the_end()
            tally.add(await judge(watch, stage.model.is_whole))
            last = watch.events[-1] if watch.events else None
            expired = isinstance(last, Failed) and last.code == "expired"
            tally.require(expired, f"{watch.prompt} fails as expired: {last}")
            tally.require(stage.model.calls[watch.prompt] == 0, "what has expired is not run")
    return tally


async def _pass_time(stage: Stage) -> None:
    for name in (PartitionKeys(0).queue(priority) for priority in PRIORITIES):
        for arq_id in await stage.redis.zrange(name, 0, -1):
            await stage.redis.zincrby(name, -AGE_S * 1000, arq_id)
            keys = JobKeys.from_arq_id(arq_id.decode())
            for key in (keys.job, keys.events, keys.state, keys.retry):
                left_ms = await stage.redis.pttl(key)
                if left_ms > 0:
                    await stage.redis.pexpire(key, left_ms - AGE_S * 1000)


FAULTS = [Fault("backlog: older than 24 h", aged, 3)]
