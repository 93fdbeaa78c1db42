"""How fast does a late reader get a finished log of 10,000 events?

Compares darkq's tail with the minimum: XRANGE of redis-py in pages, without decoding.
"""

from __future__ import annotations

import time

from benchmarks.figures import Answer, Figures, Row
from benchmarks.machine import UNDER_TEST, on_core
from benchmarks.systems import Darkq, darkq
from darkq import JobHandle
from darkq import event as ev
from darkq.jobs.tail import PAGE_EVENTS
from darkq.protocol.keys import JobKeys

EVENTS = 10_000


async def answer(_: str, repetitions: int, scale: float) -> Answer:
    events = int(EVENTS * scale)
    async with darkq() as us:
        job = await _finished_job(us, events)
        tail, bare = [], []
        for _repetition in range(repetitions):
            with on_core(UNDER_TEST):
                begin_s = time.monotonic()
                read = [event async for event in job.events()]
                tail.append(len(read) / (time.monotonic() - begin_s))
                bare.append(await _bare_rate(us, job))
    row = Row(
        f"replay of {events:,} events", "1/s", Figures.of(tail), Figures.of(bare), "bare XRANGE"
    )
    return Answer([row], [])


async def _finished_job(us: Darkq, events: int) -> JobHandle:
    """Enqueue a job, and write its log by hand."""
    job = await us.client.enqueue("hello")
    log = JobKeys.parse(job.id).events
    pipe = us.redis.pipeline(transaction=False)
    started = ev.Started(id="1-0", attempt=1, model="m", upstream="u", at_ms=1)
    chunks = [ev.Chunk(id=f"1-{n}", text=f"word{n} ") for n in range(1, events)]
    log_events: list[ev.Event] = [started, *chunks, ev.Completed(id=f"1-{events}")]
    for event in log_events:
        pipe.xadd(log, {"e": ev.encode(event)}, id=event.id)
    await pipe.execute()
    return job


async def _bare_rate(us: Darkq, job: JobHandle) -> float:
    log, after, count, begin_s = JobKeys.parse(job.id).events, "-", 0, time.monotonic()
    while page := await us.redis.xrange(log, after, "+", count=PAGE_EVENTS):
        count += len(page)
        after = f"({page[-1][0].decode()}"
    return count / (time.monotonic() - begin_s)
