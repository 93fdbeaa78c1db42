"""`/v1/responses`: answers that can be left, looked at, resumed by number, cancelled, deleted.

A Response is nothing of its own: it is read off the events of its job each time it is asked for.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from aiohttp import web

from darkq import JobHandle, JobNotFound
from darkq.openai.response import repeated_in
from darkq_gateway.awaited_json import send_when_done
from darkq_gateway.bodies import read_undecoded
from darkq_gateway.context import STREAMS, caller_of
from darkq_gateway.errors import ApiError
from darkq_gateway.jobs import as_json
from darkq_gateway.openai import foreground, item_references, response_request, sse
from darkq_gateway.openai.request import decode
from darkq_gateway.openai.response_stream import ResponseStream
from darkq_gateway.ownership import owned_job
from darkq_gateway.queries import integer

PREFIX = "resp_"


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/responses", create),
        web.get("/v1/responses/{response_id}", retrieve, allow_head=False),
        web.post("/v1/responses/{response_id}/cancel", cancel),
        web.delete("/v1/responses/{response_id}", delete),
    ]


async def create(request: web.Request) -> web.StreamResponse:
    """Begin a Response. One in the background outlives the call; another is cancelled with it."""
    body = await read_undecoded(request)
    fields = decode(body)
    await item_references.resolve(request, fields)
    asked = response_request.parse(fields, caller_of(request))
    if asked.background:
        job = await foreground.enqueue(request, asked.job, body)
        response = _new(job, asked.repeated.fields())
        if asked.stream:
            return await _stream(request, job, response, after=-1)
        return as_json(await _so_far(job, response))
    async with foreground.awaited(request, asked.job, body) as job:
        response = _new(job, asked.repeated.fields())
        if asked.stream:
            return await _stream(request, job, response, after=-1, in_foreground=True)
        return await send_when_done(request, _whole(job, response))


async def retrieve(request: web.Request) -> web.StreamResponse:
    """A Response as it stands, or its events after a number, the past ones first."""
    after = integer(request, "starting_after", default=-1, least=0, most=10**15 - 1)
    job, response = await _owned(request)
    if request.query.get("stream", "false").lower() not in ("true", "1"):
        return as_json(await _so_far(job, response))
    return await _stream(request, job, response, after=after)


async def cancel(request: web.Request) -> web.Response:
    """Cancel a Response in the background; again, and it is returned as it ended."""
    job, response = await _owned(request)
    now = await _so_far(job, response)
    if not now["background"]:
        message = "only a response created with background=true can be cancelled"
        raise ApiError(400, "not_in_background", message)
    if now["status"] in ("completed", "failed", "incomplete"):
        raise ApiError(400, "already_ended", f"cannot cancel a {now['status']} response")
    if now["status"] != "cancelled":
        await job.cancel()
        # Said only when the upstream's connection is closed: the worker's lease bounds the wait.
        async with aclosing(job.events()) as events:
            again = _new(job, response.asked)
            async for event in events:
                again.feed(event)
        now = again.snapshot()
    return as_json(now)


async def delete(request: web.Request) -> web.Response:
    """Forget a Response; one that has not ended is cancelled first."""
    job, response = await _owned(request)
    now = await _so_far(job, response)
    if now["status"] in ("queued", "in_progress"):
        await job.cancel()
        async with aclosing(job.events()) as events:
            async for _ in events:
                pass
    await job.delete()
    return as_json({"id": PREFIX + job.id, "object": "response", "deleted": True})


async def _stream(
    request: web.Request,
    job: JobHandle,
    response: ResponseStream,
    *,
    after: int,
    in_foreground: bool = False,
) -> web.StreamResponse:
    async with (
        request.app[STREAMS].open(request, resumable=not in_foreground) as stream,
        aclosing(job.event_batches()) as batches,
    ):
        async for batch in batches:
            made: list[dict[str, Any]] = []
            for event in batch:
                made += response.feed(event)
            frames = sse.named(e for e in made if e["sequence_number"] > after)
            if in_foreground and not (response.has_spoken or stream.begun):
                if response.failure is not None:
                    raise response.failure
                stream.hold(frames)
            else:
                await stream.send(frames, batch.came_s)
    return stream.response


async def _whole(job: JobHandle, response: ResponseStream) -> dict[str, Any]:
    async with aclosing(job.events()) as events:
        async for event in events:
            response.feed(event)
    if response.failure is not None:
        raise response.failure
    return response.snapshot()


async def _so_far(job: JobHandle, response: ResponseStream) -> dict[str, Any]:
    async with aclosing(job.history()) as batches:
        async for batch in batches:
            for event in batch:
                response.feed(event)
    return response.snapshot()


async def _owned(request: web.Request) -> tuple[JobHandle, ResponseStream]:
    response_id = request.match_info["response_id"]
    if not response_id.startswith(PREFIX):
        raise JobNotFound(response_id)
    job = await owned_job(request, response_id.removeprefix(PREFIX))
    repeated = repeated_in(job.status.metadata)
    if repeated is None:  # a job, but no Response
        raise JobNotFound(response_id)
    return job.handle, _new(job.handle, repeated.fields())


def _new(job: JobHandle, asked: dict[str, Any]) -> ResponseStream:
    return ResponseStream(PREFIX + job.id, asked=asked)
