"""The native API with whole requests: parameters and messages in, typed events and results out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from darkq import Settings
from support.http_api import Api
from support.openai_stories import ARGUMENTS, STORIES
from support.scripted_http import ScriptedServer, head

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What?"}, IMAGE]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "-3 °C", "tool_call_id": "c"},
]


async def test_a_job_with_parameters_says_all_that_the_model_says(
    api: Api,
    make_settings: Callable[..., Settings],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> None:
    """Red if a field of the request is lost, or a piece in the events or the result."""
    async with ScriptedServer([head(), *STORIES["gemini: reasoning again and again"]]) as server:
        upstreams = {"some": {"url": f"http://127.0.0.1:{server.port}/v1", "models": "m"}}
        start_worker(make_settings(darkai_url="none", upstreams=upstreams))
        parameters = {"tools": [TOOL], "tool_choice": "required", "top_k": 3, "temperature": 0.5}
        body = {"prompt": MESSAGES, "parameters": parameters}
        job_id = (await api("POST", "/jobs", body)).json["job_id"]
        events = [json.loads(e.data) for e in await api.events(f"/jobs/{job_id}/events")]
        sent = server.requests[0].json
    assert sent["messages"] == MESSAGES
    assert {name: sent[name] for name in parameters} == parameters
    kinds = [event["type"] for event in events]
    assert kinds[0] == "queued"
    assert {"reasoning", "chunk", "tool_call"} <= set(kinds)
    (call,) = [event for event in events if event["type"] == "tool_call"]
    assert (call["name"], call["call_id"], call["arguments"]) == ("weather", "g1", ARGUMENTS)
    result = (await api("GET", f"/jobs/{job_id}/result")).json
    assert result["text"] == "ABC"
    assert result["reasoning"] == "One. Two.Three.Four."
    assert result["tool_calls"] == [{"id": "g1", "name": "weather", "arguments": ARGUMENTS}]
    assert "request" not in result


async def test_parameters_are_refused_by_name(api: Api) -> None:
    """Red if a parameter may decide where the upstream sends requests of its own."""
    for name in ("api_base", "n", "stream"):
        refused = await api("POST", "/jobs", {"prompt": "Hi", "parameters": {name: 2}})
        assert (refused.status, refused.json["error"]["field"]) == (422, f"parameters.{name}")
