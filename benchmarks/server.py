"""What does it cost Redis to append and publish an event in one atomic step?

redis-benchmark sends the script of the workers, one event per call, and for comparison its two
commands separately: 50 connections, 16 calls in a pipeline. It measures Redis only, without Python.
Needs `redis-benchmark` or `valkey-benchmark` (Debian: redis-tools).
"""

from __future__ import annotations

import asyncio
import shutil
from urllib.parse import urlsplit

from redis.asyncio import Redis

from benchmarks.figures import Answer, Figures, Row
from benchmarks.machine import UNDER_TEST, on_core
from benchmarks.processes import redis_server
from darkq.redis import scripts

CALLS = 300_000
EVENTS, CHANNEL = "darkq:events:{0}x", "darkq:live:{0}x"
EVENT = '{"type":"chunk","id":"1-1","text":"some text of a few words"}'


async def answer(_: str, repetitions: int, scale: float) -> Answer:
    tool = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if tool is None:
        raise SystemExit("the benchmark `server` needs redis-benchmark: apt install redis-tools")
    rates: dict[str, list[float]] = {"script": [], "plain": []}
    with redis_server() as url:
        async with Redis.from_url(url) as redis:
            await scripts.load(redis)
            sha = scripts.ALL["append"].sha()
            for _repetition in range(repetitions):
                await redis.flushdb()
                await redis.xadd(EVENTS, {"e": EVENT}, id="0-1")
                calls = int(CALLS * scale)
                script = ("EVALSHA", sha, "1", EVENTS, CHANNEL, "1-*", EVENT)
                rates["script"].append(await _rate(tool, url, calls, *script))
                add = await _rate(tool, url, calls, "XADD", EVENTS, "*", "e", EVENT)
                publish = await _rate(tool, url, calls, "PUBLISH", CHANNEL, EVENT)
                rates["plain"].append(1 / (1 / add + 1 / publish))
    ours, plain = Figures.of(rates["script"]), Figures.of(rates["plain"])
    row = Row("events appended and published by Redis", "1/s", ours, plain, "XADD, then PUBLISH")
    return Answer([row], ["The plain commands are not atomic, and do not check the attempt."])


async def _rate(tool: str, url: str, calls: int, *command: str) -> float:
    """Return the calls per second that redis-benchmark reports."""
    options = ("-p", str(urlsplit(url).port), "-n", str(calls), "-P", "16", "-c", "50", "--csv")
    with on_core(UNDER_TEST):
        process = await asyncio.create_subprocess_exec(
            tool, *options, *command, stdout=asyncio.subprocess.PIPE
        )
    out, _ = await process.communicate()
    # The command, which may hold anything, then: calls a second, and six latencies.
    return float(out.decode().strip().rsplit('","', 7)[1])
