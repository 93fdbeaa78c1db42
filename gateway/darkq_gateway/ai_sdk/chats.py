"""`POST /ui/chat` and its stream: what `useChat({resume: true})` asks for.

    POST /ui/chat                   a new job for the chat; streams its message
    GET  /ui/chat/{chat_id}/stream  the same stream from its beginning, or 204
    GET  /jobs/{job_id}/ui-stream   the same for any job

A page that is reloaded, or whose connection breaks, asks for the stream of its chat; meanwhile the
job continues. The id of the message is the id of the job: `POST /jobs/{id}/cancel` stops it.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from darkq import InvalidJob, Job, JobHandle, JobNotFound
from darkq.openai.body import CHAT, read_body
from darkq.serving.request_dedup import request_digest
from darkq.sse import frame
from darkq_gateway.ai_sdk.messages import to_chat_messages
from darkq_gateway.ai_sdk.stream import UiStream
from darkq_gateway.http.auth import accepts_ticket
from darkq_gateway.http.bodies import read_json
from darkq_gateway.http.context import CLIENT, Caller, OwnJob, get_caller, get_own_job
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.idempotency import IDEMPOTENCY_KEY
from darkq_gateway.http.sse_response import STREAMS
from darkq_gateway.native.caching import is_finished

RESUMABLE_S = 300
"""A finished job can be streamed for so long: its page may have missed the end."""
MAX_CHAT_ID_CHARS = 200
_HEADER = "x-vercel-ai-ui-message-stream", "v1"
_DONE = b"data: [DONE]\n\n"
_OF_THE_SDK = ("id", "trigger", "messageId")


def routes() -> list[web.RouteDef]:
    return [
        web.post("/ui/chat", create),
        web.get("/ui/chat/{chat_id}/stream", resume, allow_head=False),
        web.get("/jobs/{job_id}/ui-stream", stream_job, allow_head=False),
    ]


async def create(request: web.Request) -> web.StreamResponse:
    """Create a job for the latest message of a chat, and stream the answer.

    The job continues when the client disconnects.
    """
    body = await read_json(request, dict[str, Any])
    chat_id = _check_chat_id(body.get("id"))
    job = make_job(body, get_caller(request))
    client = request.app[CLIENT]
    key = request.headers.get(IDEMPOTENCY_KEY)
    handle = await client.enqueue_job(job, idempotency_key=key)
    await client.chats.note(_digest(request, chat_id), handle.id)
    return await _stream(request, handle)


async def resume(request: web.Request) -> web.StreamResponse:
    """Stream the message of a chat's latest job. 204 if there is none, or it ended long ago."""
    digest = _digest(request, request.match_info["chat_id"])
    job_id = await request.app[CLIENT].chats.find(digest)
    job = await _find_own(request, job_id) if job_id else None
    if job is None or _ended_long_ago(job):
        return web.Response(status=204)
    return await _stream(request, job.handle)


@accepts_ticket()
async def stream_job(request: web.Request) -> web.StreamResponse:
    """Stream a job's message from its beginning."""
    return await _stream(request, (await get_own_job(request)).handle)


def make_job(body: dict[str, Any], caller: Caller) -> Job:
    """Return the job for the body of a `useChat`. Raises `ApiError`, which names the parameter.

    What a page adds to the body (`model`, `temperature`, `tools` of the chat API …) counts as in a
    chat request.
    """
    try:
        messages = to_chat_messages(body.get("messages"))
        others = {name: value for name, value in body.items() if name not in _OF_THE_SDK}
        asked = read_body({**others, "messages": messages}, CHAT)
        if asked.model is not None and not isinstance(asked.model, str):
            raise InvalidJob("model", "must be the name of a model")
        job = asked.job(model=caller.model_for(asked.model), tenant=caller.tenant)
    except InvalidJob as error:
        raise ApiError(422, "invalid_body", error.reason, error.field) from None
    caller.check_prompt(job.prompt_bytes)
    return job


async def _stream(request: web.Request, job: JobHandle) -> web.StreamResponse:
    ui = UiStream(job.id)
    after = await job.latest_attempt()
    async with (
        request.app[STREAMS].open(request, resumable=False) as stream,
        aclosing(job.event_batches(after)) as batches,
    ):
        stream.add_header(*_HEADER)
        async for batch in batches:
            chunks = [chunk for event in batch for chunk in ui.feed(event)]
            frames = b"".join(frame(msgspec.json.encode(chunk)) for chunk in chunks)
            await stream.send(frames, batch.came_s)
        await stream.send(_DONE)
    return stream.response


async def _find_own(request: web.Request, job_id: str) -> OwnJob | None:
    try:
        return await get_own_job(request, job_id)
    except JobNotFound:
        return None


def _ended_long_ago(job: OwnJob) -> bool:
    ended_ms = job.status.finished_ms or 0
    return is_finished(job.status) and time.time() * 1000 - ended_ms > RESUMABLE_S * 1000


def _check_chat_id(chat_id: object) -> str:
    if not isinstance(chat_id, str) or not 0 < len(chat_id) <= MAX_CHAT_ID_CHARS:
        reason = f"must be a string of 1 to {MAX_CHAT_ID_CHARS} characters"
        raise ApiError(422, "invalid_body", reason, "id")
    return chat_id


def _digest(request: web.Request, chat_id: str) -> str:
    return request_digest(get_caller(request).tenant, "/ui/chat", chat_id.encode(errors="replace"))
