"""`/v1/responses`: answers that can be left, looked at, resumed by number, cancelled, deleted.

A Response is nothing of its own: it is read off the events of its job each time it is asked for.

The body of `POST /v1/responses`. No I/O.

An earlier answer that a request names instead of repeating it: `{"type": "item_reference"}`.

The id of an item is that of its job and the number of the attempt, whose text is kept as the job's
result. So an item can be looked up as long as that is there.
"""

from __future__ import annotations

import re
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from darkq import InvalidJob, Job, JobCancelled, JobFailed, JobHandle, JobNotFound, ResultTimeout
from darkq.openai.response import Repeated, item_id, parse_repeated, read_repeated
from darkq.protocol.job import MAX_PROMPT_BYTES, check_metadata
from darkq_gateway.http.bodies import read_undecoded
from darkq_gateway.http.context import STREAMS, Caller, caller_of, owned_job
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.queries import integer
from darkq_gateway.native.jobs import as_json
from darkq_gateway.openai import (
    foreground,
)
from darkq_gateway.openai import (
    framing as sse,
)
from darkq_gateway.openai.request import decode, make_job, take
from darkq_gateway.openai.response_stream import ResponseStream
from darkq_gateway.openai.waiting import send_when_done

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
    await resolve(request, fields)
    asked = parse(fields, caller_of(request))
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
    with suppress(JobNotFound):  # its batch has taken note of its end, and dropped it
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
    repeated = read_repeated(job.status.metadata)
    if repeated is None:  # a job, but no Response
        raise JobNotFound(response_id)
    return job.handle, _new(job.handle, repeated.fields())


def _new(job: JobHandle, asked: dict[str, Any]) -> ResponseStream:
    return ResponseStream(PREFIX + job.id, asked=asked)


class _How(msgspec.Struct):
    stream: bool = False
    background: bool = False
    store: bool = True
    metadata: dict[str, str] = {}


class ResponseRequest(NamedTuple):
    """A job, how its answer is wanted, and what that repeats of the request."""

    job: Job
    stream: bool
    background: bool
    repeated: Repeated


def parse(fields: dict[str, Any], caller: Caller) -> ResponseRequest:
    """Read a request's body. Raises `ApiError`, which names the parameter."""
    try:
        repeated = parse_repeated(fields)
        how = take(fields, _How)
        if how.background and not how.store:
            raise InvalidJob("store", "must not be false for a background response")
        job = make_job(fields, "/v1/responses", caller, metadata={})
        check_metadata(how.metadata)
        job = repeated.beside(job)
    except InvalidJob as error:
        raise ApiError(400, "invalid_parameter", error.reason, error.field) from None
    return ResponseRequest(job, how.stream, how.background, repeated)


MAX_REFERENCES = 1000
_ITEM_ID = re.compile(r"msg_([0-9]{1,4}-[0-9a-f]{32})_([0-9]{1,9})")
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


async def resolve(request: web.Request, fields: dict[str, Any]) -> None:
    """Put the text of each item that `input` refers to in the place of the reference.

    Raises `ApiError` for an item that is unknown, gone, or another tenant's: the answer is the
    same for each. Raises it too for more references, or more text, than a prompt can have.
    """
    items = fields.get("input")
    if not isinstance(items, list):
        return
    texts: dict[str, str] = {}
    size_bytes = 0
    for number, item in enumerate(items):
        if (wanted := _referred(item)) is None:
            continue
        if wanted not in texts:
            if len(texts) == MAX_REFERENCES:
                reason = f"may refer to {MAX_REFERENCES:,} items at most"
                raise ApiError(400, "invalid_parameter", reason, "input")
            texts[wanted] = await _text_of(request, wanted, f"input[{number}]")
        size_bytes += len(texts[wanted].encode())
        if size_bytes > MAX_PROMPT_BYTES:
            reason = f"has more than {MAX_PROMPT_BYTES:,} bytes"
            raise ApiError(400, "invalid_parameter", reason, "input")
        items[number] = {"type": "message", "role": "assistant", "content": texts[wanted]}


def _referred(item: object) -> str | None:
    """Return the id of a reference; its type may be left out."""
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return None
    kind = item.get("type")
    is_reference = kind == "item_reference" or (kind is None and not item.keys() - {"id", "type"})
    return item["id"] if is_reference else None


async def _text_of(request: web.Request, wanted: str, field: str) -> str:
    shown = f" with id '{wanted}'" if _SAFE_ID.fullmatch(wanted) else ""
    not_found = ApiError(404, "item_not_found", f"Item{shown} not found", field)
    found = _ITEM_ID.fullmatch(wanted)
    if found is None:
        raise not_found
    try:
        job = await owned_job(request, found[1])
        if job.status.state != "completed" or read_repeated(job.status.metadata) is None:
            raise not_found
        result = await job.handle.result(1)
    except (JobNotFound, JobFailed, JobCancelled, ResultTimeout):
        raise not_found from None
    except ApiError as error:
        raise not_found if error.status == not_found.status else error from None
    if item_id(result.job_id, result.attempt) != wanted:
        raise not_found
    return result.text
