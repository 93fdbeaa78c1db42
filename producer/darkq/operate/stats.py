"""The counters of all workers together, and the text that waits in each.

A worker adds the counts of its `Tally` with its heartbeats; see `worker_count.lua`. So the numbers
outlive the workers, and one read of Redis is enough for any number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from darkq.operate.workers import live_workers
from darkq.protocol.keys import STATS, WorkerKeys
from darkq.redis import scripts
from darkq.redis.pool import is_wrong_type
from darkq.telemetry.metrics import Field, read_numbers, write_field

TTL_S = 30 * 24 * 3600.0
"""After this time without any worker the counters restart, as those of a restarted process do."""
REPORT_TTL_S = 24 * 3600.0
"""For so long a report that was sent again is known."""

MAX_FIELDS = 10_000
_FIELDS_AT_ONCE = 1000
_MOST_DIGITS = 19


class Report(NamedTuple):
    """What a worker tells: `number` is unlike that of its report before."""

    number: int
    numbers: Mapping[Field, int]
    buffer_chars: int
    buffer_most: int


class Stats(NamedTuple):
    """`numbers` of all workers, and those that are alive. `buffer_chars` is text that waits in them
    for Redis, `fullest_buffer` how full the fullest is, from 0 to 1.
    """

    numbers: Mapping[Field, int]
    workers: int
    buffer_chars: int
    fullest_buffer: float


async def add(redis: Redis, worker_id: str, report: Report) -> None:
    """Add a worker's report; the same one again changes nothing. Raises what redis-py raises."""
    await scripts.worker_count(
        redis,
        worker_id,
        number=report.number,
        totals_ttl_s=TTL_S,
        worker_ttl_s=REPORT_TTL_S,
        buffer_chars=report.buffer_chars,
        buffer_most=report.buffer_most,
        increments={write_field(field): number for field, number in report.numbers.items()},
    )


async def read_stats(redis: Redis) -> Stats:
    """Return what has been counted. Raises what redis-py raises."""
    numbers = read_numbers(await _fields(redis))
    workers = await live_workers(redis)
    buffers = await _buffers(redis, workers)
    return Stats(
        numbers=numbers,
        workers=len(workers),
        buffer_chars=sum(chars for chars, _ in buffers),
        fullest_buffer=max((min(1.0, chars / most) for chars, most in buffers if most), default=0),
    )


async def _fields(redis: Redis) -> list[tuple[bytes, bytes]]:
    found: dict[bytes, bytes] = {}
    try:
        async for name, value in redis.hscan_iter(STATS, count=_FIELDS_AT_ONCE):
            found[name] = value
            if len(found) >= MAX_FIELDS:
                break
    except ResponseError as error:
        if not is_wrong_type(error):  # else darkq did not write it
            raise
    return list(found.items())


async def _buffers(redis: Redis, workers: Sequence[str]) -> list[tuple[int, int]]:
    pipe = redis.pipeline(transaction=False)
    for worker_id in workers:
        pipe.hmget(WorkerKeys(worker_id).stats, ["buffer_chars", "buffer_most"])
    replies = await pipe.execute(raise_on_error=False) if workers else []
    pairs = (reply for reply in replies if not isinstance(reply, Exception))
    return [(_number(chars), _number(most)) for chars, most in pairs]


def _number(value: bytes | None) -> int:
    return int(value) if value is not None and len(value) < _MOST_DIGITS and value.isdigit() else 0
