"""`/v1/responses`: create, read, resume by event number, cancel and delete.

A Response is not stored. Each request builds it from the events of its job.

The input may refer to an earlier answer instead of repeating it: `{"type": "item_reference"}`. The
id of an item consists of its job id and the number of the attempt, and its text is the result of
the job. So a reference is valid until the result expires.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from darkq import InvalidJob, Job, JobCancelled, JobFailed, JobHandle, JobNotFound, ResultTimeout
from darkq.openai.body import RESPONSES
from darkq.openai.response import Repeated, item_id, parse_repeated, read_repeated
from darkq.protocol.job import check_metadata
from darkq.protocol.prompt import MAX_PROMPT_BYTES
from darkq.sse import frame
from darkq_gateway.http.bodies import read_json_bytes, respond_json
from darkq_gateway.http.context import Caller, get_caller, get_own_job
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.queries import read_integer
from darkq_gateway.http.sse_response import STREAMS
from darkq_gateway.openai import foreground
from darkq_gateway.openai.request import decode, make_job, take
from darkq_gateway.openai.response_stream import ResponseStream
from darkq_gateway.openai.slow_response import send_when_done

PREFIX = "resp_"
MAX_REFERENCES = 1000
_ITEM_ID = re.compile(r"msg_([0-9]{1,4}-[0-9a-f]{32})_([0-9]{1,9})")
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


def routes() -> list[web.RouteDef]:
    return [
        web.post("/v1/responses", create),
        web.get("/v1/responses/{response_id}", retrieve, allow_head=False),
        web.post("/v1/responses/{response_id}/cancel", cancel),
        web.delete("/v1/responses/{response_id}", delete),
    ]


async def create(request: web.Request) -> web.StreamResponse:
    """Create a Response. Without `background`, its job is cancelled when the client disconnects."""
    body = await read_json_bytes(request)
    fields = decode(body)
    await resolve_references(request, fields)
    asked = parse_request(fields, get_caller(request))
    if asked.background:
        job = await foreground.enqueue(request, asked.job, body)
        response = _make_stream(job, asked.repeated.fields())
        if asked.stream:
            return await _stream(request, job, response, after=-1)
        return respond_json(await _read_so_far(job, response))
    async with foreground.hold_job(request, asked.job, body) as job:
        response = _make_stream(job, asked.repeated.fields())
        if asked.stream:
            return await _stream(request, job, response, after=-1, in_foreground=True)
        return await send_when_done(request, _read_to_end(job, response))


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Get a Response, or stream its events after a number: first past ones, then live."""
    after = read_integer(request, "starting_after", default=-1, least=0, most=10**15 - 1)
    job, response = await _get_own(request)
    if request.query.get("stream", "false").lower() not in ("true", "1"):
        return respond_json(await _read_so_far(job, response))
    return await _stream(request, job, response, after=after)


async def cancel(request: web.Request) -> web.Response:
    """Cancel a background Response; returns the same if it is cancelled already."""
    job, response = await _get_own(request)
    now = await _read_so_far(job, response)
    if not now["background"]:
        message = "only a response created with background=true can be cancelled"
        raise ApiError(400, "not_in_background", message)
    if now["status"] in ("completed", "failed", "incomplete"):
        raise ApiError(400, "already_ended", f"cannot cancel a {now['status']} response")
    if now["status"] != "cancelled":
        await job.cancel()
        # The job ends when the upstream connection is closed, at the latest with the worker's
        # lease.
        async with aclosing(job.events()) as events:
            rebuilt = _make_stream(job, response.asked)
            async for event in events:
                rebuilt.feed(event)
        now = rebuilt.snapshot()
    return respond_json(now)


async def delete(request: web.Request) -> web.Response:
    """Delete a Response; one that has not ended is cancelled first."""
    job, response = await _get_own(request)
    now = await _read_so_far(job, response)
    with suppress(JobNotFound):  # its batch has acknowledged its end and deleted it
        if now["status"] in ("queued", "in_progress"):
            await job.cancel()
            async with aclosing(job.events()) as events:
                async for _ in events:
                    pass
        await job.delete()
    return respond_json({"id": PREFIX + job.id, "object": "response", "deleted": True})


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
            frames = _encode(e for e in made if e["sequence_number"] > after)
            if in_foreground and not (response.has_text or stream.begun):
                if response.failure is not None:
                    raise response.failure
                stream.hold(frames)
            else:
                await stream.send(frames, batch.came_s)
    return stream.response


def _encode(events: Iterable[dict[str, Any]]) -> bytes:
    """Return events as Server-Sent Events, each named by its type."""
    return b"".join(frame(msgspec.json.encode(each), event=each["type"]) for each in events)


async def _read_to_end(job: JobHandle, response: ResponseStream) -> dict[str, Any]:
    async with aclosing(job.events()) as events:
        async for event in events:
            response.feed(event)
    if response.failure is not None:
        raise response.failure
    return response.snapshot()


async def _read_so_far(job: JobHandle, response: ResponseStream) -> dict[str, Any]:
    async with aclosing(job.history()) as batches:
        async for batch in batches:
            for event in batch:
                response.feed(event)
    return response.snapshot()


async def _get_own(request: web.Request) -> tuple[JobHandle, ResponseStream]:
    response_id = request.match_info["response_id"]
    if not response_id.startswith(PREFIX):
        raise JobNotFound(response_id)
    job = await get_own_job(request, response_id.removeprefix(PREFIX))
    repeated = read_repeated(job.status.metadata)
    if repeated is None:  # the job was not created as a Response
        raise JobNotFound(response_id)
    return job.handle, _make_stream(job.handle, repeated.fields())


def _make_stream(job: JobHandle, asked: dict[str, Any]) -> ResponseStream:
    return ResponseStream(PREFIX + job.id, asked=asked)


class _Delivery(msgspec.Struct):
    stream: bool = False
    background: bool = False
    store: bool = True
    metadata: dict[str, str] = {}


class ResponseRequest(NamedTuple):
    """A job, the requested form of its response, and the fields that it repeats of the request."""

    job: Job
    stream: bool
    background: bool
    repeated: Repeated


def parse_request(fields: dict[str, Any], caller: Caller) -> ResponseRequest:
    """Parse the parameters of a request. Raises `ApiError`, which names the parameter."""
    try:
        repeated = parse_repeated(fields)
        delivery = take(fields, _Delivery)
        if delivery.background and not delivery.store:
            raise InvalidJob("store", "must not be false for a background response")
        job = make_job(fields, RESPONSES, caller, metadata={})
        check_metadata(delivery.metadata)
        job = repeated.beside(job)
    except InvalidJob as error:
        raise ApiError(400, "invalid_parameter", error.reason, error.field) from None
    return ResponseRequest(job, delivery.stream, delivery.background, repeated)


async def resolve_references(request: web.Request, fields: dict[str, Any]) -> None:
    """Replace each reference in `input` by the text of its item.

    Raises `ApiError`: the same for an item that is unknown, expired, or another tenant's; and for
    more references or more text than the limits allow.
    """
    items = fields.get("input")
    if not isinstance(items, list):
        return
    texts: dict[str, str] = {}
    size_bytes = 0
    for number, item in enumerate(items):
        if (wanted := _read_reference(item)) is None:
            continue
        if wanted not in texts:
            if len(texts) == MAX_REFERENCES:
                reason = f"may have at most {MAX_REFERENCES:,} references"
                raise ApiError(400, "invalid_parameter", reason, "input")
            texts[wanted] = await _read_item_text(request, wanted, f"input[{number}]")
        size_bytes += len(texts[wanted].encode())
        if size_bytes > MAX_PROMPT_BYTES:
            reason = f"has more than {MAX_PROMPT_BYTES:,} bytes"
            raise ApiError(400, "invalid_parameter", reason, "input")
        items[number] = {"type": "message", "role": "assistant", "content": texts[wanted]}


def _read_reference(item: object) -> str | None:
    """Return the id if an item is a reference, else None; the `type` is optional."""
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return None
    kind = item.get("type")
    is_reference = kind == "item_reference" or (kind is None and not item.keys() - {"id", "type"})
    return item["id"] if is_reference else None


async def _read_item_text(request: web.Request, wanted: str, field: str) -> str:
    shown = f" with id '{wanted}'" if _SAFE_ID.fullmatch(wanted) else ""
    not_found = ApiError(404, "item_not_found", f"Item{shown} not found", field)
    found = _ITEM_ID.fullmatch(wanted)
    if found is None:
        raise not_found
    try:
        job = await get_own_job(request, found[1])
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
