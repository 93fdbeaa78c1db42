"""What does each thing cost each part: a chunk, a call, a reader, a silent stream, a job, a poll?

The unit costs of `docs/scale.md`, which `unit_costs` contains. Each run has its own fleet. Runs
differ in one property each, and the difference is its cost: single chunks or merged ones, one
partition or 64, with or without readers; an idle worker with few partitions or with many.
"""

from __future__ import annotations

import asyncio

from benchmarks.answers import burst, paced
from benchmarks.figures import Answer, Figures, Row, number
from benchmarks.fleet import Fleet, Used, fleet, frozen_all, move
from benchmarks.machine import UNDER_TEST
from benchmarks.processes import child, module, read_line, redis_server
from benchmarks.telling_apart import Found, of_chunks

PER_S = 20.0
MANY, SOME, FEW = 500, 300, 100
SILENT = 2000
WARM_S = 4.0
MANY_PARTITIONS = 64
RUNS = ((FEW, 0, 1), (MANY, 0, 1), (MANY, 0, MANY_PARTITIONS), (SOME, SOME, 1))
"""Streams, readers, partitions: chunks alone, packed, spread, read."""
JOBS = 2000
HERD = 4
LIGHT_PER_S = 100


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    window_s = 6 * scale
    paced_runs: list[list[Used]] = [[] for _ in RUNS]
    others: list[list[Found]] = []
    notes = []
    for _ in range(repetitions):
        for (streams, readers, partitions), runs in zip(RUNS, paced_runs, strict=True):
            used, note = await paced_run(
                url, window_s, streams=streams, readers=readers, partitions=partitions
            )
            runs.append(used)
            notes.append(note)
        found = [*await _silence(url, window_s), *await _jobs(url), await _tails()]
        others.append(found)
    rows = [Row(each.what, each.unit, Figures.of([each.value])) for each in of_chunks(paced_runs)]
    rows += [
        Row(same[0].what, same[0].unit, Figures.of([each.value for each in same]))
        for same in zip(*others, strict=True)
    ]
    return Answer(rows, notes)


async def paced_run(
    url: str,
    window_s: float,
    *,
    streams: int,
    readers: int = 0,
    workers: int = 1,
    partitions: int = 1,
    masters: int = 0,
) -> tuple[Used, str]:
    """Measure streams of 20 chunks a second, some of them with readers; also return a text line."""
    prompt = paced(int((WARM_S * 3 + window_s) * PER_S), PER_S)
    jobs = -(-streams // workers)
    async with fleet(
        url, workers=workers, partitions=partitions, masters=masters, jobs=jobs
    ) as running:
        move(running.pids, UNDER_TEST)
        await running.put(prompt, streams - readers)
        reading = [asyncio.create_task(running.read(prompt)) for _ in range(readers)]
        await asyncio.sleep(WARM_S)
        used = await running.watch(window_s)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        connections = await running.connections()
    where = f"{masters} masters" if masters else "one server"
    return used, (
        f"{streams:,} streams, {readers:,} read, {workers} workers, {partitions} partitions, "
        f"{where}: "
        f"{number(used.events)} events/s in {number(used.appends)} calls, "
        f"{number(used.flushes)} flushes, "
        f"workers {number(used.workers_cpu_s)} cores, Redis {number(used.redis_cpu_s)}, "
        f"{number(used.bytes_in / used.events)} bytes in and "
        f"{number(used.bytes_out / used.events)} out per event, {connections} connections"
    )


async def _silence(url: str, window_s: float) -> list[Found]:
    """Measure idle workers, with few and with many partitions; then silent streams."""
    async with fleet(url, jobs=SILENT, partitions=MANY_PARTITIONS) as running:
        await asyncio.sleep(WARM_S / 2)
        many = await running.watch(window_s)
    async with fleet(url, jobs=SILENT) as running:
        await asyncio.sleep(WARM_S / 2)
        few = await running.watch(window_s)
        before = running.memory_bytes()
        await running.put(paced(2, 0.01), SILENT)
        await asyncio.sleep(WARM_S)
        silent = await running.watch(max(window_s, 8))
        grown = (running.memory_bytes() - before) / SILENT / 1000
    claims = many.claims - few.claims
    return [
        Found("worker's CPU per empty claim", "µs", _per(many, few, "workers_cpu_s", claims)),
        Found("Redis' CPU per empty claim", "µs", _per(many, few, "redis_cpu_s", claims)),
        Found("worker's CPU per silent stream", "µs/s", _per(silent, few, "workers_cpu_s", SILENT)),
        Found("Redis' CPU per silent stream", "µs/s", _per(silent, few, "redis_cpu_s", SILENT)),
        Found("worker's memory per silent stream", "kB", grown),
        Found("worker's memory without streams", "MB", before / 1e6),
    ]


def _per(more: Used, less: Used, field: str, things: float) -> float:
    return float(getattr(more, field) - getattr(less, field)) / things * 1e6


async def _jobs(url: str) -> list[Found]:
    async with fleet(url) as running:
        before = await running.used()
        with frozen_all(running.pids):
            await running.put(burst(1), JOBS)
        used = (await running.ended(JOBS, before)).since(before)
        alone = await _light(running)
    async with fleet(url, workers=HERD) as running:
        herd = await _light(running)
    return [
        Found("worker's CPU per one-chunk job", "µs", used.workers_cpu_s / used.ended * 1e6),
        Found("Redis' CPU per one-chunk job", "µs", used.redis_cpu_s / used.ended * 1e6),
        Found("bytes to Redis per one-chunk job", "B", used.bytes_in / used.ended),
        Found(
            "Redis' CPU per one-chunk job, 100 a second",
            "µs",
            alone.redis_cpu_s / alone.ended * 1e6,
        ),
        Found(
            "Redis' CPU per job and idle worker more",
            "µs",
            (herd.redis_cpu_s / herd.ended - alone.redis_cpu_s / alone.ended) / (HERD - 1) * 1e6,
        ),
        Found(
            "claims per job and idle worker more",
            "",
            (herd.claims / herd.ended - alone.claims / alone.ended) / (HERD - 1),
        ),
        Found(
            "a worker's CPU per job that another takes",
            "µs",
            (herd.workers_cpu_s / herd.ended - alone.workers_cpu_s / alone.ended)
            / (HERD - 1)
            * 1e6,
        ),
    ]


async def _light(running: Fleet) -> Used:
    """Measure single jobs, at workers that are idle otherwise."""
    jobs = 5 * LIGHT_PER_S
    before = await running.used()
    for _ in range(jobs):
        await running.client.enqueue(burst(1))
        await asyncio.sleep(1 / LIGHT_PER_S)
    return (await running.ended(jobs, before)).since(before)


async def _tails() -> Found:
    with redis_server() as url, child(*module("tails", url, SILENT)) as process:
        kb = float(await asyncio.to_thread(read_line, process))
    return Found("Python reader's memory per job", "kB", kb)
