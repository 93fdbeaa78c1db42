"""`POST /v1/chat/completions`: an answer as one object, or streamed as chunks."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from darkq import Job, JobCancelled, JobFailed, JobHandle
from darkq.batches.answers import chat_completion
from darkq.openai.body import CHAT
from darkq.sse import frame
from darkq_gateway.http.bodies import read_json_bytes
from darkq_gateway.http.errors import ApiError, make_openai_body
from darkq_gateway.http.sse_response import STREAMS
from darkq_gateway.openai import foreground
from darkq_gateway.openai.chat_stream import ChatStream, Interrupted
from darkq_gateway.openai.request import decode, make_job, make_job_error, take
from darkq_gateway.openai.slow_response import send_when_done

PREFIX = "chatcmpl-"
_DONE = b"data: [DONE]\n\n"


def routes() -> list[web.RouteDef]:
    return [web.post("/v1/chat/completions", create)]


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a chat. If the client disconnects and does not return, the job is cancelled."""
    body = await read_json_bytes(request)
    asked = parse_request(body, request)
    async with foreground.hold_job(request, asked.job, body) as job:
        if asked.stream:
            return await _stream(request, job, asked)
        return await send_when_done(request, _read_completion(job))


async def _read_completion(job: JobHandle) -> dict[str, Any]:
    try:
        result = await job.result()
    except JobFailed as error:
        raise make_job_error(error.code, error.message, CHAT) from None
    except JobCancelled:
        raise make_job_error("cancelled", "the job was cancelled", CHAT) from None
    return chat_completion(result)


async def _stream(request: web.Request, job: JobHandle, asked: ChatRequest) -> web.StreamResponse:
    created = (await job.status()).queued_ms // 1000
    chat = ChatStream(PREFIX + job.id, created, include_usage=asked.include_usage)
    async with (
        request.app[STREAMS].open(request, resumable=False) as stream,
        aclosing(job.event_batches()) as batches,
    ):
        async for batch in batches:
            chunks: list[dict[str, Any]] = []
            try:
                for event in batch:
                    chunks += chat.feed(event)
            except Interrupted as error:
                failure = make_job_error(error.code, error.message, CHAT)
                if not (chat.has_answer or stream.begun):  # an error response is still possible
                    raise failure from None
                await stream.send(_encode([*chunks, make_openai_body(failure)]))
                await job.cancel()
                break
            if chat.has_answer or chat.ended or stream.begun:
                await stream.send(_encode(chunks), batch.came_s)
            else:
                stream.hold(_encode(chunks))
        else:
            await stream.send(_DONE)
    return stream.response


def _encode(objects: list[dict[str, Any]]) -> bytes:
    return b"".join(frame(msgspec.json.encode(each)) for each in objects)


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    include_obfuscation: bool = False


class _Delivery(msgspec.Struct):
    stream: bool = False
    stream_options: _StreamOptions | None = None


class ChatRequest(NamedTuple):
    """A job, and the requested form of its response."""

    job: Job
    stream: bool
    include_usage: bool


def parse_request(body: bytes, request: web.Request) -> ChatRequest:
    """Parse the body of a request. Raises `ApiError`, which names the parameter."""
    fields = decode(body)
    delivery = take(fields, _Delivery)
    if delivery.stream_options and not delivery.stream:
        raise ApiError(400, "invalid_value", "requires stream=true", "stream_options")
    job = make_job(fields, CHAT, request)
    options = delivery.stream_options
    return ChatRequest(job, delivery.stream, options is not None and options.include_usage)
