"""Answers with more than text, as each endpoint says them: reasoning, calls, refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from darkq import Client, Settings
from darkq.batches.answers import chat_completion, response_object
from darkq.batches.lines import ForAllLines, json_line
from darkq_gateway.http import sse_response
from integration.gateway.sdk.test_openai_batches import ended, read
from support.http_api import Api
from support.open_responses import check_chunk, check_completion, check_event, check_response
from support.openai_stories import ARGUMENTS, PIECES, STORIES
from support.scripted_http import ScriptedServer, head

MODEL = "m"
CHAT: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
TOOLS = [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]
RESPONSE = {"model": MODEL, "input": "Hi", "tools": TOOLS, "background": True}

Playing = Callable[[str], Any]


@pytest.fixture
def playing(
    make_settings: Callable[..., Settings],
    start_worker: Callable[[Settings], asyncio.Task[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> Playing:
    """Run a worker whose service answers every request with one story."""
    monkeypatch.setattr(sse_response, "BEGIN_S", 20)

    @asynccontextmanager
    async def play(story: str) -> AsyncIterator[ScriptedServer]:
        async with ScriptedServer([head(), *STORIES[story]]) as server:
            upstreams = {"some": {"url": f"http://127.0.0.1:{server.port}/v1", "models": MODEL}}
            start_worker(make_settings(darkai_url="none", upstreams=upstreams))
            yield server

    return play


async def read_events(api: Api, path: str) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in await api.events(path)]


async def read_chunks(sdk: AsyncOpenAI) -> list[dict[str, Any]]:
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    stream: Any = await sdk.chat.completions.create(**CHAT, **options)
    return [chunk.to_dict() async for chunk in stream]


def join_chunks(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the choice that chunks make, as a program would that knows the API alone."""
    message: dict[str, Any] = {"content": None, "refusal": None}
    logprobs: list[Any] = []
    choice: dict[str, Any] = {}
    for each in [choice for chunk in chunks for choice in chunk["choices"]]:
        choice["finish_reason"] = each["finish_reason"] or choice.get("finish_reason")
        logprobs += (each["logprobs"] or {}).get("content") or []
        for name, value in each["delta"].items():
            if name == "tool_calls":
                join_calls(message.setdefault(name, []), value)
            elif name == "role" or message.get(name) is None:
                message[name] = value
            elif value is not None:
                message[name] += value
    return {**choice, "message": message, "logprobs": logprobs}


def join_calls(calls: list[dict[str, Any]], pieces: list[dict[str, Any]]) -> None:
    for piece in pieces:
        if piece["index"] == len(calls):
            calls.append({name: value for name, value in piece.items() if name != "index"})
        else:
            assert piece.keys() == {"index", "function"}
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]


@pytest.mark.parametrize("story", STORIES)
async def test_chat_says_all_of_it_in_chunks_and_in_one_piece(
    api: Api, sdk: AsyncOpenAI, client: Client, playing: Playing, story: str
) -> None:
    """Red if a field is missing in one of both, or no value of the SDK's type."""
    async with playing(story):
        chunks = await read_chunks(sdk)
        answer = (await api("POST", "/v1/chat/completions", CHAT)).json
    for chunk in chunks:
        check_chunk(chunk)
    check_completion(answer)
    job = client.job(answer["id"].removeprefix("chatcmpl-"))
    assert answer == chat_completion(await job.result())
    joined, (choice,) = join_chunks(chunks), answer["choices"]
    assert joined["finish_reason"] == choice["finish_reason"]
    assert joined["logprobs"] == (choice["logprobs"] or {}).get("content", [])
    if "without an id" in story:  # then each attempt has an id of its own
        joined["message"]["tool_calls"][0]["id"] = choice["message"]["tool_calls"][0]["id"]
    assert joined["message"] == choice["message"]
    assert choice["message"].get("reasoning") == choice["message"].get("reasoning_content")
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert usages == ([answer["usage"]] if "usage" in answer else [])
    says = {name for name in ("content", "refusal", "tool_calls") if choice["message"].get(name)}
    assert says
    assert choice["message"]["content"] != ""


@pytest.mark.parametrize("story", STORIES)
async def test_a_response_is_the_same_streamed_retrieved_resumed_and_in_a_batch(
    api: Api, client: Client, playing: Playing, story: str
) -> None:
    """Red if an event or a Response is invalid, or two ways to it differ by a field."""
    async with playing(story):
        begun = (await api("POST", "/v1/responses", RESPONSE)).json
        check_response(begun)
        path = f"/v1/responses/{begun['id']}"
        events = await read_events(api, f"{path}?stream=true")
    for event in events:
        check_event(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for number in range(len(events) - 1):
        rest = await read_events(api, f"{path}?stream=true&starting_after={number}")
        assert rest == events[number + 1 :]
    whole = events[-1]["response"]
    assert whole == (await api("GET", path)).json
    result = await client.job(begun["id"].removeprefix("resp_")).result()
    assert whole == response_object(result)
    assert [item["id"] for item in whole["output"]] == sorted_by_beginning(events)
    check_deltas(events, whole)
    names = ("strict", "description")
    assert whole["tools"] == [{**TOOLS[0], **dict.fromkeys(names)}] == begun["tools"]


def sorted_by_beginning(events: list[dict[str, Any]]) -> list[str]:
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == list(range(len(added)))
    return [event["item"]["id"] for event in added]


def check_deltas(events: list[dict[str, Any]], whole: dict[str, Any]) -> None:
    """Check that the deltas of each item and part are what the whole Response has there."""
    texts: dict[tuple[str, int | None], str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            key = (event["item_id"], event.get("content_index"))
            assert whole["output"][event["output_index"]]["id"] == event["item_id"]
            texts[key] = texts.get(key, "") + event["delta"]
    for item in whole["output"]:
        if item["type"] == "function_call":
            assert texts.pop((item["id"], None)) == item["arguments"]
        for index, part in enumerate(item.get("content") or ()):
            assert texts.pop((item["id"], index), "") == part.get("text", part.get("refusal"))
    assert not texts


EXPECTED: dict[str, list[str]] = {
    "vllm: one call in many pieces": ["function_call"],
    "openai: parallel calls": ["function_call", "function_call"],
    "llama.cpp: text, then a call": ["message", "function_call"],
    "deepseek: reasoning, then text": ["reasoning", "message"],
    "openrouter: reasoning, then a call": ["reasoning", "function_call"],
    "gemini: reasoning again and again": [
        *("reasoning", "message", "reasoning", "function_call", "reasoning")
    ],
    "a call before any text": ["function_call", "message"],
    "openai: a refusal": ["message"],
}


@pytest.mark.parametrize("story", EXPECTED)
async def test_items_are_in_the_order_in_which_they_began(
    sdk: AsyncOpenAI, playing: Playing, story: str
) -> None:
    """Red if an answer of calls has an empty message, or an item is moved or joined to another."""
    async with playing(story):
        response = await sdk.responses.create(model=MODEL, input="Hi")
    assert [item.type for item in response.output] == EXPECTED[story]
    calls = [item for item in response.output if item.type == "function_call"]
    assert {each.arguments for each in calls if each.name == "weather"} <= {ARGUMENTS}
    assert {each.status for each in calls} <= {"completed"}


async def test_usage_has_the_details_that_the_service_gave(
    sdk: AsyncOpenAI, playing: Playing
) -> None:
    """Red if cached tokens or those of reasoning are lost on one of both wires."""
    async with playing("deepseek: reasoning, then text"):
        chat = await sdk.chat.completions.create(**CHAT)
        response = await sdk.responses.create(model=MODEL, input="Hi")
    assert chat.usage.prompt_tokens_details.cached_tokens == 16
    assert chat.usage.completion_tokens_details.reasoning_tokens == 5
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 16
    assert response.usage.output_tokens_details.reasoning_tokens == 5


async def test_a_call_that_was_cut_off_is_not_completed(sdk: AsyncOpenAI, playing: Playing) -> None:
    """Red if a program may take a call with half of its arguments for a whole one."""
    async with playing("a call that reached the limit of tokens"):
        response = await sdk.responses.create(model=MODEL, input="Hi")
    text, whole, cut = response.output
    assert response.status == "incomplete"
    assert text.type == "message"
    assert text.status == "completed"
    assert whole.type == "function_call"
    assert cut.type == "function_call"
    assert (whole.status, whole.arguments) == ("completed", ARGUMENTS)
    assert (cut.status, cut.arguments) == ("incomplete", PIECES[0])


async def test_a_response_repeats_the_whole_request(api: Api, playing: Playing) -> None:
    """Red if a field is not repeated in the form of Responses, streamed, run and retrieved."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    asked: dict[str, Any] = {
        "tools": TOOLS,
        "tool_choice": {"type": "function", "name": "weather"},
        "text": {
            "format": {"type": "json_schema", "name": "s", "schema": schema, "strict": True},
            "verbosity": "low",
        },
        "reasoning": {"effort": "low", "summary": "auto"},
        "max_tool_calls": 3,
        "top_logprobs": 2,
        "parallel_tool_calls": False,
    }
    async with playing("vllm: one call in many pieces") as server:
        answer = (await api("POST", "/v1/responses", RESPONSE | asked)).json
        path = f"/v1/responses/{answer['id']}"
        last = (await read_events(api, f"{path}?stream=true"))[-1]["response"]
        sent = server.requests[-1].json
    kept = (await api("GET", path)).json
    tools = [{**TOOLS[0], "description": None, "strict": None}]
    text = {**asked["text"], "format": {**asked["text"]["format"], "description": None}}
    for response in (answer, last, kept):
        check_response(response)
        for name, value in {**asked, "tools": tools, "text": text}.items():
            assert response[name] == value, name
    assert sent["response_format"]["json_schema"]["schema"] == schema
    assert (sent["reasoning_effort"], sent["verbosity"]) == ("low", "low")
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 2)
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert sent["tools"][0]["function"]["name"] == "weather"
    assert "max_tool_calls" not in sent


async def test_a_call_that_an_attempt_left_unfinished_is_joined_to_no_other(
    api: Api,
    sdk: AsyncOpenAI,
    make_settings: Callable[..., Settings],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> None:
    """Red if arguments of two attempts are in one call, or the first call may be run."""
    whole = [head(), *STORIES["vllm: one call in many pieces"]]
    cut = whole[:5]  # in the middle of the arguments
    async with ScriptedServer(cut, whole, cut, whole) as server:
        upstreams = {"some": {"url": f"http://127.0.0.1:{server.port}/v1", "models": MODEL}}
        settings = make_settings(darkai_url="none", upstreams=upstreams, retry_base_s=0.01)
        start_worker(settings)
        begun = (await api("POST", "/v1/responses", RESPONSE)).json
        path = f"/v1/responses/{begun['id']}"
        events = await read_events(api, f"{path}?stream=true")
        for number in range(len(events) - 1):
            query = f"?stream=true&starting_after={number}"
            assert await read_events(api, path + query) == events[number + 1 :]
        with pytest.raises(openai.APIError) as interrupted:
            await read_chunks(sdk)
        assert interrupted.value.code == "attempt_superseded"
    for event in events:
        check_event(event)
    lost, call = events[-1]["response"]["output"]
    assert (lost["type"], lost["status"], lost["content"]) == ("message", "incomplete", [])
    assert (call["type"], call["status"], call["arguments"]) == (
        *("function_call", "completed"),
        ARGUMENTS,
    )
    done = [e for e in events if e["type"] == "response.function_call_arguments.done"]
    assert [event["arguments"] for event in done] == [ARGUMENTS]
    deltas = [e for e in events if e["type"] == "response.function_call_arguments.delta"]
    of_lost = "".join(event["delta"] for event in deltas if event["item_id"] == lost["id"])
    assert ARGUMENTS.startswith(of_lost)
    assert of_lost != ARGUMENTS


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
async def test_lines_of_a_batch_say_what_live_calls_do(
    api: Api, sdk: AsyncOpenAI, playing: Playing, endpoint: Any
) -> None:
    """Red if a body is read in another way, or an answer differs by more than ids and times."""
    tools = TOOLS
    if endpoint == "/v1/chat/completions":
        tools = [{"type": "function", "function": {"name": "weather"}}]
    asked = CHAT if endpoint == "/v1/chat/completions" else {"model": MODEL, "input": "Hi"}
    asked = {**asked, "tools": tools, "tool_choice": "required"}
    line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": asked}
    async with playing("gemini: reasoning again and again") as server:
        live = (await api("POST", endpoint, asked)).json
        stored = await sdk.files.create(file=json.dumps(line).encode() + b"\n", purpose="batch")
        batch = await sdk.batches.create(
            input_file_id=stored.id, endpoint=endpoint, completion_window="24h"
        )
        batch = await ended(sdk, batch.id)
        (answer,) = await read(sdk, batch.output_file_id)
        sent = [request.json for request in server.requests]
    assert sent[0] == sent[1]
    assert without_ids(answer["response"]["body"]) == without_ids(live)
    read_job = json_line(json.dumps(line).encode(), 1, ForAllLines()).job
    assert read_job.parameters["tool_choice"] == "required"


def without_ids(body: dict[str, Any]) -> dict[str, Any]:
    job_id = body["id"].rpartition("-")[2]
    without = json.loads(json.dumps(body).replace(job_id, "…"))
    times = ("created", "created_at", "completed_at", "id")
    without = {name: value for name, value in without.items() if name not in times}
    for item in without.get("output", ()):
        item["id"] = item["id"].rpartition("-")[2]
    return without
