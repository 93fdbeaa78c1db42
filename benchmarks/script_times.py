"""How long does a script block Redis, with a million entries in the keys that it reads?

The keys are filled, then each script is called alone. The output is the slowest call according to
the server's slow log.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from redis.asyncio import Redis

from benchmarks.figures import Answer, Figures, Row
from benchmarks.processes import redis_server
from benchmarks.systems import settings_of
from darkq import Client, Settings
from darkq.protocol.keys import JobKeys, LimitKeys, PartitionKeys
from darkq.redis import scripts
from darkq.settings.parsing import Window
from darkq_worker.leases import Claim, Leases
from darkq_worker.limits.gate import Gate, NotNow, Rule

ENTRIES = (10_000, 100_000, 1_000_000)
CALLS = 20
_PAGE = 10_000
_NOW_MS = 1000
_FAR_MS = 9_000_000_000_000  # far in the future


async def answer(_: str, repetitions: int, scale: float) -> Answer:
    rows = []
    for entries in ENTRIES:
        count = int(entries * scale)
        runs = [await _run(count) for _ in range(repetitions)]
        rows += [
            Row(f"{what}, {count:,} entries", "ms", Figures.of([run[what] for run in runs]))
            for what in runs[0]
        ]
    return Answer(rows, [f"The slowest of {CALLS} calls."])


async def _run(entries: int) -> dict[str, float]:
    with redis_server() as url:
        settings = settings_of(url).model_copy(update={"queue_max_jobs": 2 * entries + 1000})
        async with Redis.from_url(url) as redis, Client(settings=settings) as client:
            leases = Leases(redis, "worker", lease_s=60, job_ttl_s=600)
            await _fill(redis, PartitionKeys(0).queue("interactive"), entries, _FAR_MS)
            slowest = {"enqueue 1": await _slowest(redis, lambda: client.enqueue("x"))}
            slowest["claim 1"] = await _slowest(
                redis, lambda: leases.claim(0, slots=1, bulk_slots=1)
            )
            slowest |= await _limits(redis, settings, entries)
            await _fill(redis, PartitionKeys(0).failed, entries, _NOW_MS)
            slowest["finish, all listed failures over"] = await _slowest(
                redis, lambda: _fail(redis)
            )
    return slowest


async def _limits(redis: Redis, settings: Settings, entries: int) -> dict[str, float]:
    slowest = {}
    keys = LimitKeys.of_upstream("x")
    gate = Gate(redis, "x", Rule((Window(2_000_000, 60.0),), 1), settings)
    await _fill(redis, keys.waiting, entries, _NOW_MS)
    await _fill(redis, keys.due, entries, _FAR_MS)
    slowest["limit_admit 1, behind all that wait"] = await _slowest(redis, lambda: _ask(gate))
    slowest["limit_report"] = await _slowest(redis, gate.keep)
    await _fill(redis, keys.grants, entries, _NOW_MS)
    slowest["limit_admit 1, all calls over"] = await _slowest(redis, lambda: _ask(gate))
    await gate.aclose()
    return slowest


async def _slowest(redis: Redis, call: Callable[[], Awaitable[object]]) -> float:
    """Return how long the slowest of some calls took, in ms; the first loads the script."""
    await call()
    await redis.execute_command("CONFIG", "SET", "slowlog-log-slower-than", 0)
    await redis.execute_command("SLOWLOG", "RESET")
    for _ in range(CALLS):
        await call()
    entries = await redis.slowlog_get(CALLS * 10)
    took_us = [entry["duration"] for entry in entries if entry["command"].startswith(b"EVAL")]
    return float(max(took_us) / 1000)


async def _ask(gate: Gate) -> None:
    claim = Claim(JobKeys.new(0), 0, 1, "", 0, 0, False, b"", time.time() * 1000)
    with suppress(NotNow):
        await gate.admit(claim)


async def _fail(redis: Redis) -> None:
    """Delete surplus failed jobs, as `finish` does for a failed job."""
    keys = JobKeys.new(0)
    await redis.set(keys.in_progress, "t", px=60_000)
    await redis.set(keys.retry, 1, px=60_000)
    await redis.execute_command("HSET", keys.state, "held", "1")
    await redis.pexpire(keys.state, 60_000)
    claim = Claim(keys, 0, 1, "t", 0, 0, False, b"")
    assert await scripts.finish(redis, claim, [], result=b"{}", result_ttl_s=60, failed=True)


async def _fill(redis: Redis, key: str, entries: int, score: float) -> None:
    numbers = iter(range(entries))
    while page := list(itertools.islice(numbers, _PAGE)):
        await redis.zadd(key, {f"{{0}}{n:032x}": score + n / 1000 for n in page})
