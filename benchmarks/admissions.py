"""How many calls a second can one server admit, where an upstream has limits?

The keys of one upstream are in one cluster slot, for any number of partitions and workers. So this
number does not grow with a cluster. A call takes three scripts: admit, answer, end; concurrent
calls share the first. Measured is the server's time for them, with limits so high that it admits
all calls.
"""

from __future__ import annotations

import asyncio
import time

from redis.asyncio import Redis

from benchmarks.figures import Answer, Figures, Row
from benchmarks.processes import redis_server
from benchmarks.systems import settings_of
from darkq.protocol.keys import JobKeys
from darkq.settings.parsing import Window
from darkq_worker.leases import Claim
from darkq_worker.limits.gate import Gate, Rule, token

CALLS = 5000
AT_ONCE = 100
RULES = {
    "a window and a concurrency": Rule((Window(1_000_000, 60.0),), 1_000_000),
    "a concurrency": Rule((), 1_000_000),
}


async def answer(_: str, repetitions: int, scale: float) -> Answer:
    rows = []
    for what, rule in RULES.items():
        costs = [await _cost_us(rule, int(CALLS * scale)) for _ in range(repetitions)]
        rates = Figures.of([1e6 / cost for cost in costs])
        rows.append(Row(f"Redis' CPU per call, limited by {what}", "µs", Figures.of(costs)))
        rows.append(Row(f"calls that a core admits, limited by {what}", "1/s", rates))
    return Answer(rows, [f"{AT_ONCE} calls at once."])


async def _cost_us(rule: Rule, calls: int) -> float:
    with redis_server() as url:
        async with Redis.from_url(url) as redis:
            gate = Gate(redis, "upstream", rule, settings_of(url))
            before = await _cpu_s(redis)
            some = [_some(gate, calls // AT_ONCE) for _ in range(AT_ONCE)]
            await asyncio.gather(*some)
            cost_us = (await _cpu_s(redis) - before) / (calls // AT_ONCE * AT_ONCE) * 1e6
            await gate.aclose()
    return cost_us


async def _some(gate: Gate, calls: int) -> None:
    for _ in range(calls):
        claim = Claim(JobKeys.new(0), 0, 1, "", 0, 0, False, b"", time.time() * 1000)
        if await gate.admit(claim):
            await gate.answered(token(claim))
        await gate.ended(token(claim), "alive")


async def _cpu_s(redis: Redis) -> float:
    info = await redis.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])
