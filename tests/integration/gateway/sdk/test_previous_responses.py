"""A conversation that names its last Response instead of repeating it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from darkq import Client, Settings
from support.http_api import Api
from support.open_responses import check_response
from support.openai_stories import ARGUMENTS, STORIES
from support.scripted_http import ScriptedServer, head
from support.waiting import wait_until

MODEL = "m"
TOOLS: Any = [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]
SCRIPTS = [
    [head(), *STORIES["openrouter: reasoning, then a call"]],
    [head(), *STORIES["openai: text"]],
]


@pytest.fixture
async def upstream(
    make_settings: Callable[..., Settings],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> AsyncIterator[ScriptedServer]:
    """A service that first calls a tool, and then says "Hi you"."""
    async with ScriptedServer(*SCRIPTS) as server:
        upstreams = {"some": {"url": f"http://127.0.0.1:{server.port}/v1", "models": MODEL}}
        start_worker(make_settings(darkai_url="none", upstreams=upstreams))
        yield server


async def test_the_output_of_a_tool_continues_the_response_that_called_it(
    sdk: AsyncOpenAI, upstream: ScriptedServer
) -> None:
    """Red if a turn is missing, its instructions are carried over, or the call gets another id."""
    first = await sdk.responses.create(
        model=MODEL, input="Is it cold?", instructions="Be brief.", tools=TOOLS
    )
    output: Any = [{"type": "function_call_output", "call_id": "toolu_1", "output": "-3 °C"}]
    second = await sdk.responses.create(
        model=MODEL, input=output, previous_response_id=first.id, instructions="Be long."
    )
    assert second.previous_response_id == first.id
    check_response(second.to_dict())
    third = await sdk.responses.create(
        model=MODEL, input="And now?", previous_response_id=second.id
    )
    assert third.output_text == "Hi you"
    function = {"name": "weather", "arguments": ARGUMENTS}
    call = {"id": "toolu_1", "type": "function", "function": function}
    turns: list[Any] = [
        {"role": "user", "content": "Is it cold?"},
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "content": "-3 °C", "tool_call_id": "toolu_1"},
    ]
    long = {"role": "system", "content": "Be long."}
    assert upstream.requests[1].json["messages"] == [long, *turns]
    assert upstream.requests[2].json["messages"] == [
        *turns,
        {"role": "assistant", "content": "Hi you"},
        {"role": "user", "content": "And now?"},
    ]
    items = [item.to_dict() async for item in await sdk.responses.input_items.list(third.id)]
    assert [item["type"] for item in reversed(items)] == [
        *("message", "reasoning", "function_call", "function_call_output", "message", "message")
    ]


async def test_items_of_all_kinds_can_be_referred_to(
    sdk: AsyncOpenAI, upstream: ScriptedServer
) -> None:
    """Red if only a message can, as before there were others."""
    first = await sdk.responses.create(model=MODEL, input="Is it cold?", tools=TOOLS)
    history: Any = [
        {"role": "user", "content": "Is it cold?"},
        *({"type": "item_reference", "id": item.id} for item in first.output),
        {"type": "function_call_output", "call_id": "toolu_1", "output": "-3 °C"},
    ]
    await sdk.responses.create(model=MODEL, input=history)
    _, answer, output = upstream.requests[-1].json["messages"]
    assert answer["reasoning_content"] == "Hm."
    assert answer["tool_calls"][0]["function"] == {"name": "weather", "arguments": ARGUMENTS}
    assert output["tool_call_id"] == "toolu_1"


@pytest.mark.usefixtures("upstream")
async def test_what_is_not_there_is_not_found_in_the_same_words(
    api: Api, make_key: Callable[..., Awaitable[str]], client: Client
) -> None:
    """Red if another tenant's, an unstored, a deleted or a foreign job differs from an unknown."""
    alice, bob = await make_key("alice"), await make_key("bob")
    async with api.with_key(alice) as ours, api.with_key(bob) as theirs:
        body = {"model": MODEL, "input": "Hi"}
        made = (await ours("POST", "/v1/responses", body)).json["id"]
        unstored = (await ours("POST", "/v1/responses", {**body, "store": False})).json["id"]
        job = await client.enqueue("Hi", model=MODEL, tenant="alice")
        await job.result()
        more = await ours("POST", "/v1/responses", {**body, "previous_response_id": made})
        assert more.status == 200
        other = f"resp_{job.id}"
        for caller, wanted in ((theirs, made), (ours, unstored), (ours, other), (ours, "resp_1")):
            refused = await caller(
                "POST", "/v1/responses", {**body, "previous_response_id": wanted}
            )
            assert refused.status == 404
            assert refused.json["error"] == {
                "message": f"previous_response_id: Previous response with id '{wanted}' not found",
                "type": "invalid_request_error",
                "param": "previous_response_id",
                "code": "previous_response_not_found",
            }
            items = await caller("GET", f"/v1/responses/{wanted}/input_items")
            assert (items.status, items.json["error"]["code"]) == (404, "job_not_found")
        kept = await client.job(unstored.removeprefix("resp_")).result()
        assert kept.request is None
        await client.job(made.removeprefix("resp_")).delete()
        gone = await ours("POST", "/v1/responses", {**body, "previous_response_id": made})
        assert gone.status == 404


async def test_a_response_that_has_not_ended_cannot_be_continued(
    sdk: AsyncOpenAI, client: Client
) -> None:
    """Red if it waits for a job, or says that there is none."""
    first = await sdk.responses.create(model=MODEL, input="Hi", background=True)
    with pytest.raises(openai.BadRequestError, match="that is queued: wait for its end"):
        await sdk.responses.create(model=MODEL, input="Hi", previous_response_id=first.id)
    items = await sdk.responses.input_items.list(first.id)
    assert [item.to_dict()["content"] for item in items.data] == [
        [{"type": "input_text", "text": "Hi"}]
    ]
    await client.job(first.id.removeprefix("resp_")).cancel()
    await wait_until("it is cancelled", lambda: is_cancelled(sdk, first.id))
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.create(model=MODEL, input="Hi", previous_response_id=first.id)


async def is_cancelled(sdk: AsyncOpenAI, response_id: str) -> bool:
    return (await sdk.responses.retrieve(response_id)).status == "cancelled"


@pytest.mark.usefixtures("upstream")
async def test_a_conversation_is_bounded_as_any_prompt_is(
    start_gateway: Callable[..., Awaitable[Api]],
) -> None:
    """Red if a chain of small requests can make a prompt of any size."""
    api = await start_gateway(max_prompt_bytes=400)
    body = {"model": MODEL, "input": "x" * 150}
    first = (await api("POST", "/v1/responses", body)).json
    second = await api("POST", "/v1/responses", {**body, "previous_response_id": first["id"]})
    if second.status == 200:
        body["previous_response_id"] = second.json["id"]
        second = await api("POST", "/v1/responses", body)
    assert second.status == 400
    error = second.json["error"]
    assert error["param"] == "input"
    assert "DARKQ_MAX_PROMPT_BYTES allows 400" in error["message"]


async def test_input_items_are_listed_in_pages(sdk: AsyncOpenAI, upstream: ScriptedServer) -> None:
    """Red if an item is skipped or listed twice, or a part of a message is lost."""
    image = "data:image/png;base64,AA=="
    parts: Any = [
        {"type": "input_text", "text": "What?"},
        {"type": "input_image", "image_url": image, "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
    ]
    history: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": "Please."},
    ]
    first = await sdk.responses.create(model=MODEL, input=history)
    page = await sdk.responses.input_items.list(first.id, limit=3, order="asc")
    items = [item.to_dict() async for item in page]
    contents: Any = [item["content"] for item in items]
    assert contents[1] == parts
    assert contents[2] == [{"type": "refusal", "refusal": "No."}]
    assert [item["role"] for item in items] == ["developer", "user", "assistant", "user"]
    sent = upstream.requests[-1].json["messages"][1]["content"]
    assert sent[1] == {"type": "image_url", "image_url": {"url": image, "detail": "low"}}
    assert json.dumps(sent[2]).count("a.pdf") == 1
