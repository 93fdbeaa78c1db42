"""`GET /board/jobs/{job_id}/prompt`: what is stored of the prompt of an own job, for the page."""

from __future__ import annotations

import msgspec
from aiohttp import web

from darkq import Message
from darkq_gateway.http.bodies import respond_json
from darkq_gateway.http.context import CLIENT, SETTINGS, get_own_job


class PromptMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a prompt."""

    role: str
    text: str


class StoredPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """The messages; `is_whole` is False if only the beginning is stored, or nothing."""

    messages: list[PromptMessage]
    is_whole: bool
    is_hidden: bool


routes = web.RouteTableDef()


@routes.get("/board/jobs/{job_id}/prompt")
async def get_prompt(request: web.Request) -> web.Response:
    """Return the prompt of a job of the caller's tenant."""
    job = await get_own_job(request)
    if not request.app[SETTINGS].gateway_board_prompts:
        return respond_json(StoredPrompt(messages=[], is_whole=False, is_hidden=True))
    kept = await request.app[CLIENT].job_lists.prompt(job.handle.id)
    messages = [
        PromptMessage(role=message.role, text=_write(message))
        for message in (kept.messages if kept else ())
    ]
    is_whole = kept is not None and kept.is_whole
    return respond_json(StoredPrompt(messages=messages, is_whole=is_whole, is_hidden=False))


def _write(message: Message) -> str:
    """Write a message as text: other parts by their kind, calls of tools as JSON."""
    parts = message.content if isinstance(message.content, tuple) else ()
    others = [f"[{part.get('type')}]" for part in parts if part.get("type") != "text"]
    calls = [msgspec.json.encode(call).decode() for call in message.tool_calls]
    return "\n".join(filter(None, (message.text, *others, *calls, message.refusal)))
