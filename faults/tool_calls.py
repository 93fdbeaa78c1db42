"""Tool calls whose worker or upstream dies between two pieces of their arguments.

The upstream is a chat service. Each piece of the arguments names the call of the service and its
place: `2/7 `. So arguments that are joined from two attempts can be seen.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from random import Random

from aiohttp import web

from darkq import JobHandle
from darkq.event import AnyEvent, Completed, Failed, Started, ToolCall
from faults.check import Tally
from faults.stage import Setup, Stage
from faults.suite import Fault
from support.chat_service import serving_chat
from support.openai_frames import DONE, finish, frame
from support.waiting import wait_until

PIECES = 30
PAUSE_S = 0.02
READERS = 3


class CallingService:
    """A chat service that answers with one tool call, and breaks off after so many pieces."""

    def __init__(self) -> None:
        self.calls = 0
        self.breaks_after: int | None = None
        self.resets = False

    def serving(self) -> AbstractAsyncContextManager[str]:
        return serving_chat(self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        call = self.calls
        await request.read()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_piece("", call_id=f"call_{call}", name="add"))
        for number in range(PIECES):
            if number == self.breaks_after:
                if self.resets and request.transport is not None:
                    request.transport.abort()
                return response
            await response.write(_piece(f"{call}/{number} "))
            await asyncio.sleep(PAUSE_S)
        await response.write(finish("tool_calls") + DONE)
        return response


def _piece(arguments: str, *, call_id: str | None = None, name: str | None = None) -> bytes:
    call = {"index": 0, "id": call_id, "function": {"name": name, "arguments": arguments}}
    return frame(choices=[{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}])


def _whole(call: int) -> str:
    return "".join(f"{call}/{number} " for number in range(PIECES))


async def killed(stage: Stage, rng: Random) -> Tally:
    """SIGKILL between two pieces of the arguments; readers leave at any event and resume there.

    Red if `started` does not void the earlier pieces, or `assemble` takes pieces of two attempts.
    """
    service = CallingService()
    async with service.serving() as url:
        stage.extra = {"upstreams": {"chat": {"url": url, "models": "m"}}}
        await stage.crew(0)
        await stage.crew(2)
        job = await stage.client.enqueue("add", upstream="chat", tries=2)
        readers = [asyncio.create_task(_read(job, rng.randint(1, 9))) for _ in range(READERS)]
        await _reach(job, rng.randrange(1, PIECES))
        victim = await stage.holder(job) or stage.workers[0]
        victim.send(signal.SIGKILL)
        await victim.wait()
        tally = Tally(jobs=1)
        result = await job.result(timeout_s=30)
        for events in await asyncio.gather(*readers):
            _judge(events, result.tool_calls[0].arguments, tally)
        stage.extra = {}
        await stage.crew(0)
    tally.require(len(result.tool_calls) == 1, "one tool call")
    arguments = result.tool_calls[0].arguments
    if arguments not in [_whole(call + 1) for call in range(service.calls)]:
        tally.mix("add", result=arguments)
    tally.require(result.tool_calls[0].id == f"call_{arguments.partition('/')[0]}", "its own id")
    return tally


async def cut_off(stage: Stage, rng: Random) -> Tally:
    """The service always ends its answer within the arguments: the job fails, never completes.

    Red if `AnswerDecoder.feed_eof` takes EOF for the end once an answer has begun.
    """
    service = CallingService()
    service.breaks_after, service.resets = rng.randrange(PIECES), rng.random() < 0.5
    async with service.serving() as url:
        stage.extra = {"upstreams": {"chat": {"url": url, "models": "m"}}}
        await stage.crew(0)
        await stage.crew(1)
        job = await stage.client.enqueue("add", upstream="chat", tries=2)
        events = await _read(job, 1000)
        stage.extra = {}
        await stage.crew(0)
    tally = Tally(jobs=1)
    tally.require(isinstance(events[-1], Failed), f"failed, not {events[-1]}")
    tally.require(service.calls == 2, "both tries were used")
    _judge(events, "", tally)
    return tally


async def _reach(job: JobHandle, pieces: int) -> None:
    async def has_pieces() -> bool:
        found = [event async for page in job.history() for event in page]
        return sum(isinstance(event, ToolCall) for event in found) >= pieces

    await wait_until("the piece to strike at", has_pieces)


async def _read(job: JobHandle, rest_after: int) -> list[AnyEvent]:
    """Read to the end, and leave and resume after so many events each time."""
    events: list[AnyEvent] = []
    while not (events and isinstance(events[-1], Completed | Failed)):
        async with aclosing(job.events(events[-1].id if events else None)) as following:
            news = 0
            async for event in following:
                events.append(event)
                news += 1
                if news == rest_after:
                    break
    return events


def _judge(events: Sequence[AnyEvent], arguments: str, tally: Tally) -> None:
    """Check that each attempt's arguments are of one call, and the last one's are the result's."""
    cursors = [event.cursor for event in events]
    tally.duplicated += cursors != sorted(set(cursors))
    read = ""
    for event in events:
        if isinstance(event, Started):
            read = ""
        elif isinstance(event, ToolCall):
            read += event.arguments
            call = read.partition("/")[0]
            if call and not _whole(int(call)).startswith(read):
                tally.mix("add", read=read)
                return
    if isinstance(events[-1], Completed) and read != arguments:
        tally.mix("add", read=read, result=arguments)


_TOOLS = Setup(worker={"worker_max_lost_leases": 5})

FAULTS = [
    Fault("tools: worker SIGKILL within a call", killed, 20, _TOOLS),
    Fault("tools: service breaks off within a call", cut_off, 20, _TOOLS),
]
