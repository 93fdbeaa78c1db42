"""`/v1/responses`: create, read, resume by event number, cancel and delete.

A Response is not stored. Each request builds it from the events of its job. What it repeats of its
request is in the job's record, and then in its result, which has the request unless `store` is
false.
"""

from __future__ import annotations

from contextlib import aclosing, suppress
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from darkq import InvalidJob, Job, JobHandle, JobNotFound
from darkq.openai.body import RESPONSES
from darkq.openai.response import Repeated, parse_repeated
from darkq.openai.response_events import ResponseBuilder
from darkq.protocol.job import check_metadata
from darkq_gateway.http.bodies import read_json_bytes, respond_json
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.queries import read_integer
from darkq_gateway.http.sse_response import STREAMS, encode_events
from darkq_gateway.openai import foreground
from darkq_gateway.openai.request import decode, make_job, take, to_api_error
from darkq_gateway.openai.response_input import (
    PREFIX,
    get_own_response,
    read_history,
    resolve_references,
)

routes = web.RouteTableDef()


@routes.post("/v1/responses")
async def create(request: web.Request) -> web.StreamResponse:
    """Create a Response. Without `background`, its job is cancelled when the client disconnects."""
    body = await read_json_bytes(request)
    fields = decode(body)
    asked = await parse_request(fields, request)
    repeated = asked.repeated.fields(asked.job.parameters)
    if asked.background:
        job = await foreground.enqueue(request, asked.job, body)
        response = _make_builder(job, repeated)
        if asked.stream:
            return await _stream(request, job, response, after=-1)
        return respond_json(await _read_so_far(job, response))
    async with foreground.hold_job(request, asked.job, body) as job:
        response = _make_builder(job, repeated)
        if asked.stream:
            return await _stream(request, job, response, after=-1, in_foreground=True)
        return await foreground.send_when_done(request, _read_to_end(job, response))


@routes.get("/v1/responses/{response_id}", allow_head=False)
async def retrieve(request: web.Request) -> web.StreamResponse:
    """Get a Response, or stream its events after a number: first past ones, then live."""
    after = read_integer(request, "starting_after", default=-1, least=0, most=10**15 - 1)
    job, response = await _get_own(request)
    if request.query.get("stream", "false").lower() not in ("true", "1"):
        return respond_json(await _read_so_far(job, response))
    return await _stream(request, job, response, after=after)


@routes.post("/v1/responses/{response_id}/cancel")
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
        now = await _cancel(job, response.asked)
    return respond_json(now)


@routes.delete("/v1/responses/{response_id}")
async def delete(request: web.Request) -> web.Response:
    """Delete a Response; one that has not ended is cancelled first."""
    job, response = await _get_own(request)
    now = await _read_so_far(job, response)
    with suppress(JobNotFound):  # its batch has acknowledged its end and deleted it
        if now["status"] in ("queued", "in_progress"):
            await _cancel(job, response.asked)
        await job.delete()
    return respond_json({"id": PREFIX + job.id, "object": "response", "deleted": True})


async def _stream(
    request: web.Request,
    job: JobHandle,
    response: ResponseBuilder,
    *,
    after: int,
    in_foreground: bool = False,
) -> web.StreamResponse:
    async with (
        request.app[STREAMS].open(request, resumable=not in_foreground) as stream,
        aclosing(job.event_batches()) as batches,
    ):
        async for batch in batches:
            made = [each for event in batch for each in response.feed(event)]
            new = [each for each in made if each["sequence_number"] > after]
            frames = encode_events(new, named=True)
            if in_foreground and not (response.has_answer or stream.begun):
                if response.failure is not None:
                    raise to_api_error(response.failure)
                stream.hold(frames)
            else:
                await stream.send(frames, batch.came_s)
    return stream.response


async def _cancel(job: JobHandle, asked: dict[str, Any]) -> dict[str, Any]:
    """Cancel a job, wait for its end, and return its Response.

    It ends when the upstream connection is closed, at the latest with the worker's lease.
    """
    await job.cancel()
    response = _make_builder(job, asked)
    await _feed_to_end(job, response)
    return response.snapshot()


async def _read_to_end(job: JobHandle, response: ResponseBuilder) -> dict[str, Any]:
    await _feed_to_end(job, response)
    if response.failure is not None:
        raise to_api_error(response.failure)
    return response.snapshot()


async def _feed_to_end(job: JobHandle, response: ResponseBuilder) -> None:
    async with aclosing(job.events()) as events:
        async for event in events:
            response.feed(event)


async def _read_so_far(job: JobHandle, response: ResponseBuilder) -> dict[str, Any]:
    async with aclosing(job.history()) as pages:
        async for page in pages:
            for event in page:
                response.feed(event)
    return response.snapshot()


async def _get_own(request: web.Request) -> tuple[JobHandle, ResponseBuilder]:
    owned = await get_own_response(request, request.match_info["response_id"])
    kept = await owned.handle.kept_request() if owned.repeated.repeats_parameters else None
    parameters = kept.parameters if kept else {}
    return owned.handle, _make_builder(owned.handle, owned.repeated.fields(parameters))


def _make_builder(job: JobHandle, asked: dict[str, Any]) -> ResponseBuilder:
    return ResponseBuilder(PREFIX + job.id, asked=asked)


class _Delivery(msgspec.Struct):
    stream: bool = False
    background: bool = False
    store: bool = True
    metadata: dict[str, str] = {}
    previous_response_id: str | None = None


class ResponseRequest(NamedTuple):
    """A job, the requested form of its response, and the fields that it repeats of the request."""

    job: Job
    stream: bool
    background: bool
    repeated: Repeated


async def parse_request(fields: dict[str, Any], request: web.Request) -> ResponseRequest:
    """Parse the parameters of a request. Raises `ApiError`, which names the parameter."""
    try:
        repeated = parse_repeated(fields)
        delivery = take(fields, _Delivery)
        if delivery.background and not delivery.store:
            raise InvalidJob("store", "must not be false for a background response")
        history: list[dict[str, Any]] = []
        if delivery.previous_response_id is not None:
            history = await read_history(request, delivery.previous_response_id)
        await resolve_references(request, fields)
        job = make_job(
            fields, RESPONSES, request, history, metadata={}, keeps_request=delivery.store
        )
        check_metadata(delivery.metadata)
        job = repeated.beside(job)
    except InvalidJob as error:
        raise ApiError(400, "invalid_parameter", error.reason, error.field) from None
    return ResponseRequest(job, delivery.stream, delivery.background, repeated)
