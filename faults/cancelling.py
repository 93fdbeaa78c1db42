"""Jobs that are cancelled at every stage of their lives.

The upstream here never speaks first and never closes: the kernel alone knows whether the worker
has. It is asked at the very moment in which a reader sees `cancelled`.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from types import TracebackType
from typing import Self

from darkq import Client, JobHandle, RedisUnavailable
from darkq.event import Cancelled, Completed
from faults.check import Tally, Watch, judge_all
from faults.stage import LEASE_S, Setup, Stage
from faults.suite import Fault
from support.darkai_frames import BEGIN, chunk, error
from support.scripted_http import ScriptedServer, head
from support.waiting import wait_until

_ALWAYS = Setup(redis=("--appendonly", "yes", "--appendfsync", "always"))
_OTHER_PROCESS = (
    "import sys; from darkq.sync import Client; Client(sys.argv[1]).job(sys.argv[2]).cancel()"
)

LIMIT_S = 0.1
CROWDED_LIMIT_S = 0.5  # the short form plays others beside

Cancel = Callable[[Stage, JobHandle], Awaitable[None]]


class HoldingServer:
    """Accepts one request, answers with the beginning of an answer, and holds the line."""

    def __init__(self, beginning: bytes) -> None:
        self._beginning = beginning
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._connections: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/chat"

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for connection in [self._listener, *self._connections]:
            connection.close()

    @property
    def requests(self) -> int:
        return len(self._connections)

    @property
    def is_left(self) -> bool:
        """Whether the client has closed its last connection by now, as the kernel says."""
        try:
            return self._connections[-1].recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            connection.setblocking(False)
            request = b""
            received = b" "
            while received and not request.endswith(b"}"):
                received = await loop.sock_recv(connection, 65536)
                request += received
            if not received:  # a call that was cancelled before it was sent
                connection.close()
                continue
            await loop.sock_sendall(connection, self._beginning)
            self._connections.append(connection)


async def _cancel(stage: Stage, job: JobHandle) -> None:
    await job.cancel()


async def _cancel_twice(stage: Stage, job: JobHandle) -> None:
    await asyncio.gather(job.cancel(), job.cancel())
    await job.cancel()


async def _cancel_from_elsewhere(stage: Stage, job: JobHandle) -> None:
    command = [sys.executable, "-c", _OTHER_PROCESS, stage.url, job.id]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=30)


async def _cancel_in_an_outage(stage: Stage, job: JobHandle) -> None:
    await asyncio.to_thread(stage.server.kill)
    asking = asyncio.create_task(_insist(job))
    await asyncio.sleep(0.3)  # the outage
    await asyncio.to_thread(stage.server.start)
    await asking


async def _cancel_first(stage: Stage, job: JobHandle) -> None:
    """Be there before the worker is, after an outage in which its lease has run out."""
    settings = stage.settings(redis_url=stage.server.url, redis_patience_s=0.001)
    async with Client(settings=settings) as client:
        await asyncio.to_thread(stage.server.kill)
        await asyncio.sleep(1.5 * LEASE_S)  # the outage
        await asyncio.to_thread(stage.server.start)
        await _insist(client.job(job.id))


async def _insist(job: JobHandle) -> None:
    while True:
        try:
            await job.cancel()
            return
        except RedisUnavailable:
            await asyncio.sleep(0.02)


async def running(cancel: Cancel, beginning: bytes, stage: Stage, rng: Random) -> Tally:
    """Cancelled while it runs: the upstream's connection is closed before `cancelled` is seen.

    Red when `HttpStream` leaves its connection to be closed later; after an outage, when cancel.lua
    takes a lease that has run out for a worker's death. Too late, in a full run, when cancel.lua
    does not publish its word: the next heartbeat brings it.
    """
    await stage.crew(2)
    async with HoldingServer(beginning) as upstream:
        watch = await stage.submit(proxy=upstream.url, tries=3)
        await wait_until("the request", lambda: upstream.requests == 1)
        if beginning != head():
            await watch.until("the first word", lambda w: bool(w.text))
        left: list[bool] = []
        watch.on_event = lambda event: left.append(
            isinstance(event, Cancelled) and upstream.is_left
        )
        asked_s = time.monotonic()
        await cancel(stage, watch.job)
        open_yet = await _state(watch) == "cancelled" and not upstream.is_left
        await watch.to_the_end()
        tally = _judge(watch)
        tally.require(not open_yet, "the connection is closed before a status says `cancelled`")
        tally.require(left[-1:] == [True], "the connection is closed before `cancelled` is seen")
        if cancel in (_cancel, _cancel_twice):
            tally.recovered(watch.seen_s[-1] - asked_s, _limit_s(stage))
        tally.require(await _state(watch) == "cancelled", "cancelled is final")
        tally.require(upstream.requests == 1, "nothing restarts it")
    return tally


def _judge(watch: Watch) -> Tally:
    tally = Tally(jobs=1)
    cursors = [event.cursor for event in watch.events]
    tally.duplicated += cursors != sorted(set(cursors))
    tally.lost += not watch.ended
    last = watch.events[-1]
    tally.require(isinstance(last, Cancelled), f"{watch.prompt} is cancelled, not {last}")
    return tally


def _limit_s(stage: Stage) -> float:
    return LIMIT_S if stage.full else CROWDED_LIMIT_S


async def _state(watch: Watch) -> str:
    return (await watch.job.status()).state


async def queued(stage: Stage, rng: Random) -> Tally:
    """Cancelled while it waits: gone at once, and no worker ever runs it.

    Red when cancel.lua leaves the job in its queue.
    """
    await stage.crew(0)
    watch = await stage.submit()
    asked_s = time.monotonic()
    await watch.job.cancel()
    await watch.to_the_end()
    tally = _judge(watch)
    tally.recovered(watch.seen_s[-1] - asked_s, _limit_s(stage))
    await stage.crew(1)
    tally.add(await judge_all([await stage.submit()], stage.model.is_whole))
    tally.require(stage.model.calls[watch.prompt] == 0, "nothing restarts it")
    tally.require(await _state(watch) == "cancelled", "cancelled is final")
    return tally


async def deferred(stage: Stage, rng: Random) -> Tally:
    """Cancelled while it waits for its next try.

    Red when cancel.lua asks for the worker that no longer holds it (the end comes with the next
    try), and when it leaves the job in its queue.
    """
    await stage.crew(1)
    refusal = [head("429 Too Many Requests", retry_after="30"), error("Rate limit exceeded")]
    async with ScriptedServer(refusal) as server:
        watch = await stage.submit(proxy=server.url, tries=3)
        await watch.until("the retry", lambda w: bool(w.retries))
        tally = Tally()
        tally.require(await _state(watch) == "deferred", "a job waits for its next try")
        asked_s = time.monotonic()
        await watch.job.cancel()
        await watch.to_the_end()
        tally.add(_judge(watch))
        tally.recovered(watch.seen_s[-1] - asked_s, _limit_s(stage))
        tally.require(len(server.requests) == 1, "nothing restarts it")
    return tally


async def finished(stage: Stage, rng: Random) -> Tally:
    """Cancelled after the end: it stays what it was.

    Red when cancel.lua does not look for the result first.
    """
    await stage.crew(1)
    watch = await stage.submit()
    await watch.to_the_end()
    await watch.job.cancel()
    tally = await judge_all([watch], stage.model.is_whole)
    tally.require(await _state(watch) == "completed", "what is completed stays completed")
    tally.require(isinstance(watch.events[-1], Completed), "its last event is the completion")
    return tally


_SILENT, _TALKING = head(), head() + BEGIN + chunk("Once upon ")
FAULTS = [
    Fault("cancel: queued", queued, 3),
    Fault("cancel: deferred", deferred, 30),
    Fault("cancel: running, before the first chunk", partial(running, _cancel, _SILENT), 60),
    Fault("cancel: running, after the first chunk", partial(running, _cancel, _TALKING), 60),
    Fault("cancel: twice and again", partial(running, _cancel_twice, _TALKING), 30),
    Fault("cancel: from another process", partial(running, _cancel_from_elsewhere, _TALKING), 5),
    Fault("cancel: after the end", finished, 10),
    Fault(
        "cancel: during an outage of Redis",
        partial(running, _cancel_in_an_outage, _TALKING),
        10,
        _ALWAYS,
    ),
    Fault(
        "cancel: after an outage longer than a lease",
        partial(running, _cancel_first, _TALKING),
        10,
        _ALWAYS,
    ),
]
