"""How many jobs a second does one producer enqueue?

One by one; 100 concurrent calls; and in bulk, for which arq has no call. No worker runs: the
producer is under test and has a core of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from benchmarks.figures import Answer, Figures, Row, Target
from benchmarks.machine import UNDER_TEST, on_core
from benchmarks.systems import darkq, naive_arq

PROMPT = "Write a haiku about queues."


async def answer(_: str, repetitions: int, scale: float) -> Answer:
    single, many, bulk = int(1000 * scale), int(5000 * scale), int(25_000 * scale)
    rates: dict[str, list[float]] = {}
    async with darkq() as us, naive_arq() as them:
        calls: list[tuple[str, int, Callable[[], Awaitable[None]]]] = [
            ("one", single, partial(one_by_one, us.client.enqueue, single)),
            ("naive one", single, partial(one_by_one, them.enqueue, single)),
            ("at once", many, partial(at_once, us.client.enqueue, many)),
            ("naive at once", many, partial(at_once, them.enqueue, many)),
            ("bulk", bulk, partial(us.put, PROMPT, bulk)),
        ]
        for _repetition in range(repetitions):
            for name, jobs, call in calls:
                with on_core(UNDER_TEST):
                    begin_s = time.monotonic()
                    await call()
                    rates.setdefault(name, []).append(jobs / (time.monotonic() - begin_s))
            await us.redis.flushdb()
            await them.redis.flushdb()
    figures = {name: Figures.of(values) for name, values in rates.items()}
    naive_one, naive_many = figures["naive one"], figures["naive at once"]
    against = "naive arq", "naive arq's 100 at once"
    return Answer(
        [
            Row("enqueue one by one", "1/s", figures["one"], naive_one, against[0], Target("≥", 3)),
            Row("enqueue 100 at once", "1/s", figures["at once"], naive_many, against[0]),
            Row("enqueue in bulk", "1/s", figures["bulk"], naive_many, against[1], Target("≥", 25)),
        ],
        [],
    )


async def one_by_one(enqueue: Callable[[str], Awaitable[object]], jobs: int) -> None:
    for _ in range(jobs):
        await enqueue(PROMPT)


async def at_once(enqueue: Callable[[str], Awaitable[object]], jobs: int) -> None:
    for _ in range(0, jobs, 100):
        await asyncio.gather(*(enqueue(PROMPT) for _ in range(100)))
