"""`darkq run` and `darkq tail` of a job whose first attempt has failed before they read."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq.protocol.keys import JobKeys
from support.by_hand import heard
from support.command import Darkq
from support.openai_frames import DONE, delta, finish
from support.scripted_http import ScriptedServer, head
from support.waiting import wait_until

ANSWER = head() + delta("Because ") + delta("they must.") + finish() + DONE


@pytest.fixture
def closed_port() -> int:
    """A port that refuses connections, until a server listens there."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


StartAsking = Callable[..., None]


@pytest.fixture
def asks(start_worker: Callable[[Settings], Any], make_settings: Any) -> StartAsking:
    """Start a worker with an upstream on a port, whose list of models is known."""

    def start(port: int, **changes: Any) -> None:
        upstream = {"url": f"http://127.0.0.1:{port}/v1", "models": "m"}
        start_worker(make_settings(darkai_url="none", upstreams={"own": upstream}, **changes))

    return start


async def test_run_with_a_refused_port_waits_until_something_listens(
    darkq: Darkq, asks: StartAsking, closed_port: int
) -> None:
    """Red when the reader begins at a place that no event has: "events … are gone", exit 1."""
    asks(closed_port, job_tries=20, retry_base_s=0.2, retry_max_s=0.5)
    running = darkq.start("run", "--model", "m", "Why do people queue?")
    await wait_until("two refusals", lambda: running.says("attempt 2 ended: "))
    async with ScriptedServer([ANSWER], port=closed_port):
        done = await asyncio.to_thread(running.done)
    assert (done.code, done.out) == (0, b"Because they must."), done.err
    assert re.search(r"attempt \d+ ended: upstream_unreachable: ", done.err)
    assert "; the next starts in 0." in done.err


@pytest.mark.parametrize("as_json", [False, True])
async def test_tail_before_the_second_attempt_waits_and_prints_it(
    darkq: Darkq, client: Client, redis: Redis, asks: StartAsking, as_json: bool
) -> None:
    async with ScriptedServer([head("503 Busy", "text/plain") + b"busy"], [ANSWER]) as server:
        asks(server.port, retry_base_s=10, retry_max_s=10)
        job = await client.enqueue("Why do people queue?", model="m")

        async def waits_again() -> bool:
            return (await job.status()).state == "deferred"

        await wait_until("the first attempt to fail", waits_again)
        tail = darkq.start("tail", job.id, *["--json"][: int(as_json)])
        keys = JobKeys.parse(job.id)
        await wait_until("a reader", lambda: heard(redis, keys.live))
        done = await asyncio.to_thread(tail.done)
    assert done.code == 0, done.err
    if as_json:
        types = [event["type"] for event in done.objects]
        assert types[:4] == ["queued", "started", "retrying", "started"]
        assert types[-1] == "completed"
        assert "503" in done.objects[2]["message"]
    else:
        assert done.out == b"Because they must."
        assert done.err.startswith("attempt 1 ended: upstream_overloaded: ")
