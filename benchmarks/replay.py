"""How fast does a late reader get 10,000 events: from the log, and of a completed job?

Compares darkq's tail of a log with the minimum: XRANGE of redis-py in pages, without decoding. The
events of a completed job are in its result.
"""

from __future__ import annotations

import time

from msgspec import UNSET

from benchmarks.figures import Answer, Figures, Row
from benchmarks.machine import UNDER_TEST, on_core
from benchmarks.systems import Darkq, darkq
from darkq import JobHandle
from darkq.event import AnyEvent, Cursor
from darkq.jobs.tail import PAGE_EVENTS
from darkq.protocol.keys import JobKeys
from support.by_hand import Hand, chunk, history_of, started

EVENTS = 10_000


async def answer(_: str, repetitions: int, scale: float) -> Answer:
    count = int(EVENTS * scale)
    async with darkq() as us:
        logged, completed = await _jobs_with_a_log(us, count)
        in_log, in_result, bare = [], [], []
        for _repetition in range(repetitions):
            with on_core(UNDER_TEST):
                in_log.append(await _rate(logged))
                in_result.append(await _rate(completed))
                bare.append(await _bare_rate(us, logged))
    log, result = Figures.of(in_log), Figures.of(in_result)
    what = f"replay of {count:,} events"
    rows = [
        Row(f"{what}, in the log", "1/s", log, Figures.of(bare), "bare XRANGE"),
        Row(f"{what}, of a completed job", "1/s", result, log, "the same in the log"),
    ]
    return Answer(rows, [])


async def _jobs_with_a_log(us: Darkq, count: int) -> tuple[JobHandle, JobHandle]:
    """Write the same log for two jobs, and complete the second one as a worker does."""
    texts = [f"word{n} " for n in range(1, count)]
    hand = Hand(us.redis)
    handles = []
    for has_history in (False, True):
        claim = await hand.take()
        chunks = (chunk(1, n, text) for n, text in enumerate(texts, 1))
        events: list[AnyEvent] = [started(1), *chunks]
        for page in range(0, count, PAGE_EVENTS):
            assert await hand.append(claim, *events[page : page + PAGE_EVENTS]) == []
        history = history_of(events) if has_history else UNSET
        await hand.complete(claim, "".join(texts), Cursor(1, count), history=history)
        handles.append(us.client.job(claim.keys.public_id))
    logged, completed = handles
    return logged, completed


async def _rate(job: JobHandle) -> float:
    begin_s = time.monotonic()
    events = [event async for event in job.events()]
    return len(events) / (time.monotonic() - begin_s)


async def _bare_rate(us: Darkq, job: JobHandle) -> float:
    log, after, count, begin_s = JobKeys.parse(job.id).events, "-", 0, time.monotonic()
    while page := await us.redis.xrange(log, after, "+", count=PAGE_EVENTS):
        count += len(page)
        after = f"({page[-1][0].decode()}"
    return count / (time.monotonic() - begin_s)
