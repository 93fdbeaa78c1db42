"""`POST /ui/chat` and its stream: what `useChat({resume: true})` asks for.

    POST /ui/chat                   a new job for the chat; streams its message
    GET  /ui/chat/{chat_id}/stream  the same stream from its beginning, or 204
    GET  /jobs/{job_id}/ui-stream   the same for any job

A page that is reloaded, or whose connection breaks, asks for the stream of its chat; meanwhile the
job continues. `POST /jobs/{id}/cancel` stops it: the metadata of the message has the job's id.

The id of a message is that of its job. If the latest message is the assistant's, because it has the
output of a tool now, the answer is its next step, and has its id. A page that resumes gets the
earlier steps again.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any

from aiohttp import web

from darkq import InvalidJob, Job, JobHandle, JobNotFound
from darkq.openai.body import CHAT, read_body
from darkq.serving.request_dedup import request_digest
from darkq_gateway.ai_sdk.messages import MAX_ID_CHARS, get_continued, replay, to_chat_messages
from darkq_gateway.ai_sdk.stream import Json, UiStream, begin
from darkq_gateway.http.auth import accepts_ticket
from darkq_gateway.http.bodies import read_json
from darkq_gateway.http.context import CLIENT, Caller, get_caller, get_own_job
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.idempotency import IDEMPOTENCY_KEY
from darkq_gateway.http.sse_response import DONE, STREAMS, encode_events
from darkq_gateway.native.caching import is_finished

RESUMABLE_S = 300
"""A finished job can be streamed for so long: its page may have missed the end."""
_HEADER = "x-vercel-ai-ui-message-stream", "v1"
_OF_THE_SDK = ("id", "trigger", "messageId")
routes = web.RouteTableDef()


@routes.post("/ui/chat")
async def create(request: web.Request) -> web.StreamResponse:
    """Create a job for the latest message of a chat, and stream the answer.

    The job continues when the client disconnects.
    """
    body = await read_json(request, dict[str, Any])
    chat_id = body.get("id")
    if not isinstance(chat_id, str) or not 0 < len(chat_id) <= MAX_ID_CHARS:
        reason = f"must be a string of 1 to {MAX_ID_CHARS} characters"
        raise ApiError(422, "invalid_body", reason, "id")
    job, continued = make_job(body, get_caller(request))
    client = request.app[CLIENT]
    key = request.headers.get(IDEMPOTENCY_KEY)
    handle = await client.enqueue_job(job, idempotency_key=key)
    head, begun = begin(handle.id, handle.id), b""
    if continued is not None:
        head = begin(handle.id, continued["id"])
        begun = encode_events([head[0], *replay(continued), *head[1:]])
    await client.chats.note(_digest(request, chat_id), handle.id, begun)
    return await _stream(request, handle, encode_events(head))


@routes.get("/ui/chat/{chat_id}/stream", allow_head=False)
async def resume(request: web.Request) -> web.StreamResponse:
    """Stream the message of a chat's latest job. 204 if there is none, or it ended long ago."""
    digest = _digest(request, request.match_info["chat_id"])
    latest = await request.app[CLIENT].chats.find(digest)
    if latest is None:
        return web.Response(status=204)
    try:
        job = await get_own_job(request, latest.job_id)
    except JobNotFound:
        return web.Response(status=204)
    ended_s = job.status.finished_ms / 1000
    if is_finished(job.status) and time.time() - ended_s > RESUMABLE_S:
        return web.Response(status=204)
    return await _stream(request, job.handle, latest.begun)


@routes.get("/jobs/{job_id}/ui-stream", allow_head=False)
@accepts_ticket()
async def stream_job(request: web.Request) -> web.StreamResponse:
    """Stream a job's message from its beginning."""
    return await _stream(request, (await get_own_job(request)).handle)


def make_job(body: dict[str, Any], caller: Caller) -> tuple[Job, dict[str, Any] | None]:
    """Return the job for the body of a `useChat`, and the message that its answer continues.

    Raises `ApiError`, which names the parameter.
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
        continued = get_continued(body["messages"])
    except InvalidJob as error:
        raise ApiError(422, "invalid_body", error.reason, error.field) from None
    caller.check_prompt(job.prompt_bytes)
    return job, continued


async def _stream(request: web.Request, job: JobHandle, begun: bytes = b"") -> web.StreamResponse:
    ui = UiStream()
    after = await job.latest_attempt()
    async with (
        request.app[STREAMS].open(request, resumable=False, make_error=_make_error) as stream,
        aclosing(job.event_batches(after)) as batches,
    ):
        stream.add_header(*_HEADER)
        # Not held back until the job starts: the page can cancel a job that waits.
        stream.hold(begun or encode_events(begin(job.id, job.id)))
        async for batch in batches:
            chunks = [chunk for event in batch for chunk in ui.feed(event)]
            await stream.send(encode_events(chunks), batch.came_s)
        await stream.send(DONE)
    return stream.response


def _make_error(error: ApiError) -> Json:
    return {"type": "error", "errorText": error.message}


def _digest(request: web.Request, chat_id: str) -> str:
    return request_digest(get_caller(request).tenant, "/ui/chat", chat_id.encode(errors="replace"))
