"""`POST /v1/chat/completions`: an answer in one piece, or in chunks as they come.

The body of `POST /v1/chat/completions`. No I/O.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from darkq import Job, JobCancelled, JobFailed, JobHandle
from darkq.batches.answers import chat_completion
from darkq_gateway.http.bodies import read_undecoded
from darkq_gateway.http.context import STREAMS, Caller, caller_of
from darkq_gateway.http.errors import ApiError, openai_shape
from darkq_gateway.openai import foreground
from darkq_gateway.openai import framing as sse
from darkq_gateway.openai.chat_stream import ChatStream, Interrupted
from darkq_gateway.openai.framing import failed
from darkq_gateway.openai.request import decode, make_job, take
from darkq_gateway.openai.waiting import send_when_done

PREFIX = "chatcmpl-"


def routes() -> list[web.RouteDef]:
    return [web.post("/v1/chat/completions", create)]


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a chat. The job is cancelled when the client leaves and does not come back."""
    body = await read_undecoded(request)
    asked = parse(body, caller_of(request))
    async with foreground.awaited(request, asked.job, body) as job:
        if asked.stream:
            return await _stream(request, job, asked)
        return await send_when_done(request, _whole(job))


async def _whole(job: JobHandle) -> dict[str, Any]:
    try:
        result = await job.result()
    except JobFailed as error:
        raise failed(error.code, error.message, "/v1/chat/completions") from None
    except JobCancelled:
        raise failed("cancelled", "the job was cancelled", "/v1/chat/completions") from None
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
                answer = failed(error.code, error.message, "/v1/chat/completions")
                if not (chat.has_spoken or stream.begun):  # a plain answer is still possible
                    raise answer from None
                await stream.send(sse.unnamed([*chunks, openai_shape(answer)]))
                await job.cancel()
                break
            if chat.has_spoken or chat.ended or stream.begun:
                await stream.send(sse.unnamed(chunks), batch.came_s)
            else:
                stream.hold(sse.unnamed(chunks))
        else:
            await stream.send(sse.DONE)
    return stream.response


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    include_obfuscation: bool = False


class _How(msgspec.Struct):
    stream: bool = False
    stream_options: _StreamOptions | None = None


class ChatRequest(NamedTuple):
    """A job, and how its answer is wanted."""

    job: Job
    stream: bool
    include_usage: bool


def parse(body: bytes, caller: Caller) -> ChatRequest:
    """Read a request. Raises `ApiError`, which names the parameter."""
    fields = decode(body)
    how = take(fields, _How)
    if how.stream_options and not how.stream:
        raise ApiError(400, "invalid_value", "is for streams only", "stream_options")
    job = make_job(fields, "/v1/chat/completions", caller)
    wanted = how.stream_options
    return ChatRequest(job, how.stream, wanted is not None and wanted.include_usage)
