"""What do 5,000 readers of event streams cost one gateway: of one job, and of 5,000 jobs?

Measured are the memory of a reader, and the age of a chunk when a reader has it. In both cases the
pace gives 2,000 deliveries a second. The gateway has a core of its own; worker, Redis, upstream and
readers share the other. Readers connect while the worker is stopped, so chunks do not age
meanwhile. The baseline has none of the gateway's guarantees: `bare_fanout` writes ready-made frames
to as many sockets.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import aiohttp

from benchmarks.answers import paced
from benchmarks.figures import Answer, Figures, Row, Target
from benchmarks.machine import THE_REST, CpuShare, on_core, rss_bytes
from benchmarks.processes import Process, child, module, read_line
from benchmarks.systems import Darkq, darkq, frozen

READERS = 5000
PER_S = 0.4
CHUNKS = 10
BRISK_PER_S = 10.0
BRISK_CHUNKS = 100
MIN_FILES = 16_000
_START_TIMEOUT_S = 10.0


class _Found(NamedTuple):
    kb_per_reader: float
    p50_ms: float
    p99_ms: float
    opening_us: float
    delivery_us: float
    chunk_bytes: float
    base_mb: float


class _Crowd(NamedTuple):
    """A number of readers, and the jobs that they read."""

    name: str
    jobs: int
    readers: int
    per_s: float = PER_S
    chunks: int = CHUNKS


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    readers = int(READERS * scale)
    _allow_many_files()
    few = max(1, readers // 10)
    crowds = (
        _Crowd(f"1 job, {readers:,} readers", 1, readers),
        _Crowd(f"{readers:,} jobs", readers, readers),
        _Crowd(
            f"{few:,} jobs of {BRISK_PER_S:g} chunks a second", few, few, BRISK_PER_S, BRISK_CHUNKS
        ),
    )
    ours: dict[str, list[_Found]] = {crowd.name: [] for crowd in crowds}
    bare: dict[str, list[_Found]] = {crowd.name: [] for crowd in crowds}
    async with darkq(url, jobs=readers) as us:
        with on_core(THE_REST):  # the gateway is under test
            os.sched_setaffinity(us.pid, os.sched_getaffinity(0))
        for _ in range(repetitions):
            for crowd in crowds:
                with _gateway(us.redis_url) as (process, port):
                    await _answers(port)
                    ours[crowd.name].append(await _watch(us, process, port, crowd))
                with child(*module("bare_fanout", us.redis_url)) as process:
                    port = int(await asyncio.to_thread(read_line, process))
                    bare[crowd.name].append(await _watch(us, process, port, crowd))
    rows = [row for crowd in crowds for row in _rows(crowd.name, ours, bare)]
    return Answer(rows, [f"A process needs {MIN_FILES:,} open files for this (ulimit -Hn)."])


_MEASURED = (
    ("gateway's memory per reader", "KB", None),
    ("gateway relay p50", "ms", None),
    ("gateway relay p99", "ms", None),
    ("gateway's CPU per reader that comes", "µs", None),
    ("gateway's CPU per chunk and reader", "µs", Target("≤", 2)),
    ("bytes per chunk and reader", "B", None),
    ("gateway's memory without readers", "MB", None),
)
"""What, unit and target of each number of `_Found`."""


def _rows(name: str, ours: dict[str, list[_Found]], bare: dict[str, list[_Found]]) -> Iterator[Row]:
    values = zip(
        _MEASURED, zip(*ours[name], strict=True), zip(*bare[name], strict=True), strict=True
    )
    for (what, unit, target), our_values, bare_values in values:
        figures, baseline = Figures.of(our_values), Figures.of(bare_values)
        yield Row(f"{what}, {name}", unit, figures, baseline, "bare fan-out", target)


async def _watch(us: Darkq, process: Process, port: int, crowd: _Crowd) -> _Found:
    before, opening = rss_bytes(process.pid), CpuShare(process.pid)
    with child(
        *module("sse_readers", port, process.pid, crowd.readers, crowd.chunks), role=THE_REST
    ) as reading:
        read_line(reading)
        with frozen(us.pid):
            prompt = paced(crowd.chunks, crowd.per_s)
            handles = await us.client.enqueue_many([prompt] * crowd.jobs)
            assert reading.stdin is not None
            print(json.dumps([handle.id for handle in handles]), file=reading.stdin, flush=True)
            await asyncio.to_thread(read_line, reading)
            grown = rss_bytes(process.pid) - before
            opening_us = opening.used_s() / crowd.readers * 1e6
        found = json.loads(await asyncio.to_thread(read_line, reading))
        p50, p99, size, delivery_us = found
    return _Found(
        grown / crowd.readers / 1024, p50, p99, opening_us, delivery_us, size, before / 1e6
    )


@contextmanager
def _gateway(redis_url: str) -> Iterator[tuple[Process, int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    quietly = "import logging; logging.disable(logging.INFO); "  # else a record per reader
    command = (sys.executable, "-c", f"{quietly}from darkq_gateway.serve import main; main()")
    environment = {"DARKQ_REDIS_URL": redis_url, "DARKQ_GATEWAY_PORT": str(port)}
    with child(*command, environment=environment) as process:
        yield process, port


async def _answers(port: int) -> None:
    """Wait until a gateway responds."""
    async with asyncio.timeout(_START_TIMEOUT_S), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/readyz"):
                    return
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)


def _allow_many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MIN_FILES:
        raise SystemExit(f"the benchmark `gateway` needs {MIN_FILES:,} open files: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
