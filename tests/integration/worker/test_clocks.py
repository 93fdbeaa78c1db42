"""A worker's clock is minutes off: what it puts off comes back by the clock of Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq.protocol.keys import JobKeys
from darkq_worker.attempts.generate import NOT_READY_PAUSE_S
from support.processes import WorkerProcess
from support.scripted_http import ScriptedServer, head
from support.waiting import wait_until


@pytest.fixture
def start_skewed(tmp_path: Path) -> Iterator[Callable[[Settings, int], WorkerProcess]]:
    started: list[WorkerProcess] = []

    def start(settings: Settings, skew_s: int) -> WorkerProcess:
        prelude = f"import time; _now = time.time; time.time = lambda: _now() + {skew_s}"
        started.append(WorkerProcess(settings, tmp_path / "worker.log", prelude=prelude))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.mark.parametrize("skew_s", [-300, 300])
async def test_a_job_whose_upstream_is_not_listed_yet_stands_back_for_two_seconds(
    client: Client,
    redis: Redis,
    make_settings: Callable[..., Settings],
    start_skewed: Callable[[Settings, int], WorkerProcess],
    skew_s: int,
) -> None:
    """Red when `generate` says when by `time.time()`: thousands of claims a second, or 300 s."""
    async with ScriptedServer([head("503 Busy")]) as server:
        upstreams = {"other": {"url": server.url.replace("/chat", "/v1")}}
        start_skewed(make_settings(darkai_url="none", upstreams=upstreams), skew_s)
        keys = JobKeys.parse((await client.enqueue("hi")).id)
        await wait_until("the first attempt", lambda: has_attempt(redis, keys, 1))
        first_s = time.monotonic()
        await wait_until("the third attempt", lambda: has_attempt(redis, keys, 3))
        assert time.monotonic() - first_s > 1.5 * NOT_READY_PAUSE_S


async def has_attempt(redis: Redis, keys: JobKeys, number: int) -> bool:
    return int(await redis.get(keys.retry) or 0) >= number
