"""The measurements of darkq and of a peer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from benchmarks import chunks, enqueue, overhead, pickup
from benchmarks.answers import ARRIVAL, burst
from benchmarks.figures import percentile
from benchmarks.machine import UNDER_TEST, on_core
from benchmarks.peers.system import CHANNELS, JOBS, Peer, order, producing_alone, running
from benchmarks.systems import darkq, frozen, listening

Measures = dict[str, float]

CHUNKS = 400
PICKUPS = 200
ONE_CHUNK_JOBS = 2000
SINGLE, MANY, BULK = 1000, 5000, 20_000


async def ask_darkq(url: str, scale: float) -> AsyncIterator[Measures]:
    """Yield darkq's results, measured as in the other benchmarks."""
    async with darkq(url, jobs=JOBS) as system:
        rate, _ = await chunks.rate(system, int(10 * CHUNKS * scale), from_enqueue=False)
        yield {"chunks": rate}
        yield _pickups(await pickup.latencies_ms(system, int(PICKUPS * scale)))
        jobs, _ = await overhead.rate(system, int(ONE_CHUNK_JOBS * scale))
        yield {"jobs": jobs}
    async with darkq() as producer:
        client, found = producer.client, Measures()
        with _timed(found, "one", SINGLE, scale) as count, on_core(UNDER_TEST):
            await enqueue.one_by_one(client.enqueue, count)
        with _timed(found, "at_once", MANY, scale) as count, on_core(UNDER_TEST):
            await enqueue.at_once(client.enqueue, count)
        with _timed(found, "bulk", BULK, scale) as count, on_core(UNDER_TEST):
            await producer.put(enqueue.PROMPT, count)
        yield found


async def ask_peer(name: str, url: str, scale: float) -> AsyncIterator[Measures]:
    """Yield a peer's results: with a worker, then of its producer alone."""
    async with running(name, url) as peer:
        yield {"chunks": await _chunk_rate(peer, int(CHUNKS * scale))}
        yield _pickups(await _pickups_ms(peer, int(PICKUPS * scale)))
        yield {"jobs": await _job_rate(peer, int(ONE_CHUNK_JOBS * scale))}
    with producing_alone(name) as producer:
        for how, count in (("one", SINGLE), ("at_once", MANY), ("bulk", BULK)):
            jobs = int(count * scale)
            took_s = await asyncio.to_thread(order, producer, how, enqueue.PROMPT, jobs)
            if took_s is not None:
                yield {how: jobs / took_s}


def _pickups(latencies_ms: list[float]) -> Measures:
    return {
        "pickup_p50": percentile(latencies_ms, 50),
        "pickup_p99": percentile(latencies_ms, 99),
    }


@contextmanager
def _timed(found: Measures, name: str, count: int, scale: float) -> Iterator[int]:
    jobs, begin_s = int(count * scale), time.monotonic()
    yield jobs
    found[name] = jobs / (time.monotonic() - begin_s)


async def _chunk_rate(peer: Peer, count: int) -> float:
    first_s = last_s = 0.0

    def seen(_: bytes) -> int:
        nonlocal first_s, last_s
        last_s = time.monotonic()
        first_s = first_s or last_s
        return 1

    async with listening(peer.redis_url, CHANNELS, seen, JOBS * count):
        await peer.enqueue("at_once", burst(count), JOBS)
    return JOBS * count / (last_s - first_s)


async def _job_rate(peer: Peer, jobs: int) -> float:
    async with listening(peer.redis_url, CHANNELS, lambda _: 1, jobs):
        with frozen(peer.worker_pid):
            await peer.enqueue("at_once", burst(1), jobs)
            begin_s = time.monotonic()
    return jobs / (time.monotonic() - begin_s)


async def _pickups_ms(peer: Peer, jobs: int) -> list[float]:
    """Return latencies. At this pace each request arrives before the next job is enqueued."""
    arrived_ns: list[int] = []

    def seen(text: bytes) -> int:
        arrived_ns.append(int(text))
        return 1

    async with listening(peer.redis_url, CHANNELS, seen, jobs):
        begun_ns = await peer.enqueue("random", ARRIVAL, jobs, per_s=pickup.PER_S)
    arrived_ns.sort()
    return [(end - begin) / 1e6 for begin, end in zip(begun_ns, arrived_ns, strict=True)]
