"""`POST /v1/chat/completions`: an answer as one object, or streamed as chunks.

The chat API cannot revoke what was sent. So if an attempt that has sent a piece of its answer is
lost and another one begins, the stream ends with an error: two attempts are never joined.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from darkq import Job, JobCancelled, JobFailed, JobHandle
from darkq.batches.answers import chat_completion
from darkq.event import (
    AnyEvent,
    Cancelled,
    Chunk,
    Completed,
    Failed,
    Piece,
    Reasoning,
    Refusal,
    Started,
    ToolCall,
)
from darkq.openai.body import CHAT
from darkq.openai.chat import build_delta, build_logprobs, chat_usage, map_finish_reason
from darkq_gateway.http.bodies import read_json_bytes
from darkq_gateway.http.errors import ApiError, make_openai_body
from darkq_gateway.http.sse_response import DONE, STREAMS, encode_events
from darkq_gateway.openai import foreground
from darkq_gateway.openai.request import decode, make_job, make_job_error, take

PREFIX = "chatcmpl-"
routes = web.RouteTableDef()


@routes.post("/v1/chat/completions")
async def create(request: web.Request) -> web.StreamResponse:
    """Answer a chat. If the client disconnects and does not return, the job is cancelled."""
    body = await read_json_bytes(request)
    asked = parse_request(body, request)
    async with foreground.hold_job(request, asked.job, body) as job:
        if asked.stream:
            return await _stream(request, job, asked)
        return await foreground.send_when_done(request, _read_completion(job))


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
            except ApiError as failure:
                if not (chat.has_answer or stream.begun):  # an error response is still possible
                    raise
                await stream.send(encode_events([*chunks, make_openai_body(failure)]))
                await job.cancel()
                break
            if chat.has_answer or chat.ended or stream.begun:
                await stream.send(encode_events(chunks), batch.came_s)
            else:
                stream.hold(encode_events(chunks))
        else:
            await stream.send(DONE)
    return stream.response


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


class ChatStream:
    """The chunks of one completion.

    `has_answer` is True after the first piece of the answer, `ended` after the last chunk.
    """

    def __init__(self, completion_id: str, created: int, *, include_usage: bool) -> None:
        self.ended = False
        self._id = completion_id
        self._created = created
        self._include_usage = include_usage
        self._model = ""
        self.has_answer = False

    def feed(self, event: AnyEvent) -> list[dict[str, Any]]:
        """Return the chunks for one event of the job.

        Raises `ApiError` if the answer cannot be completed.
        """
        match event:
            case Started() if self.has_answer:
                message = "the attempt that generated this text was lost; repeat the request"
                raise make_job_error("attempt_superseded", message, CHAT)
            case Started():
                self._model = event.model
            case Chunk() | Reasoning() | Refusal() | ToolCall():
                return self._piece(event)
            case Completed():
                return self._completed(event)
            case Failed():
                raise make_job_error(event.code, event.message, CHAT)
            case Cancelled():
                raise make_job_error("cancelled", "the job was cancelled", CHAT)
        return []

    def _piece(self, piece: Piece) -> list[dict[str, Any]]:
        logprobs = piece.logprobs if isinstance(piece, Chunk) else None
        chunk = self._chunk(build_delta(piece), logprobs=build_logprobs(logprobs))
        if self.has_answer:
            return [chunk]
        self.has_answer = True
        # `content` stays null if there will be no text, as in a call of a tool.
        content = "" if isinstance(piece, Chunk) else None
        first = {"role": "assistant", "content": content, "refusal": None}
        return [self._chunk(first), chunk]

    def _completed(self, event: Completed) -> list[dict[str, Any]]:
        self.ended = True
        chunks = [self._chunk({}, finish_reason=map_finish_reason(event.finish_reason))]
        if self._include_usage and event.usage is not None:
            last = self._chunk({})
            chunks.append({**last, "choices": [], "usage": chat_usage(event.usage)})
        return chunks

    def _chunk(self, delta: dict[str, Any], **choice: Any) -> dict[str, Any]:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **choice}]
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": choices,
            **({"usage": None} if self._include_usage else {}),
        }
